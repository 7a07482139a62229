"""Result tables: CSV files that are complete at every moment, and the Markdown made from them.

A benchmark asks `Table.find` before it measures and calls `Table.put` after each measurement, so that it goes on where
it was stopped.
"""

from __future__ import annotations

import csv
import io
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """Rows of text in a CSV file.

    Args:
        path: the file; missing means empty.
        columns: all column names, in order.
        key: the columns that name a row.
    """

    path: Path
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def rows(self) -> list[Row]:
        """All rows.

        Raises:
            SystemExit: the file has other columns.
        """
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != self.columns:
                raise SystemExit(f"{self.path}: has other columns than this benchmark writes. Move it away.")
            return list(reader)

    def find(self, key: Mapping[str, str]) -> Row | None:
        """The row of a key, if there is one."""
        return next((row for row in self.rows() if self._same(row, key)), None)

    def put(self, row: Row) -> None:
        """Add a row, or replace the one of the same key. The file changes at once or not at all."""
        rows = self.rows()
        places = [i for i, other in enumerate(rows) if self._same(other, row)]
        if places:
            rows[places[0]] = row
        else:
            rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue())

    def _same(self, row: Mapping[str, str], key: Mapping[str, str]) -> bool:
        return all(row[name] == key[name] for name in self.key)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by a finished neighbour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        # a plain file in it, unlike a temporary file, has the permissions that the user's files have
        neighbour = Path(folder) / path.name
        neighbour.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(neighbour, path)


def number(text: str, digits: int = 6) -> str:
    """A cell as a number with that many significant digits; empty stays empty, and ``>`` in front stays."""
    sign, value = ("\\>", text[1:]) if text.startswith(">") else ("", text)
    return "" if value == "" else f"{sign}{float(value):.{digits}g}"


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def insert(document: Path, name: str, text: str) -> None:
    """Write text between the lines ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of a document.

    Raises:
        SystemExit: the document has no such pair of lines.
    """
    content = document.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(content)) != 1:
        raise SystemExit(f"{document}: needs the lines {begin.strip()} and {end} once each.")
    write_atomically(document, pattern.sub(lambda _: f"{begin}{text}{end}", content))
