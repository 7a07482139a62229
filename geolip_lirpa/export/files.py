"""Writing files so that nobody sees half of one.

Place in the data flow: level 7, used by the writers of `export`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geolip_lirpa.errors import SpecificationError


@contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary neighbour of a file, which takes its place when the block ends without an error.

    Args:
        path: the file to appear.
        suffix: how the neighbour's name ends, for libraries that read the format off the name.

    Raises:
        SpecificationError: the path is a folder, or its folder is missing or cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".geolip-") as folder:
            # a plain file in it, unlike a temporary file, has the permissions that the user's files have
            neighbour = Path(folder) / f"export{suffix}"
            yield neighbour
            os.replace(neighbour, path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SpecificationError(
            f"export: {path} cannot be written ({reason}); allowed is the name of a file in a writable folder. "
            "Name another file."
        ) from None


def number(value: float) -> str:
    """A float64 with 17 significant digits, which read back to the same number."""
    return format(float(value), ".17g")
