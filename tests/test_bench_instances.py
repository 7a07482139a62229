"""Lists of instances: whatever stands in them, an error names the line, or the instance becomes a row."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.cli.bench_instances import UNREADABLE, Instance, read_instances
from geolip_lirpa.errors import SpecificationError


def written(folder: Path, text: str) -> Path:
    path = folder / "instances.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.onnx,p.vnnlib,10\n" + "x" * 200_000 + ",p.vnnlib,10\n", ":2: field larger than field limit"),
        ("a.onnx\0,p.vnnlib,10\n", ":1: a path has line breaks, null characters"),
        ("a.onnx,p.vnnlib,10\na.onnx,p.vnnlib,20\n", ":2: a.onnx with p.vnnlib has been listed"),
        ("a.onnx,p.vnnlib,nan\n", "the timeout is 'nan'"),
        ("", "lists nothing"),
    ],
)
def test_malformed_lists_name_the_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SpecificationError) as caught:
        read_instances(written(tmp_path, text), None)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "null\0", "missing.onnx"])
def test_names_that_no_file_has_are_unreadable(tmp_path: Path, name: str) -> None:
    instance = Instance(name, "p.vnnlib", 1.0, tmp_path)
    assert instance.files == (tmp_path / name, tmp_path / "p.vnnlib")
    assert instance.digest(0, {}) == UNREADABLE


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.mktemp("list"), text.encode("utf-8", "ignore").decode())
    try:
        found = read_instances(path, 5.0)
    except SpecificationError:
        return
    assert all(0 < instance.timeout <= 5.0 and instance.digest(0, {}) == UNREADABLE for instance in found.instances)
