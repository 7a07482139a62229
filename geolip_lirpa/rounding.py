"""Constants of floating-point error analysis.

Place in the data flow: level 0. Notation of N. Higham, Accuracy and Stability of Numerical Algorithms, chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.errors import SpecificationError

Array = NDArray[np.float64]

UNIT_ROUNDOFF = 2.0**-53


def gamma(count: int) -> float:
    r""":math:`\gamma_n = n u / (1 - n u)`, relative error of n successive roundings (Higham, ASNA, Lemma 3.1)."""
    if count * UNIT_ROUNDOFF > 0.01:
        raise SpecificationError(f"rounding analysis: {count} operations in one sum are too many for float64.")
    # The factor covers the rounding of this very expression.
    return count * UNIT_ROUNDOFF / (1.0 - count * UNIT_ROUNDOFF) * (1.0 + 4.0 * UNIT_ROUNDOFF)


@dataclass(frozen=True)
class Range:
    """Magnitudes of the non-zero numbers of a proof, so that no product of a few of them underflows or overflows.

    Relative error bounds hold for normal numbers only; a proof that left them would count an underflow as exact.
    """

    smallest: float
    largest: float

    def holds(self, values: Array | Tensor) -> bool:
        """Whether every entry is zero or a finite number of such a size."""
        size = values.abs().numpy() if isinstance(values, Tensor) else np.abs(values)
        return bool(((size == 0) | ((size >= self.smallest) & (size <= self.largest))).all())

    def __str__(self) -> str:
        return f"0 or {self.smallest:g} to {self.largest:g}"


#: Rows of C and input scales.
STATEMENT_RANGE = Range(1e-60, 1e60)
#: Coefficients of affine operators.
PARAMETER_RANGE = Range(1e-100, 1e60)
#: Coefficients of several operators in a row.
FORM_RANGE = Range(1e-120, 1e60)
#: Multipliers.
MULTIPLIER_RANGE = Range(1e-100, 1e100)
#: Slopes; smaller ones are widened.
SMALLEST_SLOPE = 1e-100
#: Bound of what underflows in one entry of the matrix of a proof, for numbers in the ranges above.
UNDERFLOW = 1e-190


def lengths(vectors: Tensor) -> Tensor:
    """Euclidean norms along the last axis, each vector scaled by a power of two so that no square leaves float64."""
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    # half of (mantissa * 2^e) / mantissa, exactly
    power = largest / (2 * torch.frexp(largest).mantissa)
    power = torch.where((largest > 0) & power.isfinite(), power, 1.0)
    result: Tensor = (vectors / power).norm(dim=-1) * power[..., 0]
    return result
