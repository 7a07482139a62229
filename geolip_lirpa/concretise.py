r"""Smallest value of a linear function over an input set: a box, a ball, or a ball cut by a box.

Place in the data flow: level 3, ``coefficients + InputSet -> lower bound``; the last step of `crown`.

For a ball :math:`|x - x_0|_p \le \rho` inside a box nothing but its dual norm counts. Where a box :math:`l \le x \le u`
cuts the ball (images, whose pixels end at 0 and 1) any splitting of the coefficients gives a bound,

.. math:: \min_{ball \cap box} c^T x \ge \min_{box} (c - c')^T x + \min_{ball} c'^T x
    = \sum_j \min_{l_j \le x_j \le u_j} (c - c')_j x_j + c'^T x_0 - \rho |c'|_q ,

whatever c' is; so c' may be computed in any way. With :math:`w_j` the way from :math:`x_0` to the side of the box
against which :math:`c_j` pushes, the best splitting is

.. math:: c'_j = \mathrm{sign}(c_j) \min(|c_j|, \mu w_j) \;\;(p = 2), \qquad
    c'_j = \mathrm{sign}(c_j) \min(|c_j|, \mu) \;\;(p = 1):

for p = 2 the step :math:`-c'/\mu` minimises both parts when its length is :math:`\rho`. With S the coordinates that
reach the box this says :math:`\mu^2 = \sum_{j \notin S} c_j^2 / (\rho^2 - \sum_{j \in S} w_j^2)`; from
:math:`S = \emptyset` on, S grows and :math:`\mu` falls towards its best value. For p = 1 the budget :math:`\rho` goes
to the largest coefficients first, :math:`w_j` to each; :math:`\mu` is the coefficient at which it is used up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geolip_lirpa.interval import InputSet
from geolip_lirpa.rounding import lengths
from geolip_lirpa.types import Norm

# far above what a norm may lose to underflow
_TINY = 1e-280
# a side of the box nearer than this part of the radius cuts the ball; the box around a ball is rounded outward
_CUT = 1.0 - 2.0**-40
# steps towards the best splitting; few are left to do after four
_STEPS = 8


def is_cut(inputs: InputSet) -> bool:
    """Whether the box may take something away from a ball of norm 1 or 2."""
    if inputs.center is None or inputs.norm is Norm.LINF:
        return False
    room = torch.minimum(inputs.center - inputs.lower, inputs.upper - inputs.center)
    return bool((room < inputs.radius * _CUT).any())


def linear_minimum(c: Tensor, inputs: InputSet) -> tuple[Tensor, Tensor]:
    r"""Minimum of :math:`c^T x` over the input set as computed, and a bound on the sum of the terms behind it.

    Args:
        c: (G, B, \*shape) float64; gradients flow through it.
        inputs: B sets.

    Returns:
        Both (G, B). In real arithmetic the first is a lower bound; its rounding error is at most
        :math:`\gamma_{n + 32}` times the second.
    """
    reach = torch.maximum(inputs.lower.abs(), inputs.upper.abs())
    if inputs.center is None or inputs.norm is Norm.LINF:
        return _over_box(c, inputs), _dot(c.abs(), reach)
    size = _dot(c.abs(), torch.maximum(reach, inputs.center.abs()) + inputs.radius)
    if not is_cut(inputs):
        return _over_ball(c, inputs), size
    part = _ball_part(c, inputs)
    # rounding c - c' costs one roundoff of |c| times the reach: within the size
    return _over_box(c - part, inputs) + _over_ball(part, inputs), size


def _over_box(c: Tensor, inputs: InputSet) -> Tensor:
    return _dot(c.clamp(min=0), inputs.lower) + _dot(c.clamp(max=0), inputs.upper)


def _over_ball(c: Tensor, inputs: InputSet) -> Tensor:
    flat, center = c.flatten(2), inputs.lower if inputs.center is None else inputs.center
    dual = flat.abs().amax(dim=2) if inputs.norm is Norm.L1 else lengths(flat)
    return _dot(c, center) - inputs.radius * (dual + _TINY)


def _ball_part(c: Tensor, inputs: InputSet) -> Tensor:
    """The coefficients c' that the ball takes."""
    center = inputs.lower if inputs.center is None else inputs.center
    down, up = (center - inputs.lower).clamp(min=0), (inputs.upper - center).clamp(min=0)
    with torch.no_grad():
        way = torch.where(c > 0, down, up).flatten(2)
        sizes = c.abs().flatten(2)
        share = _l1_share if inputs.norm is Norm.L1 else _l2_share
        mu = share(sizes, way, inputs.radius).nan_to_num(0.0, 0.0, 0.0)
        mu = mu.reshape(*mu.shape, *([1] * (c.ndim - 2)))
    if inputs.norm is Norm.L1:
        return torch.minimum(torch.maximum(c, -mu), mu)
    return torch.minimum(torch.maximum(c, -mu * up), mu * down)


def _l2_share(sizes: Tensor, way: Tensor, radius: float) -> Tensor:
    mu = sizes.norm(dim=2) / radius
    for _ in range(_STEPS):
        reached = sizes > mu[..., None] * way
        # not a power: Python raises an error where that overflows
        left = radius * radius - way.square().where(reached, torch.zeros_like(way)).sum(2)
        rest = sizes.square().where(~reached, torch.zeros_like(sizes)).sum(2)
        mu = torch.where(left > 0, (rest / left).sqrt(), torch.zeros_like(mu))
    return mu


def _l1_share(sizes: Tensor, way: Tensor, radius: float) -> Tensor:
    ordered, order = sizes.sort(dim=2, descending=True)
    used = way.gather(2, order).cumsum(2)
    # the first coefficient at which the budget is used up; zero when all of the box is within the ball
    return ordered.where(used >= radius, torch.zeros_like(ordered)).amax(dim=2)


def _dot(c: Tensor, values: Tensor) -> Tensor:
    product = c * values
    return product.reshape(*product.shape[:2], -1).sum(2)
