r"""Weights with which the rows of a polytope exclude it together.

Place in the data flow: level 7, a tool of `neurons`. Untrusted: any weights :math:`w \ge 0` are admissible.

Rows with the linear lower bounds :math:`a_i^T x + t_i` on a box whose smallest values are :math:`m_i` have the weighted
sum

.. math:: \min_x \sum_i w_i (a_i^T x + t_i) = \sum_i w_i m_i
    + \sum_j (u_j - l_j) \min\Bigl(\sum_i w_i a_{ij}^+, \sum_i w_i a_{ij}^-\Bigr) ,

because the j-th term of row i is smallest at one end of :math:`[l_j, u_j]` and larger by :math:`|a_{ij}| (u_j - l_j)`
at the other. The function is concave in w. It is maximised over the simplex from the best single row on, towards one
row after the other, each time by bisection of the derivative: exact for two rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BISECTIONS = 40


def mixed_weights(margins: Tensor, slopes: Tensor, width: Tensor) -> Tensor:
    """Weights of rows, (D, M), that sum to one.

    Args:
        margins: (D, M), smallest value of each row's linear bound; minus infinity for a row that is none.
        slopes: (D, M, n0), coefficients of the bounds.
        width: (D, n0) of the boxes.
    """
    real = margins.isfinite()
    least = torch.where(real, margins, 0.0)
    spread = torch.where(real[..., None], slopes * width[:, None], 0.0)
    ends = torch.stack([spread.clamp(min=0), spread.clamp(max=0).neg()])
    weights = torch.nn.functional.one_hot(margins.argmax(dim=1), margins.shape[1]).to(margins.dtype)
    for _ in range(2 if margins.shape[1] > 2 else 1):
        for row in range(margins.shape[1]):
            target = torch.zeros_like(weights)
            target[:, row] = 1.0
            step = _best_step(weights, target, least, ends) * real[:, row]
            weights = weights + step[:, None] * (target - weights)
    return weights


def _best_step(start: Tensor, target: Tensor, least: Tensor, ends: Tensor) -> Tensor:
    """The share in [0, 1] of the way from some weights to others at which the sum is largest, (D,)."""
    direction = target - start
    at, moved = (torch.einsum("dm,edmj->edj", w, ends) for w in (start, direction))
    gain = (direction * least).sum(dim=1)
    low, high = torch.zeros(len(start), dtype=start.dtype), torch.ones(len(start), dtype=start.dtype)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        first, second = at + middle[None, :, None] * moved
        slope = gain + torch.where(first < second, moved[0], moved[1]).sum(dim=1)
        low, high = torch.where(slope > 0, middle, low), torch.where(slope > 0, high, middle)
    return low
