r"""Constructors of the affine maps a network is made of.

Place in the data flow: level 3, beside `network`; whoever builds a `Network` takes its `AffineOperator` from here.
Every constructor keeps the contract of `AffineOperator`: linear for fixed parameters, monotone in absolute value, valid
for any batch size, dtype and device, and an honest count of roundings. Shapes are those of one sample, without the
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from geolip_lirpa.network import AffineOperator, Inputs, Parameters

NOWHERE = -1
"""Position of an entry that comes from no input (a constant or padding)."""

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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
        "MatMul", _times_weight, (exact(weight),), _maybe_exact(bias), length + 1, parameter_roundings
    )


def matmul_left(weight: Tensor, *, parameter_roundings: int = 0) -> AffineOperator:
    """``x -> weight @ x`` with weight (.., out, in) or (in,) and samples of shape (.., in, columns)."""
    return AffineOperator("MatMul", _weight_times, (exact(weight),), None, weight.shape[-1] + 1, parameter_roundings)


def gemm_sum(weight: Tensor, factor: float, *, parameter_roundings: int = 0) -> AffineOperator:
    """``(x, c) -> x @ weight + factor c`` for two branches of the network; weight (in, out)."""
    parameters = (exact(weight), torch.tensor(factor, dtype=torch.float64))
    return AffineOperator("Gemm", _gemm, parameters, None, weight.shape[0] + 1, parameter_roundings)


def convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> AffineOperator:
    """Convolution in one, two or three dimensions; weight (out, in / groups, \\*kernel), bias (out,)."""
    dimensions = weight.ndim - 2
    function = partial(
        _convolve,
        convolution=_CONVOLUTIONS[dimensions],
        options={
            "stride": tuple(stride),
            "padding": tuple(padding),
            "dilation": tuple(dilation),
            "groups": groups,
        },
    )
    # one product for each entry of a filter, and the bias
    roundings = prod(weight.shape[1:]) + 1
    return AffineOperator("Conv", function, (exact(weight),), _channelwise(bias, dimensions), roundings)


def transposed_convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> AffineOperator:
    """Transposed convolution; weight (in, out / groups, \\*kernel), bias (out,)."""
    dimensions = weight.ndim - 2
    function = partial(
        _convolve,
        convolution=_TRANSPOSED[dimensions],
        options={
            "stride": tuple(stride),
            "padding": tuple(padding),
            "output_padding": tuple(output_padding),
            "dilation": tuple(dilation),
            "groups": groups,
        },
    )
    roundings = weight.shape[0] // groups * prod(weight.shape[2:]) + 1
    return AffineOperator("ConvTranspose", function, (exact(weight),), _channelwise(bias, dimensions), roundings)


def scaling(factor: Tensor, bias: Tensor | None = None, *, parameter_roundings: int = 0) -> AffineOperator:
    """``x -> factor * x + bias`` with broadcasting; the factor's shape leaves out the batch."""
    roundings = 1 if bias is None else 2
    return AffineOperator("Mul", _scale, (exact(factor),), _maybe_exact(bias), roundings, parameter_roundings)


def division(divisor: Tensor) -> AffineOperator:
    """``x -> x / divisor`` with broadcasting; no entry of the divisor may be zero."""
    # the coefficient 1 / divisor is rounded
    return AffineOperator("Div", _divide, (exact(divisor),), None, 1, parameter_roundings=1)


def shift(offset: Tensor) -> AffineOperator:
    """``x -> x + offset`` with broadcasting; the offset's shape leaves out the batch."""
    return AffineOperator("Add", partial(_widen, shape=offset.shape), (), exact(offset), 1)


def signed_sum(signs: Sequence[float], bias: Tensor | None = None) -> AffineOperator:
    """``(x_1, .., x_m) -> sum signs_i x_i + bias`` for branches of equal rank that broadcast; signs are 1 or -1."""
    parameters = tuple(torch.tensor(float(sign), dtype=torch.float64) for sign in signs)
    roundings = max(len(signs) - 1, 0) + (bias is not None)
    return AffineOperator("Sum", _signed_sum, parameters, _maybe_exact(bias), roundings)


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
        return AffineOperator(kind, partial(_leading, count=index.numel(), shape=shape))
    padded = bool((index == NOWHERE).any())
    function = partial(_move, index=index.clone(), padded=padded, shape=shape)
    # a constant meets a zero of the linear part: the sum is exact
    return AffineOperator(kind, function, (), _maybe_exact(bias) if padded else None, 0)


