"""What ``geolip-lirpa bench`` was asked for.

Place in the data flow: level 12, between parsing and running. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geolip_lirpa.cli.certify_request import METHODS

__all__ = ["METHODS", "VERIFY", "BenchRequest"]

#: What verifies an instance in the child process, as ``module:name``.
VERIFY = "geolip_lirpa.verify_onnx:verify_files"


@dataclass(frozen=True)
class BenchRequest:
    """The options, see the command's help; None stands for the file's own timeouts, and for what is not asked for."""

    instances: Path
    out: Path
    methods: tuple[str, ...]
    timeout: float | None
    backend: str
    jobs: int
    scheduler: str | None
    seed: int
    expected: Path | None
    witnesses: Path | None
    json: bool
    quiet: bool
    debug: bool
    function: str = VERIFY
