"""Small ONNX files made by the tests themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = Sequence[NDArray[np.float32]]


def random_weights(sizes: Sequence[int], seed: int = 0) -> list[NDArray[np.float32]]:
    """Matrices (out, in) of a chain of layers."""
    generator = np.random.default_rng(seed)
    return [(generator.standard_normal((n, m)) / np.sqrt(m)).astype(np.float32) for m, n in pairwise(sizes)]


def mlp_model(weights: Weights, activation: str = "Relu", end: str | None = None) -> onnx.ModelProto:
    """Gemm layers with an activation between them, and one more operator at the end if asked for."""
    nodes, initializers, current = [], [], "x"
    for i, weight in enumerate(weights):
        bias = np.linspace(-0.5, 0.5, len(weight), dtype=np.float32)
        initializers += [numpy_helper.from_array(weight, f"W{i}"), numpy_helper.from_array(bias, f"b{i}")]
        nodes.append(helper.make_node("Gemm", [current, f"W{i}", f"b{i}"], [f"v{i}"], transB=1))
        current = f"v{i}"
        if i + 1 < len(weights):
            nodes.append(helper.make_node(activation, [current], [f"z{i}"]))
            current = f"z{i}"
    if end is not None:
        nodes.append(helper.make_node(end, [current], ["end"]))
        current = "end"
    return graph_model(nodes, initializers, (1, weights[0].shape[1]), (1, weights[-1].shape[0]), current)


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto],
    input_shape: Sequence[int],
    output_shape: Sequence[int] | None,
    output: str,
) -> onnx.ModelProto:
    """A model with input ``x`` and one output."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def write_mlp(path: Path, weights: Weights, activation: str = "Relu", end: str | None = None) -> Path:
    """Write a chain of layers and return its path."""
    onnx.save(mlp_model(weights, activation, end), str(path))
    return path
