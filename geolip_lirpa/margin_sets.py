r"""Input sets of margins: a ball around one input, cut by the domain of the inputs.

Place in the data flow: level 4. ``centre, radius, domain -> MarginSet -> InputSet`` for proofs, which may only be too
large, and ``-> Region`` for attacks, which may only be too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.interval import InputSet
from geolip_lirpa.regions import Region
from geolip_lirpa.types import Norm


@dataclass(frozen=True)
class MarginSet:
    r"""The set :math:`\{x : |x - x_0|_p \le \varepsilon,\; l \le x \le u\}`.

    Args:
        center: :math:`x_0`, (\*input_shape), kept in float64.
        eps: the radius, finite and at least 0.
        norm: of the ball.
        lower: smallest inputs of the domain, one number or shaped like the centre; None for no limit.
        upper: largest inputs of the domain.

    Raises:
        SpecificationError: NaN, a negative radius, shapes that do not fit, or a centre outside of the domain.
    """

    center: Tensor
    eps: float
    norm: Norm
    lower: Tensor | None = None
    upper: Tensor | None = None

    def __post_init__(self) -> None:
        center = self.center.detach().to(torch.float64)
        if not bool(center.isfinite().all()):
            raise SpecificationError("center: holds NaN or infinity. Pass a finite input.")
        if not 0 <= self.eps < math.inf:
            raise SpecificationError(
                f"eps: got {self.eps!r}; it must be finite and at least 0. Pass the ball's radius."
            )
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "eps", float(self.eps))
        object.__setattr__(self, "lower", self._limit("lower", self.lower))
        object.__setattr__(self, "upper", self._limit("upper", self.upper))
        outside = torch.zeros_like(center, dtype=torch.bool)
        for low, high in ((self.lower, center), (center, self.upper)):
            outside = outside if low is None or high is None else outside | (low > high)
        if bool(outside.any()):
            first = tuple(int(i) for i in outside.nonzero()[0])
            raise SpecificationError(
                f"center: got {center[first].item()!r} at index {first}, outside of the domain "
                f"({int(outside.sum())} such entries). Pass lower <= center <= upper, or a wider domain."
            )

    def input_set(self) -> InputSet:
        """A batch of one for bound propagation: the box around the ball, rounded outward and cut by the domain."""
        eps = torch.tensor(self.eps, dtype=torch.float64, device=self.center.device)
        low, high = _sum_outward(self.center, -eps, -math.inf), _sum_outward(self.center, eps, math.inf)
        low = low if self.lower is None else torch.maximum(low, self.lower)
        high = high if self.upper is None else torch.minimum(high, self.upper)
        if self.norm is Norm.LINF:
            return InputSet(low[None], high[None])
        return InputSet(low[None], high[None], self.center[None], self.eps, self.norm)

    def region(self) -> Region:
        """The same set for searches, rounded inward."""
        return Region.ball(self.center, self.eps, self.norm, self.lower, self.upper)

    @property
    def is_cut(self) -> bool:
        """Whether there is a domain."""
        return self.lower is not None or self.upper is not None

    def with_eps(self, eps: float) -> MarginSet:
        """The set of another radius."""
        return MarginSet(self.center, eps, self.norm, self.lower, self.upper)

    def _limit(self, name: str, value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        limit = value.detach().to(device=self.center.device, dtype=torch.float64)
        if limit.ndim and limit.shape != self.center.shape:
            raise SpecificationError(
                f"{name}: got shape {tuple(limit.shape)}; allowed are one number and {tuple(self.center.shape)}, the "
                "shape of the centre. Leave out the batch dimension."
            )
        if not bool(limit.isfinite().all()):
            raise SpecificationError(f"{name}: holds NaN or infinity. Pass finite numbers, or None for no limit.")
        return limit.expand(self.center.shape)


def _sum_outward(x: Tensor, y: Tensor, direction: float) -> Tensor:
    """``x + y``, moved to the next number in a direction unless it is exact (Knuth's error-free sum)."""
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)
    beyond = error < 0 if direction < 0 else error > 0
    return torch.where(beyond, torch.nextafter(total, torch.full_like(total, direction)), total)
