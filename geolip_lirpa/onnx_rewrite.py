"""Small exact rewritings of an ONNX graph before it is turned into torch.

Place in the data flow: level 1, used by `onnx_model`. Each leaves the function unchanged in real arithmetic (cutting
off a softmax excepted, which is done on request only) and copies the model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from geolip_lirpa.errors import ModelError

_SOFTMAX = ("Softmax", "LogSoftmax")
_PASSING = ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout")
_SHAPE_READERS = ("Shape", "Size")
_DOUBLE = 11
# operators whose weights onnx2torch looks for among the initializers alone
_WEIGHTED = ("Conv", "ConvTranspose")
_PADDED = ("Conv", "MaxPool", "AveragePool")
# the last opset whose average pools have no dilations
_PLAIN_POOLS = 18


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


def with_stored_weights(model: Any) -> Any:
    """Store weights of convolutions that are constant nodes as initializers; onnx2torch reads only these."""
    needed = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input[1:]}
    result = copy.deepcopy(model)
    for node in list(result.graph.node):
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None and node.output[0] in needed:
            result.graph.initializer.add().CopyFrom(value.t)
            result.graph.initializer[-1].name = node.output[0]
            result.graph.node.remove(node)
    return result


def with_explicit_padding(onnx: Any, model: Any) -> Any:
    """Write the padding that ``auto_pad`` asks for as ``pads``; nodes of which it is not certain are left as they are.

    SAME_UPPER and SAME_LOWER make outputs of ceil(n / stride) entries out of n. An odd number of zeros has the larger
    half at the end or at the beginning. With dilations, and where entries would have to be cut off instead, engines
    disagree with each other; what is left is refused by the reader.
    """
    if not any(_attribute(node, "auto_pad") for node in model.graph.node):
        return model
    result = copy.deepcopy(model)
    shapes = _shapes(onnx.shape_inference.infer_shapes(result))
    weights = {tensor.name: list(tensor.dims) for tensor in result.graph.initializer}
    for node in result.graph.node:
        auto, kernel = _attribute(node, "auto_pad"), _attribute(node, "kernel_shape")
        if auto is None or node.op_type not in _PADDED:
            continue
        size = list(kernel.ints) if kernel is not None else weights.get(node.input[1], [])[2:]
        pads = _pads(node, auto.s.decode(), shapes.get(node.input[0], [])[2:], size)
        if pads is not None:
            kept = [a for a in node.attribute if a.name not in ("auto_pad", "pads")]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
    return result


def _pads(node: Any, auto: str, shape: list[int], kernel: list[int]) -> list[int] | None:
    """Zeros before and behind each dimension, all beginnings first; None: ``pads`` says it, or sizes are unknown."""
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    if auto not in ("SAME_UPPER", "SAME_LOWER") or len(shape) != len(kernel) or not all(shape):
        return None
    strides, dilations = (
        [1] * len(kernel) if found is None else list(found.ints)
        for found in (_attribute(node, "strides"), _attribute(node, "dilations"))
    )
    totals = [(-(-n // stride) - 1) * stride + k - n for n, k, stride in zip(shape, kernel, strides, strict=True)]
    if min(totals) < 0 or max(dilations) > 1:
        return None
    short = [total // 2 for total in totals]
    long = [total - total // 2 for total in totals]
    return [*short, *long] if auto == "SAME_UPPER" else [*long, *short]


def with_plain_average_pools(onnx: Any, model: Any) -> Any:
    """Declare opset 18 where the only news of later ones are attributes of average pools that are not used.

    Opset 19 gives them dilations, and onnx2torch serves those of opset 11. Without dilation and ceil mode they are the
    same operator; the checker refuses the lower opset when another node needs a later one.

    Args:
        onnx: the package.
        model: ModelProto, left as it is.
    """
    pools = [node for node in model.graph.node if node.op_type == "AveragePool" and node.domain in ("", "ai.onnx")]
    if not pools or all(e.version <= _PLAIN_POOLS for e in model.opset_import if e.domain in ("", "ai.onnx")):
        return model
    lowered = copy.deepcopy(model)
    for node in lowered.graph.node:
        if node.op_type == "AveragePool":
            if any(a.name == "ceil_mode" and a.i != 0 for a in node.attribute):
                return model
            plain = [a for a in node.attribute if a.name != "dilations" or any(d != 1 for d in a.ints)]
            del node.attribute[:]
            node.attribute.extend(plain)
    for entry in lowered.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = _PLAIN_POOLS
    try:
        onnx.checker.check_model(lowered)
    except onnx.checker.ValidationError:
        return model
    return lowered


def with_weights_right(onnx: Any, model: Any) -> Any:
    """Write ``W @ x`` with a vector x as ``x @ W^T``, to which a batch dimension can be added."""
    result = copy.deepcopy(model)
    shapes = _shapes(onnx.shape_inference.infer_shapes(result))
    weights = {tensor.name: tensor for tensor in result.graph.initializer}
    for node in result.graph.node:
        if node.op_type != "MatMul" or node.input[0] not in weights or len(shapes.get(node.input[1], [])) != 1:
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
    """End the graph before the one softmax or log-softmax at its end; unchanged where there is none.

    Nodes that only name or reshape the probabilities go with it.

    Raises:
        ModelError: the softmax does not work on the graph's own values, or works on another softmax.
    """
    result = copy.deepcopy(model)
    output = result.graph.output[0]
    producers = {name: node for node in result.graph.node for name in node.output}
    last = _source(producers, output.name)
    if last is None or last.op_type not in _SOFTMAX:
        return result
    name = last.name or last.output[0]
    if last.input[0] not in producers:
        raise ModelError(f"softmax {name!r} has no operation before it; nothing is left without it.")
    before = _source(producers, last.input[0])
    if before is not None and before.op_type in _SOFTMAX:
        raise ModelError(
            f"{last.op_type} {name!r} works on {before.op_type} {before.name or before.output[0]!r}, a softmax again, "
            "which is neither an affine map nor a slope-restricted activation; only one is left out. Remove one of "
            "them from the model."
        )
    logits = onnx.helper.make_tensor_value_info(last.input[0], output.type.tensor_type.elem_type, None)
    del result.graph.output[:]
    result.graph.output.append(logits)
    _remove_dead(result.graph)
    return result


def _source(producers: Mapping[str, Any], name: str) -> Any | None:
    """The node that computes a value, seen through nodes that only name or reshape it."""
    node = producers.get(name)
    while node is not None and node.op_type in _PASSING:
        node = producers.get(node.input[0])
    return node


def _remove_dead(graph: Any) -> None:
    """Remove the nodes that the output does not need."""
    needed = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)


def require_full_precision(model: Any, element: int) -> None:
    """Refuse casts of values to a type narrower than the input's: they make step functions.

    Args:
        model: the ONNX model.
        element: element type of the graph's input, float32 or float64.

    Raises:
        ModelError: names the node.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    dependent = {value.name for value in model.graph.input} - initializers
    for node in model.graph.node:
        if node.op_type in _SHAPE_READERS or dependent.isdisjoint(node.input):
            continue
        dependent.update(node.output)
        target = _attribute(node, "to")
        if node.op_type == "Cast" and target is not None and target.i not in (_DOUBLE, element):
            raise ModelError(
                f"Cast {node.name or node.output[0]!r} rounds to ONNX element type {target.i}, narrower than the "
                f"input's {element}: a step function, whose slopes have no bound. Export the model without the cast."
            )


def _attribute(node: Any, name: str) -> Any | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _shapes(model: Any) -> dict[str, list[int]]:
    """Shapes of values, 0 for a size that is not known."""
    graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    known = [v for v in values if v.type.tensor_type.HasField("shape")]
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in known}


def _without_unused(model: Any) -> Any:
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)
    return model
