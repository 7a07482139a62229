"""Powers fitted to measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Power:
    """``y = factor * x ** exponent``, fitted over x from `first` to `last`."""

    factor: float
    exponent: float
    first: float
    last: float

    def at(self, x: float) -> float:
        """The fitted value."""
        return float(self.factor * x**self.exponent)


def fit_power(x: Sequence[float], y: Sequence[float]) -> Power | None:
    """Least squares in logarithms over the larger half of the points (at least three); None for fewer than three.

    Small sizes measure what a call costs, not how it grows.
    """
    order = np.argsort(x, kind="stable")
    kept = order[-max(3, (len(order) + 1) // 2) :]
    if len(kept) < 3:
        return None
    sizes, values = np.asarray(x, dtype=float)[kept], np.asarray(y, dtype=float)[kept]
    exponent, intercept = np.polyfit(np.log(sizes), np.log(values), 1)
    return Power(float(np.exp(intercept)), float(exponent), float(sizes[0]), float(sizes[-1]))
