"""Bad input: one clear line, the right exit code, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import Command, require_error
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_files import graph_model, mlp_model, random_weights

from geolip_lirpa.cli import main
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.threads import use_threads
from geolip_lirpa.errors import HostUnavailableError

MakeFile = Callable[[Path], None]


# --- model files ------------------------------------------------------------------------------------------------------


def _truncated(path: Path) -> None:
    content = mlp_model(random_weights([3, 5, 4])).SerializeToString()
    path.write_bytes(content[: len(content) // 2])


def _text(path: Path) -> None:
    path.write_text("this is not a network\n" * 20)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nan(path: Path) -> None:
    weights = random_weights([3, 5, 4])
    weights[0][1, 1] = np.nan
    onnx.save(mlp_model(weights), str(path))


def _infinite_bias(path: Path) -> None:
    model = mlp_model(random_weights([3, 5, 4]))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full(5, np.inf, np.float32), "b0"))
    onnx.save(model, str(path))


def _unsupported(path: Path) -> None:
    onnx.save(graph_model([helper.make_node("Acosh", ["x"], ["y"])], [], (1, 3), (1, 3), "y"), str(path))


def _square(path: Path) -> None:
    onnx.save(graph_model([helper.make_node("Mul", ["x", "x"], ["y"])], [], (1, 3), (1, 3), "y"), str(path))


def _unknown_operator(path: Path) -> None:
    onnx.save(graph_model([helper.make_node("Frobnicate", ["x"], ["y"])], [], (1, 3), (1, 3), "y"), str(path))


def _two_outputs(path: Path) -> None:
    model = mlp_model(random_weights([3, 5, 4]))
    model.graph.output.append(helper.make_tensor_value_info("v0", TensorProto.FLOAT, (1, 5)))
    onnx.save(model, str(path))


def _mismatched_shapes(path: Path) -> None:
    first, second = random_weights([3, 5])[0], random_weights([6, 4])[0]
    onnx.save(mlp_model([first, second]), str(path))


def _broken_gzip(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b" + bytes(30))


@pytest.mark.parametrize(
    "make",
    [
        _truncated, _text, _empty, _nan, _infinite_bias, _unsupported, _square, _unknown_operator, _two_outputs,
        _mismatched_shapes, _broken_gzip,
    ],
)  # fmt: skip
def test_bad_models(run: Command, tmp_path: Path, make: MakeFile) -> None:
    path = tmp_path / "bad.onnx"
    make(path)
    require_error(run("lipschitz", path), ExitCode.BAD_INPUT)
    require_error(run("export", path, "--row", 0, "--format", "sdpa", tmp_path / "out"), ExitCode.BAD_INPUT)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("make", "words"), [(_nan, ("W0", "NaN")), (_text, ("bad.onnx",)), (_two_outputs, ("v0",))])
def test_model_errors_name_the_place(run: Command, tmp_path: Path, make: MakeFile, words: tuple[str, ...]) -> None:
    path = tmp_path / "bad.onnx"
    make(path)
    require_error(run("lipschitz", path), ExitCode.BAD_INPUT, *words)


def test_missing_model_and_directory(run: Command, tmp_path: Path) -> None:
    require_error(run("lipschitz", tmp_path / "none.onnx"), ExitCode.BAD_INPUT, "none.onnx", "no such file")
    require_error(run("lipschitz", tmp_path), ExitCode.BAD_INPUT, "directory")


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--norm", "3"), ("--norm", "'3'", "inf, 2 and 1")),
        (("--norm", ""), ("--norm",)),
        (("--output", "columns"), ("--output", "rows")),
        (("--rows", "4"), ("4", "4 outputs", "0 to 3")),
        (("--rows", "0-999999999"), ("999999999",)),
        (("--rows", "3-1"), ("backwards", "1-3")),
        (("--rows", "1,,2"), ("''",)),
        (("--rows", "a"), ("'a'",)),
        (("--rows", "-1"), ("'-1'",)),
        (("--rows", "1.5"), ("'1.5'",)),
        (("--rows", "\u0663"), ("\u0663",)),
        (("--rows", "0-2,1"), ("1", "twice")),
        (("--method", "magic"), ("--method", "sdp", "norm-product")),
        (("--solver", "gurobi"), ("gurobi", "low-rank")),
        (("--form", "primal"), ("--form", "dual")),
        (("--tie", "rows"), ("--tie", "input")),
        (("--gap", "0"), ("--gap",)),
        (("--gap", "nan"), ("--gap",)),
        (("--seed", "-1"), ("--seed",)),
        (("--threads", "0"), ("--threads",)),
        (("--threads", "many"), ("--threads",)),
        (("--final-node", "nowhere"), ("nowhere",)),
        (("--eps", "0.1"), ("--eps", "--data")),
        (("--index", "0"), ("--index", "--data")),
        (("--bounds", "crown"), ("--bounds", "--data")),
        (("--region-norm", "2"), ("--region-norm", "--data")),
        (("--unknown",), ("--unknown", "--help")),
        (("surplus",), ("surplus",)),
    ],
)
def test_bad_options(run: Command, networks: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    require_error(run("lipschitz", networks / "small.onnx", *options), ExitCode.BAD_INPUT, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--index", "0"), ("--eps", "missing")),
        (("--eps", "0.1"), ("--index", "missing")),
        (("--index", "0", "--eps", "-0.1"), ("--eps", "-0.1")),
        (("--index", "0", "--eps", "nan"), ("--eps", "nan")),
        (("--index", "0", "--eps", "inf"), ("--eps", "inf")),
        (("--index", "0", "--eps", "1e999"), ("--eps",)),
        (("--index", "5", "--eps", "0.1"), ("--index", "5 images")),
        (("--index", "-1", "--eps", "0.1"), ("--index", "-1")),
        (("--index", "0", "--eps", "0.1", "--bounds", "magic"), ("--bounds", "crown")),
        (("--index", "0", "--eps", "0.1", "--region-norm", "7"), ("--region-norm", "7")),
    ],
)
def test_bad_region_options(
    run: Command, networks: Path, images: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    require_error(run("lipschitz", networks / "small.onnx", "--data", images, *options), ExitCode.BAD_INPUT, *words)


# --- outputs, solvers, surroundings -----------------------------------------------------------------------------------


def test_certificate_path_is_checked_before_the_work(run: Command, networks: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (tmp_path / "no" / "c.json", tmp_path, file / "c.json"):
        result = run("lipschitz", networks / "none.onnx", "--certificate", path)
        require_error(result, ExitCode.BAD_INPUT, "--certificate")


def test_bounds_are_shown_although_the_certificate_cannot_be_written(
    run: Command, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", full)
    result = run("lipschitz", networks / "small.onnx", "--certificate", tmp_path / "c.json", "--json")
    assert result.code == ExitCode.BAD_INPUT and "c.json" in result.err and os.strerror(28) in result.err
    assert len(result.json["rows"]) == 4 and "certificate" not in result.json
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["sampled", "brute-force"])
def test_certificate_of_an_unproven_method(run: Command, networks: Path, tmp_path: Path, method: str) -> None:
    options = ("--method", method, "--certificate", tmp_path / "c.json")
    require_error(run("lipschitz", networks / "small.onnx", *options), ExitCode.BAD_INPUT, "--certificate", method)


def test_brute_force_names_its_limit(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    onnx.save(mlp_model(random_weights([3, 64, 2])), str(path))
    require_error(run("lipschitz", path, "--method", "brute-force"), ExitCode.BAD_INPUT, "64")


def test_mosek_without_licence(run: Command, networks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOSEKLM_LICENSE_FILE", str(tmp_path / "none.lic"))
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run("lipschitz", networks / "small.onnx", "--solver", "mosek")
    require_error(result, ExitCode.UNAVAILABLE, "mosek")


def test_missing_auto_lirpa(run: Command, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise HostUnavailableError("auto_LiRPA is not installed.")

    monkeypatch.setattr("geolip_lirpa.lirpa.build.load_host", missing)
    require_error(run("lipschitz", networks / "small.onnx"), ExitCode.UNAVAILABLE, "auto_LiRPA")


def test_unexpected_exceptions_are_one_line_unless_debugging(
    networks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("geolip_lirpa.cli.models.load_onnx", broken)
    arguments = ["lipschitz", str(networks / "small.onnx"), "--threads", "1"]
    assert main(arguments) == ExitCode.INTERNAL
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith("error: internal error, please report: RuntimeError: first line")
    assert main([*arguments, "--debug"]) == ExitCode.INTERNAL
    assert "Traceback" in capsys.readouterr().err


def test_threads_default_to_the_environment_else_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert use_threads(None) == 2 and use_threads(1) == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "many")
        assert use_threads(None) == 1 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


# --- damaged model files ----------------------------------------------------------------------------------------------

_CONTENT = mlp_model(random_weights([3, 4, 2], seed=7)).SerializeToString()
_CODES = (ExitCode.OK, ExitCode.NOT_PROVEN, ExitCode.BAD_INPUT)


@given(
    flips=st.lists(st.tuples(st.integers(0, len(_CONTENT) - 1), st.integers(0, 255)), max_size=3),
    length=st.one_of(st.none(), st.integers(0, len(_CONTENT))),
)
@example(flips=[], length=0)
def test_damaged_models_never_give_a_traceback(damaged: Path, flips: list[tuple[int, int]], length: int | None) -> None:
    content = bytearray(_CONTENT)
    for position, value in flips:
        content[position] = value
    damaged.write_bytes(content[:length])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["lipschitz", str(damaged), "--threads", "1"])
    assert code in _CODES, err.getvalue()
    assert "Traceback" not in err.getvalue()
    assert (code == ExitCode.BAD_INPUT) == (out.getvalue() == "")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to overwrite."""
    return tmp_path_factory.mktemp("damaged") / "net.onnx"


@pytest.mark.parametrize(
    "arguments",
    [
        ("lipschitz", "LONG"),
        ("certify", "MODEL", "DATA", "--eps", "0.1", "--images", "0", "--certificates", "LONG"),
        ("certify", "MODEL", "DATA", "--eps", "0.1", "--images", "0", "--resume", "LONG"),
        ("check", "LONG", "MODEL"),
        ("verify", "LONG", "--network", "N=MODEL"),
        ("bench", "INSTANCES", "--out", "LONG"),
    ],
)
def test_names_that_no_file_can_have(run: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    folder = Path(__file__).parents[1] / "vnnlib_specs"
    words = {
        "LONG": str(tmp_path / ("a" * 300)), "MODEL": str(folder / "digits_32-32.onnx"),
        "DATA": str(folder / "digits_test.npz"), "INSTANCES": str(folder / "instances.csv"),
        "N=MODEL": f"N={folder / 'digits_32-32.onnx'}",
    }  # fmt: skip
    require_error(run(*(words.get(word, word) for word in arguments)), ExitCode.BAD_INPUT, "a" * 300)
