"""Exported programs: read back by independent readers, and solved by CSDP and DSDP where these are installed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from geolip_lirpa.activations import LeakyReLU
from geolip_lirpa.errors import SolverUnavailableError, SpecificationError
from geolip_lirpa.export import FORMATS, WRITERS, export_instance, standard_form
from geolip_lirpa.lmi import assemble_lmi
from geolip_lirpa.natural_form import has_natural_form
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.cvxpy_backend import CvxpySolver
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual, random_skip
from tests.program_files import expected, read_cbf, read_sdpa, read_task
from tests.reference import reference_network, reference_value

FORMS = ("dual", "natural")
NORMS = (Norm.LINF, Norm.L2)


def _instances() -> dict[str, SdpInstance]:
    scale = torch.tensor([0.5, 0.0, 2.0, 3.0], dtype=torch.float64)
    return {
        "two layers": lipschitz_instance(random_mlp(0, (4, 5, 1))),
        "l_2": lipschitz_instance(random_mlp(1, (4, 5, 1)), norm=Norm.L2),
        "three layers, leaky": lipschitz_instance(random_mlp(2, (4, 3, 3, 2), LeakyReLU(0.3))),
        "residual, tied": lipschitz_instance(random_residual(3), tie_input=True, tie_layers=True),
        "box, l_1 output": lipschitz_instance(random_mlp(4, (4, 4, 3)), output=OutputNorm.L1, input_scale=scale),
        "l_2 to l_2": lipschitz_instance(random_mlp(5, (4, 4, 3)), norm=Norm.L2, output=OutputNorm.L2),
        "no activation": lipschitz_instance(random_mlp(6, (4, 3)), output=OutputNorm.L2),
        "skip connection, box": lipschitz_instance(random_skip(8, (4, 5, 2), LeakyReLU(0.3)), input_scale=scale),
        "two layers, tied": lipschitz_instance(random_mlp(9, (4, 5, 1)), tie_input=True, tie_layers=True),
    }


INSTANCES = _instances()
PROGRAMS = [(case, "dual") for case in INSTANCES]
PROGRAMS += [(case, "natural") for case, instance in INSTANCES.items() if has_natural_form(instance.forms)]


# --- reading back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "form"), PROGRAMS)
def test_sdpa_holds_the_program_exactly(tmp_path: Path, case: str, form: str) -> None:
    sdp = export_instance(INSTANCES[case], tmp_path / "p.dat-s", "sdpa", form)
    assert read_sdpa(tmp_path / "p.dat-s") == expected(sdp)


@pytest.mark.parametrize(("case", "form"), PROGRAMS)
def test_cbf_holds_the_program_exactly(tmp_path: Path, case: str, form: str) -> None:
    sdp = export_instance(INSTANCES[case], tmp_path / "p.cbf", "cbf", form)
    read_form, program = read_cbf(tmp_path / "p.cbf")
    assert (read_form, program) == (sdp.form, expected(sdp))


@pytest.mark.parametrize("name", ["p.task", "p.jtask", "p"])
@pytest.mark.parametrize(("case", "form"), PROGRAMS)
def test_mosek_task_holds_the_program_without_a_licence(tmp_path: Path, case: str, form: str, name: str) -> None:
    pytest.importorskip("mosek")
    if name == "p":  # the format is not read off the name
        export_instance(INSTANCES[case], tmp_path / "p", "mosek-task", form)
        (tmp_path / "p").rename(tmp_path / "p.task")
        name = "p.task"
    sdp = export_instance(INSTANCES[case], tmp_path / name, "mosek-task", form)
    read_form, program = read_task(tmp_path / name)
    wanted = expected(sdp)
    assert (read_form, program.size, program.rhs, program.signed) == (sdp.form, wanted.size, wanted.rhs, wanted.signed)
    assert program.entries.keys() == wanted.entries.keys()
    for key, value in wanted.entries.items():
        # the factor sqrt(2) of the matrix inequality is the only rounding, there and back
        slack = 0.0 if form == "natural" or key[1] == key[2] else 2.0**-52 * abs(value)
        assert abs(program.entries[key] - value) <= slack


@pytest.mark.parametrize(("case", "form"), PROGRAMS)
def test_mosek_reads_the_cbf_file_as_the_same_program(tmp_path: Path, case: str, form: str) -> None:
    mosek = pytest.importorskip("mosek")
    sdp = export_instance(INSTANCES[case], tmp_path / "p.cbf", "cbf", form)
    with mosek.Task() as task:
        task.readdata(str(tmp_path / "p.cbf"))
        if form == "natural":
            entries = sorted(zip(*task.getbarcblocktriplet()[-3:], strict=True))
            family = sdp.objective
            assert entries == sorted(zip(family.rows, family.cols, family.values, strict=True))
            rows, cols, values = task.getafebarfblocktriplet()[-3:]
            family = sdp.constraints
            assert sorted(zip(rows, cols, values, strict=True)) == sorted(
                zip(family.rows, family.cols, family.values, strict=True)
            )
        else:
            assert list(task.getc()) == sdp.rhs.tolist()
            assert task.getaccn(task.getnumacc() - 1) == sdp.size * (sdp.size + 1) // 2
            assert len(task.getaccftrip()[0]) == len(sdp.constraints.values)


# --- solving --------------------------------------------------------------------------------------------------------


def _needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def _unlimited_stack() -> None:
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment, preexec_fn=_unlimited_stack
    )
    return done.stdout


def _csdp(folder: Path) -> tuple[float, float, np.ndarray]:
    """Both objective values and the variables x."""
    text = _run([_needs("csdp"), "p.dat-s", "p.sol"], folder)
    values = [float(v) for v in re.findall(r"(?:Primal|Dual) objective value:\s*(\S+)", text)]
    return values[0], values[1], np.array((folder / "p.sol").read_text().splitlines()[0].split(), dtype=float)


def _dsdp(folder: Path) -> float:
    """The value printed as solution. File names must be short: the program cuts them."""
    text = _run([_needs("dsdp5"), "p.dat-s"], folder)
    return float(re.search(r"DSDP Solution:\s*(\S+)", text)[1])  # type: ignore[index]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form", FORMS)
def test_csdp_and_dsdp_find_the_reference_value(tmp_path: Path, reference_data: Path, form: str, norm: Norm) -> None:
    name = "digits_64-16-10"
    network = reference_network(reference_data / "networks" / "relu" / f"{name}.onnx")
    export_instance(lipschitz_instance(network, norm=norm), tmp_path / "p.dat-s", "sdpa", form)
    value = reference_value(reference_data, name, norm)
    assert _csdp(tmp_path)[:2] == pytest.approx((value, value), rel=1e-5)
    assert -_dsdp(tmp_path) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("case", "form"), PROGRAMS)
def test_optimal_value_is_the_bound_and_the_variables_are_its_multipliers(tmp_path: Path, case: str, form: str) -> None:
    instance = INSTANCES[case]
    sdp = export_instance(instance, tmp_path / "p.dat-s", "sdpa", form)
    primal, dual, x = _csdp(tmp_path)
    ours = CvxpySolver().solve([instance])[0].value
    assert (primal, dual) == pytest.approx((ours, ours), rel=1e-5)
    multipliers = sdp.multipliers(x, instance)
    sigma = multipliers.output.max() if instance.output is OutputNorm.L2 else multipliers.output.sum()
    assert np.sqrt(multipliers.input.sum() * sigma) == pytest.approx(ours, rel=1e-5)
    matrix = assemble_lmi(instance.forms, multipliers).to_dense()
    assert np.linalg.eigvalsh(matrix)[0] >= -1e-6 * ours


@pytest.mark.parametrize(("sizes", "form"), [((5, 4, 3, 1), "dual"), ((5, 4, 1), "natural")])
def test_dsdp_agrees_on_ties(tmp_path: Path, sizes: tuple[int, ...], form: str) -> None:
    instance = lipschitz_instance(random_mlp(7, sizes), tie_input=True, tie_layers=True)
    export_instance(instance, tmp_path / "p.dat-s", "sdpa", form)
    assert -_dsdp(tmp_path) == pytest.approx(CvxpySolver().solve([instance])[0].value, rel=1e-5)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_sdpa_header_says_how_to_read_the_bound(tmp_path: Path, form: str) -> None:
    export_instance(INSTANCES["two layers"], tmp_path / "p.dat-s", "sdpa", form)
    lines = (tmp_path / "p.dat-s").read_text().splitlines()
    comments = [line for line in lines if line.startswith('"')]
    assert lines[: len(comments)] == comments
    text = "\n".join(comments)
    assert "that value is the bound: no factor, no change of sign" in text
    assert ("c^2/(2 q)" in text) == (form == "natural")
    meaning = {
        "dual": "x = multipliers: 4 of the input, then 5 of the neurons, then 1 of the output",
        "natural": "4 numbers tau of the input, then 5 numbers q of the neurons, then 1 number y of the output",
    }
    assert meaning[form] in text


@pytest.mark.parametrize("key", FORMATS)
def test_files_replace_old_ones_and_leave_nothing_behind(tmp_path: Path, key: str) -> None:
    if key == "mosek-task":
        pytest.importorskip("mosek")
    path = tmp_path / "p.out"
    path.write_text("old")
    export_instance(INSTANCES["two layers"], path, key.upper())
    assert [p.name for p in tmp_path.iterdir()] == ["p.out"]
    assert path.stat().st_size > 100
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_failing_writer_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "p.dat-s"
    path.write_text("old")
    monkeypatch.setattr("geolip_lirpa.export.sdpa._constraint_entries", lambda sdp: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        WRITERS["sdpa"](standard_form(INSTANCES["two layers"]), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["p.dat-s"]


@pytest.mark.parametrize("key", FORMATS)
def test_paths_that_cannot_be_written_are_refused(tmp_path: Path, key: str) -> None:
    if key == "mosek-task":
        pytest.importorskip("mosek")
    with pytest.raises(SpecificationError, match=r"export: .*missing.* cannot be written \(No such file"):
        export_instance(INSTANCES["two layers"], tmp_path / "missing" / "p", key)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SpecificationError, match="folder cannot be written"):
        export_instance(INSTANCES["two layers"], tmp_path / "folder", key)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"] and not list((tmp_path / "folder").iterdir())


def test_unknown_format_and_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecificationError, match="format: got 'mps'; allowed are sdpa, cbf, mosek-task"):
        export_instance(INSTANCES["two layers"], tmp_path / "p", "mps")
    with pytest.raises(SpecificationError, match="form: got 'both'; allowed are dual and natural"):
        export_instance(INSTANCES["two layers"], tmp_path / "p", "sdpa", "both")
    with pytest.raises(SpecificationError, match="form 'natural': got a program with activations that read other"):
        export_instance(INSTANCES["three layers, leaky"], tmp_path / "p", "sdpa", "natural")
    assert not list(tmp_path.iterdir())


def test_missing_mosek_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mosek", None)
    with pytest.raises(SolverUnavailableError, match=r"geolip-lirpa\[mosek\]"):
        export_instance(INSTANCES["two layers"], tmp_path / "p.task", "mosek-task")
    assert not list(tmp_path.iterdir())
