"""Refusal of activation parameters for which no slope interval exists.

Place in the data flow: level 1, called by the constructors of the activations.
"""

from __future__ import annotations

import math

from geolip_lirpa.errors import SpecificationError


def require_finite(where: str, value: float) -> None:
    """Refuse a parameter that is NaN or infinite.

    Raises:
        SpecificationError: `value` is not finite.
    """
    if not math.isfinite(value):
        raise SpecificationError(f"{where}: got {value!r}; allowed are finite numbers. Check the trained model.")
