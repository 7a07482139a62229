"""Read the networks of this folder as chains of affine maps, without the package that is tested on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from exact_bounds import Chain
from numpy.typing import NDArray
from onnx import numpy_helper

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]
_SIDE = 8  # of the images


def read_chain(path: Path) -> Chain:
    """The network in exact float64 weights; the residual one becomes a chain, the convolutional one dense."""
    graph = onnx.load(str(path)).graph
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    kinds = {node.op_type for node in graph.node}
    names = sorted(name.removesuffix("_weight") for name in arrays if name.endswith("_weight"))
    layers = [(arrays[f"{name}_weight"], arrays[f"{name}_bias"]) for name in names]
    if "Add" in kinds:
        layers = _without_skip(layers)
    if "Conv" in kinds:
        layers = _dense(layers)
    return Chain(tuple(layers), "tanh" if "Tanh" in kinds else "relu")


def _without_skip(layers: list[Affine]) -> list[Affine]:
    """``x + V relu(W x + b)`` for x >= 0, which a ReLU before has made: carry x = relu(x) beside the branch."""
    first, (inner, inner_bias), (outer, outer_bias), last = layers
    unit = np.eye(len(first[1]))
    widened = (np.vstack([unit, inner]), np.concatenate([np.zeros(len(unit)), inner_bias]))
    joined = (np.hstack([unit, outer]), outer_bias)
    return [first, widened, joined, last]


def _dense(layers: list[Affine]) -> list[Affine]:
    """Convolutions with 3x3 kernels, stride 2 and padding 1 as matrices."""
    found: list[Affine] = []
    side = _SIDE
    for weight, bias in layers:
        if weight.ndim == 2:
            found.append((weight, bias))
            continue
        found.append((_convolution(weight, side), np.repeat(bias, (side // 2) ** 2)))
        side //= 2
    return found


def _convolution(weight: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    outputs, inputs = weight.shape[:2]
    half = side // 2
    matrix = np.zeros((outputs, half, half, inputs, side, side))
    for row, column, i, j in np.ndindex(half, half, 3, 3):
        y, x = 2 * row + i - 1, 2 * column + j - 1
        if 0 <= y < side and 0 <= x < side:
            matrix[:, row, column, :, y, x] = weight[:, :, i, j]
    return matrix.reshape(outputs * half * half, inputs * side * side)
