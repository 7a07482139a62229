r"""Increments of a batch of instances under chosen slopes, and the directions that make them large.

Place in the data flow: level 5, the working tool of all lower bounds. For slopes S the increment is linear in the
direction, and

.. math:: \|C J(S) d\| = u^T C J(S)\, d, \qquad J(S) = W_L S_L \cdots S_1 W_1 \text{ (or its analogue on a graph)},

is affine in each of the blocks u (unit vectors of the output's dual norm), :math:`S_l` (one block per activation) and
d. The best member of each block has a closed form when the others are held. Nothing here is rounded outward:
`enclosures` evaluates what is found.

Shapes: P instances, B candidates each; tensors are (P, B, ..).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import Network
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm, OutputNorm

#: ``rule(l, v)`` gives the slopes (P, B, N_l) of activation l for increments v (P, B, N_l) of its pre-activations.
SlopeRule = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Pushed:
    """What one forward and one backward pass tell.

    Args:
        value: (P, B), the norm of ``C J d``.
        dual: (P, B, m), the unit vector u that attains it.
        gradient: (P, B, n0), derivative of ``u^T C J d`` by d, that is ``J^T C^T u``.
        adjoints: per activation (P, B, N_l), derivative by its increments dz.
        slopes: per activation (P, B, N_l), as used.
    """

    value: Tensor
    dual: Tensor
    gradient: Tensor
    adjoints: list[Tensor]
    slopes: list[Tensor]


class IncrementBatch:
    """Instances that share network, norms and number of rows, stacked.

    Args:
        instances: at least one.

    Raises:
        SpecificationError: the list is empty, or its members do not fit together.
    """

    def __init__(self, instances: Sequence[SdpInstance]) -> None:
        _check_family(instances)
        first = instances[0]
        self.network: Network = first.network
        self.count = len(instances)
        self.rows = torch.stack([i.rows for i in instances])
        self.scale = torch.stack([i.input_scale.reshape(-1) for i in instances])[:, None]
        layers = range(len(first.slopes))
        self.lower = [torch.stack([i.slopes[l].lower for i in instances])[:, None] for l in layers]
        self.upper = [torch.stack([i.slopes[l].upper for i in instances])[:, None] for l in layers]
        self.box = first.input_norm is Norm.LINF
        self.output = first.output

    def direction(self, gradient: Tensor) -> Tensor:
        r"""The d with :math:`\|d / s\| \le 1` that maximises :math:`\langle g, d\rangle`."""
        a = gradient * self.scale
        if self.box:
            return self.scale * torch.where(a >= 0, 1.0, -1.0).to(a)
        return self.scale * (a / self._length(a)[..., None].clamp_min(1e-300))

    def gain(self, gradient: Tensor) -> Tensor:
        r"""The maximum itself, the dual norm of :math:`s \circ g`: (P, B)."""
        a = gradient * self.scale
        return a.abs().sum(-1) if self.box else self._length(a)

    @staticmethod
    def _length(vectors: Tensor) -> Tensor:
        length: Tensor = vectors.norm(dim=-1)
        return length

    def dual(self, increments: Tensor) -> Tensor:
        """The unit vector u of the output's dual norm that maximises ``u^T y``."""
        if self.output is OutputNorm.L2:
            return increments / self._length(increments)[..., None].clamp_min(1e-300)
        return torch.where(increments >= 0, 1.0, -1.0).to(increments)

    def outputs(self, direction: Tensor, rule: SlopeRule) -> Tensor:
        """``C J d`` for directions (P, B, n0), (P, B, m); differentiable."""
        shape = direction.shape[:2]

        def activation(l: int, v: Tensor) -> Tensor:
            flat = v.reshape(*shape, -1)
            return (rule(l, flat) * flat).reshape(v.shape)

        x = direction.reshape(-1, *self.network.input_shape)
        out = self.network.propagate(x, activation).reshape(*shape, -1)
        return torch.einsum("pbo,pmo->pbm", out, self.rows)

    def push(self, direction: Tensor, rule: SlopeRule, dual: Tensor | None = None) -> Pushed:
        """One forward pass that applies `rule`, one backward pass from the best u (or from a given one)."""
        leaf = direction.detach().requires_grad_(True)
        shape = leaf.shape[:2]
        slopes: list[Tensor] = []
        moved: list[Tensor] = []

        def activation(l: int, v: Tensor) -> Tensor:
            chosen = rule(l, v.detach().reshape(*shape, -1))
            slopes.append(chosen)
            moved.append(chosen.reshape(v.shape) * v)
            return moved[-1]

        with torch.enable_grad():
            out = self.network.propagate(leaf.reshape(-1, *self.network.input_shape), activation)
            increments = torch.einsum("pbo,pmo->pbm", out.reshape(*shape, -1), self.rows)
            u = self.dual(increments.detach()) if dual is None else dual
            value = (u * increments).sum(-1)
            gradient, *adjoints = torch.autograd.grad(value.sum(), [leaf, *moved])
        return Pushed(value.detach(), u, gradient, [a.reshape(*shape, -1) for a in adjoints], slopes)

    def slopes_at(self, points: Tensor) -> list[Tensor]:
        """Derivatives of all activations at inputs (P, B, n0), from the right at kinks."""
        result = []
        for l, v in enumerate(self.preactivations(points)):
            range_ = self.activation(l).derivative_range(v, v)
            result.append(((range_.lower + range_.upper) / 2).reshape(*points.shape[:2], -1))
        return result

    def activation(self, l: int) -> Activation:
        """Activation number l."""
        operation = self.network.nodes[self.network.activations[l]].operation
        if not isinstance(operation, Activation):
            raise TypeError(f"node {self.network.activations[l]} is not an activation")
        return operation

    def preactivations(self, points: Tensor) -> list[Tensor]:
        """Pre-activations (P B, \\*shape) at inputs (P, B, n0); differentiable."""
        values = self.network.values(points.reshape(-1, *self.network.input_shape))
        return [values[self.network.nodes[i].inputs[0]] for i in self.network.activations]

    def gradients(self, points: Tensor, alternations: int = 3) -> tuple[Tensor, Tensor]:
        """Value and best direction at inputs (P, B, n0): the gradient's dual norm (P, B), and d (P, B, n0).

        For one row the value is exact; for several rows u and d are improved in turn, which approaches the operator
        norm from below.
        """
        slopes = self.slopes_at(points)

        def rule(l: int, v: Tensor) -> Tensor:
            return slopes[l]

        # Any u without structure will do to begin with; for one row it is 1.
        mixed = torch.cos(torch.arange(self.rows.shape[1])).to(points).expand(*points.shape[:2], -1)
        pushed = self.push(torch.zeros_like(points), rule, self.dual(mixed))
        if self.rows.shape[1] > 1:
            for _ in range(alternations):
                pushed = self.push(self.direction(pushed.gradient), rule)
        return self.gain(pushed.gradient), self.direction(pushed.gradient)


def _check_family(instances: Sequence[SdpInstance]) -> None:
    if not instances:
        raise SpecificationError("lower bounds: got no instances; allowed is one or more. Pass a list with one member.")
    first = instances[0]
    for number, other in enumerate(instances):
        same = (
            other.network is first.network
            and other.input_norm is first.input_norm
            and other.output is first.output
            and other.rows.shape == first.rows.shape
        )
        if not same:
            raise SpecificationError(
                f"lower bounds: instance {number} differs from instance 0 in its network object, input norm, output "
                "norm or number of rows; allowed are instances that share them. Call once for each family."
            )
