r"""Periodic activations: Sin and Cos.

Place in the data flow: level 1, entries of the table `ACTIVATIONS`. Both are the sine of a phase: :math:`\cos v =
\sin(v + \pi/2)`. Phases are reduced to :math:`[-\pi, \pi]` through the arctangent of sine and cosine, which the library
computes accurately for every double, however large; a range then depends on a phase and a distance only.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.activations.monotone import SLACK, Estimate, MonotonePieces, Piece

# Bounds the error of a reduced phase or distance (each below 2e-15), and of the slopes, which change no faster.
PHASE_SLACK = 1e-14


class _SineNearZero(MonotonePieces):
    r"""The sine on :math:`[-3\pi, 3\pi]`; its derivative, the cosine, is monotone between multiples of :math:`\pi`."""

    name: ClassVar[str] = "sine near zero"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        ends = (-math.inf, *(k * math.pi for k in range(-3, 4)), math.inf)
        # The cosine rises from odd to even multiples of pi; the first piece ends at -3 pi and falls.
        return tuple(Piece(ends[i], ends[i + 1], rising=i % 2 == 1) for i in range(len(ends) - 1))

    @property
    def hull(self) -> tuple[float, float]:
        return (-1.0, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.sin(preactivation)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        return torch.cos(v), torch.ones_like(v)

    def estimate_value(self, v: Tensor) -> Estimate:
        value = torch.sin(v)
        return value, value.abs()


class _Periodic(Activation):
    """Slope intervals from the phase of the left end, or of the centre, and distances."""

    @abc.abstractmethod
    def phase(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Sine and cosine of the phase: the function's value and its derivative."""

    def derivative_range(self, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Cosines of the phases of both ends, and 1 or -1 where a multiple of :math:`\pi` lies between.

        Proof: the cosine is monotone between multiples of :math:`\pi`, where it is 1 (even) or -1 (odd). The left phase
        lies in :math:`[-\pi, \pi]`; :math:`2\pi` of distance already meet both kinds. Multiples closer than 1e-14 to
        the interval are counted, which changes a slope by less than 1e-28.

        Args:
            lower: float64, the pre-activation's shape with any leading batch shape; -inf allowed.
            upper: float64, the same shape, at least `lower`; inf allowed.
        """
        distance = upper - lower
        (sine, at_lower), (_, at_upper) = self.phase(lower), self.phase(upper)
        first = torch.atan2(sine, at_lower) - PHASE_SLACK
        last = first + distance + 2 * PHASE_SLACK
        low, high = torch.minimum(at_lower, at_upper) - SLACK, torch.maximum(at_lower, at_upper) + SLACK
        for multiple in range(-1, 4):
            met = (first <= multiple * math.pi) & (last >= multiple * math.pi)
            low, high = (low, high.masked_fill(met, 1.0)) if multiple % 2 == 0 else (low.masked_fill(met, -1.0), high)
        # Beyond the listed multiples, and where an infinite end has no phase, every slope occurs.
        whole = distance >= 7.0
        return SlopeInterval(
            low.masked_fill(whole, -1.0).clamp(-1.0, 1.0), high.masked_fill(whole, 1.0).clamp(-1.0, 1.0)
        )

    def secant_range(self, center: Tensor, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Range of :math:`(\sin(r + h) - \sin r)/h` with the phase `r` of the centre and :math:`|h| \le 2\pi`.

        Proof: farther points add nothing, since :math:`s(h + 2\pi k) = s(h)\, h/(h + 2\pi k)` for :math:`h > 0` lies
        between :math:`s(h)` and :math:`s(2\pi) = 0`; likewise on the left. `s` changes by at most 1 per unit of `r` and
        1/2 per unit of `h`, so `PHASE_SLACK` covers their rounding. The rest is the proof of `MonotonePieces`.

        Args:
            center: float64, finite, between `lower` and `upper`.
            lower: float64, the same shape; -inf allowed.
            upper: float64, the same shape; inf allowed.
        """
        free = self.derivative_range(lower, upper)
        phase = torch.atan2(*self.phase(center))
        left = (lower - center).clamp(min=-2 * math.pi)
        right = (upper - center).clamp(max=2 * math.pi)
        near = _SineNearZero().secant_range(phase, phase + left, phase + right)
        low = (near.lower - PHASE_SLACK).clamp(free.lower, free.upper)
        return SlopeInterval(low, (near.upper + PHASE_SLACK).clamp(free.lower, free.upper))


@dataclass(frozen=True)
class Sin(_Periodic):
    r""":math:`\sin v`, slopes in [-1, 1]."""

    name: ClassVar[str] = "Sin"

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.sin(preactivation)

    def phase(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(v), torch.cos(v)


@dataclass(frozen=True)
class Cos(_Periodic):
    r""":math:`\cos v = \sin(v + \pi/2)`, slopes in [-1, 1]."""

    name: ClassVar[str] = "Cos"

    def value(self, preactivation: Tensor) -> Tensor:
        return torch.cos(preactivation)

    def phase(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(v), -torch.sin(v)
