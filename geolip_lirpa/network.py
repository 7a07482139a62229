r"""A neural network as a directed acyclic graph of affine maps and elementwise activations.

Place in the data flow: level 2. ``BoundedModule -> Network -> SlopeIntervals -> SdpInstance``. Knows torch, not
auto_LiRPA. A `Network` is the mathematical object: float64 copies of the float32 weights (exact), one input, one
output, no training state. Linear maps are applied matrix-free to a batch of columns; dense blocks are built on demand
by `geolip_lirpa.sdp`.

Shapes: every node carries one sample's shape, without the batch dimension. All functions take tensors with exactly one
leading batch dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation
from geolip_lirpa.linear_maps import Dense, Inputs, Parameters


@dataclass(frozen=True)
class AffineOperator:
    r"""An affine map of one or several inputs, :math:`(x_1, .., x_m) \mapsto \sum_i A_i x_i + b`.

    Args:
        kind: name of the operator for messages, e.g. ``"Linear"``.
        function: ``function(inputs, parameters)``, inputs of shape (B, \*shape_i) to (B, \*shape). It must be linear in
            the inputs for fixed parameters, have no negative coefficients of its own, and be *monotone in absolute
            value*: ``|function(x, p)| <= function(|x|, |p|)`` elementwise. Signs belong into the parameters.
        parameters: float64 tensors with the coefficients.
        bias: float64, broadcastable to the output shape, or None.
        sum_roundings: upper bound on the floating-point roundings one output entry suffers beyond those of the
            parameters: length of the longest dot product plus one; 0 for maps that only move entries.
        parameter_roundings: relative error of each coefficient in units of 2^-53 (0 when they are the model's own
            float32 numbers, a few for folded batch normalisation).
    """

    kind: str
    function: Callable[[Inputs, Parameters], Tensor]
    parameters: Parameters = ()
    bias: Tensor | None = None
    sum_roundings: int = 0
    parameter_roundings: int = 0

    def linear(self, inputs: Inputs) -> Tensor:
        """The linear part, without bias."""
        return self.function(inputs, self.parameters)

    def affine(self, inputs: Inputs) -> Tensor:
        """The whole map."""
        result = self.function(inputs, self.parameters)
        return result if self.bias is None else result + self.bias

    def magnitude(self, inputs: Inputs) -> Tensor:
        r""":math:`\sum_i |A_i| x_i` for non-negative inputs, up to rounding; it bounds the linear part."""
        return self.function(inputs, tuple(p.abs() for p in self.parameters))

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> AffineOperator:
        """The same operator with parameters and bias cast."""
        cast = tuple(p.to(dtype=dtype, device=device) for p in self.parameters)
        bias = None if self.bias is None else self.bias.to(dtype=dtype, device=device)
        return replace(self, parameters=cast, bias=bias)


@dataclass(frozen=True)
class Node:
    """One value of the network.

    Args:
        name: the host's name of the node.
        shape: shape of one sample.
        inputs: positions of the nodes it reads, all smaller than its own.
        operation: `AffineOperator`, `Activation` (exactly one input), or None for the network's input.
    """

    name: str
    shape: tuple[int, ...]
    inputs: tuple[int, ...] = ()
    operation: AffineOperator | Activation | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Network:
    """A network with one input (node 0) and one output (the last node), nodes in topological order.

    Every node lies on a path from the input to the output; values that do not depend on the input are folded into
    biases by whoever builds the network.
    """

    nodes: tuple[Node, ...]
    activations: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = tuple(i for i, node in enumerate(self.nodes) if isinstance(node.operation, Activation))
        object.__setattr__(self, "activations", found)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.nodes[0].shape

    @property
    def input_size(self) -> int:
        return self.nodes[0].size

    @property
    def output_size(self) -> int:
        return self.nodes[-1].size

    @property
    def hidden_size(self) -> int:
        """Number of neurons, over all activations."""
        return sum(self.nodes[i].size for i in self.activations)

    def forward(self, x: Tensor) -> Tensor:
        """Output (B, output_size) at inputs of shape (B, \\*input_shape)."""
        return self.values(x)[-1].reshape(x.shape[0], -1)

    def values(self, x: Tensor) -> list[Tensor]:
        """Values of all nodes, each (B, \\*shape), at inputs of shape (B, \\*input_shape)."""
        values: list[Tensor] = []
        for node in self.nodes:
            if node.operation is None:
                values.append(x)
            elif isinstance(node.operation, AffineOperator):
                values.append(node.operation.affine(tuple(values[i] for i in node.inputs)))
            else:
                values.append(node.operation.value(values[node.inputs[0]]))
        return values

    def propagate(self, x: Tensor, activation: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Push increments through the linear parts, with a caller's rule at the activations.

        Args:
            x: (B, \\*input_shape).
            activation: ``activation(l, v)`` maps the increments of the l-th activation's pre-activation, (B, \\*shape),
                to those of its value; l counts activations in topological order.

        Returns:
            (B, output_size).
        """
        values: list[Tensor] = []
        position = 0
        for node in self.nodes:
            if node.operation is None:
                values.append(x)
            elif isinstance(node.operation, AffineOperator):
                values.append(node.operation.linear(tuple(values[i] for i in node.inputs)))
            else:
                values.append(activation(position, values[node.inputs[0]]))
                position += 1
        return values[-1].reshape(x.shape[0], -1)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Network:
        """The same network with all parameters cast (float32 for fast untrusted iterations)."""
        nodes = [
            node if node.operation is None else replace(node, operation=node.operation.to(dtype, device))
            for node in self.nodes
        ]
        return Network(tuple(nodes))


def sequential(input_shape: Sequence[int], operations: Sequence[tuple[str, AffineOperator | Activation]]) -> Network:
    """A chain of operations; shapes are found by one forward pass.

    Args:
        input_shape: one sample's shape.
        operations: pairs of name and operation.
    """
    nodes = [Node("input", tuple(input_shape))]
    value = torch.zeros((1, *input_shape), dtype=torch.float64)
    for name, operation in operations:
        apply = operation.affine((value,)) if isinstance(operation, AffineOperator) else operation.value(value)
        value = apply
        nodes.append(Node(name, tuple(value.shape[1:]), (len(nodes) - 1,), operation))
    return Network(tuple(nodes))


def linear_operator(weight: Tensor, bias: Tensor | None = None) -> AffineOperator:
    """``x -> weight x + bias`` on vectors; weight (out, in), bias (out,), both cast to float64."""
    return AffineOperator(
        "Linear",
        Dense(),
        (weight.detach().to(torch.float64),),
        None if bias is None else bias.detach().to(torch.float64),
        sum_roundings=weight.shape[1] + 1,
    )
