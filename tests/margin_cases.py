"""Input sets of margins for tests, with dense samples of their points."""

from __future__ import annotations

import torch
from torch import Tensor

from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.types import Norm

NORMS = (Norm.LINF, Norm.L2, Norm.L1)


def random_set(seed: int, size: int, norm: Norm, cut: bool, eps: float | None = None) -> MarginSet:
    """A random centre and radius; where `cut`, a domain with some sides at or near the centre."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(size, generator=generator, dtype=torch.float64)
    radius = 10.0 ** float(torch.rand(1, generator=generator) * 2 - 1.5) if eps is None else eps
    if not cut:
        return MarginSet(center, radius, norm)
    room = radius * torch.rand((2, size), generator=generator, dtype=torch.float64) * 1.5
    room = room * (torch.rand((2, size), generator=generator) < 0.6)
    return MarginSet(center, radius, norm, center - room[0], center + room[1])


def dense_points(margin_set: MarginSet, count: int = 2000, seed: int = 0) -> Tensor:
    """Members of the set (n, *shape), many at its corners and on its boundary; found without the code under test."""
    generator = torch.Generator().manual_seed(seed)
    center = margin_set.center.reshape(-1)
    size = center.numel()
    d = torch.randn((count, size), generator=generator, dtype=torch.float64)
    sparse = torch.rand((count, size), generator=generator) < torch.rand((count, 1), generator=generator)
    d = torch.where(sparse, d, 1e-3 * d)
    d = d.sign() if margin_set.norm is Norm.LINF else d / d.norm(p=margin_set.norm.p, dim=1, keepdim=True)
    units = torch.eye(size, dtype=torch.float64)
    shrink = torch.rand((count, 1), generator=generator, dtype=torch.float64)
    # a little less than the radius, for rounding
    d = torch.cat([units, -units, d, shrink * d, torch.zeros_like(units[:1])]) * (margin_set.eps * (1 - 1e-12))
    points = center + d
    if margin_set.lower is not None and margin_set.upper is not None:
        points = points.clamp(margin_set.lower.reshape(-1), margin_set.upper.reshape(-1))
    return points.reshape(-1, *margin_set.center.shape)
