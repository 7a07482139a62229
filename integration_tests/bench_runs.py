"""Lists of instances for `bench_fake`, and what their results look like."""

from __future__ import annotations

import csv
from pathlib import Path

from geolip_lirpa.report.bench_rows import BenchRow, read_rows

# Longer than any test: no row of these tests may depend on how busy the machine is.
LONG = 300
_BODY = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.0))
(assert (<= X_0 9.0))
(assert (>= X_1 0.0))
(assert (<= X_1 9.0))
(assert (<= Y_0 0.0))
"""


def write_instances(folder: Path, instructions: list[str], timeout: float = LONG) -> Path:
    """A folder of instances, one for each instruction of `bench_fake`; returns the list."""
    for name in ("onnx", "vnnlib"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "onnx" / "net.onnx").write_bytes(b"weights")
    lines = []
    for number, instruction in enumerate(instructions):
        write_specification(folder / "vnnlib" / f"p{number}.vnnlib", instruction)
        lines.append(f"onnx/net.onnx,vnnlib/p{number}.vnnlib,{timeout}\n")
    path = folder / "instances.csv"
    path.write_text("".join(lines))
    return path


def write_specification(path: Path, instruction: str) -> None:
    """A specification of two inputs and an output that tells `bench_fake` what to do."""
    path.write_text("".join(f"; {line}\n" for line in instruction.splitlines()) + _BODY)


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
