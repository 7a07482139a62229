r"""Saturating and convex activations: Sigmoid, Tanh, Atan, Softplus and ELU.

Place in the data flow: level 1, entries of the table `ACTIVATIONS`. Each class states where its derivative is monotone
and the formulas of value and derivative with the magnitude of their rounding errors; `MonotonePieces` does the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geolip_lirpa.activations.checks import require_finite
from geolip_lirpa.activations.monotone import Estimate, MonotonePieces, Piece
from geolip_lirpa.errors import SpecificationError

# Rising up to zero, falling after it: the derivative of an odd sigmoidal function.
PEAK_AT_ZERO = (Piece(-math.inf, 0.0, rising=True), Piece(0.0, math.inf, rising=False))
# exp(-SATURATED) is far below 1e-300.
SATURATED = 800.0
# Covers underflow before a multiplication by a parameter.
UNDERFLOW = 1e-280


def logistic_slope(w: Tensor) -> Tensor:
    """Derivative of the logistic function, a few roundings relative error."""
    decay = torch.exp(-w.abs())
    # e^-|w| / (1 + e^-|w|)^2
    return decay / (1 + decay) ** 2


@dataclass(frozen=True)
class Sigmoid(MonotonePieces):
    r""":math:`\varsigma(v) = 1 / (1 + e^{-v})`, slopes in [0, 1/4].

    Proof: :math:`\varsigma'' = \varsigma (1 - \varsigma) (1 - 2 \varsigma)` is positive below zero, negative above.
    """

    name: ClassVar[str] = "Sigmoid"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return PEAK_AT_ZERO

    @property
    def hull(self) -> tuple[float, float]:
        return (0.0, 0.25)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.sigmoid(preactivation)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        slope = logistic_slope(v)
        return slope, slope

    def estimate_value(self, v: Tensor) -> Estimate:
        value = torch.sigmoid(v)
        return value, value


@dataclass(frozen=True)
class Tanh(MonotonePieces):
    r""":math:`\tanh v`, slopes in [0, 1].

    Proof: :math:`\tanh'' = -2 \tanh (1 - \tanh^2)` is positive below zero, negative above.
    """

    name: ClassVar[str] = "Tanh"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return PEAK_AT_ZERO

    @property
    def hull(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.tanh(preactivation)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        # 1 - tanh(v)^2 = 4 logistic'(2 v), without cancellation
        slope = 4 * logistic_slope(2 * v)
        return slope, slope

    def estimate_value(self, v: Tensor) -> Estimate:
        value = torch.tanh(v)
        return value, value.abs()


@dataclass(frozen=True)
class Atan(MonotonePieces):
    r""":math:`\arctan v`, slopes in [0, 1].

    Proof: the derivative :math:`1 / (1 + v^2)` rises below zero and falls above.
    """

    name: ClassVar[str] = "Atan"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return PEAK_AT_ZERO

    @property
    def hull(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.atan(preactivation)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        slope = 1 / (1 + v * v)
        return slope, slope

    def estimate_value(self, v: Tensor) -> Estimate:
        value = torch.atan(v)
        return value, value.abs()


@dataclass(frozen=True)
class Softplus(MonotonePieces):
    r""":math:`\ln(1 + e^{\beta v}) / \beta`, slopes in [0, 1].

    Proof: the function is convex, its derivative the logistic function of :math:`\beta v`, which rises everywhere.

    torch evaluates the identity where :math:`\beta v` exceeds `threshold` and so jumps there by
    :math:`\ln(1 + e^{-threshold}) / \beta` (2e-9 for the default), below float32 resolution for a threshold of at least
    15. The function meant here, and computed by `value`, is the one without the jump; a smaller threshold makes a
    function that has no finite slopes and is refused.

    Args:
        beta: a positive finite number.
        threshold: torch's switching point, at least 15; it has no influence on values or slopes.

    Raises:
        SpecificationError: `beta` or `threshold` out of range.
    """

    beta: float = 1.0
    threshold: float = 20.0
    name: ClassVar[str] = "Softplus"

    SMALLEST_THRESHOLD: ClassVar[float] = 15.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise SpecificationError(
                f"Softplus: beta: got {self.beta!r}; allowed are positive finite numbers. Check the trained model."
            )
        if not self.threshold >= self.SMALLEST_THRESHOLD:
            raise SpecificationError(
                f"Softplus: threshold: got {self.threshold!r}; allowed is at least {self.SMALLEST_THRESHOLD:g}, "
                "because torch's function jumps at the threshold and a visible jump has no slope. Use the default 20."
            )

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (Piece(-math.inf, math.inf, rising=True),)

    @property
    def hull(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        scaled = self.beta * preactivation
        return torch.logaddexp(scaled, torch.zeros_like(scaled)) / self.beta

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        w = (self.beta * v).clamp(-SATURATED, SATURATED)
        slope = torch.sigmoid(w)
        # The rounding of w enters with w * slope'.
        return slope, slope + w.abs() * logistic_slope(w)

    def estimate_value(self, v: Tensor) -> Estimate:
        w = self.beta * v
        value = w.clamp(min=0.0) + torch.log1p(torch.exp(-w.abs()))
        return value / self.beta, (value + w.abs() * torch.sigmoid(w) + UNDERFLOW) / self.beta


@dataclass(frozen=True)
class ELU(MonotonePieces):
    r""":math:`v` for :math:`v > 0`, :math:`a (e^v - 1)` below; slopes in the hull of 0, `a` and 1.

    Proof: the derivative is 1 above zero; below it is :math:`a e^v`, rising from 0 to `a` for :math:`a \ge 0`, falling
    for :math:`a < 0`, and jumps to 1 at zero. Like torch, a negative `a` is not cut by a maximum.

    Args:
        alpha: the number `a`, finite.

    Raises:
        SpecificationError: `alpha` is not finite.
    """

    alpha: float = 1.0
    name: ClassVar[str] = "ELU"

    def __post_init__(self) -> None:
        require_finite("ELU: alpha", self.alpha)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (Piece(-math.inf, 0.0, rising=self.alpha >= 0), Piece(0.0, math.inf, rising=True))

    @property
    def hull(self) -> tuple[float, float]:
        return (min(0.0, self.alpha), max(1.0, self.alpha))

    def value(self, preactivation: Tensor) -> Tensor:
        below = self.alpha * torch.expm1(preactivation.clamp(max=0.0))
        return torch.where(preactivation > 0, preactivation, below)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        if piece == 1:
            return torch.ones_like(v), torch.zeros_like(v)
        growth = torch.exp(v)
        return self.alpha * growth, abs(self.alpha) * (growth + UNDERFLOW)

    def estimate_value(self, v: Tensor) -> Estimate:
        below = torch.expm1(v.clamp(max=0.0))
        magnitude = abs(self.alpha) * (below.abs() + UNDERFLOW)
        return torch.where(v > 0, v, self.alpha * below), torch.where(v > 0, 0.0, magnitude)
