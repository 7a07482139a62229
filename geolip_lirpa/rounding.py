"""Constants of floating-point error analysis.

Place in the data flow: level 0. Notation of N. Higham, Accuracy and Stability of Numerical Algorithms, chapter 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geolip_lirpa.errors import SpecificationError

Array = NDArray[np.float64]

UNIT_ROUNDOFF = 2.0**-53


def gamma(count: int) -> float:
    r""":math:`\gamma_n = n u / (1 - n u)`, relative error of n successive roundings (Higham, ASNA, Lemma 3.1)."""
    if count * UNIT_ROUNDOFF > 0.01:
        raise SpecificationError(f"rounding analysis: {count} operations in one sum are too many for float64.")
    # The factor covers the rounding of this very expression.
    return count * UNIT_ROUNDOFF / (1.0 - count * UNIT_ROUNDOFF) * (1.0 + 4.0 * UNIT_ROUNDOFF)
