"""Change certificates as a forger would, with digests that fit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from command_line import Run

from geolip_lirpa.cli.exit_codes import ExitCode

Change = Callable[[dict[str, Any]], None]


def forge(path: Path, change: Change) -> None:
    """Change a certificate's content and give it a digest that fits."""
    record = json.loads(path.read_text())
    change(record)
    content = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**content, "digest": hashlib.sha256(text.encode()).hexdigest()}))


def floats(record: dict[str, Any]) -> np.ndarray:
    """An array of a certificate's record."""
    return np.frombuffer(base64.b64decode(record["float64"]), dtype="<f8").reshape(record["shape"])


def store(record: dict[str, Any], values: np.ndarray) -> None:
    """Replace an array of a certificate's record."""
    record["float64"] = base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()


def require_refusal(result: Run) -> None:
    """Exit code and a single line on standard error."""
    assert result.code == ExitCode.REFUSED
    assert result.err.startswith("error: refused: ") and result.err.count("\n") == 1
