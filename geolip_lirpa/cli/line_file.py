"""Files that grow by whole lines and lose nothing when the program is killed.

Place in the data flow: level 12, used by `journal` and `results_file`. A line is on the disk before the next piece of
work begins; a line that was cut is not read, and gone with the next `rewrite`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from geolip_lirpa.errors import SpecificationError


class LineFile:
    """A text file in UTF-8.

    Args:
        option: how the user named it, for errors.
        path: of the file, which need not exist.
        work: what is kept in its lines, for errors, e.g. ``"images"``.
    """

    def __init__(self, option: str, path: Path, work: str) -> None:
        self.option, self.path, self.work = option, path, work

    def lines(self) -> list[str] | None:
        """All whole lines with their ends; None when there is no file or an empty one.

        Raises:
            SpecificationError: it cannot be read.
        """
        try:
            text = self.path.read_bytes().decode("utf-8") if self.path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise self._failed(error) from None
        # what follows the last line end was cut; other characters that end lines are part of a line here
        return [f"{line}\n" for line in text.split("\n")[:-1]] if text else None

    def rewrite(self, lines: Iterable[str]) -> None:
        """Replace the file at once.

        Raises:
            SpecificationError: it cannot be written.
        """
        neighbour = self.path.with_name(f".{self.path.name}.new")
        try:
            with neighbour.open("w", encoding="utf-8", newline="") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(neighbour, self.path)
        except OSError as error:
            raise self._failed(error) from None

    def append(self, line: str) -> None:
        """Put a line, with its end, on the disk.

        Raises:
            SpecificationError: it cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpecificationError(
                f"{self.option}: {self.path} cannot be written ({error}). Make room, and repeat the command: finished "
                f"{self.work} are kept."
            ) from None

    def _failed(self, error: Exception) -> SpecificationError:
        return SpecificationError(
            f"{self.option}: {self.path} cannot be read or written ({error}). Name a file in a writable folder."
        )
