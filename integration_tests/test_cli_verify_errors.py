"""``verify`` and bad input: one line on standard error, nothing on standard output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command, require_error
from specification_files import FOLDER, Instance, instance

from geolip_lirpa.cli.exit_codes import ExitCode

ONE = instance("1.0", "pendulum_comparison")
TWO = instance("2.0", "pendulum_comparison")
NETWORK = FOLDER / "pendulum.onnx"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--network", "0", "NAME=MODEL.onnx")),
        (("--network", NETWORK, "--network", NETWORK), ("--network", "2")),
        (("--network", "none.onnx"), ("--network", "none.onnx", "no such file")),
        (("--network", f"M={NETWORK}"), ("--network", "'M'", "'N'")),
        (("--network", FOLDER), ("--network", "directory")),
        (("--network", NETWORK, "--timeout", "0"), ("--timeout", "0")),
        (("--network", NETWORK, "--timeout", "nan"), ("--timeout", "nan")),
        (("--network", NETWORK, "--timeout", "soon"), ("--timeout", "number")),
        (("--network", NETWORK, "--method", "magic"), ("--method", "magic", "combined")),
        (("--network", NETWORK, "--seed", "-1"), ("--seed", "-1")),
        (("--network", NETWORK, "--threads", "0"), ("--threads",)),
        (("--network", NETWORK, "--witness", "/none/w"), ("--witness", "/none")),
        (("--network", NETWORK, "--serialise-assignments", "/none/w"), ("--serialise-assignments", "/none/w")),
        (("--network", FOLDER / "cart_pole.onnx"), ("2 inputs", "4")),
    ],
)
def test_bad_options(run: Command, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    require_error(run("verify", TWO.specification, *options), ExitCode.BAD_INPUT, *words)


def test_missing_specification(run: Command, tmp_path: Path) -> None:
    require_error(
        run("verify", tmp_path / "p.vnnlib", "--network", NETWORK), ExitCode.BAD_INPUT, "SPEC", "no such file"
    )
    require_error(run("verify", tmp_path, "--network", NETWORK), ExitCode.BAD_INPUT, "SPEC", "directory")


@pytest.mark.parametrize("found", [ONE, TWO], ids=["1.0", "2.0"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("))", ")"), ("0.4", "zero"), ("assert", "claim"), ("(<=", "(=<"), ("X", "Z"), ("declare", "\x00\xff"),
        ("-0.1", "1e400"),
    ],
)  # fmt: skip
def test_malformed_texts(run: Command, tmp_path: Path, found: Instance, old: str, new: str) -> None:
    path = tmp_path / "bad.vnnlib"
    text = found.specification.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="latin-1")
    require_error(run("verify", path, "--network", NETWORK), ExitCode.BAD_INPUT, "bad.vnnlib")


@pytest.mark.parametrize("content", [b"", b"; nothing\n", b"\x1f\x8b broken", b"(" * 100_000, bytes(range(256)) * 50])
def test_files_that_are_no_specification(run: Command, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.vnnlib"
    path.write_bytes(content)
    require_error(run("verify", path, "--network", NETWORK), ExitCode.BAD_INPUT, "bad.vnnlib")


def test_broken_network(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(NETWORK.read_bytes()[:300])
    for found in (ONE, TWO):
        require_error(run("verify", found.specification, "--network", path), ExitCode.BAD_INPUT, "bad.onnx")


def test_declared_type_is_that_of_the_network(run: Command, tmp_path: Path) -> None:
    """float32 of a double network is refused; the reals stand for every type."""
    model, path = tmp_path / "double.onnx", tmp_path / "p.vnnlib"
    onnx.save(_in_double(onnx.load(str(NETWORK))), str(model))
    text = TWO.specification.read_text()
    path.write_text(text)
    require_error(run("verify", path, "--network", model), ExitCode.BAD_INPUT, "float32", "float64", "real")
    path.write_text(text.replace("float32", "real"))
    assert run("verify", path, "--network", model).code == ExitCode.OK


def _in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model


def test_assignments_need_declared_tensors(run: Command, tmp_path: Path) -> None:
    result = run("verify", ONE.specification, "--network", NETWORK, "--serialise-assignments", tmp_path / "a")
    require_error(result, ExitCode.BAD_INPUT, "--serialise-assignments", "2.0")
    assert list(tmp_path.iterdir()) == []
