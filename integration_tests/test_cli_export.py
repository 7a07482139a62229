"""``geolip-lirpa export``: files that other solvers read, whose value is the bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Command
from onnx_files import random_weights, write_mlp

from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.export_request import FORMATS, FORMS
from geolip_lirpa.export import FORMATS as LIBRARY_FORMATS


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_every_format_and_form_is_written(
    run: Command, networks: Path, tmp_path: Path, file_format: str, form: str, norm: str
) -> None:
    if file_format == "mosek-task":
        pytest.importorskip("mosek")
    out = tmp_path / "program"
    options = ("--row", 2, "--norm", norm, "--format", file_format, "--form", form)
    result = run("export", networks / "small.onnx", *options, out)
    assert (result.code, result.out) == (ExitCode.OK, "")
    assert f"{form} form" in result.err and "output 2" in result.err
    assert out.stat().st_size > 200
    assert list(tmp_path.iterdir()) == [out]


def _read_sdpa(path: Path) -> tuple[np.ndarray, list[int], list[tuple[int, int, int, int, float]]]:
    """Objective, block sizes and entries of an SDPA sparse file."""
    lines = [line for line in path.read_text().splitlines() if line[:1] not in '"*']
    blocks = [int(size) for size in lines[2].replace(",", " ").strip("{}() ").split()]
    objective = np.array([float(number) for number in lines[3].strip("{}() ").split()])
    entries = [line.split() for line in lines[4:] if line.strip()]
    return objective, blocks, [(int(k), int(b), int(i), int(j), float(v)) for k, b, i, j, v in entries]


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("form", FORMS)
def test_value_of_an_exported_program_is_the_bound(
    run: Command, networks: Path, tmp_path: Path, norm: str, form: str
) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    out = tmp_path / "program.dat-s"
    options = ("--row", 1, "--norm", norm, "--format", "sdpa", "--form", form, "--quiet")
    run("export", networks / "small.onnx", *options, out)
    objective, blocks, entries = _read_sdpa(out)
    x = cvxpy.Variable(len(objective))
    constraints = []
    for b, size in enumerate(blocks, start=1):
        matrices = np.zeros((len(objective) + 1, abs(size), abs(size)))
        for k, block, i, j, value in entries:
            if block == b:
                matrices[k, i - 1, j - 1] = matrices[k, j - 1, i - 1] = value
        total = sum(x[k] * matrices[k + 1] for k in range(len(objective))) - matrices[0]
        constraints.append(cvxpy.diag(total) >= 0 if size < 0 else total >> 0)
    value = cvxpy.Problem(cvxpy.Minimize(objective @ x), constraints).solve(solver="CLARABEL")
    found = run("lipschitz", networks / "small.onnx", "--rows", 1, "--norm", norm, "--json").json
    assert found["rows"][0]["upper"] == pytest.approx(value, rel=1e-5)


def test_ties_make_the_program_smaller(run: Command, networks: Path, tmp_path: Path) -> None:
    sizes = []
    for i, tie in enumerate(([], ["--tie", "input"], ["--tie", "input,layer"])):
        out = tmp_path / f"{i}.dat-s"
        run("export", networks / "small.onnx", "--row", 0, "--format", "sdpa", *tie, out)
        sizes.append(len(_read_sdpa(out)[0]))
    assert sizes == [3 + 5 + 1, 1 + 5 + 1, 1 + 1 + 1]


def test_natural_form_of_two_layers_of_activations_is_refused(run: Command, tmp_path: Path) -> None:
    write_mlp(tmp_path / "deep.onnx", random_weights([3, 5, 4, 2], seed=1))
    out = tmp_path / "out"
    options = ("--row", 0, "--format", "cbf", "--form", "natural")
    result = run("export", tmp_path / "deep.onnx", *options, out)
    assert (result.code, result.out) == (ExitCode.BAD_INPUT, "")
    assert result.err.startswith("error: ") and "one layer of activations" in result.err and "--form dual" in result.err
    assert not out.exists()


def test_logits_are_exported(run: Command, networks: Path, tmp_path: Path) -> None:
    options = ("--row", 0, "--format", "sdpa", "--quiet")
    assert run("export", networks / "softmax.onnx", *options, tmp_path / "a").code == ExitCode.BAD_INPUT
    assert run("export", networks / "softmax.onnx", *options, "--logits", tmp_path / "a").code == ExitCode.OK
    assert run("export", networks / "small.onnx", *options, tmp_path / "b").err == ""
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--row", 4, "--format", "sdpa"), ("--row", "4 outputs")),
        (("--row", -1, "--format", "sdpa"), ("--row", "-1")),
        (("--row", "one", "--format", "sdpa"), ("--row",)),
        (("--format", "sdpa"), ("--row",)),
        (("--row", 0), ("--format",)),
        (("--row", 0, "--format", "lp"), ("--format", "cbf")),
        (("--row", 0, "--format", "cbf", "--form", "primal"), ("--form", "natural")),
        (("--row", 0, "--format", "cbf", "--norm", "1"), ("--norm", "inf and 2")),
        (("--row", 0, "--format", "cbf", "--norm", "x"), ("--norm", "'x'")),
        (("--row", 0, "--format", "cbf", "--tie", "all"), ("--tie", "layer")),
        (("--row", 0, "--format", "cbf", "--threads", "0"), ("--threads",)),
    ],
)
def test_bad_options(
    run: Command, networks: Path, tmp_path: Path, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    result = run("export", networks / "small.onnx", *options, tmp_path / "out")
    assert (result.code, result.out) == (ExitCode.BAD_INPUT, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err
    assert list(tmp_path.iterdir()) == []


def test_path_that_cannot_be_written(run: Command, networks: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "out", tmp_path):
        result = run("export", networks / "small.onnx", "--row", 0, "--format", "cbf", path)
        assert result.code == ExitCode.BAD_INPUT and result.err.startswith("error: OUT: ")


def test_names_in_the_help_are_those_of_the_library() -> None:
    assert set(FORMATS) == set(LIBRARY_FORMATS)
    # the rows that the tests above rely on exist
    assert random_weights([3, 5, 4], seed=1)[-1].shape == (4, 5)
