"""What ``geolip-lirpa verify`` was asked for, and what its child process answers.

Place in the data flow: level 12, between parsing, running and printing. Imports nothing heavy.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from geolip_lirpa.cli.paths import require_file
from geolip_lirpa.errors import SpecificationError

# As a version 2.0 text spells the name of a network.
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class VerifyRequest:
    """The options, see the command's help.

    Args:
        specification: the VNN-LIB file.
        model: the ONNX file.
        name: that ``--network`` gave to the model; None where it gave a path alone.
        method: one of `certify_request.METHODS`.
        timeout: seconds, infinite for no limit.
        seed: of random starts.
        threads: in the child.
        json: print one object.
        witness: file to write a witness to.
        assignments: folder to write a witness to, as tensors.
        debug: show what the child prints.
    """

    specification: Path
    model: Path
    name: str | None
    method: str
    timeout: float = math.inf
    seed: int = 0
    threads: int = 1
    json: bool = False
    witness: Path | None = None
    assignments: Path | None = None
    debug: bool = False


@dataclass(frozen=True)
class VerifyAnswer:
    """What the child found, in plain types, so that the parent needs neither torch nor numpy.

    Args:
        verdict: a word of `Verdict`.
        witness: its text in the format of the specification's version; empty without one.
        inputs, outputs: the witness in numbers.
        tensors: file names and contents for ``--serialise-assignments``.
        bound: see `VerifyResult`.
        proved_by, boxes, reason: likewise.
        version: of the specification; empty where the time was over before it was read.
        notes: for standard error.
    """

    verdict: str
    witness: str = ""
    inputs: tuple[float, ...] = ()
    outputs: tuple[float, ...] = ()
    tensors: tuple[tuple[str, bytes], ...] = ()
    bound: float | None = None
    proved_by: tuple[str, ...] = ()
    boxes: int = 0
    reason: str = ""
    version: str = ""
    notes: tuple[str, ...] = ()


def parse_network(values: list[str]) -> tuple[str | None, Path]:
    """Name and file in ``--network NAME=FILE``, or None and the file in ``--network FILE``.

    Raises:
        SpecificationError: not exactly one, or no such file.
    """
    if len(values) != 1:
        raise SpecificationError(
            f"--network: got {len(values)} of them; specifications of exactly one network are verified. Give "
            "--network NAME=MODEL.onnx once."
        )
    found = _NAMED.fullmatch(values[0])
    if found is None or (Path(values[0]).exists() and not Path(found[2]).exists()):
        require_file("--network", Path(values[0]))
        return None, Path(values[0])
    require_file("--network", Path(found[2]))
    return found[1], Path(found[2])
