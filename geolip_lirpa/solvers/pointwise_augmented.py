r"""The augmented Lagrangian of the pointwise program over low-rank points, with its gradient and multipliers.

Place in the data flow: level 7, ``ScaledRows + point + multipliers -> value, gradient, new multipliers``; a building
block of the low-rank solver, untrusted.

A point gives every input and neuron a vector of :math:`\mathbb{R}^c`; affine forms become vectors whose constants lie
in column 0, and products inner products. For products :math:`g_j \ge 0` with multipliers :math:`\theta_j` and
penalties :math:`\sigma_j`

.. math:: A(Y) = f(Y) + \sum_j \frac{t_j^2 - \theta_j^2}{2\sigma_j}, \quad
    t_j = \max(0, \theta_j - \sigma_j g_j), \qquad \nabla A = \nabla f - \sum_j t_j \nabla g_j .

So a stationary point of A is one of the Lagrangian with multipliers t: the matrix S(t) of the dual has
:math:`S(t)Y = 0`. At a minimiser with a column to spare S(t) is positive semidefinite, and t is the proximal step of
the dual function d,

.. math:: t = \arg\max_{\theta' \ge 0} d(\theta') - \sum_j \frac{(\theta'_j - \theta_j)^2}{2\sigma_j} ,

(Rockafellar, Math. Oper. Res. 1, 1976): every round ends with multipliers that prove a margin, none worse than the one
before (Burer and Monteiro, Math. Program. 95, 2003; the proximal view for low rank: Burer and Monteiro, 103, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.solvers.pointwise_scaled import ScaledRows


@dataclass(frozen=True)
class Evaluation:
    """A point and what follows from it.

    Args:
        value: A, (p,) float64.
        gradient: (p, c, n).
        objective: f, (p,) float64.
        products: g, (p, m).
        multipliers: t, (p, m).
    """

    value: Tensor
    gradient: Tensor
    objective: Tensor
    products: Tensor
    multipliers: Tensor

    @property
    def dual(self) -> Tensor:
        """The Lagrangian :math:`f - \\sum t g`, (p,) float64; at minimisers of A the margin that t proves."""
        return self.objective - (self.multipliers * self.products).sum(1, dtype=torch.float64)


def evaluate(rows: ScaledRows, index: Tensor, point: Tensor, theta: Tensor, sigma: Tensor) -> Evaluation:
    """A and all that comes with it.

    Args:
        rows: the programs.
        index: (p,) which of them.
        point: (p, c, n).
        theta: (p, m).
        sigma: (p, m) or (p, 1), positive.
    """
    w, z = point[..., : rows.inputs], point[..., rows.inputs :]
    v = rows.forms.apply(point)
    v[:, 0] += rows.shift
    g = products(rows, w, z, v)
    t = (theta - sigma * g).clamp_min_(0.0)
    objective = rows.objective[index]
    f = (objective * point[:, 0]).sum(1, dtype=torch.float64) + rows.constant[index]
    penalty = ((t - theta) * (t + theta) / (2.0 * sigma)).sum(1, dtype=torch.float64)
    gradient = _gradient(rows, w, z, v, t)
    gradient[:, 0] += objective
    return Evaluation(f + penalty, gradient, f, g, t)


def products(rows: ScaledRows, w: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """All products (p, m), in the order of `ScaledRows.groups`; those of the inputs are halved."""
    first, value = v[:, 0], z[:, 0]
    found = [(z * (v - z)).sum(1), value, value - first]
    if "triangle" in rows.products:
        found.append(rows.kappa * (first - rows.lower) - value)
    if "interval" in rows.products:
        found.append((first - rows.lower) * (rows.upper - first) - v[:, 1:].square().sum(1))
    square = w.square().sum(1)
    found.append(0.5 - 0.5 * (square.sum(1, keepdim=True) if rows.ball else square))
    return torch.cat(found, dim=1)


def _gradient(rows: ScaledRows, w: Tensor, z: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Minus the sum of t times the products' gradients, (p, c, n)."""
    groups, tau = rows.groups(t)
    lam, mu, eta = groups[:3] if groups else (z[:, 0],) * 3
    by_z = -lam[:, None] * (v - 2.0 * z)
    by_z[:, 0] -= mu + eta
    by_v = -lam[:, None] * z
    by_v[:, 0] += eta
    for name, values in zip(rows.products[3:], groups[3:], strict=False):
        if name == "triangle":
            by_z[:, 0] += values
            by_v[:, 0] -= rows.kappa * values
        else:
            by_v += 2.0 * values[:, None] * v
            by_v[:, 0] -= values * (rows.upper + rows.lower)
    gradient = rows.forms.adjoint(by_v)
    gradient[..., : rows.inputs] += tau[:, None] * w
    gradient[..., rows.inputs :] += by_z
    return gradient
