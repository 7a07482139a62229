r"""Gated activations ``v G(v)``: SiLU and both forms of GELU.

Place in the data flow: level 1, entries of the table `ACTIVATIONS`. With an even density :math:`G'`, the derivative
:math:`d(v) = G(v) + v G'(v)` satisfies :math:`d(-v) = 1 - d(v)`: it falls from 0 to its minimum `1 - top` at `-turn`,
rises to its maximum `top` at `turn` and falls to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geolip_lirpa.activations.monotone import Estimate, MonotonePieces, Piece
from geolip_lirpa.activations.smooth import SATURATED, logistic_slope
from geolip_lirpa.errors import SpecificationError

# exp(-FLAT^2 / 2) is far below 1e-300.
FLAT = 40.0
# The cubic coefficient of the tanh form, and twice sqrt(2 / pi).
CUBIC = 0.044715
STEEPNESS = math.sqrt(8 / math.pi)


class _Gated(MonotonePieces):
    """Pieces and hull from the two numbers `turn` and `top`, each correctly rounded."""

    @property
    def turn(self) -> float:
        """Where the derivative is largest."""
        raise NotImplementedError

    @property
    def top(self) -> float:
        """The largest derivative."""
        raise NotImplementedError

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (
            Piece(-math.inf, -self.turn, rising=False),
            Piece(-self.turn, self.turn, rising=True),
            Piece(self.turn, math.inf, rising=False),
        )

    @property
    def hull(self) -> tuple[float, float]:
        # 1 - above is exact in binary: 1 < above < 2.
        above = math.nextafter(self.top, math.inf)
        return (1 - above, above)


@dataclass(frozen=True)
class SiLU(_Gated):
    r""":math:`v \varsigma(v)` with the logistic function; slopes in [-0.09984, 1.09984].

    Proof: the second derivative is :math:`\varsigma'(v) (2 - v \tanh(v/2))`, and :math:`v \tanh(v/2)` is even and grows
    with :math:`|v|`, so it equals 2 at exactly one pair :math:`\pm 2.3993572805154675`.
    """

    name: ClassVar[str] = "SiLU"

    @property
    def turn(self) -> float:
        return 2.3993572805154675

    @property
    def top(self) -> float:
        return 1.099839320128867

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.nn.functional.silu(preactivation)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        v = v.clamp(-SATURATED, SATURATED)
        gate, bell = torch.sigmoid(v), logistic_slope(v)
        return gate + v * bell, gate + v.abs() * bell

    def estimate_value(self, v: Tensor) -> Estimate:
        value = v * torch.sigmoid(v)
        return value, value.abs()


@dataclass(frozen=True)
class GELU(_Gated):
    r""":math:`v \Phi(v)` with the normal distribution function, or its tanh form; slopes in [-0.12900, 1.12900].

    Proof, ``"none"``: the second derivative is :math:`\varphi(v) (2 - v^2)`, zero at :math:`\pm \sqrt 2` only.

    Proof, ``"tanh"``: :math:`\tfrac12 v (1 + \tanh q)` with :math:`q = k v (1 + c v^2)`, :math:`k = \sqrt{2/\pi}`,
    :math:`c = 0.044715`. With :math:`p = 1 + 3 c v^2` the second derivative has the sign of
    :math:`(2 p - 1)/p^2 - k v \tanh q`; for :math:`v > 0` the first term falls (its derivative by `p` is
    :math:`2 (1 - p)/p^3`), the second grows from zero: one pair of zeros :math:`\pm 1.4185040087908283`.

    Args:
        approximate: "none" or "tanh", as in torch.

    Raises:
        SpecificationError: another value of `approximate`.
    """

    approximate: str = "none"
    name: ClassVar[str] = "GELU"

    def __post_init__(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise SpecificationError(
                f"GELU: approximate: got {self.approximate!r}; allowed are 'none' and 'tanh'. Use the model's setting."
            )

    @property
    def turn(self) -> float:
        return 1.4185040087908283 if self.approximate == "tanh" else 1.4142135623730951

    @property
    def top(self) -> float:
        return 1.1289930686587717 if self.approximate == "tanh" else 1.1289041451851547

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.nn.functional.gelu(preactivation, approximate=self.approximate)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        v = v.clamp(-FLAT, FLAT)
        if self.approximate == "tanh":
            argument, growth = STEEPNESS * v * (1 + CUBIC * v * v), STEEPNESS * (1 + 3 * CUBIC * v * v)
            gate, bell = torch.sigmoid(argument), logistic_slope(argument)
            # (1 + tanh q)/2 = logistic(2 q)
            error = bell * (argument.abs() + v.abs() * growth * (1 + argument.abs()))
            return gate + v * growth * bell, gate + error
        gate, bell = _normal_gate(v), _normal_density(v)
        return gate + v * bell, gate + v.abs() * bell * (2 + v * v)

    def estimate_value(self, v: Tensor) -> Estimate:
        near = v.clamp(-FLAT, FLAT)
        if self.approximate == "tanh":
            argument = STEEPNESS * near * (1 + CUBIC * near * near)
            gate, error = torch.sigmoid(argument), argument.abs() * logistic_slope(argument)
        else:
            gate, error = _normal_gate(near), near.abs() * _normal_density(near)
        return v * gate, v.abs() * (gate + error)


def _normal_gate(v: Tensor) -> Tensor:
    """The normal distribution function; its relative error grows like v^2 for negative v."""
    return torch.erfc(v * -math.sqrt(0.5)) / 2


def _normal_density(v: Tensor) -> Tensor:
    """The normal density; relative error about v^2 / 2 roundings."""
    return torch.exp(-v * v / 2) / math.sqrt(2 * math.pi)
