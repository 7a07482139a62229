"""Recognise a softmax at the end of a host model.

Place in the data flow: level 4, used by `graph`. The host keeps softmax as one node or splits it, by version and
option, into ``exp(x - max x) / sum exp(x - max x)``; both forms are recognised by structure.
"""

from __future__ import annotations

from typing import Any

from geolip_lirpa.errors import ExtractionError, UnsupportedOperatorError
from geolip_lirpa.lirpa.host import kind_of, nodes_of

_WHOLE = ("BoundSoftmax", "BoundLogSoftmax")
_PASSING = ("BoundIdentity", "BoundFlatten", "BoundReshape", "BoundSqueeze")


def softmax_input(node: Any) -> Any | None:
    """The host node a softmax works on; None when the node does not end a softmax."""
    if kind_of(node) in _WHOLE:
        return node.inputs[0]
    numerator = _numerator(node)
    if numerator is None:
        return None
    shifted = numerator.inputs[0]
    if kind_of(shifted) == "BoundSub" and _is_maximum_of(shifted.inputs[1], shifted.inputs[0]):
        return shifted.inputs[0]
    return shifted


def find_logits(lirpa_model: Any, final_node_name: str | None) -> str:
    """Name of the node that feeds the softmax at the end, or of the end itself where there is none.

    Raises:
        ExtractionError: there is no such node.
        UnsupportedOperatorError: the node that feeds it is a softmax again.
    """
    name = str(getattr(lirpa_model, "final_name", None)) if final_node_name is None else final_node_name
    nodes = nodes_of(lirpa_model)
    if name not in nodes:
        raise ExtractionError(f"final_node_name: no node '{name}'. Nodes of this model: {', '.join(nodes)}.")
    node = nodes[name]
    while kind_of(node) in _PASSING and softmax_input(node.inputs[0]) is not None:
        node = node.inputs[0]
    found = softmax_input(node)
    if found is None:
        return str(node.name)
    _refuse_second(node, found)
    return str(found.name)


def _refuse_second(node: Any, found: Any) -> None:
    end = found
    while kind_of(end) in _PASSING:
        end = end.inputs[0]
    below = softmax_input(end)
    if below is not None:
        raise UnsupportedOperatorError(
            f"node '{node.name}' is a softmax of node '{end.name}' ({kind_of(end)}), a softmax again, which is neither "
            "an affine map nor a slope-restricted activation; logits=True leaves out one softmax only. Remove one from "
            f"the model, or name the end: final_node_name='{below.name}'."
        )


def _numerator(node: Any) -> Any | None:
    """``e`` of ``e / sum e``, with e an exponential; newer hosts write the quotient as a product."""
    if kind_of(node) not in ("BoundDiv", "BoundMul") or len(node.inputs) != 2:
        return None
    exponential, total = node.inputs
    if kind_of(node) == "BoundMul":
        if kind_of(total) != "BoundReciprocal":
            return None
        total = total.inputs[0]
    if kind_of(exponential) != "BoundExp" or kind_of(total) != "BoundReduceSum":
        return None
    return exponential if total.inputs[0] is exponential else None


def _is_maximum_of(node: Any, x: Any) -> bool:
    while kind_of(node) in ("BoundUnsqueeze", "BoundReshape"):
        node = node.inputs[0]
    return kind_of(node) == "BoundReduceMax" and node.inputs[0] is x
