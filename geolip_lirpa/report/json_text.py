"""Objects as text of strict JSON.

Place in the data flow: level 11, used by everything that prints JSON. Imports nothing heavy.
"""

from __future__ import annotations

import json
import math
from typing import Any


def to_text(record: dict[str, Any]) -> str:
    """Strict JSON; refuses numbers that JSON does not have."""
    return json.dumps(record, indent=2, allow_nan=False)


def finite(value: float | None) -> float | None:
    """The number, or None where there is none or it is not finite."""
    return value if value is not None and math.isfinite(value) else None
