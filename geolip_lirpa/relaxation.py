r"""Lines below and above an activation, rounded so that they are proven.

Place in the data flow: level 3, between `Activation` and `crown`. On ``[l, u]`` an activation is enclosed by two lines,
:math:`s v + t \le \sigma(v) \le s' v + t'`. The slopes may come from anywhere; the intercepts are computed here and
make the inequalities hold in real arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.activations import Abs, Activation, LeakyReLU, ReLU
from geolip_lirpa.activations.piecewise import PiecewiseLinear
from geolip_lirpa.rounding import UNIT_ROUNDOFF

Gaps = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps slopes s to a lower bound of ``min (sigma(v) - s v)`` and an upper bound of ``max (sigma(v) - s v)``."""

# error of a library function relative to value and argument: ten times what torch's allow
_FUNCTION_ERROR = 2.0**-48
_TINY = 1e-290
# cells in which a smooth activation is enclosed by its slope range
_CELLS = 32
# slopes among which the line with the smallest area is chosen
_CANDIDATES = 9


@dataclass(frozen=True)
class Lines:
    r"""Two lines enclosing an activation; all tensors (.., B, \*shape)."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


class Relaxation:
    r"""One activation over ``[lower, upper]``, float64 of shape (B, \*shape).

    Attributes:
        smallest: least slope between two points of the interval.
        largest: greatest one.
        gaps: see `Gaps`; differentiable in the slopes for piecewise linear activations.
        free_slopes: sides, "lower" and "upper", whose best line depends on what it is used for. The chord is the best
            line above a convex function, whatever the use.
    """

    def __init__(self, activation: Activation, lower: Tensor, upper: Tensor) -> None:
        self.lower, self.upper = lower, upper
        slopes = activation.derivative_range(lower, upper)
        self.smallest, self.largest = slopes.lower, slopes.upper
        self._rise = activation.value(upper) - activation.value(lower)
        self.free_slopes = _free_slopes(activation)
        if isinstance(activation, PiecewiseLinear):
            self.gaps: Gaps = _corner_gaps(activation, lower, upper)
        else:
            self.gaps = _cell_gaps(activation, lower, upper)

    @functools.cached_property
    def default(self) -> Lines:
        """The lines of smallest area."""
        return self.lines(*self.best_slopes())

    def lines(self, lower_slope: Tensor, upper_slope: Tensor) -> Lines:
        """Proven lines with these slopes."""
        return Lines(lower_slope, self.gaps(lower_slope)[0], upper_slope, self.gaps(upper_slope)[1])

    def best_slopes(self) -> tuple[Tensor, Tensor]:
        r"""Slopes of the lower and the upper line that come closest to the activation at the middle of the interval.

        That is the same as the smallest area between line and activation.
        """
        middle = self.lower / 2 + self.upper / 2
        slopes, lows, highs = [], [], []
        for slope in self._candidates():
            below, above = self.gaps(slope)
            slopes.append(slope)
            lows.append(slope * middle + below)
            highs.append(slope * middle + above)
        choices = torch.stack(slopes)
        lowest = torch.stack(lows).nan_to_num(nan=-torch.inf).argmax(dim=0, keepdim=True)
        highest = torch.stack(highs).nan_to_num(nan=torch.inf).argmin(dim=0, keepdim=True)
        return choices.gather(0, lowest)[0], choices.gather(0, highest)[0]

    def _candidates(self) -> list[Tensor]:
        """Slopes spread over the range, and that of the line through both ends."""
        weights = [k / (_CANDIDATES - 1) for k in range(_CANDIDATES)]
        spread = [self.smallest * (1 - w) + self.largest * w for w in weights]
        width = self.upper - self.lower
        chord = torch.where(width > 0, self._rise / width, self.smallest).nan_to_num(nan=0.0)
        return [torch.minimum(torch.maximum(chord, self.smallest), self.largest), *spread]


def _free_slopes(activation: Activation) -> tuple[str, ...]:
    if not isinstance(activation, PiecewiseLinear):
        return ()
    convex = isinstance(activation, (ReLU, Abs)) or (
        isinstance(activation, LeakyReLU) and activation.negative_slope <= 1
    )
    return ("lower",) if convex else ("lower", "upper")


def _corner_gaps(activation: PiecewiseLinear, lower: Tensor, upper: Tensor) -> Gaps:
    r"""``sigma(v) - s v`` is piecewise linear: its extremes lie at ends and breakpoints."""
    points = [lower, upper, *(torch.clamp(torch.full_like(lower, k), lower, upper) for k in activation.breakpoints)]
    values = [activation.value(point) for point in points]

    def gaps(slope: Tensor) -> tuple[Tensor, Tensor]:
        lows, highs = [], []
        for point, value in zip(points, values, strict=True):
            product = slope * point
            error = 4 * UNIT_ROUNDOFF * (value.abs() + product.abs())
            lows.append(value - product - error)
            highs.append(value - product + error)
        return torch.stack(lows).amin(dim=0) - _TINY, torch.stack(highs).amax(dim=0) + _TINY

    return gaps


def _cell_gaps(activation: Activation, lower: Tensor, upper: Tensor) -> Gaps:
    r"""Around the middle m of a cell of half width h with slopes in ``[a, b]``,

    .. math:: \sigma(v) - s v \ge \sigma(m) - s m + \min(0, (a - s) h, (s - b) h),

    and the same from above with signs reversed.
    """
    weights = (torch.arange(_CELLS, dtype=torch.float64, device=lower.device) + 0.5) / _CELLS
    weights = weights.reshape(-1, *([1] * lower.ndim))
    middle = lower * (1 - weights) + upper * weights
    # wide enough that the cells overlap in spite of rounding
    half = (upper - lower) * (0.5 / _CELLS * (1 + 1e-9)) + 8 * UNIT_ROUNDOFF * (lower.abs() + upper.abs()) + _TINY
    slopes = activation.derivative_range(middle - half, middle + half)
    value = activation.value(middle)

    def gaps(slope: Tensor) -> tuple[Tensor, Tensor]:
        product = slope * middle
        error = _FUNCTION_ERROR * (value.abs() + middle.abs() + product.abs())
        dip = torch.minimum((slopes.lower - slope) * half, (slope - slopes.upper) * half).clamp(max=0)
        bump = torch.maximum((slopes.upper - slope) * half, (slope - slopes.lower) * half).clamp(min=0)
        low = value - product - error + dip * (1 + 8 * UNIT_ROUNDOFF)
        high = value - product + error + bump * (1 + 8 * UNIT_ROUNDOFF)
        return low.amin(dim=0) - _TINY, high.amax(dim=0) + _TINY

    return gaps
