r"""Constructors of the affine maps a network is made of.

Place in the data flow: level 3, beside `network`; whoever builds a `Network` takes its `AffineOperator` from here.
Every constructor keeps the contract of `AffineOperator`: linear for fixed parameters, monotone in absolute value, valid
for any batch size, dtype and device, and an honest count of roundings. Shapes are those of one sample, without the
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from geolip_lirpa import linear_maps
from geolip_lirpa.network import AffineOperator

NOWHERE = -1
"""Position of an entry that comes from no input (a constant or padding)."""


def exact(values: Tensor) -> Tensor:
    """A float64 copy, exact for every narrower type."""
    return values.detach().to(torch.float64).clone()


def matmul_right(weight: Tensor, bias: Tensor | None = None, *, parameter_roundings: int = 0) -> AffineOperator:
    """``x -> x @ weight + bias``.

    Args:
        weight: (.., in, out) or (in,); further dimensions broadcast against those of one sample.
        bias: broadcastable to the output.
        parameter_roundings: see `AffineOperator`.
    """
    length = weight.shape[-2] if weight.ndim > 1 else weight.shape[0]
    return AffineOperator(
        "MatMul", linear_maps.TimesMatrix(), (exact(weight),), _maybe_exact(bias), length + 1, parameter_roundings
    )


def matmul_left(weight: Tensor, *, parameter_roundings: int = 0) -> AffineOperator:
    """``x -> weight @ x`` with weight (.., out, in) or (in,) and samples of shape (.., in, columns)."""
    count = weight.shape[-1] + 1
    return AffineOperator("MatMul", linear_maps.MatrixTimes(), (exact(weight),), None, count, parameter_roundings)


def gemm_sum(weight: Tensor, factor: float, *, parameter_roundings: int = 0) -> AffineOperator:
    """``(x, c) -> x @ weight + factor c`` for two branches of the network; weight (in, out)."""
    parameters = (exact(weight), torch.tensor(factor, dtype=torch.float64))
    count = weight.shape[0] + 1
    return AffineOperator("Gemm", linear_maps.MatrixSum(), parameters, None, count, parameter_roundings)


def convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    parameter_roundings: int = 0,
) -> AffineOperator:
    """Convolution in one, two or three dimensions; weight (out, in / groups, \\*kernel), bias (out,)."""
    dimensions = weight.ndim - 2
    function = linear_maps.Convolution(tuple(stride), tuple(padding), tuple(dilation), groups)
    # one product for each entry of a filter, and the bias
    roundings = prod(weight.shape[1:]) + 1
    added = _channelwise(bias, dimensions)
    return AffineOperator("Conv", function, (exact(weight),), added, roundings, parameter_roundings)


def transposed_convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    parameter_roundings: int = 0,
) -> AffineOperator:
    """Transposed convolution; weight (in, out / groups, \\*kernel), bias (out,)."""
    dimensions = weight.ndim - 2
    function = linear_maps.TransposedConvolution(
        tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation), groups
    )
    roundings = weight.shape[0] // groups * prod(weight.shape[2:]) + 1
    added = _channelwise(bias, dimensions)
    return AffineOperator("ConvTranspose", function, (exact(weight),), added, roundings, parameter_roundings)


def scaling(factor: Tensor, bias: Tensor | None = None, *, parameter_roundings: int = 0) -> AffineOperator:
    """``x -> factor * x + bias`` with broadcasting; the factor's shape leaves out the batch."""
    roundings = 1 if bias is None else 2
    return AffineOperator(
        "Mul", linear_maps.Scaling(), (exact(factor),), _maybe_exact(bias), roundings, parameter_roundings
    )


def division(divisor: Tensor) -> AffineOperator:
    """``x -> x / divisor`` with broadcasting; no entry of the divisor may be zero."""
    # the coefficient 1 / divisor is rounded
    return AffineOperator("Div", linear_maps.Division(), (exact(divisor),), None, 1, parameter_roundings=1)


def shift(offset: Tensor, *, parameter_roundings: int = 0) -> AffineOperator:
    """``x -> x + offset`` with broadcasting; the offset's shape leaves out the batch."""
    function = linear_maps.Widening(tuple(offset.shape))
    return AffineOperator("Add", function, (), exact(offset), 1, parameter_roundings)


def signed_sum(signs: Sequence[float], bias: Tensor | None = None) -> AffineOperator:
    """``(x_1, .., x_m) -> sum signs_i x_i + bias`` for branches of equal rank that broadcast; signs are 1 or -1."""
    parameters = tuple(torch.tensor(float(sign), dtype=torch.float64) for sign in signs)
    roundings = max(len(signs) - 1, 0) + (bias is not None)
    return AffineOperator("Sum", linear_maps.SignedSum(), parameters, _maybe_exact(bias), roundings)


def movement(kind: str, positions: Tensor, bias: Tensor | None = None) -> AffineOperator:
    """A map whose every output entry is one input entry, or a constant.

    Args:
        kind: name for messages.
        positions: int64, shape of the output: the entry's place in the inputs, flattened and put one after another;
            `NOWHERE` where no input enters.
        bias: shape of the output; the constants, zero elsewhere.
    """
    index = positions.reshape(-1)
    shape = tuple(positions.shape)
    if torch.equal(index, torch.arange(index.numel(), device=index.device)):
        return AffineOperator(kind, linear_maps.Leading(shape))
    padded = bool((index == NOWHERE).any())
    function = linear_maps.Movement(index.clone(), padded, shape)
    # a constant meets a zero of the linear part: the sum is exact
    return AffineOperator(kind, function, (), _maybe_exact(bias) if padded else None, 0)


def average_pool(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> AffineOperator:
    """Mean over windows, padding zeros counted; one or two dimensions."""
    function = linear_maps.AveragePool(tuple(kernel), tuple(stride), tuple(padding))
    # the coefficient 1 / count is rounded
    return AffineOperator("AveragePool", function, (), None, prod(kernel) + 1, parameter_roundings=2)


def reduction(axes: Sequence[int], shape: Sequence[int], *, keepdim: bool, mean: bool) -> AffineOperator:
    """Sum or mean over axes of one sample.

    Args:
        axes: non-negative, counted without the batch.
        shape: the sample's shape.
        keepdim: keep reduced axes with size one.
        mean: divide by the number of entries.
    """
    count = prod(shape[axis] for axis in axes)
    function = linear_maps.Reduction(tuple(axis + 1 for axis in axes), keepdim, mean)
    # the coefficient 1 / count of a mean is rounded
    return AffineOperator("ReduceMean" if mean else "ReduceSum", function, (), None, count + 1, 2 if mean else 0)


def cumulative_sum(axis: int, shape: Sequence[int]) -> AffineOperator:
    """Running sums along one axis of a sample, counted without the batch."""
    return AffineOperator("CumSum", linear_maps.CumulativeSum(axis + 1), (), None, shape[axis])


def _maybe_exact(values: Tensor | None) -> Tensor | None:
    return None if values is None else exact(values)


def _channelwise(bias: Tensor | None, dimensions: int) -> Tensor | None:
    return None if bias is None else exact(bias).reshape(-1, *([1] * dimensions))
