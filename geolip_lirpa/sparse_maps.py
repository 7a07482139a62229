r"""Affine operators as sparse matrices, from what their maps are.

Place in the data flow: level 3, used by `sparse_flows`; part of the trusted base. Sending unit columns through a
convolution costs as much as a forward pass for each of them; its matrix, a few dozen entries in each row, is written
down at once. Every entry is one coefficient of the operator, the number that the operator itself would multiply with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, kron
from torch import Tensor

from geolip_lirpa.linear_maps import (
    AveragePool,
    Convolution,
    Dense,
    Division,
    Leading,
    Movement,
    Reduction,
    Scaling,
    SignedSum,
    TimesMatrix,
    TransposedConvolution,
    Widening,
    with_rank,
)
from geolip_lirpa.network import AffineOperator
from geolip_lirpa.rounding import Array

Shape = tuple[int, ...]
Indices = NDArray[np.int64]

# Entries of one matrix.
_LARGEST = 2**28


def sparse_matrices(operator: AffineOperator, shapes: Sequence[Shape], result: Shape) -> list[csr_array] | None:
    """The operator's matrices, one for each input, on flattened samples.

    Args:
        operator: float64, on the CPU.
        shapes: of the inputs.
        result: of the output.

    Returns:
        (N_out, N_in) for each input, or None for a map that has no rule here or too many entries.
    """
    function, sizes = operator.function, [math.prod(s) for s in shapes]
    rows = math.prod(result)
    if isinstance(function, Movement | Leading):
        return _movements(function, sizes, rows)
    if isinstance(function, SignedSum):
        signs = [float(p) for p in operator.parameters]
        return [
            _gather(_repeated(s, result), np.full(rows, sign), n)
            for s, n, sign in zip(shapes, sizes, signs, strict=True)
        ]
    if len(shapes) != 1:
        return None
    found = _single(operator, shapes[0], result)
    return None if found is None else [found]


def _single(operator: AffineOperator, shape: Shape, result: Shape) -> csr_array | None:
    function, size = operator.function, math.prod(shape)
    if isinstance(function, Convolution | TransposedConvolution):
        return _filter(function, operator.parameters[0], shape, result)
    if isinstance(function, Dense | TimesMatrix) and operator.parameters[0].ndim == 2:
        weight = operator.parameters[0] if isinstance(function, Dense) else operator.parameters[0].T
        return _matrix(weight, size)
    if isinstance(function, Scaling | Division):
        factor = np.broadcast_to(operator.parameters[0].numpy(), result).reshape(-1)
        values = factor if isinstance(function, Scaling) else 1.0 / factor
        return _gather(_repeated(shape, result), values, size)
    if isinstance(function, Widening):
        return _gather(_repeated(shape, result), np.ones(math.prod(result)), size)
    if isinstance(function, AveragePool) and len(shape) == len(function.kernel) + 1:
        return _pool(function, shape, result)
    if isinstance(function, Reduction):
        return _reduction(function, shape)
    return None


def _gather(index: Indices, values: Array, columns: int) -> csr_array:
    """One entry in each row; none where the index is -1."""
    rows = np.flatnonzero(index >= 0)
    return csr_array((values[rows], (rows, index[rows])), shape=(len(index), columns))


def _repeated(shape: Shape, result: Shape) -> Indices:
    """Which entry of a sample each entry of the broadcast result is."""
    numbers = with_rank(torch.arange(math.prod(shape)).reshape(1, *shape), len(result))[0]
    return np.asarray(numbers.expand(result).reshape(-1).numpy())


def _movements(function: Movement | Leading, sizes: Sequence[int], rows: int) -> list[csr_array]:
    index = np.arange(rows) if isinstance(function, Leading) else function.index.cpu().numpy()
    found, first = [], 0
    for size in sizes:
        inside = (index >= first) & (index < first + size)
        found.append(_gather(np.where(inside, index - first, -1), np.ones(rows), size))
        first += size
    return found


def _matrix(weight: Tensor, size: int) -> csr_array | None:
    copies = size // weight.shape[1]
    if copies * weight.numel() > _LARGEST:
        return None
    matrix = csr_array(weight.numpy())
    return matrix if copies == 1 else csr_array(kron(eye_array(copies), matrix, format="csr"))


def _reduction(function: Reduction, shape: Shape) -> csr_array:
    kept = tuple(1 if axis + 1 in function.axes else n for axis, n in enumerate(shape))
    index = _repeated(kept, shape)
    count = math.prod(shape) // max(1, math.prod(kept))
    value = 1.0 / count if function.mean else 1.0
    return csr_array((np.full(len(index), value), (index, np.arange(len(index)))), shape=(math.prod(kept), len(index)))


def _windows(shape: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Indices | None:
    """For each channel, place in the kernel and output position the input's entry, -1 for padding: (C, K, L)."""
    axes = len(kernel)
    if axes > 2:
        return None
    sizes = (shape[0], *([1] * (2 - axes)), *shape[1:])
    one, zero = (1,) * (2 - axes), (0,) * (2 - axes)
    # numbers from one on, so that padding is zero; exact in float64
    numbers = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).reshape(1, *sizes)
    unfolded = F.unfold(
        numbers, (*one, *kernel), dilation=(*one, *dilation), padding=(*zero, *padding), stride=(*one, *stride)
    )
    return np.asarray(unfolded.reshape(shape[0], math.prod(kernel), -1).numpy()).astype(np.int64) - 1


def _filter(
    function: Convolution | TransposedConvolution, weight: Tensor, shape: Shape, result: Shape
) -> csr_array | None:
    """A convolution; a transposed one is the transpose of the convolution with the same weight."""
    if isinstance(function, TransposedConvolution):
        plain = Convolution(function.stride, function.padding, function.dilation, function.groups)
        found = _filter(plain, weight, result, shape)
        return None if found is None else csr_array(found.T.tocsr())
    kernel = tuple(weight.shape[2:])
    windows = _windows(shape, kernel, function.stride, function.padding, function.dilation)
    if windows is None or weight[:, 0].numel() * weight.shape[1] * windows.shape[2] > _LARGEST:
        return None
    outputs, inputs = weight.shape[0] // function.groups, weight.shape[1]
    length = windows.shape[2]
    if outputs * function.groups * length != math.prod(result):
        return None
    values = weight.reshape(function.groups, outputs, inputs, -1).numpy()
    columns = windows.reshape(function.groups, 1, inputs, windows.shape[1], length)
    shown = np.broadcast_to(columns, (function.groups, outputs, *columns.shape[2:]))
    rows = np.arange(function.groups * outputs * length).reshape(function.groups, outputs, 1, 1, length)
    rows = np.broadcast_to(rows, shown.shape)
    inside = shown >= 0
    data = np.broadcast_to(values[..., None], shown.shape)[inside]
    return csr_array((data, (rows[inside], shown[inside])), shape=(math.prod(result), math.prod(shape)))


def _pool(function: AveragePool, shape: Shape, result: Shape) -> csr_array | None:
    windows = _windows(shape, function.kernel, function.stride, function.padding, (1,) * len(function.kernel))
    if windows is None or windows.shape[0] * windows.shape[2] != math.prod(result):
        return None
    rows = np.arange(math.prod(result)).reshape(windows.shape[0], 1, windows.shape[2])
    rows = np.broadcast_to(rows, windows.shape)
    inside = windows >= 0
    data = np.full(int(inside.sum()), 1.0 / math.prod(function.kernel))
    return csr_array((data, (rows[inside], windows[inside])), shape=(math.prod(result), math.prod(shape)))
