"""Known answers, and verdicts that contradict them or each other.

Place in the data flow: level 11, ``expected.csv, BenchRow -> contradictions``. Imports nothing heavy.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.report.bench_rows import SOLVED, BenchRow, verdict_of

_NEEDED = ("onnx", "vnnlib", "verdict")


@dataclass(frozen=True)
class Expectations:
    """Answers that are known.

    Args:
        tables: by benchmark, "" for all: verdicts by network and specification.
    """

    tables: Mapping[str, Mapping[tuple[str, str], str]] = field(default_factory=dict)

    def verdict(self, row: BenchRow) -> str | None:
        """What the answer has to be; None where that is not known."""
        key = (_plain(row.onnx), _plain(row.vnnlib))
        table = self.tables.get(row.benchmark, self.tables.get("", {}))
        return table.get(key)

    def joined(self, other: Expectations) -> Expectations:
        """Both together.

        Raises:
            SpecificationError: they contradict each other.
        """
        tables = {name: dict(table) for name, table in self.tables.items()}
        for name, table in other.tables.items():
            mine = tables.setdefault(name, {})
            for key, verdict in table.items():
                if mine.setdefault(key, verdict) != verdict:
                    raise SpecificationError(
                        f"--expected: {', '.join(key)} is said to be both {mine[key]} and {verdict}. Name one table."
                    )
        return Expectations(tables)


def read_expectations(text: str, source: str, folder: str, benchmarks: Iterable[str]) -> Expectations:
    """Read a table with the columns ``onnx,vnnlib,verdict``; verdicts other than sat and unsat say nothing.

    Args:
        text: CSV with a header.
        source: name of the file, for errors.
        folder: name of its folder: where it is the name of a benchmark, the table speaks of that one alone.
        benchmarks: names of those in the results.

    Raises:
        SpecificationError: malformed.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    default = folder if folder in set(benchmarks) else ""
    tables: dict[str, dict[tuple[str, str], str]] = {}
    try:
        missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise SpecificationError(
                f"{source}: its first line has no column {', '.join(missing)}; needed are {','.join(_NEEDED)}. "
                "Give the table a header."
            )
        for cells in reader:
            _add(tables, cells, f"{source}:{reader.line_num}", default)
    except csv.Error as error:
        raise SpecificationError(f"{source}:{reader.line_num}: {error}. Mend or remove the line.") from None
    return Expectations(tables)


def _add(
    tables: dict[str, dict[tuple[str, str], str]], cells: Mapping[str, str | None], where: str, default: str
) -> None:
    onnx, vnnlib, word = ((cells.get(name) or "").strip() for name in _NEEDED)
    if not onnx or not vnnlib:
        raise SpecificationError(f"{where}: a network or a specification is missing. Mend or remove the line.")
    verdict = verdict_of(word)
    if verdict not in SOLVED:
        return
    table = tables.setdefault((cells.get("benchmark") or "").strip() or default, {})
    if table.setdefault((_plain(onnx), _plain(vnnlib)), verdict) != verdict:
        raise SpecificationError(f"{where}: {onnx}, {vnnlib} has two verdicts in this table. Remove one line.")


@dataclass(frozen=True)
class Contradiction:
    """A verdict that cannot be right, or one of two of which one is not.

    Args:
        row: whose it is.
        other: the verdict it contradicts.
        by: whose that is: a method, or "expected".
    """

    row: BenchRow
    other: str
    by: str

    @property
    def text(self) -> str:
        """One line."""
        whose = "expected is" if self.by == "expected" else f"{self.by} says"
        return f"{self.row.onnx}, {self.row.vnnlib}: {self.row.method} says {self.row.verdict}, {whose} {self.other}"


def contradictions(rows: Iterable[BenchRow], expected: Expectations) -> list[Contradiction]:
    """Solved rows that differ from the known answer, or from another method's where none is known."""
    found: list[Contradiction] = []
    solved: dict[tuple[str, str, str], list[BenchRow]] = defaultdict(list)
    for row in rows:
        if row.solved:
            solved[row.instance].append(row)
    for answers in solved.values():
        known = expected.verdict(answers[0])
        if known is not None:
            found += [Contradiction(row, known, "expected") for row in answers if row.verdict != known]
            continue
        for row in answers:
            against = next((other for other in answers if other.verdict != row.verdict), None)
            if against is not None:
                found.append(Contradiction(row, against.verdict, against.method))
    return found


def _plain(path: str) -> str:
    """A path as it is compared: with one kind of separator, without ``./`` and ``.gz``."""
    text = str(PurePosixPath(path.strip().replace("\\", "/")))
    return text.removesuffix(".gz")
