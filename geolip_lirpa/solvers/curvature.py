r"""Curvature pairs of L-BFGS for a batch of independent problems, in the compact representation.

Place in the data flow: level 7, a building block of `lbfgs`. With the pairs (s, y) as columns of S and Y, oldest first,
R the upper triangle of :math:`S^T Y`, D its diagonal, P the diagonal preconditioner and :math:`\gamma` the scale (Byrd,
Nocedal and Schnabel, Math. Program. 63, 1994):

.. math:: H = \gamma P + \begin{pmatrix} S & PY \end{pmatrix}
    \begin{pmatrix} R^{-T}(D + \gamma Y^T P Y)R^{-1} & -\gamma R^{-T} \\ -\gamma R^{-1} & 0 \end{pmatrix}
    \begin{pmatrix} S & PY \end{pmatrix}^T .

A product with H reads the pairs twice. They are kept in float32 whatever the precision of the problem: a direction need
not be exact. Each pair is divided by :math:`|s|`, which leaves H as it is and keeps small steps within range.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TABLES = ("preconditioner", "pairs", "cross", "inner", "scale")


class Curvature:
    """Pairs of the problems at work.

    Args:
        memory: pairs of a problem, m.
        preconditioner: (p, D) positive.
    """

    def __init__(self, memory: int, preconditioner: Tensor) -> None:
        count, size = preconditioner.shape
        self.memory = memory
        self.preconditioner = preconditioner.to(torch.float32)
        self.pairs = self.preconditioner.new_zeros((count, 2 * memory, size))  # S, then P Y, the oldest replaced first
        self.cross = preconditioner.new_zeros((count, memory, memory), dtype=torch.float64)  # s_i y_j, oldest first
        self.inner = torch.zeros_like(self.cross)  # y_i P y_j
        self.scale = self.cross.new_zeros((count, 1))
        self.added = 0

    def precondition(self, weights: Tensor) -> None:
        """Replace P (p, D)."""
        weights = weights.to(torch.float32)
        scaled = self.pairs[:, self.memory :]
        scaled *= (weights / self.preconditioner)[:, None]
        self.preconditioner = weights
        inner = torch.stack([part @ (part / w).T for part, w in zip(scaled, weights, strict=True)])
        order = self._order()[: self.memory]
        self.inner = inner.to(torch.float64)[:, order[:, None], order]

    def add(self, step: Tensor, change: Tensor, valid: Tensor) -> None:
        """Store a pair (p, D) for each problem in place of the oldest; zeros where it may not be used."""
        m = self.memory
        length = step.norm(dim=1)
        valid = valid & ((step * change).sum(1) > 1e-12 * length * change.norm(dim=1))
        unit = (valid / torch.where(valid, length, 1.0))[:, None]
        j = self.added % m
        self.added += 1
        s = self.pairs[:, j].copy_(step).mul_(unit)
        y = (change * unit).to(torch.float32)
        torch.mul(y, self.preconditioner, out=self.pairs[:, m + j])
        by_y = _products(self.pairs, y)[:, self._order()]
        by_s = _products(self.pairs[:, m:], s / self.preconditioner)[:, self._order()[:m]]
        self.cross, self.inner = self.cross.roll((-1, -1), (1, 2)), self.inner.roll((-1, -1), (1, 2))
        self.cross[:, -1] = by_s
        self.cross[:, :, -1] = by_y[:, :m]
        self.inner[:, -1] = self.inner[:, :, -1] = by_y[:, m:]
        size = self.inner[:, -1, -1:]
        self.scale = torch.where(size > 0, self.cross[:, -1, -1:] / size, self.scale)

    def _order(self) -> Tensor:
        """Places of S's columns in `pairs`, oldest first, then those of PY."""
        order = (torch.arange(self.memory, device=self.pairs.device) + self.added) % self.memory
        return torch.cat([order, order + self.memory])

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus H times the gradient (p, D); preconditioned descent of unit scale without curvature."""
        g, m = gradient.to(torch.float32), self.memory
        gamma = torch.where(self.scale > 0, self.scale, 1.0)
        result = (self.preconditioner * g).mul_(-gamma)
        if self.added > 0:
            order = self._order()
            along = _products(self.pairs, g)[:, order, None]
            pivots = self.cross.diagonal(dim1=1, dim2=2)
            # a pair that is not valid has a unit pivot, which takes it out of the formula
            upper = self.cross.triu(1) + torch.diag_embed(torch.where(pivots > 0, pivots, 1.0))
            u = torch.linalg.solve_triangular(upper, along[:, :m], upper=True)
            middle = pivots[..., None] * u + gamma[..., None] * (self.inner @ u - along[:, m:])
            w = torch.linalg.solve_triangular(upper.mT, middle, upper=False)
            weights = torch.empty_like(along[..., 0])
            weights[:, order] = torch.cat([w[..., 0], -gamma * u[..., 0]], dim=1)
            for row, pairs, weight in zip(result, self.pairs, weights.to(g.dtype), strict=True):
                row.addmv_(pairs.T, weight, alpha=-1)
        return result.to(gradient.dtype)

    def select(self, keep: Tensor) -> None:
        for name in _TABLES:
            setattr(self, name, getattr(self, name)[keep])

    def forget(self, where: Tensor) -> None:
        """Drop all pairs of some problems."""
        if bool(where.any()):
            for values in (self.pairs, self.cross, self.inner, self.scale):
                values[where] = 0.0


def _products(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(p, a, D) times (p, D), in float64; one after the other, batched products of this shape are many times slower."""
    return torch.stack([a @ v for a, v in zip(matrices, vectors, strict=True)]).to(torch.float64)
