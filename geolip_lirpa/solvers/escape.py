r"""Leaving saddle points of the low-rank problem along directions of positive curvature.

Place in the data flow: level 7, a building block of the low-rank solver. A point that is stationary with k columns is
optimal exactly when no new column v raises the objective to second order, i.e. when :math:`J - \mathrm{diag}(c)` of
`Linearised` has no positive eigenvalue; this matrix is minus the dual matrix of the program (outputs eliminated) in the
coordinates of the unit vectors. Scaled with :math:`c^{-1/2}` the question is whether the largest eigenvalue of
:math:`K = c^{-1/2} J c^{-1/2}` exceeds one (Boumal, Voroninski and Bandeira, arXiv 1606.04970). The present columns are
eigenvectors with eigenvalue one, hence they are deflated, and a block Krylov space of K finds the others: each step is
a forward and a backward pass with a few columns.

Of a point whose columns are linearly dependent nothing needs to be asked: one of them, made zero by a rotation, is a
new column that had its chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.solvers.objective import Linearised, Objective
from geolip_lirpa.solvers.spheres import Spheres

# Curvatures are raised to this fraction of the largest before they scale anything.
_LEAST_CURVATURE = 1e-9
# Steps of the Krylov space, and between looks at its eigenvalues; an excess over one that ends the search.
_MOST_STEPS = 24
_STEPS = 8
_CLEAR = 1e-2
# New columns looked for at once, unless half the rank is more, and sizes tried for them.
_WIDTH = 4
_SIZES = 12
# Smallest eigenvalue of the columns' Gram matrix, over the largest, at which they count as independent.
_DEPENDENT = 1e-5


@dataclass(frozen=True)
class Ascent:
    """New columns for each problem.

    Args:
        growth: eigenvalues of K, minus one, descending, zero where they are below the least that counts; (p, b).
        columns: (p, b, n), zero where the growth is.
    """

    growth: Tensor
    columns: Tensor


def leave_saddles(objective: Objective, point: Tensor, index: Tensor, least: float, seed: int) -> tuple[Tensor, Tensor]:
    """Give factors new columns where that raises the objective.

    Args:
        objective: of the batch.
        point: (p, D), stationary, of the problems `index`.
        least: growth that counts, see `Ascent`.
        seed: of the search.

    Returns:
        The positions (q,) within `point` of the factors that grew, and these factors with more columns, (q, D').
    """
    spheres = objective.spheres
    linear = objective.linearised(point, index)
    doubtful = (~dependent(spheres, point, linear.curvature)).nonzero()[:, 0]
    rank = point.shape[1] // spheres.size
    width = min(max(_WIDTH, rank // 2), spheres.size - rank)
    if len(doubtful) == 0 or width < 1:
        return doubtful[:0], point[:0]
    point, index = point[doubtful], index[doubtful]
    ascent = find_ascent(spheres, point, objective.linearised(point, index), width, least, seed)
    columns = ascent.columns[:, : int((ascent.growth > 0).sum(1).max())]
    wider, raised = _sized(objective, point, index, columns)
    grown = (raised & (ascent.growth[:, 0] > 0)).nonzero()[:, 0]
    return doubtful[grown], wider[grown]


def _sized(objective: Objective, point: Tensor, index: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Append columns, for each problem in the size that raises its objective most; also, whether one does (p,)."""
    old = objective.spheres.matrix(point)
    best = torch.cat([old, torch.zeros_like(columns)], dim=1).flatten(1)
    # beyond rounding
    value = start = objective.values(point, index) * (1 + 8 * torch.finfo(point.dtype).eps)
    size = 1.0
    for _ in range(_SIZES):
        trial = objective.spheres.retract(torch.cat([old, size * columns], dim=1).flatten(1))
        reached = objective.values(trial, index)
        better = reached > value
        if bool((value > start).any()) and not bool(better.any()):
            break
        best = torch.where(better[:, None], trial, best)
        value = torch.maximum(reached, value)
        size /= 2
    return best, value > start


def dependent(spheres: Spheres, point: Tensor, curvature: Tensor) -> Tensor:
    """Whether columns are linearly dependent, up to what does not count, (p,)."""
    scaled = spheres.matrix(point) * curvature.clamp_min(0).sqrt()
    values = torch.linalg.eigvalsh((scaled @ scaled.mT).to(torch.float64))
    return values[:, 0] <= _DEPENDENT * values[:, -1]


def find_ascent(spheres: Spheres, point: Tensor, linear: Linearised, width: int, least: float, seed: int) -> Ascent:
    """Look for new columns that raise the objective.

    Args:
        spheres: layout of points.
        point: (p, D), stationary.
        linear: second derivatives there.
        width: number of new columns, b.
        least: eigenvalues of K up to one plus this do not count.
        seed: of the start.
    """
    c = linear.curvature
    root = torch.maximum(c, _LEAST_CURVATURE * c.amax(2, keepdim=True)).sqrt()
    known = _orthonormal(spheres.matrix(point) * root)
    values, vectors = _largest(lambda v: linear.product(v / root) / root, known, width, seed)
    good = values > 1 + least
    return Ascent(torch.where(good, values - 1, 0.0), torch.where(good[..., None], vectors / root, 0.0))


def _orthonormal(rows: Tensor) -> Tensor:
    """Orthonormal rows (p, b, n) with the same span."""
    return torch.linalg.qr(rows.mT)[0].mT


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    return rows - (rows @ basis.mT) @ basis


def _extended(space: Tensor, block: Tensor, generator: torch.Generator) -> Tensor:
    """Orthonormal rows (p, b, n), orthogonal to those of `space`, that span what `block` adds to them.

    Where it adds nothing but rounding errors, random rows take their place.
    """
    factor, triangle = torch.linalg.qr(_without(block, space).mT)
    weak = triangle.diagonal(dim1=1, dim2=2).abs() <= torch.finfo(block.dtype).eps ** 0.5
    other = torch.randn(block.shape[1:], dtype=torch.float64, generator=generator).to(block)
    rows = torch.where(weak[..., None], other, factor.mT)
    for _ in range(2):  # twice is enough
        rows = _orthonormal(_without(rows, space))
    return rows


def _largest(product: Callable[[Tensor], Tensor], known: Tensor, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Largest Ritz values (p, b), descending, and vectors (p, b, n) of a block Krylov space orthogonal to `known`.

    The space grows until every problem has a value clearly above one, or no room is left.
    """
    count, first, size = known.shape
    generator = torch.Generator().manual_seed(seed)
    steps = min(_MOST_STEPS, (size - first) // width)
    space = torch.cat([known, known.new_empty((count, steps * width, size))], dim=1)
    small = known.new_zeros((count, steps * width, steps * width), dtype=torch.float64)
    values, weights = small[:, 0], small
    block, used = known.new_zeros((count, width, size)), 0
    for step in range(1, steps + 1):
        new = _extended(space[:, : first + used], block, generator)
        space[:, first + used : first + used + width] = new
        block = product(new)
        part = (space[:, first : first + used + width] @ block.mT).to(torch.float64)
        small[:, : used + width, used : used + width] = part
        small[:, used : used + width, : used + width] = part.mT
        used += width
        if step == steps or step % _STEPS == 0:
            values, weights = torch.linalg.eigh(small[:, :used, :used])
            if bool((values[:, -1] > 1 + _CLEAR).all()):
                break
    chosen = weights[..., -width:].flip(-1).to(space.dtype)
    return values[:, -width:].flip(-1), chosen.mT @ space[:, first : first + used]