def average_pool(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> AffineOperator:
    """Mean over windows, padding zeros counted; one or two dimensions."""
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d}[len(kernel)]
    function = partial(_pool, pool=pool, kernel=tuple(kernel), stride=tuple(stride), padding=tuple(padding))
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
    function = partial(_reduce, axes=tuple(axis + 1 for axis in axes), keepdim=keepdim, mean=mean)
    # the coefficient 1 / count of a mean is rounded
    return AffineOperator("ReduceMean" if mean else "ReduceSum", function, (), None, count + 1, 2 if mean else 0)


def cumulative_sum(axis: int, shape: Sequence[int]) -> AffineOperator:
    """Running sums along one axis of a sample, counted without the batch."""
    return AffineOperator("CumSum", partial(_cumulate, axis=axis + 1), (), None, shape[axis])


def _maybe_exact(values: Tensor | None) -> Tensor | None:
    return None if values is None else exact(values)


def _channelwise(bias: Tensor | None, dimensions: int) -> Tensor | None:
    return None if bias is None else exact(bias).reshape(-1, *([1] * dimensions))


def _times_weight(inputs: Inputs, parameters: Parameters) -> Tensor:
    return torch.matmul(inputs[0], parameters[0])


def _weight_times(inputs: Inputs, parameters: Parameters) -> Tensor:
    return torch.matmul(parameters[0], inputs[0])


def _gemm(inputs: Inputs, parameters: Parameters) -> Tensor:
    return torch.matmul(inputs[0], parameters[0]) + parameters[1] * inputs[1]


def _convolve(inputs: Inputs, parameters: Parameters, *, convolution, options) -> Tensor:  # type: ignore[no-untyped-def]
    result: Tensor = convolution(inputs[0], parameters[0], None, **options)
    return result


def _scale(inputs: Inputs, parameters: Parameters) -> Tensor:
    return _with_rank(inputs[0], parameters[0].ndim) * parameters[0]


def _divide(inputs: Inputs, parameters: Parameters) -> Tensor:
    return _with_rank(inputs[0], parameters[0].ndim) / parameters[0]


def _widen(inputs: Inputs, _: Parameters, *, shape: torch.Size) -> Tensor:
    x = _with_rank(inputs[0], len(shape))
    return x.expand(x.shape[0], *torch.broadcast_shapes(x.shape[1:], shape))


def _signed_sum(inputs: Inputs, parameters: Parameters) -> Tensor:
    total = parameters[0] * inputs[0]
    for x, sign in zip(inputs[1:], parameters[1:], strict=True):
        total = total + sign * x
    return total


def _with_rank(x: Tensor, rank: int) -> Tensor:
    """Put dimensions of size one between batch and sample, as broadcasting without a batch would."""
    missing = rank - (x.ndim - 1)
    return x if missing <= 0 else x.reshape(x.shape[0], *([1] * missing), *x.shape[1:])


def _leading(inputs: Inputs, _: Parameters, *, count: int, shape: tuple[int, ...]) -> Tensor:
    flat = (
        inputs[0].reshape(inputs[0].shape[0], -1)
        if len(inputs) == 1
        else torch.cat([x.reshape(x.shape[0], -1) for x in inputs], dim=1)
    )
    return flat[:, :count].reshape(flat.shape[0], *shape)


def _move(inputs: Inputs, _: Parameters, *, index: Tensor, padded: bool, shape: tuple[int, ...]) -> Tensor:
    parts = [x.reshape(x.shape[0], -1) for x in inputs]
    if padded:
        # NOWHERE = -1 is the last column
        parts.append(parts[0].new_zeros((parts[0].shape[0], 1)))
    flat = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return flat[:, index.to(flat.device)].reshape(flat.shape[0], *shape)


def _pool(inputs: Inputs, _: Parameters, *, pool, kernel, stride, padding) -> Tensor:  # type: ignore[no-untyped-def]
    result: Tensor = pool(inputs[0], kernel, stride, padding, False, True)
    return result


def _reduce(inputs: Inputs, _: Parameters, *, axes: tuple[int, ...], keepdim: bool, mean: bool) -> Tensor:
    total = inputs[0].sum(dim=axes, keepdim=keepdim)
    return total / prod(inputs[0].shape[axis] for axis in axes) if mean else total


def _cumulate(inputs: Inputs, _: Parameters, *, axis: int) -> Tensor:
    return torch.cumsum(inputs[0], dim=axis)
