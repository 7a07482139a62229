"""From a file to a `Specification`.

Place in the data flow: level 3, ``.vnnlib file -> Source -> Query -> Specification``.
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from geolip_lirpa.specification import Specification
from geolip_lirpa.vnnlib import version_one, version_two
from geolip_lirpa.vnnlib.assembly import assemble
from geolip_lirpa.vnnlib.source import Source, load

#: The first command of a text of version 2.0, after comments.
_VERSION_TWO = re.compile(r"(?:\s|;[^\n]*(?:\n|$))*+\(\s*(?:vnnlib-version|declare-network)\b")


def read_specification(path: str | PathLike[str]) -> Specification:
    """Read a VNN-LIB file of version 1.0 or 2.0, compressed with gzip or not.

    Args:
        path: the file; version and compression are recognised by its content.

    Returns:
        the boxes and polytopes in the order of the text, rounded as `specification` says.

    Raises:
        VnnlibError: the file cannot be read, is malformed or asks for too much; starts with file and line.
    """
    return specification_of(load(Path(path)))


def specification_of(source: Source) -> Specification:
    """The specification of a text.

    Raises:
        VnnlibError: as `read_specification`.
    """
    two = _VERSION_TWO.match(source.text) is not None
    return assemble(version_two.read(source) if two else version_one.read(source))
