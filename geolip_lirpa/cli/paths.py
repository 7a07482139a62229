"""Files named on the command line, checked before hours of work depend on them.

Place in the data flow: level 12, used by the commands. Questions go to `os.path`, which says no to a name that is too
long or lies in a closed folder, where `pathlib` raises.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from geolip_lirpa.errors import SpecificationError

#: Suffixes of pictures; a test compares them with the library's own.
PICTURES = (".png", ".svg")


def require_file(option: str, path: Path) -> None:
    """Refuse what is not a readable file.

    Raises:
        SpecificationError: names the option and the path.
    """
    if os.path.isdir(path):
        raise SpecificationError(f"{option}: {path} is a directory; expected a file. Name the file inside it.")
    if not os.path.exists(path):
        raise SpecificationError(f"{option}: {path}: no such file. Check the path.")
    if not os.access(path, os.R_OK):
        raise SpecificationError(f"{option}: {path} cannot be read. Check its permissions.")


def require_writable(option: str, path: Path) -> None:
    """Refuse a path at which no file can be written.

    Raises:
        SpecificationError: names the option and the path.
    """
    folder = path.parent
    if os.path.isdir(path):
        raise SpecificationError(f"{option}: {path} is a directory; expected the name of a file to write.")
    if not os.path.isdir(folder):
        raise SpecificationError(f"{option}: {folder} is not a folder. Create it first, or name another one.")
    if not os.access(folder, os.W_OK) or (os.path.exists(path) and not os.access(path, os.W_OK)):
        raise SpecificationError(f"{option}: {path} cannot be written. Name a file in a writable folder.")


def require_folder(option: str, folder: Path | None) -> None:
    """Refuse a path at which no folder of files to write is or can be made; None is none.

    Raises:
        SpecificationError: names the option and the path.
    """
    if folder is None:
        return
    place = folder if os.path.exists(folder) else folder.parent
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise SpecificationError(f"{option}: {folder} is no writable folder and cannot be made one. Name another one.")


def made_folder(option: str, folder: Path) -> Path:
    """The folder, which is made unless it exists.

    Raises:
        SpecificationError: names the option and the path.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise SpecificationError(
            f"{option}: {folder} cannot be made a folder ({error.strerror}). Name another one."
        ) from None
    return folder


def require_picture(option: str, path: Path | None) -> None:
    """Refuse a path at which no picture can be written; None is none to write.

    Raises:
        SpecificationError: names the option and the path.
    """
    if path is None:
        return
    # those of `report.plot_style`, which imports matplotlib
    if path.suffix not in PICTURES:
        raise SpecificationError(
            f"{option}: {path} ends with {path.suffix or 'no suffix'!r}; allowed are {' and '.join(PICTURES)}. "
            "Name the file so."
        )
    require_writable(option, path)


def write_file(option: str, path: Path, content: bytes) -> None:
    """Write a file through a temporary neighbour, so that no reader sees half of it.

    Raises:
        SpecificationError: names the option and the path.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            # a plain file in it, unlike a temporary file, has the permissions that the user's files have
            neighbour = Path(folder) / path.name
            neighbour.write_bytes(content)
            os.replace(neighbour, path)
    except OSError as error:
        raise SpecificationError(
            f"{option}: {path} cannot be written ({error.strerror}). Name a file in a writable folder."
        ) from None
