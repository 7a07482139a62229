"""Small exact rewritings of an ONNX graph before it is turned into torch.

Place in the data flow: level 1, used by `onnx_model`. Each leaves the function unchanged in real arithmetic (cutting
off a softmax excepted, which is done on request only) and copies the model.
"""

from __future__ import annotations

import copy
from typing import Any

from geolip_lirpa.errors import ModelError

_SOFTMAX = ("Softmax", "LogSoftmax")


def without_empty_padding(model: Any) -> Any:
    """Leave out Pad nodes whose pads are all zero; auto_LiRPA cannot read this form."""
    result = copy.deepcopy(model)
    replaced: dict[str, str] = {}
    outputs = {value.name for value in result.graph.output}
    for node in list(result.graph.node):
        pads = _attribute(node, "pads")
        if node.op_type == "Pad" and pads is not None and not any(pads.ints) and node.output[0] not in outputs:
            replaced[node.output[0]] = node.input[0]
            result.graph.node.remove(node)
    for node in result.graph.node:
        for i, name in enumerate(node.input):
            while name in replaced:
                name = replaced[name]
            node.input[i] = name
    return result


def with_weights_right(onnx: Any, model: Any) -> Any:
    """Write ``W @ x`` with a vector x as ``x @ W^T``, to which a batch dimension can be added."""
    result = copy.deepcopy(model)
    ranks = _ranks(onnx.shape_inference.infer_shapes(result))
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type != "MatMul" or node.input[0] not in weights or ranks.get(node.input[1]) != 1:
            continue
        weight = onnx.numpy_helper.to_array(weights[node.input[0]])
        if weight.ndim == 2:
            name = f"{node.input[0]}/transposed"
            if name not in weights:
                weights[name] = onnx.numpy_helper.from_array(weight.T.copy(), name)
                result.graph.initializer.append(weights[name])
            node.input[0], node.input[1] = node.input[1], name
    return _without_unused(result)


def without_softmax(onnx: Any, model: Any) -> Any:
    """End the graph before a softmax or log-softmax at its end; unchanged where there is none.

    Raises:
        ModelError: the softmax does not work on the graph's own values.
    """
    result = copy.deepcopy(model)
    output = result.graph.output[0]
    last = next((node for node in result.graph.node if output.name in node.output), None)
    if last is None or last.op_type not in _SOFTMAX:
        return result
    produced = {name for node in result.graph.node for name in node.output}
    if last.input[0] not in produced:
        raise ModelError(
            f"softmax {last.name or last.output[0]!r} has no operation before it; nothing is left without it."
        )
    element = output.type.tensor_type.elem_type
    logits = onnx.helper.make_tensor_value_info(last.input[0], element, None)
    result.graph.node.remove(last)
    del result.graph.output[:]
    result.graph.output.append(logits)
    return result


def _attribute(node: Any, name: str) -> Any | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _ranks(model: Any) -> dict[str, int]:
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def _without_unused(model: Any) -> Any:
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)
    return model
