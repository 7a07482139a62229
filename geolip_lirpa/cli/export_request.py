"""What ``geolip-lirpa export`` was asked for, checked as far as that is possible without the model.

Place in the data flow: level 12, between parsing and running. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geolip_lirpa.types import Norm

# Names for help and completion; a test compares them with the library's own tables.
FORMATS = ("sdpa", "cbf", "mosek-task")
FORMS = ("dual", "natural")


@dataclass(frozen=True)
class ExportRequest:
    """The options of the command, see its help."""

    model: Path
    out: Path
    row: int
    norm: Norm
    file_format: str
    form: str
    tie: tuple[str, ...]
    logits: bool
    final_node: str | None
    quiet: bool
    debug: bool
