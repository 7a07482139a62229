r"""Convex sets of inputs in which lower bounds search: boxes, weighted balls, and balls cut by a box.

Place in the data flow: level 2, used by the lower bounds and by sampling. A lower bound of a local Lipschitz constant
is true only if its witness lies in the set, so membership is decided with rounding errors counted against the point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.types import Norm

# Points are pulled this far inside a ball, so that rounding rarely throws them out again.
_INSIDE = 1.0 - 1e-9


@dataclass(frozen=True)
class Region:
    r"""A box :math:`l \le x \le u`, or its part in a ball :math:`\|(x - c) / r\|_p \le 1` with semi-axes r.

    All tensors may have leading dimensions, one set for each index, see `stacked`.

    Args:
        lower: (n0,) float64, smallest coordinates; for l_1 and l_2 those of a box that contains the centre.
        upper: (n0,) largest coordinates, at least `lower`.
        center: (n0,), a point of the set.
        radius: (n0,), half widths of the box or semi-axes of the ball; where 0, the coordinate is fixed.
        norm: `Norm.LINF` for a box, `Norm.L1` or `Norm.L2` for a ball.
    """

    lower: Tensor
    upper: Tensor
    center: Tensor
    radius: Tensor
    norm: Norm

    @classmethod
    def box(cls, lower: Tensor, upper: Tensor) -> Region:
        r"""The box :math:`l \le x \le u`; both ends of any shape, flattened.

        Raises:
            SpecificationError: shapes differ, an entry is not finite, or lower exceeds upper.
        """
        low, high = _vector("lower", lower), _vector("upper", upper)
        _same_length("upper", high, low)
        if bool((low > high).any()):
            first = int((low > high).nonzero()[0])
            raise SpecificationError(
                f"region: got lower={low[first].item()!r} above upper={high[first].item()!r} at coordinate {first}; "
                "allowed is lower <= upper. Check the order of the arguments."
            )
        radius = (high - low) / 2
        return cls(low, high, torch.minimum(torch.maximum(low + radius, low), high), radius, Norm.LINF)

    @classmethod
    def ball(
        cls,
        center: Tensor,
        radius: Tensor | float,
        norm: Norm,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
    ) -> Region:
        r"""The ball :math:`\|(x - c) / r\|_p \le 1`, cut by a box.

        Args:
            center: any shape, flattened.
            radius: one number or one semi-axis for each coordinate, non-negative.
            norm: 1, 2 or inf.
            lower: smallest coordinates of the box, shaped like the centre; None for no limit.
            upper: largest coordinates.

        Raises:
            SpecificationError: shapes differ, an entry is not finite, a radius is negative, or the centre lies outside
                of the box.
        """
        middle = _vector("center", center)
        axes = _vector("radius", torch.as_tensor(radius, dtype=torch.float64, device=middle.device))
        axes = axes.expand(len(middle)) if len(axes) == 1 else axes
        _same_length("radius", axes, middle)
        if bool((axes < 0).any()):
            raise SpecificationError(
                f"region: got a radius of {float(axes.min())!r}; allowed are non-negative numbers. Pass eps >= 0."
            )
        # Ends rounded inward: what the box contains, the ball contains.
        low = torch.nextafter(middle - axes, torch.full_like(middle, torch.inf)).minimum(middle)
        high = torch.nextafter(middle + axes, torch.full_like(middle, -torch.inf)).maximum(middle)
        least = low if lower is None else torch.maximum(low, _limit("lower", lower, middle))
        most = high if upper is None else torch.minimum(high, _limit("upper", upper, middle))
        if bool(((middle < least) | (middle > most)).any()):
            raise SpecificationError("region: the centre lies outside of the box. Pass lower <= center <= upper.")
        return cls(least, most, middle, axes, norm)

    @classmethod
    def stacked(cls, regions: Sequence[Region]) -> Region:
        """Several sets of one norm and size at once, tensors (B, 1, n0): points (B, .., n0) belong to their set.

        Raises:
            SpecificationError: no set, other norms or other numbers of coordinates.
        """
        kinds = {(region.norm, region.center.shape) for region in regions}
        if len(kinds) != 1:
            raise SpecificationError(
                f"regions: got {len(regions)} sets of {len(kinds)} norms and shapes; allowed are sets of one norm and "
                "shape. Search in each kind on its own."
            )
        parts = zip(*((r.lower, r.upper, r.center, r.radius) for r in regions), strict=True)
        low, high, center, radius = (torch.stack(part)[:, None] for part in parts)
        return cls(low, high, center, radius, regions[0].norm)

    @property
    def step(self) -> Tensor:
        """Length of a full step of each coordinate, (n0,): the radius, less in a ball, where all share it."""
        return self.radius if self.norm is Norm.LINF else self.radius / max(1, self.radius.shape[-1]) ** 0.5

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Random points (count, n0): uniform in a box; directions uniform in a ball, more of them near its boundary."""
        shape = (*self.center.shape[:-2], count, self.center.shape[-1])
        if self.norm is Norm.LINF:
            unit = 2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1
            return self.nearest(self.center + self.radius * unit.to(self.center))
        unit = torch.randn(shape, dtype=torch.float64, generator=generator)
        if self.norm is Norm.L1:
            unit = unit * unit.abs() ** 3  # few large coordinates, as in a cross-polytope
        size = torch.rand((*shape[:-1], 1), dtype=torch.float64, generator=generator).sqrt()
        unit = unit / unit.norm(p=self.norm.p, dim=-1, keepdim=True).clamp_min(1e-300)
        return self.nearest(self.center + self.radius * (size * unit).to(self.center))

    def nearest(self, points: Tensor) -> Tensor:
        """Points (.., n0) moved into the set: pulled towards the centre of a ball, then clamped in the box.

        Clamping moves no coordinate away from the centre, which lies in the box: what is in the ball stays there.
        """
        if self.norm is not Norm.LINF:
            offset = (points - self.center).where(self.radius > 0, torch.zeros_like(points))
            size = self._size(offset)[..., None]
            points = self.center + offset * torch.where(size > _INSIDE, _INSIDE / size, 1.0)
        return torch.minimum(torch.maximum(points, self.lower), self.upper)

    def contains(self, points: Tensor) -> Tensor:
        r"""Which points (.., n0) are proven to lie in the set, (..) boolean.

        The computed :math:`\|(x - c) / r\|_p` carries at most :math:`n + 8` relative roundings of :math:`2^{-53}`.
        """
        boxed = ((points >= self.lower) & (points <= self.upper)).all(dim=-1)
        if self.norm is Norm.LINF:
            return boxed
        offset = points - self.center
        fixed = ((offset == 0) | (self.radius > 0)).all(dim=-1)
        slack = 1.0 + 2.0**-52 * (offset.shape[-1] + 8)
        return boxed & fixed & ((self._size(offset) * slack <= 1.0) | (offset == 0).all(dim=-1))

    def _size(self, offset: Tensor) -> Tensor:
        scaled = (offset / self.radius).where(self.radius > 0, torch.zeros_like(offset))
        result: Tensor = scaled.norm(p=self.norm.p, dim=-1)
        return result


def _vector(name: str, value: Tensor) -> Tensor:
    vector = value.detach().reshape(-1).to(torch.float64)
    if not bool(torch.isfinite(vector).all()):
        bad = int((~torch.isfinite(vector)).sum())
        raise SpecificationError(
            f"region: {name} has {bad} entries that are NaN or infinite; allowed are finite numbers. "
            "Use no region for the whole space."
        )
    return vector


def _limit(name: str, value: Tensor, center: Tensor) -> Tensor:
    limit = _vector(name, value)
    _same_length(name, limit, center)
    return limit


def _same_length(name: str, value: Tensor, other: Tensor) -> None:
    if len(value) != len(other):
        raise SpecificationError(
            f"region: got {name} of length {len(value)} where {len(other)} numbers are needed. "
            "Pass one number for each input coordinate."
        )
