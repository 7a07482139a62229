r"""Inputs whose first activation follows a slope pattern.

Place in the data flow: level 6, a step of the lower bounds. ``PatternBound -> x``. The first activation's
pre-activations are affine in the input, :math:`v = V (x - c) + v(c)`. For every neuron a target t is chosen at which
the activation's slope is closest to the wanted one; ridge regression with weights r (the radii of a region, or one)

.. math:: x = c + R V_r^T (V_r V_r^T + \epsilon I)^{-1} (t - v(c)), \quad R = \mathrm{diag}(r),\; V_r = V R,

meets all targets when V has full row rank, and most signs otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geolip_lirpa.increments import IncrementBatch
from geolip_lirpa.patterns import PatternBound
from geolip_lirpa.regions import Region

_RIDGE = 1e-9
# Neurons of the first activation beyond which the dense system is not worth its time.
_LARGEST = 1_000
# Targets are chosen between -4 and 4, where the usual activations show all of their slopes.
_REACH = 4.0
_SIZES = (0.3, 1.0, 3.0, 10.0)


def follow_patterns(
    batch: IncrementBatch, patterns: Sequence[PatternBound], region: Region | None = None
) -> Tensor | None:
    """Inputs (P, B, n0), a few sizes for each pattern; None where there is no activation or the first is too large.

    Args:
        batch: P instances.
        patterns: P of them.
        region: its centre replaces the origin; the result may lie outside.
    """
    if not batch.lower or batch.lower[0].shape[-1] > _LARGEST:
        return None
    center = torch.zeros(batch.network.input_size).to(batch.scale) if region is None else region.center
    radius = torch.ones_like(center) if region is None else region.radius
    value, block = _first_preactivation(batch, center)
    wanted = torch.stack([p.slopes[0] for p in patterns])
    targets = _targets(batch, wanted)
    weighted = block * radius
    length = weighted.norm(dim=1)
    # targets as they are, and in units of each neuron's own sensitivity
    right = torch.stack([t * size - value for t in (targets, targets * length) for size in _SIZES], dim=1)
    return center + radius * _ridge(weighted, right)


def _first_preactivation(batch: IncrementBatch, center: Tensor) -> tuple[Tensor, Tensor]:
    """v(c), (N,), and its Jacobian V, (N, n0), one row from each of N copies of the centre."""
    size = batch.lower[0].shape[-1]
    x = center.repeat(1, size, 1).requires_grad_(True)
    with torch.enable_grad():
        v = batch.preactivations(x)[0].reshape(size, size)
        (jacobian,) = torch.autograd.grad(v.diagonal().sum(), x)
    return v[0].detach(), jacobian[0]


def _targets(batch: IncrementBatch, wanted: Tensor) -> Tensor:
    """Points of a grid whose slope is closest to the wanted one, in the middle of ties: (P, N)."""
    shape = batch.network.nodes[batch.network.activations[0]].shape
    grid = torch.linspace(-_REACH, _REACH, 65).to(wanted)
    points = grid.reshape(-1, *[1] * len(shape)).expand(-1, *shape).contiguous()
    slopes = batch.activation(0).derivative_range(points, points).lower.reshape(len(points), -1)
    distance = (slopes[None] - wanted[:, None]).abs()
    tied = distance <= distance.amin(dim=1, keepdim=True) + 1e-3
    # the middle one of c tied grid points: number (c + 1) // 2
    rank = tied.cumsum(dim=1)
    middle = (rank[:, -1:] + 1) // 2
    return grid[((rank == middle) & tied).to(torch.int64).argmax(dim=1)]


def _ridge(block: Tensor, right: Tensor) -> Tensor:
    r""":math:`V^T(VV^T + \epsilon I)^{-1} t = (V^TV + \epsilon I)^{-1} V^T t` for right sides (.., N)."""
    rows, columns = block.shape
    diagonal = _RIDGE * float(block.square().sum()) + 1e-300
    eye = torch.eye(min(rows, columns)).to(block) * diagonal
    t = right.flatten(0, 1).T
    if rows <= columns:
        solution = block.T @ torch.linalg.solve(block @ block.T + eye, t)
    else:
        solution = torch.linalg.solve(block.T @ block + eye, block.T @ t)
    result: Tensor = solution.T.reshape(*right.shape[:-1], columns)
    return result
