r"""The low-rank solver's objective: a forward pass with vector-valued neurons, its gradient, and its multipliers.

Place in the data flow: level 7, ``SdpInstance + unit vectors -> value, gradient, multipliers``; untrusted. The module
`low_rank` derives what is computed here. Precision is a property of the object: the same code runs in float32 and
float64.

The backward pass is written out. For an activation, :math:`dz_i = m_i dv_i + q_i u_i` with :math:`q_i = r_i |dv_i|`,
let g be the gradient by dz and :math:`a_i = \langle g_i, u_i\rangle`; then the gradients are :math:`q_i g_i` by u and
:math:`m_i g_i + (a_i r_i^2 / q_i) dv_i` by dv. A tied layer has one :math:`q^2 = \sum_i r_i^2 |dv_i|^2` and one a. Kept
between the passes are dv and q of each activation, nothing else of the size of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.network import AffineOperator
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.linear_steps import Adjoint, linear_step
from geolip_lirpa.solvers.spheres import Spheres
from geolip_lirpa.types import Norm, OutputNorm


@dataclass
class _Pass:
    """One forward pass: what the backward pass needs.

    Args:
        index: the problems at work, (p,).
        parts: their unit vectors, (p, k, size).
        base: the pass whose q and a this one takes over, see `Objective.product`.
        out: (p, k, m).
        norms: of the outputs, (p, 1, m or 1) float64.
        spreads: per activation dv, (p, k, N).
        radii: per activation q, (p, 1, N), tied (p, 1, 1).
        along: per activation a, the same shapes; filled by the backward pass.
        adjoints: per node, None for input and activations.
    """

    index: Tensor
    parts: Sequence[Tensor]
    base: _Pass | None = None
    out: Tensor = field(init=False)
    norms: Tensor = field(init=False)
    spreads: list[Tensor] = field(default_factory=list)
    radii: list[Tensor] = field(default_factory=list)
    along: dict[int, Tensor] = field(default_factory=dict)
    adjoints: list[Adjoint | None] = field(default_factory=list)


class Objective:
    """Instances stacked to tensors of one precision; functions of points (P, D), see `Spheres`.

    Args:
        instances: sharing network, norms, ties and the number of rows.
        dtype: of points, gradients and all passes through the network.
        device: where they are.
    """

    def __init__(self, instances: Sequence[SdpInstance], dtype: torch.dtype, device: torch.device) -> None:
        first = instances[0]
        self.network = first.network.to(dtype, device)
        self.steps = [linear_step(n.operation) if isinstance(n.operation, AffineOperator) else None
                      for n in self.network.nodes]  # fmt: skip
        self.dtype = dtype
        self.output = first.output
        self.tied = first.tie_layers
        self.ball = first.input_norm is Norm.L2

        def stack(tensors: Sequence[Tensor]) -> Tensor:
            return _stacked(tensors).to(dtype=dtype, device=device)

        self.rows = stack([i.rows for i in instances])
        self.scale = stack([i.input_scale.reshape(1, -1) for i in instances])
        layers = [[i.slopes[l] for i in instances] for l in range(len(first.slopes))]
        self.middle = [stack([(s.lower + s.upper)[None] / 2 for s in layer]) for layer in layers]
        self.radius = [stack([(s.upper - s.lower)[None] / 2 for s in layer]) for layer in layers]
        # tied box: the sum of the constraints w_j^2 <= 1 is one ball, |w|^2 <= n
        box = first.tie_input and not self.ball
        self.members = (self.scale > 0).sum(2, keepdim=True).to(dtype) if box else None
        if self.members is not None:
            self.scale = self.scale * self.members.sqrt()
        sizes = (first.network.input_size, *(r.shape[2] for r in self.radius))
        self.spheres = Spheres(sizes, (self.ball or first.tie_input, *([self.tied] * len(layers))))

    # -- passes ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def negative_log(self, point: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """:math:`-\\log |O y|` (p,) in float64, and its gradient by the unit vectors (p, D)."""
        made = self._forward(point, index)
        value = _value(made)
        return -value.log(), self._backward(made, -value).view_as(point)

    @torch.no_grad()
    def values(self, point: Tensor, index: Tensor) -> Tensor:
        """:math:`|O y|` of the problems `index`, (p,) float64."""
        return _value(self._forward(point, index))

    @torch.no_grad()
    def linearised(self, point: Tensor, index: Tensor) -> Linearised:
        """Second derivatives of :math:`\\log |O y|` by columns that the factor does not have yet."""
        made = self._forward(point, index)
        value = _value(made)
        gradient = self._backward(made, value)
        return Linearised(self, made, value, self.spheres.dots(point, gradient.view_as(point)))

    def _forward(self, point: Tensor, index: Tensor, base: _Pass | None = None) -> _Pass:
        made = _Pass(index, self.spheres.split(point), base)
        p, k = made.parts[0].shape[:2]
        values: list[Tensor] = []
        for node, step in zip(self.network.nodes, self.steps, strict=True):
            adjoint = None
            if step is not None:
                value, adjoint = step.apply(tuple(values[i] for i in node.inputs))
            elif node.operation is None:
                value = (_pick(self.scale, index) * made.parts[0]).view(p * k, *node.shape)
            else:
                value = self._activate(made, values[node.inputs[0]].reshape(p, k, -1)).view(p * k, *node.shape)
            values.append(value)
            made.adjoints.append(adjoint)
        made.out = values[-1].reshape(p, k, -1) @ _pick(self.rows, index).transpose(1, 2)
        made.norms = self._norms(made.out) if base is None else base.norms
        return made

    def _activate(self, made: _Pass, v: Tensor) -> Tensor:
        l = len(made.radii)
        middle, radius = _pick(self.middle[l], made.index), _pick(self.radius[l], made.index)
        q = self._spread(v, radius) if made.base is None else made.base.radii[l]
        made.spreads.append(v)
        made.radii.append(q)
        return torch.addcmul(middle * v, self._share(q, radius), made.parts[l + 1])

    def _spread(self, v: Tensor, radius: Tensor) -> Tensor:
        """q. The smallest normal number keeps quotients by it finite at dead neurons without moving any other."""
        q = (v * v).sum(1, keepdim=True).mul_(radius * radius)
        if self.tied:
            q = q.sum(2, keepdim=True)
        return q.add_(torch.finfo(v.dtype).tiny).sqrt_()

    def _share(self, q: Tensor, radius: Tensor) -> Tensor:
        """q where a neuron takes part: of a tied layer, those with a fixed slope do not."""
        return q * (radius > 0) if self.tied else q

    def _backward(self, made: _Pass, divisor: Tensor | None = None) -> Tensor:
        """Gradient (p, k, n) by the unit vectors of the outputs' norm, divided by `divisor` (p,)."""
        p, k = made.out.shape[:2]
        slope = made.out / made.norms
        if divisor is not None:
            slope = slope / divisor[:, None, None]
        result = made.out.new_empty((p, k, self.spheres.size))
        places = result.split(self.spheres.sizes, dim=2)
        nodes, l = self.network.nodes, len(made.radii)
        last = slope.to(result.dtype) @ _pick(self.rows, made.index)
        found = {len(nodes) - 1: last.view(p * k, *nodes[-1].shape)}
        for number in reversed(range(1, len(nodes))):
            g, adjoint = found.pop(number), made.adjoints[number]
            if adjoint is not None:
                parts = adjoint(g)
            else:
                l -= 1
                parts = (self._deactivate(made, l, g.reshape(p, k, -1), places[l + 1]).view(g.shape),)
            for i, part in zip(nodes[number].inputs, parts, strict=True):
                found[i] = found[i] + part if i in found else part
        torch.mul(found[0].reshape(p, k, -1), _pick(self.scale, made.index), out=places[0])
        return result

    def _deactivate(self, made: _Pass, l: int, g: Tensor, place: Tensor) -> Tensor:
        """Gradient by dv from that by dz; the gradient by u goes to its place."""
        middle, radius = _pick(self.middle[l], made.index), _pick(self.radius[l], made.index)
        v, q = made.spreads[l], made.radii[l]
        torch.mul(g, self._share(q, radius), out=place)
        if made.base is None:
            a = (g * made.parts[l + 1]).sum(1, keepdim=True)
            made.along[l] = (a * (radius > 0)).sum(2, keepdim=True) if self.tied else a
        else:
            made.along[l] = made.base.along[l]
        return torch.addcmul(middle * g, (radius * radius) * (made.along[l] / q), v)

    def _norms(self, out: Tensor) -> Tensor:
        """Norms of vector-valued outputs: of each row for l_1, of all of them together otherwise."""
        axes = (1,) if self.output is OutputNorm.L1 else (1, 2)
        out = out.to(torch.float64)
        return out.square().sum(axes, keepdim=True).add_(torch.finfo(out.dtype).tiny).sqrt_()

    # -- multipliers -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def multipliers(self, point: Tensor, index: Tensor) -> tuple[list[Multipliers], Tensor]:
        r"""Closed-form multipliers of the problems `index`, and their objectives (p,).

        :math:`\tau_j = \langle g_j, w_j\rangle`, :math:`\lambda_i = \langle g_i, u_i\rangle / (2 q_i^2)`.
        """
        made = self._forward(point, index)
        value, gradient = _value(made), self._backward(made)
        tau, *inner = self.spheres.dots(point, gradient.view_as(point)).split(self.spheres.sizes, dim=2)
        if self.members is not None:
            tau = tau / _pick(self.members, index)
        tau = (tau[..., :1] if self.ball else tau)[:, 0].clamp_min(0)
        lam = [(i / (2 * q * q))[:, 0] for i, q in zip(inner, made.radii, strict=True)]
        # sigma: |O_k y| for l_1 (each row has its own unit vector), equal entries otherwise
        sigma = made.out.norm(dim=1) if self.output is OutputNorm.L1 else value[:, None].expand(-1, made.out.shape[2])
        found = []
        for i, p in enumerate(index.tolist()):
            hidden = tuple(_clean(layer[i], _row(r, p)[0]) for layer, r in zip(lam, self.radius, strict=True))
            found.append(Multipliers(hidden, tau[i].cpu().numpy(), sigma[i].cpu().numpy()))
        return found, value.cpu()


