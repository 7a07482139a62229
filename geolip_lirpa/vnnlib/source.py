"""The text of a file, and errors that point into it.

Place in the data flow: level 3, ``file -> Source -> formulas``. Gzip is recognised by its content.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from geolip_lirpa.errors import VnnlibError

#: Bytes of an uncompressed text.
LONGEST_TEXT = 2**28
_GZIP_MAGIC = b"\x1f\x8b"


class RefusalError(Exception):
    """What is wrong and what to do, without its place; whoever knows the place makes a `VnnlibError` of it."""


@dataclass(frozen=True)
class Source:
    """A text with its name in messages. Places in it are offsets; lines are counted only when one is shown."""

    name: str
    text: str

    def error(self, position: int, message: str) -> VnnlibError:
        """An error at an offset: ``name:line: message``."""
        return self.error_at_line(self.text.count("\n", 0, position) + 1, message)

    def error_at_line(self, line: int, message: str) -> VnnlibError:
        """An error in a line, counted from 1."""
        return VnnlibError(f"{self.name}:{line}: {message}")


def load(path: Path) -> Source:
    """Read a file, compressed or not.

    Raises:
        VnnlibError: there is no such file, or it is no text.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            content = file.read(LONGEST_TEXT + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise VnnlibError(f"{path}:1: broken gzip data ({error}); allowed is a whole file. Fetch it again.") from error
    except (OSError, ValueError) as error:
        # ValueError: a null character within the path
        reason = getattr(error, "strerror", None) or error
        raise VnnlibError(
            f"{path}: cannot be read: {reason}; allowed is a file with a VNN-LIB text. Check the path."
        ) from error
    if len(content) > LONGEST_TEXT:
        raise VnnlibError(f"{path}:1: more than {LONGEST_TEXT} bytes; allowed are shorter texts. Split the file.")
    try:
        return Source(str(path), content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise VnnlibError(
            f"{path}:{line}: got the byte {content[error.start]:#04x}; allowed is text in UTF-8. Give a .vnnlib file."
        ) from error
