"""A read-only view of a `BoundedModule`'s graph: the nodes that matter, their values and constants.

Place in the data flow: level 4, between the host's objects and `operators`. Nothing of the host model is changed: nodes
are evaluated on shallow copies.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.errors import ExtractionError, ModelError

_LEAF_VALUES = {"BoundInput": "value", "BoundParams": "param", "BoundBuffers": "buffer", "BoundConstant": "value"}
_PARAMETERS = ("BoundParams", "BoundBuffers")
# nodes that read only the shape of what they are given: their value is a constant of the traced batch
_SHAPE_READERS = ("BoundShape",)
# constants whose entries are entries of their inputs: exact in float64
_EXACT = (
    "BoundIdentity", "BoundReshape", "BoundFlatten", "BoundTranspose", "BoundUnsqueeze", "BoundSqueeze", "BoundSlice",
    "BoundConcat", "BoundGather", "BoundSplit", "BoundExpand", "BoundTile", "BoundNeg", "BoundCast", "BoundDropout",
)  # fmt: skip


def kind_of(node: Any) -> str:
    """Exact class name; never isinstance, for the host lets BoundGelu inherit from BoundTanh."""
    return type(node).__name__


def nodes_of(lirpa_model: Any) -> Mapping[str, Any]:
    """Nodes by name; `nodes()` is a method only from 0.4 on."""
    modules: Mapping[str, Any] = lirpa_model._modules
    return modules


def plain(values: Tensor) -> Tensor:
    """The tensor without gradient and without the host's subclass."""
    return values.detach().as_subclass(Tensor)


def evaluate(node: Any, inputs: Sequence[Any]) -> Tensor:
    """The node's own forward on other inputs, leaving the node as it was."""
    probe = copy.copy(node)
    # some forwards keep their inputs as attributes; a registered parameter of that name would refuse a plain tensor
    probe.__dict__["_parameters"] = {}
    with torch.no_grad():
        result = probe.forward(*inputs)
    return result if isinstance(result, Tensor) else torch.tensor(tuple(result))


@dataclass(frozen=True)
class HostGraph:
    """The part of a host model between its input and one node.

    Args:
        nodes: topological order; the last one is the output.
        root: name of the input.
        sample: the model's own input, (B, \\*shape), as it was last set.
        dependent: names of the nodes whose value depends on the input.
        constants: float64 (or integer) values of all other nodes.
        values: values of all nodes at `sample`, in the model's own precision.
    """

    nodes: tuple[Any, ...]
    root: str
    sample: Tensor
    dependent: frozenset[str]
    constants: Mapping[str, Tensor]
    values: Mapping[str, Tensor]

    @property
    def batch(self) -> int:
        return int(self.sample.shape[0])

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Values of all nodes at another input of the same shape, in the model's precision."""
        values: dict[str, Tensor] = {}
        for node in self.nodes:
            if node.name == self.root:
                values[node.name] = x
            elif node.name in self.dependent:
                values[node.name] = evaluate(node, [values[i.name] for i in node.inputs])
            else:
                values[node.name] = self.values[node.name]
        return values

    def roundings(self, node: Any) -> int:
        """Units of 2^-53 by which a constant that was computed from others may be off."""
        kind, inputs = kind_of(node), node.inputs
        if kind in _LEAF_VALUES or not inputs:
            return 0
        return sum(self.roundings(i) for i in inputs) + (kind not in _EXACT)


def read_graph(lirpa_model: Any, final_node_name: str | None = None) -> HostGraph:
    """Order, evaluate and check the nodes that the output depends on.

    Raises:
        ExtractionError: not a `BoundedModule`, unknown final node, no input or several.
        ModelError: a parameter holds NaN or infinity.
    """
    final = _final_node(lirpa_model, final_node_name)
    nodes = _topological(final)
    root = _single_input(nodes)
    dependent = _dependent(nodes, root.name)
    if final.name not in dependent:
        raise ExtractionError(f"node '{final.name}' does not depend on the input; choose a node that does.")
    sample = plain(root.value)
    values = _walk(nodes, dependent, root.name, sample)
    constants = _exact_constants(nodes, dependent, values)
    return HostGraph(tuple(nodes), root.name, sample, dependent, constants, values)


