r"""Piecewise linear activations: ReLU, LeakyReLU, PReLU, Abs and Clip.

Place in the data flow: level 1, entries of the table `ACTIVATIONS`. One rule serves all of them, because a secant slope
is a weighted mean of the slopes of the pieces it crosses.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.activations.checks import require_finite
from geolip_lirpa.errors import SpecificationError

Number = float | Tensor

# A mean slope costs fewer than eight roundings of 2^-53; TINY covers underflow.
RELATIVE_SLACK = 2.0**-49
TINY = 1e-300


class PiecewiseLinear(Activation):
    r"""A continuous function with finitely many linear pieces.

    Subclasses name their breakpoints :math:`k_1 \le .. \le k_n` and the slopes :math:`s_0, .., s_n` of the pieces
    :math:`[k_i, k_{i+1}]`, with :math:`k_0 = -\infty` and :math:`k_{n+1} = \infty`.
    """

    @property
    @abc.abstractmethod
    def breakpoints(self) -> tuple[float, ...]:
        """Points where the slope changes, ascending."""

    @property
    @abc.abstractmethod
    def slopes(self) -> tuple[Number, ...]:
        """Slopes from left to right, one more than breakpoints; tensors broadcast to the pre-activation's shape."""

    def derivative_range(self, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Smallest and largest slope among the pieces that meet the interval; exact, no rounding.

        Proof: a secant slope is the mean of the slopes between its ends, weighted by length, so it lies in their hull;
        each piece that meets the interval in more than a point attains its slope. At a single point there is no secant;
        the piece on the right is reported.

        Args:
            lower: float64, the pre-activation's shape with any leading batch shape; -inf allowed.
            upper: float64, the same shape, at least `lower`; inf allowed.
        """
        low = torch.full_like(lower, math.inf)
        high = torch.full_like(lower, -math.inf)
        for left, right, slope in self._pieces():
            meets = (lower < right) & ((upper > left) | (lower >= left))
            low = torch.where(meets, torch.clamp(low, max=slope), low)
            high = torch.where(meets, torch.clamp(high, min=slope), high)
        return SlopeInterval(low, high)

    def secant_range(self, center: Tensor, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Hull of the secant slopes from the centre to both ends and to every breakpoint between them.

        Proof: on one piece :math:`\sigma(v) - \sigma(v_0) = s_i (v - v_0) + r` with constant :math:`r`, so the secant
        slope :math:`s_i + r / (v - v_0)` is monotone in `v` on either side of :math:`v_0`, and constant on the piece
        where the walk from :math:`v_0` starts. The extremes therefore lie at ends of pieces. For ReLU this is
        :math:`[v_0 / (v_0 - l), 1]` or :math:`[0, u / (u - v_0)]`. Rounded outward, then cut with `derivative_range`,
        which restores the exact slopes of stable neurons.

        Args:
            center: float64, finite, between `lower` and `upper`.
            lower: float64, the same shape; -inf allowed.
            upper: float64, the same shape; inf allowed.
        """
        free = self.derivative_range(lower, upper)
        low = torch.full_like(free.lower, math.inf)
        high = torch.full_like(free.lower, -math.inf)
        inner = [torch.clamp(torch.full_like(lower, k), lower, upper) for k in self.breakpoints]
        for end in (lower, upper, *inner):
            from_center = self._mean_slope(center, end)
            low = torch.where(end != center, torch.minimum(low, from_center.lower), low)
            high = torch.where(end != center, torch.maximum(high, from_center.upper), high)
        single = lower == upper
        low = torch.where(single, free.lower, torch.clamp(low, free.lower, free.upper))
        return SlopeInterval(low, torch.where(single, free.upper, torch.clamp(high, free.lower, free.upper)))

    def _pieces(self) -> Iterator[tuple[float, float, Number]]:
        edges = (-math.inf, *self.breakpoints, math.inf)
        for left, right, slope in zip(edges[:-1], edges[1:], self.slopes, strict=True):
            if left < right:
                yield left, right, slope

    def _mean_slope(self, center: Tensor, end: Tensor) -> SlopeInterval:
        """Enclosure of the secant slope from `center` to `end` (its limit when `end` is infinite)."""
        low, high = torch.minimum(center, end), torch.maximum(center, end)
        total = high - low
        mean, size = torch.zeros_like(total), torch.zeros_like(total)
        for left, right, slope in self._pieces():
            length = torch.clamp(torch.clamp(high, max=right) - torch.clamp(low, min=left), min=0.0)
            # An infinite end leaves one piece of infinite length, which takes all the weight.
            weight = torch.nan_to_num(length / total, nan=1.0)
            part = slope * weight
            mean, size = mean + part, size + part.abs()
        slack = RELATIVE_SLACK * size + TINY
        # Finite ends so far apart that their distance overflows: no statement, the caller's hull remains.
        slack = torch.where(torch.isfinite(end) & torch.isinf(total), math.inf, slack)
        return SlopeInterval(mean - slack, mean + slack)


@dataclass(frozen=True)
class ReLU(PiecewiseLinear):
    r""":math:`\max(v, 0)`."""

    name: ClassVar[str] = "ReLU"

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def slopes(self) -> tuple[Number, ...]:
        return (0.0, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.relu(preactivation)


@dataclass(frozen=True)
class LeakyReLU(PiecewiseLinear):
    r""":math:`v` for :math:`v \ge 0`, :math:`a v` below.

    Args:
        negative_slope: the slope `a`, any finite number.

    Raises:
        SpecificationError: `negative_slope` is not finite.
    """

    negative_slope: float = 0.01
    name: ClassVar[str] = "LeakyReLU"

    def __post_init__(self) -> None:
        require_finite("LeakyReLU: negative_slope", self.negative_slope)

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def slopes(self) -> tuple[Number, ...]:
        return (self.negative_slope, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(preactivation, self.negative_slope)


@dataclass(frozen=True, eq=False)
class PReLU(PiecewiseLinear):
    r""":math:`v` for :math:`v \ge 0`, :math:`w_i v` below; weights may be negative or above 1.

    Args:
        weight: finite, broadcastable to the pre-activation's shape without batch: (C, 1, 1) for channels of an image.

    Raises:
        SpecificationError: a weight is not finite.
    """

    weight: Tensor
    name: ClassVar[str] = "PReLU"

    def __post_init__(self) -> None:
        bad = int((~torch.isfinite(self.weight)).sum())
        if bad:
            raise SpecificationError(
                f"PReLU: weight: got {bad} entries that are NaN or infinite; allowed are finite numbers. "
                "Check the trained model."
            )

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def slopes(self) -> tuple[Number, ...]:
        weight = self.weight.detach().to(torch.float64)
        return (weight, torch.ones_like(weight))

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.where(preactivation >= 0, preactivation, self.weight.to(preactivation) * preactivation)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> PReLU:
        return replace(self, weight=self.weight.to(dtype=dtype, device=device))


@dataclass(frozen=True)
class Abs(PiecewiseLinear):
    r""":math:`|v|`."""

    name: ClassVar[str] = "Abs"

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def slopes(self) -> tuple[Number, ...]:
        return (-1.0, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.abs(preactivation)


@dataclass(frozen=True)
class Clip(PiecewiseLinear):
    r""":math:`\min(\max(v, m), M)`: HardTanh for (-1, 1), ReLU6 for (0, 6).

    Args:
        minimum: the value `m`; -inf for none.
        maximum: the value `M`, at least `minimum`; inf for none.

    Raises:
        SpecificationError: the limits are NaN or in the wrong order.
    """

    minimum: float = -1.0
    maximum: float = 1.0
    name: ClassVar[str] = "Clip"

    def __post_init__(self) -> None:
        if not (self.minimum <= self.maximum and self.minimum < math.inf and self.maximum > -math.inf):
            raise SpecificationError(
                f"Clip: got minimum={self.minimum!r}, maximum={self.maximum!r}; allowed are numbers with "
                "minimum <= maximum. Swap or correct the limits."
            )

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return (self.minimum, self.maximum)

    @property
    def slopes(self) -> tuple[Number, ...]:
        return (0.0, 1.0, 0.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.clamp(preactivation, self.minimum, self.maximum)
