"""Does an extracted network compute what the host model computes?

Place in the data flow: level 4, the last step of `graph.extract_network`. Every network node that stands for a host
node is fed with the host's own values and compared with the host's result, so that a difference is found at the node
that causes it and rounding does not accumulate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation
from geolip_lirpa.errors import ExtractionError
from geolip_lirpa.lirpa.host import HostGraph, kind_of
from geolip_lirpa.network import AffineOperator, Network, Node

_PROBES = 3
_RELATIVE = 1e-5
_FLOAT32_UNIT = 2.0**-24


def require_equal(network: Network, graph: HostGraph, names: Mapping[int, str]) -> None:
    """Compare at the model's own input and at random ones.

    Args:
        network: the extraction.
        graph: the host's graph.
        names: network position -> name of the host node with the same value.

    Raises:
        ExtractionError: they differ; names the first node.
    """
    runs = [graph.run(x) for x in _probes(graph.sample)]
    host = {i: torch.cat([run[name] for run in runs]).to(torch.float64) for i, name in names.items()}
    values: list[Tensor] = []
    for position, node in enumerate(network.nodes):
        if position == 0:
            values.append(host[0])
            continue
        inputs = tuple(values[i] for i in node.inputs)
        value, allowed = _value_and_tolerance(node, inputs)
        if position in host:
            _require_node(graph, names[position], value, host[position], allowed)
            value = host[position]
        values.append(value)


def _probes(sample: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(sample.shape, generator=generator).to(sample) for _ in range(_PROBES)]
    scale = max(float(sample.abs().max()), 1.0) if sample.numel() else 1.0
    return [sample, *(scale * x for x in noise)]


def _value_and_tolerance(node: Node, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    operation = node.operation
    if isinstance(operation, AffineOperator):
        magnitude = operation.magnitude(tuple(x.abs() for x in inputs))
        if operation.bias is not None:
            magnitude = magnitude + operation.bias.abs()
        relative = max(_RELATIVE, (operation.sum_roundings + 8) * _FLOAT32_UNIT)
        return operation.affine(inputs), relative * magnitude
    if isinstance(operation, Activation):
        return operation.value(inputs[0]), _RELATIVE * (1 + inputs[0].abs())
    raise ExtractionError(f"node '{node.name}' is a second input; exactly one is supported.")


def _require_node(graph: HostGraph, name: str, value: Tensor, expected: Tensor, allowed: Tensor) -> None:
    node = next(n for n in graph.nodes if n.name == name)
    where = f"node '{name}' ({kind_of(node)})"
    if value.shape != expected.shape:
        raise ExtractionError(
            f"{where}: extracted shape {tuple(value.shape)} differs from the model's {tuple(expected.shape)}. "
            "Wrap the model with a batch of one."
        )
    # NaN compares false and must be refused too
    if not bool(((value - expected).abs() <= allowed).all()):
        worst = float((value - expected).abs().max())
        raise ExtractionError(
            f"{where}: the extracted network differs from the model by {worst:.3g} (allowed "
            f"{float(allowed.max()):.3g}). Put the model into eval mode and switch off reduced precision such as TF32."
        )
