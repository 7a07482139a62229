"""The benchmarks: tables that survive, limits that hold, peers that are checked, figures that come from the tables."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import paper_shapes
import peers
import pytest
import scaling
import torch
from hypothesis import given
from hypothesis import strategies as st
from measuring import peer_tools, program_solvers
from measuring.fits import fit_power
from measuring.isolation import run_limited
from measuring.networks import load_module, mlp, network_of, random_mlp, row_instance, weights, write_onnx
from measuring.peer_tools import Task, ToolError
from measuring.rows import Table, insert, markdown, number
from measuring.training import Attack, accuracy, load_images, train, trained
from torch import nn

from geolip_lirpa.errors import SolverError
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.sparse_sdp import Form
from geolip_lirpa.standard_form import standard_form

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"


# --- tables -----------------------------------------------------------------------------------------------------------


def small_table(folder: Path) -> Table:
    return Table(folder / "t.csv", ("name", "size", "value"), ("name", "size"))


def test_rows_are_kept_replaced_and_found(tmp_path: Path) -> None:
    table = small_table(tmp_path / "new")
    assert table.rows() == [] and table.find({"name": "a", "size": "1"}) is None
    table.put({"name": "a", "size": "1", "value": "x, |y|"})
    table.put({"name": "a", "size": "2", "value": "b"})
    table.put({"name": "a", "size": "1", "value": "c"})
    assert [row["value"] for row in table.rows()] == ["c", "b"]
    found = table.find({"name": "a", "size": "2"})
    assert found is not None and found["value"] == "b"
    assert [path.name for path in table.path.parent.iterdir()] == ["t.csv"]


def test_an_interrupted_write_leaves_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = small_table(tmp_path)
    table.put({"name": "a", "size": "1", "value": "b"})
    before = table.path.read_bytes()

    def interrupted(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("measuring.rows.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        table.put({"name": "a", "size": "2", "value": "b"})
    assert table.path.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_tables_of_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,value\na,1\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="other columns"):
        small_table(tmp_path).rows()


def test_markdown_goes_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "d.md"
    document.write_text("a\n<!-- begin t -->\nold\n<!-- end t -->\nb\n", encoding="utf-8")
    insert(document, "t", markdown(("x", "y"), [("1", "p|q")]))
    text = document.read_text(encoding="utf-8")
    assert text == "a\n<!-- begin t -->\n| x | y |\n| --- | --- |\n| 1 | p\\|q |\n<!-- end t -->\nb\n"
    with pytest.raises(SystemExit, match="begin other"):
        insert(document, "other", "")


def test_numbers_are_shortened() -> None:
    assert [number(text, 3) for text in ("", "0.0012345", ">600", "123456")] == ["", "0.00123", "\\>600", "1.23e+05"]


@given(st.floats(-3, 3), st.floats(0.01, 100), st.integers(3, 8))
def test_powers_are_found_again(exponent: float, factor: float, count: int) -> None:
    sizes = [2.0**i for i in range(count)]
    power = fit_power(sizes, [factor * size**exponent for size in sizes])
    assert power is not None and power.exponent == pytest.approx(exponent, abs=1e-9)
    assert power.at(5.0) == pytest.approx(factor * 5.0**exponent)


def test_powers_are_fitted_to_the_larger_half() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    power = fit_power(sizes, [7.0, 7.0, 7.0, 64.0, 256.0, 1024.0])
    assert power is not None and power.exponent == pytest.approx(2.0) and power.first == 8.0
    assert fit_power([1.0, 2.0], [1.0, 2.0]) is None


# --- processes --------------------------------------------------------------------------------------------------------


def test_processes_report_output_status_and_memory() -> None:
    program = "import sys; x = b'1' * (64 << 20); print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = run_limited([sys.executable, "-c", program + "  # and some time"], 60.0)
    assert (done.code, done.timed_out, done.output, done.errors) == (3, False, "out\n", "err\n")
    done = run_limited([sys.executable, "-c", "import time; x = b'1' * (64 << 20); time.sleep(0.3)"], 60.0)
    assert 64 < done.peak_mib < 256


def test_processes_and_their_children_end_in_time(tmp_path: Path) -> None:
    child = "import time, pathlib; time.sleep(2); pathlib.Path('late').touch()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    done = run_limited([sys.executable, "-c", program], 0.5, folder=tmp_path, own_group=True)
    assert done.timed_out and done.code < 0
    run_limited([sys.executable, "-c", "import time; time.sleep(2)"], 10.0)
    assert not (tmp_path / "late").exists()


def test_processes_keep_to_their_processor_time() -> None:
    busy = "n = 0\nwhile True: n += 1"
    done = run_limited([sys.executable, "-c", busy], 60.0, processor_limit=1.0)
    assert done.timed_out and 0.9 < done.seconds < 2.5
    idle = run_limited([sys.executable, "-c", "import time; time.sleep(1.2)"], 60.0, processor_limit=1.0)
    assert not idle.timed_out and idle.seconds < 1.0


def test_processes_keep_to_their_memory() -> None:
    done = run_limited([sys.executable, "-c", "x = b'1' * (1 << 30)"], 60.0, memory_mib=512)
    assert done.code != 0 and "MemoryError" in done.errors


# --- networks and training --------------------------------------------------------------------------------------------


def test_written_networks_read_back(tmp_path: Path) -> None:
    network = random_mlp((5, 4, 3, 2), 1)
    write_onnx(network, tmp_path / "n.onnx")
    module, shape = load_module(str(tmp_path / "n.onnx"))
    x = torch.randn((3, 5), generator=torch.Generator().manual_seed(0))
    assert shape == (1, 5) and torch.allclose(module(x), network(x), atol=1e-6)
    assert torch.equal(load_module("random:5-4-3-2", 1)[0](x), network(x))


def test_weights_are_those_of_chains_only() -> None:
    network = mlp((3, 4, 2))
    found = weights(network, (1, 3))
    assert found is not None and torch.equal(found[0].float(), network[0].weight)
    assert weights(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)), (1, 3)) is None
    assert weights(nn.Sequential(nn.Conv2d(1, 1, 1)), (1, 1, 2, 2)) is None


@pytest.fixture(scope="module")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of noisy images of nine pixels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 240)
    patterns = 200 * generator.integers(0, 2, (3, 9))
    path = tmp_path_factory.mktemp("images") / "i.npz"
    np.savez(
        path, X=(patterns[labels] + generator.integers(0, 50, (240, 9))).astype(np.uint8), Y=labels.astype(np.uint8)
    )
    return path


def test_training_is_reproducible_and_learns(image_file: Path, tmp_path: Path) -> None:
    images = load_images(image_file, 40, 0)
    assert images.test_images.shape == (40, 9) and images.training_images.shape == (200, 9)
    assert float(images.training_images.max()) <= 1.0
    first, again = (train((9, 8, 3), images, None, 60, 5) for _ in range(2))
    assert torch.equal(first[0].weight, again[0].weight) and accuracy(first, images) > 0.9
    path = trained(tmp_path, (9, 8, 3), images, Attack(), 1, 5)
    stamp = path.stat().st_mtime_ns
    assert trained(tmp_path, (9, 8, 3), images, Attack(), 1, 5) == path and path.stat().st_mtime_ns == stamp
    assert trained(tmp_path, (9, 8, 3), images, None, 1, 5) != path


def test_attacks_stay_near_and_raise_the_loss(image_file: Path) -> None:
    images = load_images(image_file, 40, 0)
    network = train((9, 8, 3), images, None, 20, 0)
    attack = Attack(radius=0.2)
    moved = attack.run(network, images.test_images, images.test_labels, torch.Generator().manual_seed(0))
    assert float((moved - images.test_images).abs().max()) <= 0.2 + 1e-6
    assert float(moved.min()) >= 0 and float(moved.max()) <= 1
    losses = [nn.functional.cross_entropy(network(x), images.test_labels) for x in (images.test_images, moved)]
    assert losses[1] > losses[0]


def test_other_image_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", X=np.zeros((10, 4)), Y=np.zeros(10))
    with pytest.raises(SystemExit, match="expected"):
        load_images(tmp_path / "i.npz", 2, 0)


# --- peers ------------------------------------------------------------------------------------------------------------


def task(norm: str = "inf", form: str = "dual", eps: float | None = None) -> Task:
    return Task(random_mlp((6, 5, 2), 3), (1, 6), 0, norm, eps, form, 60.0)


EXACT = {
    "dsdp": (program_solvers.dsdp, "dsdp5"),
    "csdp": (program_solvers.csdp, "csdp"),
    "clarabel": (lambda t: program_solvers.cvxpy_plain(t, "CLARABEL"), None),
    "scaled": (lambda t: program_solvers.cvxpy_scaled(t, "clarabel"), None),
}


@pytest.mark.parametrize("form", ["dual", "natural"])
@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("name", EXACT)
def test_solvers_agree_and_their_multipliers_prove_it(name: str, norm: str, form: str) -> None:
    run, program = EXACT[name]
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    asked = task(norm, form)
    ours = peer_tools.geolip(asked)
    found = run(asked)
    assert found.multipliers is not None and ours.proven is not None
    assert found.claimed == pytest.approx(ours.proven, rel=1e-5)
    assert prove(asked.instance(), found.multipliers).upper == pytest.approx(ours.proven, rel=1e-5)


@given(st.floats(0.2, 0.99), st.sampled_from(["inf", "2"]), st.sampled_from(list(Form)))
def test_claims_that_are_too_low_do_not_survive_the_check(factor: float, norm: str, form: Form) -> None:
    instance = row_instance(network_of(random_mlp((4, 3, 1), 0), (1, 4)), 0, norm)
    # the constant of one row of one layer by enumeration
    matrices = weights(random_mlp((4, 3, 1), 0), (1, 4))
    assert matrices is not None
    order = 1 if norm == "inf" else 2
    signs = [[(k >> i) & 1 for i in range(3)] for k in range(8)]
    true = max(float(torch.linalg.vector_norm(matrices[1] * torch.tensor(s) @ matrices[0], order)) for s in signs)
    sdp = standard_form(instance, form)
    x = np.full(len(sdp.rhs), factor * true / sdp.rhs.sum())
    assert float(sdp.rhs @ x) < true
    try:
        proven = prove(instance, sdp.multipliers(x, instance)).upper
    except SolverError:
        return
    assert proven >= true * (1 - 1e-12)


def test_norm_products_of_a_box_bound_its_jacobian() -> None:
    wide = peer_tools.geolip(task(eps=0.3), "norm-product")
    tight = peer_tools.geolip(task(eps=0.3))
    assert 0 < tight.claimed <= wide.claimed


def request(**changes: object) -> dict[str, object]:
    base = {"tool": peers.REFERENCE, "network": "random:4-3-1", "norm": "inf", "form": "", "eps": None, "row": 0,
            "seed": 0, "timeout": 30.0}  # fmt: skip
    return {**base, **changes}


def test_answers_are_checked_and_failures_are_remarks(monkeypatch: pytest.MonkeyPatch) -> None:
    good = peers.answer(request())
    assert good["proof"] == "rigorous" and good["proven"] == good["claimed"] and good["peak_mib"] > 10

    def liar(asked: Task) -> peer_tools.Answer:
        nothing = Multipliers((np.full(3, 1e-9),), np.full(4, 1e-9), np.full(1, 1e-9))
        return peer_tools.Answer(1e-9, 0.1, None, nothing, None, "claims optimal")

    def broken(asked: Task) -> peer_tools.Answer:
        raise ToolError("is broken")

    tools = {"liar": peers.Tool(liar), "broken": peers.Tool(broken)}
    monkeypatch.setattr(peers, "tools", lambda: tools)
    lie = peers.answer(request(tool="liar"))
    # what is proven, if anything, is the truth
    assert lie["claimed"] == 1e-9 and (lie["proven"] is None or lie["proven"] >= good["proven"] * (1 - 1e-6))
    assert peers.answer(request(tool="broken")) == {"remark": "is broken"}


def test_crashes_and_delays_are_answers() -> None:
    crashed = peers.ask(request(network="no such file.onnx"), 30.0, 16384)
    assert "stopped with status 1" in crashed["remark"] and "no such file" in crashed["remark"]
    late = peers.ask(request(network="random:64-64-64-10", timeout=1e-3), 30.0, 16384)
    assert late["timed_out"] and "remark" not in late


def test_rows_of_a_stopped_run_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def quick(question: dict[str, object], timeout: float, memory: int) -> dict[str, object]:
        asked.append(f"{question['tool']} {question['form']}".strip())
        if len(asked) == 3:
            raise KeyboardInterrupt
        late = question["tool"] == "csdp"
        return {"timed_out": True} if late else {"claimed": 2.0, "proven": 4.0, "proof": "none", "seconds": 0.5}

    monkeypatch.setattr(peers, "ask", quick)
    csv = tmp_path / "p.csv"
    line = ["peers.py", "random:4-3-1", "--csv", str(csv), "--norms", "inf", "--eps", "--tools", "dsdp", "csdp"]
    monkeypatch.setattr(sys, "argv", [*line, "--timeout", "9"])
    with pytest.raises(KeyboardInterrupt):
        peers.main()
    peers.main()
    # the reference is timed again, the finished row is not
    first = [peers.REFERENCE, "dsdp dual", "dsdp natural"]
    assert asked == [*first, peers.REFERENCE, "dsdp natural", "csdp dual", "csdp natural"]
    rows = Table(csv, peers.COLUMNS, peers.KEY).rows()
    assert [(row["tool"], row["seconds"], row["ratio"], row["claimed_difference"]) for row in rows] == [
        (peers.REFERENCE, "0.5", "1", "-5.00e-01"),
        *[("dsdp", "0.5", "1", "-5.00e-01")] * 2,
        *[("csdp", ">9", ">18", "")] * 2,
    ]
    peers.main()
    assert len(asked) == 7
    # only what was late may use the longer time
    monkeypatch.setattr(sys, "argv", [*line, "--timeout", "10"])
    peers.main()
    assert asked[7:] == [peers.REFERENCE, "csdp dual", "csdp natural"]


# --- scaling and the paper's shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", scaling.FAMILIES)
def test_scaling_measures_proven_bounds(family: str) -> None:
    size = 8 if family == scaling.RANK_FAMILY else 2
    row = scaling.measure(scaling.Case(family, size, "2"), 0)
    assert float(row["upper"]) >= float(row["value"]) > 0 and float(row["gap"]) < 1e-4
    assert float(row["solve_seconds"]) > 0 and float(row["proof_seconds"]) > 0


def test_scaling_draws_what_it_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = Table(tmp_path / "s.csv", scaling.COLUMNS, scaling.KEY)
    for size in (1, 2, 4, 8):
        row = dict.fromkeys(scaling.COLUMNS, "1") | {"family": "64-64xL-10", "size": str(size), "norm": "inf"}
        table.put(row | {"solve_seconds": str(size**2), "proof_seconds": str(size**3)})
    scaling.draw(table, tmp_path)
    drawn = (tmp_path / "scaling_depth.svg").read_text(encoding="utf-8")
    assert "exponent 2.00" in drawn and "exponent 3.00" in drawn
    assert "solve l_inf 2.00; proof l_inf 3.00" in scaling.report(table)
    scaling.draw(table, tmp_path / "again")
    assert (tmp_path / "again" / "scaling_depth.svg").read_text(encoding="utf-8") == drawn


def test_bounds_of_the_papers_shapes_are_in_order(
    image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_shapes, "HIDDEN", ((4,), (3, 3)))
    csv = tmp_path / "p.csv"
    natural = "30" if shutil.which("dsdp5") else "0"
    line = ["paper_shapes.py", str(image_file), "--networks", str(tmp_path), "--csv", str(csv), "--test", "40"]
    monkeypatch.setattr(sys, "argv", [*line, "--epochs", "2", "--samples", "50", "--natural", natural])
    paper_shapes.main()
    table = Table(csv, paper_shapes.COLUMNS, paper_shapes.KEY)
    rows = table.rows()
    assert len(rows) == 8
    for row in rows:
        sampled, attained, brute, proven, product = (
            float(row[name]) for name in ("sampled", "attained", "brute_force", "proven", "norm_product")
        )
        assert max(sampled, attained) <= brute * (1 + 1e-7) and brute <= proven * (1 + 1e-7) and proven <= product
        if row["natural"]:
            assert float(row["natural"]) == pytest.approx(proven, rel=1e-4)
        assert bool(row["natural"]) == (natural != "0" and row["network"] == "9-4-3")
        assert 0 <= float(row["attacked_accuracy"]) <= float(row["accuracy"]) <= 1
    before = csv.stat().st_mtime_ns
    paper_shapes.main()
    assert csv.stat().st_mtime_ns == before


# --- documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [peers, scaling, paper_shapes], ids=lambda module: module.__name__)
def test_documents_show_the_tables(module: object) -> None:
    name = module.__name__  # type: ignore[attr-defined]
    table = Table(DOCUMENT.parent / "performance" / f"{name}.csv", module.COLUMNS, module.KEY)  # type: ignore[attr-defined]
    text = module.report(table)  # type: ignore[attr-defined]
    assert table.rows() and f"<!-- begin {name} -->\n{text}<!-- end {name} -->" in DOCUMENT.read_text(encoding="utf-8")


def test_no_row_of_the_comparison_is_below_what_is_attained() -> None:
    """Proven bounds of all tools lie above the low-rank solver's value, up to its own gap."""
    rows = Table(DOCUMENT.parent / "performance" / "peers.csv", peers.COLUMNS, peers.KEY).rows()
    differences = [float(row["proven_difference"]) for row in rows if row["proven_difference"]]
    assert differences and min(differences) > -1e-6 and all(map(math.isfinite, differences))
