"""Turn auto_LiRPA's `BoundedModule` into a `Network`.

Place in the data flow: level 4, ``BoundedModule -> Network``. Dispatch goes by the exact class name of a host node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from geolip_lirpa.affine import movement
from geolip_lirpa.errors import ExtractionError, UnsupportedOperatorError
from geolip_lirpa.lirpa.builder import Builder, NetworkBuilder, View
from geolip_lirpa.lirpa.comparison import require_equal
from geolip_lirpa.lirpa.host import HostGraph, kind_of, read_graph
from geolip_lirpa.lirpa.maximum import MAXIMUM
from geolip_lirpa.lirpa.nonlinear import NONLINEAR
from geolip_lirpa.lirpa.operators import AFFINE
from geolip_lirpa.lirpa.softmax import find_logits, softmax_input
from geolip_lirpa.network import Network, Node

BUILDERS: Mapping[str, Builder] = MappingProxyType({**AFFINE, **NONLINEAR, **MAXIMUM})


@dataclass(frozen=True)
class Extraction:
    """A network with its ties to the host.

    Args:
        network: the extraction.
        host_names: network position -> names of the host nodes with the same value; positions made by rewriting a
            host node (the steps of a maximum, of a batch normalisation) have none.
        final_node_name: the host node that became the output.
    """

    network: Network
    host_names: Mapping[int, tuple[str, ...]]
    final_node_name: str


def extract_network(lirpa_model: Any, final_node_name: str | None = None, logits: bool = False) -> Network:
    r"""The network a `BoundedModule` computes, its float32 weights taken exactly as float64.

    Constants that the graph computes from several parameters are evaluated in float64 and define the network.

    Args:
        lirpa_model: auto_LiRPA's `BoundedModule`, versions 0.3 to 0.7; left as it is.
        final_node_name: the node that becomes the output; default: the model's own.
        logits: leave out a softmax or log-softmax at the end.

    Returns:
        A `Network` whose forward agrees with the model's, checked at several inputs.

    Raises:
        UnsupportedOperatorError: a node is neither affine nor a supported activation; names it.
        ExtractionError: several inputs, a batch that is mixed, or values that differ from the model's.
        ModelError: a parameter holds NaN or infinity.
    """
    return extract(lirpa_model, final_node_name, logits).network


def extract(lirpa_model: Any, final_node_name: str | None = None, logits: bool = False) -> Extraction:
    """As `extract_network`, with the names of the host nodes."""
    if logits:
        final_node_name = find_logits(lirpa_model, final_node_name)
    graph = read_graph(lirpa_model, final_node_name)
    _refuse_softmax(graph)
    builder = NetworkBuilder([Node(graph.root, tuple(graph.sample.shape[1:]))])
    positions = {graph.root: 0}
    for node in graph.nodes:
        if node.name in graph.dependent and node.name not in positions:
            positions[node.name] = _build(View(node, graph, positions, builder))
    final = graph.nodes[-1].name
    network, moved = builder.network(_vector(builder, positions[final]))
    names: dict[int, tuple[str, ...]] = {}
    for name, position in positions.items():
        if position in moved:
            names[moved[position]] = (*names.get(moved[position], ()), name)
    require_equal(network, graph, {position: group[0] for position, group in names.items()})
    return Extraction(network, MappingProxyType(names), final)


def _vector(builder: NetworkBuilder, position: int) -> int:
    """The position of the output, which must have a dimension besides the batch."""
    node = builder.nodes[position]
    if node.shape:
        return position
    return builder.add(f"{node.name}/vector", movement("Unsqueeze", torch.zeros(1, dtype=torch.int64)), (position,))


def _build(view: View) -> int:
    builder = BUILDERS.get(view.kind)
    if builder is None:
        raise _unsupported(view)
    try:
        return builder(view)
    except (UnsupportedOperatorError, ExtractionError):
        raise
    except Exception as error:
        raise ExtractionError(f"node '{view.name}' ({view.kind}) cannot be read: {error}") from error


def _unsupported(view: View) -> UnsupportedOperatorError:
    activations = ", ".join(sorted({*NONLINEAR, *MAXIMUM}))
    return view.refusal(
        "is not an affine map or a slope-restricted activation. "
        f"Supported activations: {activations}; affine maps: {', '.join(sorted(AFFINE))}"
    )


def _refuse_softmax(graph: HostGraph) -> None:
    node = graph.nodes[-1]
    logits = softmax_input(node)
    if logits is not None:
        raise UnsupportedOperatorError(
            f"node '{node.name}' ({kind_of(node)}) is a softmax, which is neither an affine map nor a slope-restricted "
            "activation. It keeps the order of the classes: bound the logits with logits=True (command line: --logits) "
            f"or final_node_name='{logits.name}'."
        )
