"""``geolip-lirpa lipschitz`` from the command line to the numbers it prints."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command
from onnx_files import Weights, random_weights

from geolip_lirpa.cli.exit_codes import EXPLANATIONS, ExitCode
from geolip_lirpa.cli.lipschitz_request import METHODS, SOLVERS
from geolip_lirpa.lipschitz_types import METHODS as LIBRARY_METHODS
from geolip_lirpa.solvers.auto import SOLVER_NAMES, canonical_solver_name
from geolip_lirpa.solvers.low_rank import LowRankSolver

_ROW_KEYS = {"row", "upper", "lower", "proof", "solver", "relative_gap", "seconds"}
_KEYS = {"model", "norm", "output", "scope", "rows", "versions", "seconds"}
_VERSIONS = {"geolip_lirpa", "auto_LiRPA", "torch", "numpy", "scipy", "cvxpy", "onnx", "python"}


def _steepest_secant(weights: Weights, row: int, p: float) -> float:
    """Largest secant slope of one output of the ReLU network over random pairs of inputs."""
    generator = np.random.default_rng(5)
    x = generator.standard_normal((4000, weights[0].shape[1]))
    y = x + 1e-3 * generator.standard_normal(x.shape)

    def value(points: np.ndarray) -> np.ndarray:
        for i, weight in enumerate(weights):
            points = points @ weight.astype(np.float64).T + np.linspace(-0.5, 0.5, len(weight))
            points = np.maximum(points, 0) if i + 1 < len(weights) else points
        return points[:, row]

    return float(np.max(np.abs(value(x) - value(y)) / np.linalg.norm(x - y, ord=p, axis=1)))


def test_json_is_one_object_with_the_documented_keys(run: Command, networks: Path) -> None:
    result = run("lipschitz", networks / "small.onnx", "--json")
    assert result.code == ExitCode.OK
    found = result.json
    assert found.keys() >= _KEYS and "certificate" not in found
    assert found["versions"].keys() == _VERSIONS
    assert (found["norm"], found["output"], found["scope"]) == ("inf", "rows", "global")
    assert [row["row"] for row in found["rows"]] == [0, 1, 2, 3]
    assert all(row.keys() == _ROW_KEYS for row in found["rows"])
    assert sum(row["seconds"] for row in found["rows"]) < found["seconds"]


@pytest.mark.parametrize(("norm", "p"), [("inf", np.inf), ("2", 2), ("1", 1)])
def test_bounds_enclose_the_slopes_of_the_network(run: Command, networks: Path, norm: str, p: float) -> None:
    found = run("lipschitz", networks / "small.onnx", "--norm", norm, "--rows", "0,2-3", "--json").json
    weights = random_weights([3, 5, 4], seed=1)
    assert [row["row"] for row in found["rows"]] == [0, 2, 3]
    for row in found["rows"]:
        assert row["proof"] == "rigorous"
        assert row["lower"] <= row["upper"]
        assert _steepest_secant(weights, row["row"], p) <= row["upper"]


@pytest.mark.parametrize("output", ["rows", "inf", "2", "1"])
@pytest.mark.parametrize(("norm", "dual"), [("inf", 1), ("2", 2), ("1", np.inf)])
def test_linear_network_has_the_norm_of_its_matrix(
    run: Command, networks: Path, norm: str, dual: float, output: str
) -> None:
    found = run("lipschitz", networks / "linear.onnx", "--norm", norm, "--output", output, "--json").json
    matrix = random_weights([4, 3], seed=3)[0].astype(np.float64)
    rows = np.linalg.norm(matrix, ord=dual, axis=1)
    uppers = [row["upper"] for row in found["rows"]]
    if output == "rows":
        assert np.all(uppers >= rows * (1 - 1e-15)) and np.allclose(uppers, rows, rtol=1e-5)
        return
    assert [row["row"] for row in found["rows"]] == [None]
    # the largest row, the single-row and the columns' norms enclose every mixed norm
    assert np.max(rows) <= uppers[0] * (1 + 1e-12)
    exact = {"inf": np.max(rows), ("2", "2"): np.linalg.norm(matrix, 2), ("1", "1"): np.max(np.abs(matrix).sum(axis=0))}
    known = exact.get(output, exact.get((norm, output)))
    assert known is None or uppers[0] == pytest.approx(known, rel=1e-5)


def test_table_never_claims_more_than_the_bounds(run: Command, networks: Path) -> None:
    arguments = ("lipschitz", networks / "small.onnx", "--norm", "2", "--seed", "4")
    rows = run(*arguments, "--json").json["rows"]
    table = run(*arguments)
    lines = [line.split() for line in table.out.replace("│", " ").splitlines() if line[:1].isdigit()]
    assert [int(line[0]) for line in lines] == [0, 1, 2, 3]
    for line, row in zip(lines, rows, strict=True):
        assert Decimal(line[1]) <= Decimal(row["lower"]) and Decimal(line[2]) >= Decimal(row["upper"])
        assert float(line[2]) == pytest.approx(row["upper"], rel=1e-5)
        assert "rigorous" in line


def test_table_names_the_question(run: Command, networks: Path, images: Path) -> None:
    region = ("--data", images, "--index", 2, "--eps", "0.125", "--region-norm", "inf")
    out = run("lipschitz", networks / "small.onnx", "--norm", "2", "--output", "1", *region).out
    assert "small.onnx" in out
    assert "|f(x) - f(x')|_1 <= upper * |x - x'|_2" in out
    assert "within 0.125 (l_inf) of image 2 (label 2)" in out
    assert "crown" in out


def test_markup_in_a_file_name_is_shown_as_it_is(run: Command, networks: Path, tmp_path: Path) -> None:
    path = tmp_path / "[red]net[bold].onnx"
    path.write_bytes((networks / "linear.onnx").read_bytes())
    assert "[red]net[bold].onnx" in run("lipschitz", path).out.replace("\n", "")


@pytest.mark.parametrize("bounds", ["ibp", "crown", "alpha-crown"])
@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_local_bounds_are_below_global_ones(run: Command, networks: Path, images: Path, bounds: str, norm: str) -> None:
    arguments = ("lipschitz", networks / "small.onnx", "--norm", norm, "--json", "--rows", "1-2")
    everywhere = run(*arguments).json
    local = run(*arguments, "--data", images, "--index", 1, "--eps", "0.01", "--bounds", bounds).json
    assert (local["scope"], everywhere["scope"]) == ("local", "global")
    assert local["region"]["label"] == 1 and local["region"]["eps"] == 0.01 and local["region"]["bounds"] == bounds
    for near, far in zip(local["rows"], everywhere["rows"], strict=True):
        assert near["lower"] <= near["upper"] <= far["upper"] * (1 + 1e-6)


def test_logits_leave_out_the_softmax(run: Command, networks: Path) -> None:
    whole = run("lipschitz", networks / "softmax.onnx")
    assert whole.code == ExitCode.BAD_INPUT and "--logits" in whole.err
    logits = run("lipschitz", networks / "softmax.onnx", "--logits", "--json").json
    plain = run("lipschitz", networks / "small.onnx", "--json").json
    assert [row["upper"] for row in logits["rows"]] == [row["upper"] for row in plain["rows"]]
    assert logits["logits"] is True


def test_zipped_model_gives_the_same_bounds(run: Command, networks: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx.gz"
    path.write_bytes(gzip.compress((networks / "small.onnx").read_bytes()))
    zipped, plain = run("lipschitz", path, "--json").json, run("lipschitz", networks / "small.onnx", "--json").json
    assert [row["upper"] for row in zipped["rows"]] == [row["upper"] for row in plain["rows"]]


@pytest.mark.parametrize("method", ["compositional", "norm-product", "entrywise", "sampled", "brute-force"])
def test_other_methods_agree_with_the_program(run: Command, networks: Path, method: str) -> None:
    sdp = run("lipschitz", networks / "small.onnx", "--json").json["rows"]
    other = run("lipschitz", networks / "small.onnx", "--method", method, "--json").json["rows"]
    for ours, theirs in zip(sdp, other, strict=True):
        proven = method in ("compositional", "norm-product", "entrywise")
        assert theirs["proof"] == ("rigorous" if proven else "numerical")
        if method == "sampled":
            assert theirs["upper"] is None
        elif proven:
            assert theirs["upper"] >= ours["upper"] * (1 - 1e-6)
        else:
            assert theirs["upper"] <= ours["upper"] * (1 + 1e-9)
        assert theirs["lower"] <= ours["upper"]


def test_ties_loosen_the_bound(run: Command, networks: Path) -> None:
    def uppers(*options: str) -> np.ndarray:
        found = run("lipschitz", networks / "small.onnx", *options, "--json").json
        return np.array([row["upper"] for row in found["rows"]])

    free, both = uppers(), uppers("--tie", "input", "--tie", "layer")
    assert np.all(both >= free * (1 - 1e-6)) and np.any(both > free * 1.001)
    assert np.allclose(uppers("--tie", "input,layer"), both, rtol=1e-9)


def test_ctrl_c_prints_what_is_proven(run: Command, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LowRankSolver, "solve", stop)
    result = run("lipschitz", networks / "small.onnx", "--json")
    assert result.code == ExitCode.INTERRUPTED and "interrupted" in result.err
    found = result.json
    assert found["interrupted"] is True
    assert [row["row"] for row in found["rows"]] == [0, 1, 2, 3]
    assert all(row["upper"] > 0 and row["proof"] == "rigorous" for row in found["rows"])
    assert "interrupted" in run("lipschitz", networks / "small.onnx").out


def test_ctrl_c_keeps_finished_programs(run: Command, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = run("lipschitz", networks / "small.onnx", "--json").json["rows"]
    solve, calls = LowRankSolver.solve, []

    def stop_later(self: LowRankSolver, *rest: Any) -> object:
        calls.append(rest)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return solve(self, *rest)

    monkeypatch.setattr(LowRankSolver, "solve", stop_later)
    result = run("lipschitz", networks / "small.onnx", "--gap", "1e-300", "--json")
    assert len(calls) == 2 and result.code == ExitCode.INTERRUPTED
    for row, final in zip(result.json["rows"], complete, strict=True):
        assert row["upper"] == pytest.approx(final["upper"], rel=1e-2)


def test_ctrl_c_while_loading_is_one_line(run: Command, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "read_bytes", stop)
    result = run("lipschitz", networks / "small.onnx")
    assert (result.code, result.out, result.err) == (ExitCode.INTERRUPTED, "", "interrupted\n")


def test_names_in_the_help_are_those_of_the_library() -> None:
    assert set(METHODS) == set(LIBRARY_METHODS)
    assert {canonical_solver_name(name) for name in SOLVERS} == set(SOLVER_NAMES)


def test_help_has_examples_and_exit_codes(run: Command) -> None:
    text = run("--help").out
    assert all(f" {code.value}  " in text for code in EXPLANATIONS)
    for command in ("lipschitz", "check", "export"):
        page = run(command, "--help")
        assert page.code == ExitCode.OK and f"geolip-lirpa {command}" in page.out and "Examples" in page.out


def test_no_arguments_show_the_help(run: Command) -> None:
    result = run()
    assert result.code == ExitCode.BAD_INPUT and "lipschitz" in result.out


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys; from geolip_lirpa.cli import main; main(['lipschitz', '--help']); main(['--version']);"
        "print('HEAVY', sorted({'torch', 'numpy', 'scipy', 'cvxpy', 'onnx', 'auto_LiRPA'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_module_runs_as_a_program(networks: Path) -> None:
    arguments = ["lipschitz", str(networks / "linear.onnx"), "--json", "--threads", "1"]
    command = [sys.executable, "-m", "geolip_lirpa", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("{") and done.stdout.rstrip().endswith("}")


def test_terminal_without_unicode_gets_escapes(networks: Path, tmp_path: Path) -> None:
    path = tmp_path / "r\u00e9seau.onnx"
    path.write_bytes((networks / "linear.onnx").read_bytes())
    command = [sys.executable, "-m", "geolip_lirpa", "lipschitz", str(path), "--threads", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "r\\xe9seau.onnx" in done.stdout and "rigorous" in done.stdout


def test_reader_that_has_gone_is_no_internal_error(networks: Path) -> None:
    command = [sys.executable, "-m", "geolip_lirpa", "lipschitz", str(networks / "linear.onnx"), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        message = process.stderr.read()
        assert (process.wait(timeout=120), message) == (ExitCode.NOT_PROVEN, b"")
