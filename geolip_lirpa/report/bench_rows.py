"""Results of benchmark runs as rows, and their CSV text.

Place in the data flow: level 11, ``bench -> BenchRow -> CSV file -> BenchRow -> compare``. Imports nothing heavy.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePath

from geolip_lirpa.errors import SpecificationError

VERDICTS = ("unsat", "sat", "unknown", "timeout", "error")
SOLVED = ("unsat", "sat")
# words of the earlier VNN-COMPs, and of other tools' tables
_SYNONYMS = {"holds": "unsat", "violated": "sat", "verified": "unsat", "falsified": "sat"}
REQUIRED = ("onnx", "vnnlib", "method", "verdict", "seconds")
# sums of such times, and their squares, are finite
_LONGEST_SECONDS = 1e12
# digits of a number of boxes
_LONGEST_COUNT = 18


@dataclass(frozen=True)
class BenchRow:
    """One instance, verified by one method.

    Args:
        onnx, vnnlib: paths as the list of instances has them.
        method: whose answer it is.
        verdict: one of `VERDICTS`.
        seconds: wall time until then.
        bound: proven lower bound, see `verify_types.VerifyResult`; None where nothing was bounded.
        benchmark: name of the set of instances.
        timeout: seconds that were allowed; None if that is not known.
        detail: one line: why it is unknown, or what the error was.
        proved_by: methods that took part in a proof, joined by "+".
        boxes: input boxes that were bounded.
        run: digest of the files and the seed, see `cli.bench_instances`.
    """

    onnx: str
    vnnlib: str
    method: str
    verdict: str
    seconds: float
    bound: float | None = None
    benchmark: str = ""
    timeout: float | None = None
    detail: str = ""
    proved_by: str = ""
    boxes: int = 0
    run: str = ""

    @property
    def instance(self) -> tuple[str, str, str]:
        """What the row is about, whoever answered."""
        return self.benchmark, self.onnx, self.vnnlib

    @property
    def solved(self) -> bool:
        """Whether the question was answered."""
        return self.verdict in SOLVED


COLUMNS = tuple(field.name for field in fields(BenchRow))


def csv_line(row: BenchRow) -> str:
    """A row with its line end; every row is one line."""
    cells = (
        row.onnx, row.vnnlib, row.method, row.verdict, f"{row.seconds:.3f}", _number(row.bound), row.benchmark,
        _number(row.timeout), one_line(row.detail), row.proved_by, str(row.boxes), row.run,
    )  # fmt: skip
    return _line(cells)


def csv_header() -> str:
    """The first line, with its end."""
    return _line(COLUMNS)


def one_line(text: str) -> str:
    """A text without line breaks."""
    return " ".join(text.split())


def read_rows(text: str, source: str, benchmark: str) -> list[BenchRow]:
    """Rows of a CSV text with a header; columns beyond `REQUIRED` may be missing, others are ignored.

    Args:
        text: of the file.
        source: its name, for errors.
        benchmark: name of the set of instances where neither a column nor the path of a network has one.

    Raises:
        SpecificationError: names the line that is malformed.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise SpecificationError(
                f"{source}: its first line has no column {', '.join(missing)}; needed are {','.join(REQUIRED)}. Name a "
                "file that geolip-lirpa bench has written, or give it these columns."
            )
        return [_row(cells, f"{source}:{reader.line_num}", benchmark) for cells in reader]
    except csv.Error as error:
        raise SpecificationError(f"{source}:{reader.line_num}: {error}. Mend or remove the line.") from None


def verdict_of(text: str) -> str | None:
    """The verdict in one of `VERDICTS`' words; None if it is none."""
    word = text.strip().lower()
    word = _SYNONYMS.get(word, word)
    return word if word in VERDICTS else None


def _row(cells: Mapping[str | None, str | None], where: str, benchmark: str) -> BenchRow:
    def text(name: str) -> str:
        return (cells.get(name) or "").strip()

    if cells.get(None) or any(not text(name) for name in REQUIRED):
        raise SpecificationError(
            f"{where}: got {sum(v is not None for v in cells.values())} cells, or empty ones; every line needs "
            f"{', '.join(REQUIRED)}. Mend or remove the line."
        )
    verdict = verdict_of(text("verdict"))
    if verdict is None:
        raise SpecificationError(
            f"{where}: the verdict is {text('verdict')!r}; allowed are {', '.join(VERDICTS)}. Correct the cell."
        )
    seconds = _parse(text("seconds"), f"{where}: seconds")
    timeout = _parse(text("timeout"), f"{where}: timeout")
    if seconds is None or not 0 <= seconds <= _LONGEST_SECONDS or (timeout is not None and not timeout > 0):
        raise SpecificationError(
            f"{where}: times are positive numbers of seconds, of work at most {_LONGEST_SECONDS:g}. Correct the cell."
        )
    boxes = text("boxes")
    return BenchRow(
        onnx=text("onnx"),
        vnnlib=text("vnnlib"),
        method=text("method"),
        verdict=verdict,
        seconds=seconds,
        bound=_parse(text("bound"), f"{where}: bound"),
        benchmark=text("benchmark") or _benchmark(text("onnx")) or benchmark,
        timeout=timeout,
        detail=text("detail"),
        proved_by=text("proved_by"),
        boxes=int(boxes) if boxes.isascii() and boxes.isdigit() and len(boxes) <= _LONGEST_COUNT else 0,
        run=text("run"),
    )


def _benchmark(onnx: str) -> str:
    """The folder of the networks, above one that is called onnx."""
    folders = [part for part in PurePath(onnx.replace("\\", "/")).parts[:-1] if part not in (".", "..", "/")]
    if "onnx" in folders:
        folders = folders[: folders.index("onnx")]
    return folders[-1] if folders else ""


def _parse(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise SpecificationError(f"{where}: got {text!r}, which is no number. Correct the cell or leave it empty.")
    return value


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _line(cells: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
