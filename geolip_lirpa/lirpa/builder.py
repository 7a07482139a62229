"""What a builder of one operator sees of the host, and where it puts the nodes it makes.

Place in the data flow: level 4, between `graph` (which drives) and `operators` (the table of builders).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation
from geolip_lirpa.errors import UnsupportedOperatorError
from geolip_lirpa.lirpa.host import HostGraph, kind_of
from geolip_lirpa.network import AffineOperator, Network, Node


@dataclass
class NetworkBuilder:
    """Grows the nodes of a `Network` in topological order."""

    nodes: list[Node] = field(default_factory=list)

    def add(self, name: str, operation: AffineOperator | Activation, inputs: Sequence[int]) -> int:
        """Append a node and return its position; the shape is found by a forward pass on zeros."""
        zeros = tuple(torch.zeros((1, *self.nodes[i].shape), dtype=torch.float64) for i in inputs)
        if isinstance(operation, AffineOperator):
            shape = tuple(operation.to(torch.float64, "cpu").affine(zeros).shape[1:])
        else:
            shape = self.nodes[inputs[0]].shape
        self.nodes.append(Node(name, shape, tuple(inputs), operation))
        return len(self.nodes) - 1

    def network(self, output: int) -> tuple[Network, dict[int, int]]:
        """The network that ends in a node, and the new positions of the nodes that are left."""
        needed = {0, output}
        for position in range(output, 0, -1):
            if position in needed:
                needed.update(self.nodes[position].inputs)
        moved = {old: new for new, old in enumerate(sorted(needed))}
        kept = [self.nodes[old] for old in sorted(needed)]
        renamed = tuple(Node(n.name, n.shape, tuple(moved[i] for i in n.inputs), n.operation) for n in kept)
        return Network(renamed), moved


@dataclass(frozen=True)
class View:
    """One host node as its builder sees it.

    Args:
        node: the host's node.
        graph: the graph it belongs to.
        positions: network positions of the dependent host nodes so far, by name.
        builder: receives the nodes.
    """

    node: Any
    graph: HostGraph
    positions: dict[str, int]
    builder: NetworkBuilder

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def kind(self) -> str:
        return kind_of(self.node)

    @property
    def output(self) -> Tensor:
        """The node's value at the model's own input, with the batch dimension."""
        return self.graph.values[self.name]

    def depends(self, i: int) -> bool:
        """Whether the i-th input depends on the network's input."""
        return i < len(self.node.inputs) and self.node.inputs[i].name in self.graph.dependent

    def dependent(self) -> list[int]:
        """The inputs that depend on the network's input."""
        return [i for i in range(len(self.node.inputs)) if self.depends(i)]

    def require_dependent(self, *allowed: Sequence[int]) -> None:
        """Refuse the node unless exactly one of these sets of inputs depends on the network's input."""
        if self.dependent() not in [list(a) for a in allowed]:
            raise self.refusal("its inputs depend on the network's input in a way that makes it non-linear")

    def position(self, i: int) -> int:
        """Network position of the i-th input."""
        return self.positions[self.node.inputs[i].name]

    def value(self, i: int) -> Tensor:
        """The i-th input's value at the model's own input, with the batch dimension."""
        return self.graph.values[self.node.inputs[i].name]

    def constant(self, i: int) -> Tensor:
        """The i-th input, a constant, in float64."""
        return self.graph.constants[self.node.inputs[i].name]

    def optional(self, i: int) -> Tensor | None:
        """The i-th input when there is one."""
        return self.constant(i) if i < len(self.node.inputs) else None

    def roundings(self, i: int) -> int:
        """Roundings that went into the i-th input, a constant."""
        return self.graph.roundings(self.node.inputs[i])

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the ONNX operator behind the node."""
        return (getattr(self.node, "attr", None) or {}).get(name, default)

    def sample_constant(self, i: int, rank: int) -> Tensor:
        """A constant without batch dimension, for an operation on values of `rank` dimensions with the batch."""
        value = self.constant(i)
        if value.ndim < rank:
            return value
        if value.ndim > rank or not bool((value == value[:1]).all()):
            raise self.refusal(f"its constant of shape {tuple(value.shape)} differs between the samples of a batch")
        return value[0]

    def require_batch(self, axis: int) -> int:
        """An axis of one sample for an axis of the host's tensor; refuses the batch axis."""
        rank = self.value(0).ndim
        positive = axis + rank if axis < 0 else axis
        if positive == 0:
            raise self.refusal("it works along the batch dimension")
        return positive - 1

    def add(self, operation: AffineOperator | Activation, inputs: Sequence[int], suffix: str = "") -> int:
        """Append a node of the network; without suffix it carries the host's name."""
        return self.builder.add(self.name + suffix, operation, inputs)

    def refusal(self, reason: str) -> UnsupportedOperatorError:
        """The error for this node."""
        before = next((n.name for n in self.node.inputs if n.name in self.graph.dependent), None)
        advice = f" Certify the network before it with final_node_name='{before}'." if before else ""
        return UnsupportedOperatorError(f"node '{self.name}' ({self.kind}): {reason}.{advice}")


Builder = Callable[[View], int]
