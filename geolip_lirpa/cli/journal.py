"""Long runs that lose nothing: a file with one line for each finished image.

Place in the data flow: level 12, used by `certify_run`. The first line says what was asked; a run that asks the same
goes on where the file ends. Every line is on the disk before the next image begins; a line that was cut is done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geolip_lirpa.cli.line_file import LineFile
from geolip_lirpa.errors import SpecificationError

_KIND = "geolip-lirpa run"


class Journal:
    """Records by image number.

    Args:
        path: of the file; None keeps nothing.
        question: what identifies the run; strict JSON.

    Raises:
        SpecificationError: the file belongs to another run, or cannot be read or written.
    """

    def __init__(self, path: Path | None, question: Mapping[str, Any]) -> None:
        self.path = path
        self.finished: dict[int, dict[str, Any]] = {}
        if path is None:
            return
        header = {"kind": _KIND, "question": dict(question)}
        self._file = LineFile("--resume", path, "images")
        lines = self._file.lines()
        if lines is not None:
            self._read(lines, header)
        self._file.rewrite([json.dumps(header, sort_keys=True) + "\n", *(lines or [])[1:]])

    def add(self, index: int, record: Mapping[str, Any]) -> None:
        """Keep a finished image."""
        self.finished[index] = dict(record)
        if self.path is not None:
            self._file.append(json.dumps({"image": index, **record}, allow_nan=False) + "\n")

    def _read(self, lines: list[str], header: Mapping[str, Any]) -> None:
        try:
            first, *others = (json.loads(line, parse_constant=_refuse) for line in lines)
            kind, asked = first["kind"], dict(first["question"])
            for record in others:
                index = record.pop("image")
                self.finished[int(index)] = record
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            kind, asked = None, {}
        if kind != _KIND:
            raise SpecificationError(f"--resume: {self.path} is not a file of an earlier run. Name another file.")
        # as JSON, in which tuples are lists
        question = json.loads(json.dumps(header["question"]))
        others = sorted(name for name in {*asked, *question} if asked.get(name) != question.get(name))
        if others:
            raise SpecificationError(
                f"--resume: {self.path} belongs to a run with another {', '.join(others)}. Name another file, or "
                "repeat the command it was written by."
            )


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
