"""Lists of instances for `bench_fake`, and what their results look like."""

from __future__ import annotations

import csv
from pathlib import Path

from geolip_lirpa.report.bench_rows import BenchRow, read_rows

# Longer than any test: no row of these tests may depend on how busy the machine is.
LONG = 300


def write_instances(folder: Path, instructions: list[str], timeout: float = LONG) -> Path:
    """A folder of instances, one for each instruction of `bench_fake`; returns the list."""
    for name in ("onnx", "vnnlib"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "onnx" / "net.onnx").write_bytes(b"weights")
    lines = []
    for number, instruction in enumerate(instructions):
        (folder / "vnnlib" / f"p{number}.vnnlib").write_text(instruction)
        lines.append(f"onnx/net.onnx,vnnlib/p{number}.vnnlib,{timeout}\n")
    path = folder / "instances.csv"
    path.write_text("".join(lines))
    return path


def rows_of(results: Path) -> list[BenchRow]:
    return read_rows(results.read_text(), str(results), "")


def verdicts(results: Path) -> list[tuple[str, str, str]]:
    """Specification, method and verdict of each row, in the order of the file."""
    return [(Path(row.vnnlib).stem, row.method, row.verdict) for row in rows_of(results)]


def calls(instances: Path) -> list[tuple[str, str]]:
    """Specification and method of each call of `bench_fake.verify`, in order."""
    path = instances.parent / "vnnlib" / "calls"
    if not path.exists():
        return []
    return [(line[0].removesuffix(".vnnlib"), line[1]) for line in csv.reader(path.open(), delimiter=" ")]
