r"""Points on a product of unit spheres, for a batch of problems.

Place in the data flow: level 7, a building block of the low-rank solver. A point is a matrix (P, D): for each problem
the k columns of its factor, one after the other, each over all n = D / k coordinates (inputs, then the neurons of each
activation). Unit vectors are the rows of length k, or, in a *grouped* part, the whole part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spheres:
    """A product of spheres.

    Args:
        sizes: number of coordinates of each part.
        grouped: per part, whether it is one unit vector instead of one for each coordinate.
    """

    sizes: tuple[int, ...]
    grouped: tuple[bool, ...]

    @property
    def size(self) -> int:
        """Coordinates of one column, n."""
        return sum(self.sizes)

    def matrix(self, point: Tensor) -> Tensor:
        """View (P, k, n)."""
        return point.view(point.shape[0], point.shape[1] // self.size, self.size)

    def split(self, point: Tensor) -> tuple[Tensor, ...]:
        """Views (P, k, size) of the parts."""
        return self.matrix(point).split(self.sizes, dim=2)

    def dots(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products of two points' vectors, repeated over each group: (P, 1, n)."""
        dots = (self.matrix(a) * self.matrix(b)).sum(1, keepdim=True)
        if any(self.grouped):
            for grouped, values in zip(self.grouped, dots.split(self.sizes, dim=2), strict=True):
                if grouped:
                    values.copy_(values.sum(2, keepdim=True).expand_as(values))
        return dots

    def retract(self, point: Tensor) -> Tensor:
        """Every vector divided by its norm."""
        norms = self.dots(point, point).sqrt_().clamp_min_(torch.finfo(point.dtype).tiny)
        return (self.matrix(point) / norms).view_as(point)

    def turned(self, point: Tensor, vector: Tensor) -> Tensor:
        """Every unit vector replaced by the direction of `vector`, where its square is not lost to underflow."""
        limits = torch.finfo(point.dtype)
        squares = self.dots(vector, vector)
        x, v = self.matrix(point), self.matrix(vector)
        return torch.where(squares > limits.tiny / limits.eps, v / squares.sqrt(), x).view_as(point)

    def project(self, point: Tensor, vector: Tensor) -> Tensor:
        """The part of `vector` that is tangent to the spheres at `point`."""
        along = self.dots(point, vector)
        return torch.addcmul(self.matrix(vector), along, self.matrix(point), value=-1).view_as(point)

    def random(self, count: int, rank: int, seed: int) -> Tensor:
        """The same random float64 point for every problem, so that a batch does not depend on its order."""
        generator = torch.Generator().manual_seed(seed)
        one = torch.randn((1, rank * self.size), dtype=torch.float64, generator=generator)
        return self.retract(one).expand(count, -1).contiguous()

    def join(self, parts: Sequence[Sequence[Tensor]]) -> Tensor:
        """The point of several problems from their parts, each (size, k)."""
        return self.retract(torch.stack([torch.cat(list(part)).T.reshape(-1) for part in parts]))
