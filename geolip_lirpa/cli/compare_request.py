"""What ``geolip-lirpa compare`` was asked for.

Place in the data flow: level 12, between parsing and running. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompareRequest:
    """The options, see the command's help; `report` is None for no page."""

    results: tuple[Path, ...]
    report: Path | None
    expected: tuple[Path, ...]
    title: str
    format: str