def _final_node(lirpa_model: Any, name: str | None) -> Any:
    if not hasattr(lirpa_model, "final_name") or not hasattr(lirpa_model, "compute_bounds"):
        raise ExtractionError(
            f"lirpa_model: got {type(lirpa_model).__name__}; expected an auto_LiRPA BoundedModule. "
            "Wrap a torch module with bounded_module(module, input_shape)."
        )
    nodes = nodes_of(lirpa_model)
    if name is None:
        return nodes[lirpa_model.final_name]
    if name not in nodes:
        operations = [key for key, node in nodes.items() if node.inputs]
        raise ExtractionError(f"final_node_name: no node '{name}'. Nodes of this model: {', '.join(operations)}.")
    return nodes[name]


def _topological(final: Any) -> list[Any]:
    order: list[Any] = []
    state: dict[str, bool] = {}
    stack = [final]
    while stack:
        node = stack[-1]
        if state.get(node.name):
            stack.pop()
        elif node.name in state:
            state[node.name] = True
            order.append(stack.pop())
        else:
            state[node.name] = False
            stack.extend(i for i in node.inputs if i.name not in state)
    return order


def _single_input(nodes: Sequence[Any]) -> Any:
    roots = [node for node in nodes if kind_of(node) == "BoundInput"]
    if len(roots) != 1:
        names = ", ".join(f"'{node.name}'" for node in roots) or "none"
        raise ExtractionError(
            f"the output depends on {len(roots)} inputs ({names}); exactly one is supported. "
            "Join the inputs into one tensor, or fix all but one inside the module."
        )
    for node in nodes:
        if kind_of(node) in _PARAMETERS and getattr(node, "perturbation", None) is not None:
            raise ExtractionError(
                f"parameter '{node.ori_name}' is perturbed; only the input may be. Pass plain tensors as parameters."
            )
    return roots[0]


def _dependent(nodes: Sequence[Any], root: str) -> frozenset[str]:
    found = {root}
    for node in nodes:
        if kind_of(node) not in _SHAPE_READERS and any(i.name in found for i in node.inputs):
            found.add(node.name)
    return frozenset(found)


def _walk(nodes: Sequence[Any], dependent: frozenset[str], root: str, sample: Tensor) -> dict[str, Tensor]:
    """Values in the model's own precision, as the host's forward computes them."""
    values: dict[str, Tensor] = {}
    for node in nodes:
        if node.name == root:
            values[node.name] = sample
        elif kind_of(node) in _LEAF_VALUES:
            values[node.name] = _finite(node, plain(getattr(node, _LEAF_VALUES[kind_of(node)])))
        else:
            values[node.name] = evaluate(node, [values[i.name] for i in node.inputs])
    return values


def _exact_constants(
    nodes: Sequence[Any], dependent: frozenset[str], values: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Constants in float64: parameters exactly, what the graph computes from them evaluated in float64."""
    constants: dict[str, Tensor] = {}
    for node in nodes:
        if node.name in dependent:
            continue
        value = _widened(values[node.name])
        if node.inputs and kind_of(node) not in _SHAPE_READERS:
            # a host forward that insists on float32 keeps its own value
            with contextlib.suppress(Exception):
                value = _widened(evaluate(node, [constants[i.name] for i in node.inputs]))
        constants[node.name] = value
    return constants


def _widened(values: Tensor) -> Tensor:
    return values.to(torch.float64) if values.is_floating_point() else values


def _finite(node: Any, values: Tensor) -> Tensor:
    if kind_of(node) in _PARAMETERS and values.is_floating_point() and not bool(values.isfinite().all()):
        raise ModelError(
            f"parameter '{node.ori_name}' (node '{node.name}') holds NaN or infinity; no bound exists for such a "
            "network. Train or load the model again."
        )
    return values
