r"""Feasible points of the pointwise program by forward passes, and their minimum: where the low-rank solver starts.

Place in the data flow: level 7, ``ScaledRows -> points``; a building block of the low-rank solver, untrusted.

Let :math:`v = (v_0, v_\perp)` be a neuron's pre-activation. Its products hold if and only if
:math:`z = (s, z_\perp)` has

.. math:: s \in [s_0, s_0 + h], \quad s_0 = \max(0, v_0), \; h = \tfrac12(|v| - |v_0|), \qquad
    |z_\perp - \tfrac12 v_\perp|^2 \le \tfrac14|v_\perp|^2 + s v_0 - s^2 = (1-\varphi)\, h\, (|v_0| + (1 + \varphi) h)

with :math:`s = s_0 + \varphi h`. So :math:`\varphi = \sin^2 a` and a unit vector for each neuron, beside the inputs'
vectors in their ball or box, parametrise feasible points: the network itself with a mean and a deviation in each
neuron. (The products with bounds of v are not kept; they matter little for balls.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from geolip_lirpa.solvers.lbfgs import LbfgsOptions, Problem, minimise
from geolip_lirpa.solvers.pointwise_scaled import LinearForms, ScaledRows

_MEMORY = 8


class _Apply(torch.autograd.Function):
    """A layer's forms with their adjoint as the derivative."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, vectors: Tensor, forms: LinearForms) -> Tensor:
        ctx.forms = forms  # type: ignore[attr-defined]
        return forms.apply(vectors)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.forms.adjoint(grads[0]), None  # type: ignore[attr-defined]


def forward_optimum(rows: ScaledRows, index: Tensor, columns: int, iterations: int, seed: int) -> Tensor:
    """Feasible points of small margins, (p, c, n).

    Args:
        rows: the programs.
        index: (p,) which of them.
        columns: c, at least 2.
        iterations: of L-BFGS.
        seed: of the starts.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, columns + 1, rows.size), generator=generator, dtype=torch.float64).to(rows.dtype)
    # inputs against the gradient, spread a little; neurons anywhere. The last column of a neuron is its angle.
    start = (0.3 * noise).expand(len(index), -1, -1).clone()
    downhill = -rows.gradient()[index]
    size = downhill.abs().amax(1, keepdim=True).clamp_min(1e-30)
    start[:, 0, : rows.inputs] += downhill / (
        downhill.norm(dim=1, keepdim=True).clamp_min(1e-30) if rows.ball else size
    )

    def function(points: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            raw = points.view(len(where), columns + 1, rows.size).requires_grad_(True)
            point = _feasible(rows, raw)
            values = margins(rows, index[where], point)
            (gradient,) = torch.autograd.grad(values.sum(), raw)
        raw.requires_grad_(False)
        return values.detach(), gradient.reshape(points.shape)

    problem = Problem(function, lambda x: x, lambda x, g: g, lambda x, g: torch.ones_like(x))
    options = LbfgsOptions(iterations, 0.0, 10, _MEMORY)
    found = minimise(problem, start.flatten(1), options).point.view(start.shape)
    return _feasible(rows, found)


def margins(rows: ScaledRows, index: Tensor, point: Tensor) -> Tensor:
    """The scaled objectives (p,) float64 of points (p, c, n)."""
    return (rows.objective[index] * point[:, 0]).sum(1, dtype=torch.float64) + rows.constant[index]


def _feasible(rows: ScaledRows, raw: Tensor) -> Tensor:
    """The point (p, c, n) that raw numbers (p, c + 1, n) stand for."""
    inputs, hidden = raw[..., : rows.inputs], raw[..., rows.inputs :]
    w = inputs[:, :-1]
    axes = (1, 2) if rows.ball else (1,)
    w = w / w.square().sum(axes, keepdim=True).add(1e-30).sqrt()
    parts = [w]
    for l, layer in enumerate(rows.layers):
        own = slice(rows.offsets[l], rows.offsets[l + 1])
        v = _apply_layer(rows, layer, parts, own)
        direction, angle = hidden[:, 1:-1, own], hidden[:, -1, own]
        direction = direction / direction.square().sum(1, keepdim=True).add(1e-30).sqrt()
        lowest, height, size = _segment(v)
        sine = angle.sin().square()
        mean = lowest + sine * height
        reach = (height * (size + (1.0 + sine) * height)).add(1e-30).sqrt() * angle.cos()
        parts.append(torch.cat([mean[:, None], 0.5 * v[:, 1:] + reach[:, None] * direction], dim=1))
    return torch.cat(parts, dim=2)


def nearest_feasible(rows: ScaledRows, point: Tensor) -> Tensor:
    """A feasible point (p, c, n) near another, neuron by neuron."""
    w = point[..., : rows.inputs]
    axes = (1, 2) if rows.ball else (1,)
    parts = [w / w.square().sum(axes, keepdim=True).sqrt().clamp_min(1.0)]
    for l, layer in enumerate(rows.layers):
        own = slice(rows.offsets[l], rows.offsets[l + 1])
        v = _apply_layer(rows, layer, parts, own)
        z = point[..., rows.inputs + own.start : rows.inputs + own.stop]
        lowest, height, size = _segment(v)
        above = torch.minimum((z[:, 0] - lowest).clamp_min(0.0), height)
        reach = ((height - above) * (size + height + above)).clamp_min(0.0).sqrt()
        away = z[:, 1:] - 0.5 * v[:, 1:]
        length = away.square().sum(1).sqrt()
        factor = torch.where(length > reach, reach / length.clamp_min(1e-30), 1.0)
        parts.append(torch.cat([(lowest + above)[:, None], 0.5 * v[:, 1:] + factor[:, None] * away], dim=1))
    return torch.cat(parts, dim=2)


def _apply_layer(rows: ScaledRows, layer: LinearForms, parts: list[Tensor], own: slice) -> Tensor:
    below = torch.cat(parts, dim=2)
    v: Tensor = _Apply.apply(below, layer)  # type: ignore[no-untyped-call]
    return torch.cat([v[:, :1] + rows.shift[own], v[:, 1:]], dim=1)


def _segment(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:math:`s_0, h, |v_0|`, with h free of cancellation."""
    size, square = v[:, 0].abs(), v[:, 1:].square().sum(1)
    length = (v[:, 0].square() + square).add(1e-30).sqrt()
    return v[:, 0].clamp_min(0.0), 0.5 * square / (length + size), size
