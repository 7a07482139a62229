"""Files that `compare` and `bench` read: results, and tables of known answers.

Place in the data flow: level 12, ``CSV files -> BenchRow, Expectations``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from geolip_lirpa.cli.paths import require_file
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.report.bench_rows import BenchRow, read_rows
from geolip_lirpa.report.comparison import joined
from geolip_lirpa.report.expectations import Expectations, read_expectations


def load_results(paths: Sequence[Path]) -> list[BenchRow]:
    """Rows of all files.

    Raises:
        SpecificationError: a file cannot be read, is malformed or has no rows.
    """
    labels = _labels(paths)
    sources = []
    for path, label in zip(paths, labels, strict=True):
        rows = read_rows(_text("RESULTS", path), f"RESULTS: {path}", path.resolve().parent.name)
        if not rows:
            raise SpecificationError(f"RESULTS: {path} has no rows. Name a file that has some.")
        sources.append((label, rows))
    return joined(sources)


def load_expectations(paths: Sequence[Path], benchmarks: Collection[str]) -> Expectations:
    """Known answers of all tables.

    Args:
        paths: of the tables.
        benchmarks: names of those in the results.

    Raises:
        SpecificationError: a table cannot be read or is malformed, or two contradict each other.
    """
    found = Expectations()
    for path in paths:
        text = _text("--expected", path)
        folder = path.resolve().parent.name
        found = found.joined(read_expectations(text, f"--expected: {path}", folder, benchmarks))
    return found


def _labels(paths: Sequence[Path]) -> list[str]:
    """Short names of files, each different from the others."""
    for names in ([p.stem for p in paths], [f"{p.resolve().parent.name}/{p.stem}" for p in paths], map(str, paths)):
        labels = list(names)
        if len(set(labels)) == len(paths):
            return labels
    raise SpecificationError("RESULTS: a file is named twice; expected are different ones. Name each once.")


def _text(option: str, path: Path) -> str:
    require_file(option, path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecificationError(f"{option}: {path} cannot be read ({error}). Name a CSV file in UTF-8.") from None
