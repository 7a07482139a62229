"""The results of a benchmark run, a CSV file that a killed run can be resumed from.

Place in the data flow: level 12, ``BenchRow -> file``, used by `bench_run`. Every row is on the disk before it counts
as finished; a row that was cut is done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from geolip_lirpa.cli.bench_instances import UNREADABLE
from geolip_lirpa.cli.line_file import LineFile
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.report.bench_rows import BenchRow, csv_header, csv_line, read_rows

Key = tuple[str, str, str]


class ResultsFile:
    """Rows by network, specification and method.

    Rows of methods that are not asked for this time are kept, so that a later run can add a method.

    Args:
        path: of the file.
        blank: for each row that is asked for, one with its benchmark, timeout and run.

    Raises:
        SpecificationError: the file belongs to another run or is none, or cannot be read or written.
    """

    def __init__(self, path: Path, blank: Mapping[Key, BenchRow]) -> None:
        self.path = path
        self._file = LineFile("--out", path, "rows")
        self._blank = blank
        self._instances = {(onnx, vnnlib): row for (onnx, vnnlib, _), row in blank.items()}
        self.finished: dict[Key, BenchRow] = {}
        lines = self._file.lines()
        if lines is not None:
            if not lines or lines[0] != csv_header():
                raise SpecificationError(f"--out: {path} is no file of `geolip-lirpa bench`. Name another file.")
            for row in read_rows("".join(lines), f"--out: {path}", ""):
                self._restore(row)
        self.rewrite()

    def add(self, row: BenchRow) -> None:
        """Keep a finished row."""
        self.finished[key(row)] = row
        self._file.append(csv_line(row))

    def rewrite(self) -> None:
        """Write all rows anew, in the order of the instances."""
        self._file.rewrite([csv_header(), *map(csv_line, self.rows())])

    def rows(self) -> list[BenchRow]:
        """All finished rows, those of this run first and in its order."""
        asked = [self.finished[k] for k in self._blank if k in self.finished]
        return asked + [row for k, row in self.finished.items() if k not in self._blank]

    def _restore(self, row: BenchRow) -> None:
        instance = self._instances.get((row.onnx, row.vnnlib))
        if instance is None:
            raise self._other(f"has the instance {row.onnx}, {row.vnnlib}, which INSTANCES does not have")
        if row.benchmark != instance.benchmark:
            raise self._other(f"is about the benchmark {row.benchmark!r}, this run about {instance.benchmark!r}")
        if row.timeout != instance.timeout:
            raise self._other(f"has another timeout for {row.onnx}, {row.vnnlib}")
        if row.run == UNREADABLE:
            # perhaps the files are there by now
            return
        if row.run != instance.run:
            raise self._other(f"was made with another --seed, or other files {row.onnx}, {row.vnnlib}")
        self.finished[key(row)] = row

    def _other(self, what: str) -> SpecificationError:
        return SpecificationError(
            f"--out: {self.path} {what}. Name another file, or repeat the command it was written by."
        )


def key(row: BenchRow) -> Key:
    """What a row is found by."""
    return row.onnx, row.vnnlib, row.method