@dataclass(frozen=True)
class Linearised:
    r"""The objective's second derivatives by new columns at a point with these columns zero.

    To second order, q and a do not depend on a new column v: its image is linear. With
    :math:`c_i = \langle g_i, u_i\rangle` the derivative of :math:`\log |O y|` is v's own :math:`J v - c \circ v`, where
    c comes from the spheres, and J is symmetric and positive semidefinite where all a are non-negative.

    Args:
        curvature: c, (p, 1, n).
    """

    objective: Objective
    base: _Pass
    value: Tensor
    curvature: Tensor

    @torch.no_grad()
    def product(self, columns: Tensor) -> Tensor:
        """J times columns, (p, b, n)."""
        made = self.objective._forward(columns.flatten(1), self.base.index, self.base)
        return self.objective._backward(made, self.value)


def _value(made: _Pass) -> Tensor:
    return made.norms.sum((1, 2))


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """One row for all problems when they agree, else one for each."""
    first = tensors[0]
    if all(t is first or torch.equal(t, first) for t in tensors[1:]):
        return first[None]
    return torch.stack(list(tensors))


def _pick(stacked: Tensor, index: Tensor) -> Tensor:
    return stacked if stacked.shape[0] == 1 else stacked[index]


def _row(stacked: Tensor, p: int) -> Tensor:
    return stacked[0 if stacked.shape[0] == 1 else p]


def _clean(multiplier: Tensor, radius: Tensor) -> Array:
    """Non-negative finite multipliers; neurons at rest (dv = 0) get the median, any positive number will do there."""
    values = torch.where(radius > 0, multiplier, torch.zeros_like(multiplier)).cpu().numpy().astype(np.float64)
    good = np.isfinite(values) & (values > 0)
    typical = float(np.median(values[good])) if good.any() else 1.0
    return np.where(good, values, np.where(radius.cpu().numpy() > 0, 1e-3 * typical, 0.0))
