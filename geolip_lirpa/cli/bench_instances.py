"""The list of instances of a benchmark, as VNN-COMP writes it.

Place in the data flow: level 12, ``instances.csv -> Instance -> Job``. Imports nothing heavy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geolip_lirpa.cli.paths import require_file
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.report.bench_rows import one_line

#: Stands for the digest of files that cannot be read.
UNREADABLE = "-"


@dataclass(frozen=True)
class Instance:
    """A network with a specification.

    Args:
        onnx, vnnlib: paths as the list has them.
        timeout: seconds allowed.
        folder: that the paths start from.
    """

    onnx: str
    vnnlib: str
    timeout: float
    folder: Path = field(compare=False)

    @property
    def files(self) -> tuple[Path, Path]:
        """Where network and specification are, the compressed one where there is no other."""
        return _present(self.folder / self.onnx), _present(self.folder / self.vnnlib)

    def digest(self, seed: int, known: dict[Path, str]) -> str:
        """What the answer depends on, besides method and timeout; `UNREADABLE` where a file cannot be read.

        Args:
            seed: of random starts.
            known: digests of files, to which those of new ones are added.
        """
        try:
            parts = [known.setdefault(path, known.get(path) or _digest(path)) for path in self.files]
        except (OSError, ValueError):
            # ValueError: a name that no file can have
            return UNREADABLE
        return hashlib.sha256(f"{' '.join(parts)} {seed}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class InstanceList:
    """All instances, each once.

    Args:
        name: of the benchmark: that of the folder of the file.
        instances: in the order of the file.
        repeated: how many lines repeated an earlier one.
    """

    name: str
    instances: tuple[Instance, ...]
    repeated: int


def read_instances(path: Path, cap: float | None) -> InstanceList:
    """Read ``onnx,vnnlib,timeout`` lines; a header and blank lines are skipped.

    Args:
        path: of the file; paths in it are relative to its folder.
        cap: largest timeout in seconds, and that of lines without one; None: every line needs its own.

    Raises:
        SpecificationError: names the line that is malformed.
    """
    require_file("INSTANCES", path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecificationError(f"INSTANCES: {path} cannot be read ({error}). Name a text file in UTF-8.") from None
    found: dict[tuple[str, str], Instance] = {}
    repeated = 0
    for number, stripped in _lines(text, path):
        if not any(stripped) or (not found and _is_header(stripped)):
            continue
        instance = _instance(stripped, f"INSTANCES: {path}:{number}", path.resolve().parent, cap)
        earlier = found.setdefault((instance.onnx, instance.vnnlib), instance)
        repeated += earlier is not instance
        if earlier != instance:
            raise SpecificationError(
                f"INSTANCES: {path}:{number}: {instance.onnx} with {instance.vnnlib} has been listed with another "
                "timeout before. Remove one of the lines."
            )
    if not found:
        raise SpecificationError(f"INSTANCES: {path} lists nothing; expected lines onnx,vnnlib,timeout. Add some.")
    return InstanceList(path.resolve().parent.name, tuple(found.values()), repeated)


def _lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells without outer blanks, with the number of their line."""
    reader = csv.reader(io.StringIO(text))
    try:
        for number, cells in enumerate(reader, start=1):
            yield number, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise SpecificationError(f"INSTANCES: {path}:{reader.line_num}: {error}. Mend or remove the line.") from None


def _is_header(cells: Sequence[str]) -> bool:
    return cells[0].lower() in ("onnx", "network", "model", "# onnx")


def _instance(cells: Sequence[str], where: str, folder: Path, cap: float | None) -> Instance:
    if len(cells) not in (2, 3) or not all(cells[:2]):
        raise SpecificationError(f"{where}: got {len(cells)} cells; expected onnx,vnnlib,timeout. Correct the line.")
    if any(one_line(cell) != cell or "\0" in cell for cell in cells[:2]):
        raise SpecificationError(
            f"{where}: a path has line breaks, null characters or runs of blanks in it. Rename the file."
        )
    timeout = _timeout(cells[2], where) if len(cells) == 3 and cells[2] else cap
    if timeout is None:
        raise SpecificationError(f"{where}: has no timeout. Add one as the third cell, or pass --timeout SECONDS.")
    return Instance(cells[0], cells[1], timeout if cap is None else min(timeout, cap), folder)


def _timeout(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SpecificationError(f"{where}: the timeout is {text!r}; allowed are positive seconds. Correct the line.")
    return seconds


def _present(path: Path) -> Path:
    try:
        compressed = path.with_name(f"{path.name}.gz")
        return compressed if not path.exists() and compressed.exists() else path
    except (OSError, ValueError):
        # a name that no file can have: whoever opens it says so
        return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
