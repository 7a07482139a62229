"""Files of images: what is read, and one clear line for what is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command, require_error

from geolip_lirpa.cli.exit_codes import ExitCode

MakeFile = Callable[[Path], None]


def _text(path: Path) -> None:
    path.write_text("these are not images\n" * 20)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _save(**arrays: Any) -> MakeFile:
    return lambda path: np.savez(path, **arrays)


def _single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 3)))


def _damaged(path: Path) -> None:
    np.savez_compressed(path, images=np.random.default_rng(0).random((50, 3)))
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_text, ("npz",)),
        (_empty, ("npz",)),
        (_single_array, ("single array",)),
        (_damaged, ("npz",)),
        (_save(pictures=np.zeros((2, 3))), ("'images'", "pictures")),
        (_save(), ("'images'", "nothing")),
        (_save(images=np.zeros((2, 4))), ("(2, 4)", "(3,)")),
        (_save(images=np.zeros((2, 1, 3))), ("(2, 1, 3)",)),
        (_save(images=np.zeros(3)), ("(3,)",)),
        (_save(images=np.float64(1)), ("()",)),
        (_save(images=np.full((2, 3), np.nan)), ("NaN",)),
        (_save(images=np.full((2, 3), np.inf)), ("infinity",)),
        (_save(images=np.array([["a", "b", "c"]])), ("real numbers",)),
        (_save(images=np.zeros((2, 3), complex)), ("real numbers",)),
        (_save(images=np.array([[None, 1, 2]], dtype=object)), ("npz",)),
        (_save(images=np.zeros((0, 3))), ("0 images",)),
        (_save(images=np.zeros((2, 3)), labels=np.zeros(3, int)), ("labels",)),
        (_save(images=np.zeros((2, 3)), labels=np.zeros(2)), ("labels",)),
    ],
)
def test_bad_data(run: Command, networks: Path, tmp_path: Path, make: MakeFile, words: tuple[str, ...]) -> None:
    path = tmp_path / "data.npz"
    make(path)
    region = ("--data", path, "--index", 0, "--eps", "0.1")
    require_error(run("lipschitz", networks / "small.onnx", *region), ExitCode.BAD_INPUT, *words)


def test_missing_data_file(run: Command, networks: Path, tmp_path: Path) -> None:
    region = ("--index", 0, "--eps", "0.1")
    for path in (tmp_path / "none.npz", tmp_path):
        result = run("lipschitz", networks / "small.onnx", "--data", path, *region)
        require_error(result, ExitCode.BAD_INPUT, "--data")


def test_images_may_be_flat_or_shaped_and_of_any_real_type(run: Command, networks: Path, tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [3, 4, 5]])
    uppers = set()
    same: list[Any] = [values.astype(np.uint8), values.astype(np.float16), values * 1.0]
    for i, images in enumerate(same):
        path = tmp_path / f"{i}.npz"
        np.savez(path, images=images)
        region = ("--data", path, "--index", 1, "--eps", "0.25", "--json")
        uppers.add(run("lipschitz", networks / "small.onnx", *region).json["rows"][0]["upper"])
    assert len(uppers) == 1
