"""Long runs that lose nothing: a file with one line for each finished image.

Place in the data flow: level 12, used by `certify_run`. The first line says what was asked; a run that asks the same
goes on where the file ends. Every line is on the disk before the next image begins; a line that was cut is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]
            if lines:
                self._read(whole, header)
            self._rewrite([json.dumps(header, sort_keys=True) + "\n", *whole[1:]])
        except (OSError, UnicodeDecodeError) as error:
            raise SpecificationError(
                f"--resume: {path} cannot be read or written ({error}). Name a file in a writable folder."
            ) from None

    def add(self, index: int, record: Mapping[str, Any]) -> None:
        """Keep a finished image."""
        self.finished[index] = dict(record)
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"image": index, **record}, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpecificationError(
                f"--resume: {self.path} cannot be written ({error}). Make room, and repeat the command: finished "
                "images are kept."
            ) from None

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

    def _rewrite(self, lines: list[str]) -> None:
        if self.path is not None:
            neighbour = self.path.with_name(f".{self.path.name}.new")
            neighbour.write_text("".join(lines), encoding="utf-8")
            os.replace(neighbour, self.path)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
