"""Results of made-up methods on made-up instances, whose numbers follow from an instance's number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geolip_lirpa.report.bench_rows import BenchRow, csv_header, csv_line

METHODS = ("crown", "alpha-crown", "combined")


def truth(number: int) -> str:
    """The answer of an instance."""
    return "sat" if number % 3 == 0 else "unsat"


def result(number: int, method: str) -> BenchRow:
    """Every method solves the instances up to a number of its own; the others end in different ways."""
    place = METHODS.index(method)
    solved = number % 10 < 4 + 2 * place
    verdict = truth(number) if solved else ("unknown", "timeout", "error")[number % 3]
    return BenchRow(
        f"onnx/net_{number % 4}.onnx", f"vnnlib/p{number}.vnnlib", method, verdict, 0.25 * (number + 1) * (place + 1),
        None if verdict == "sat" else place + 0.5 if solved else place - 3.0,
        ("even", "odd")[number % 2], 60.0, "" if solved else f"reason {number}",
    )  # fmt: skip


def write_results(path: Path, count: int, methods: Sequence[str] = METHODS) -> Path:
    rows = [result(number, method) for number in range(count) for method in methods]
    path.write_text(csv_header() + "".join(map(csv_line, rows)))
    return path


def write_expected(path: Path, count: int, wrong: Sequence[int] = ()) -> Path:
    """The answers, with those of some instances turned round."""
    lines = ["onnx,vnnlib,timeout,verdict\n"]
    for number in range(count):
        verdict = truth(number) if number not in wrong else {"sat": "unsat", "unsat": "sat"}[truth(number)]
        lines.append(f"onnx/net_{number % 4}.onnx,vnnlib/p{number}.vnnlib,60,{verdict}\n")
    path.write_text("".join(lines))
    return path
