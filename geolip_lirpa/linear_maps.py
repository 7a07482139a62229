r"""The linear functions behind affine operators, as small objects that say what they are.

Place in the data flow: level 1. ``map(inputs, parameters)`` takes tensors of shape (B, \*shape_i) to (B, \*shape) and
keeps the contract of `AffineOperator.function`. Constructors are in `affine`; whoever needs a rule for one kind of map
(operator norms, for instance) asks for its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = tuple[Tensor, ...]
Parameters = tuple[Tensor, ...]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d}


@dataclass(frozen=True)
class Dense:
    """``weight x`` for vectors along the last axis; weight (out, in)."""

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        return F.linear(inputs[0], parameters[0])


@dataclass(frozen=True)
class TimesMatrix:
    """``x weight``; weight (.., in, out) or (in,), further dimensions broadcast."""

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        return torch.matmul(inputs[0], parameters[0])


@dataclass(frozen=True)
class MatrixTimes:
    """``weight x``; weight (.., out, in) or (in,)."""

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        return torch.matmul(parameters[0], inputs[0])


@dataclass(frozen=True)
class MatrixSum:
    """``x weight + factor c``; parameters (weight, factor)."""

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        return torch.matmul(inputs[0], parameters[0]) + parameters[1] * inputs[1]


@dataclass(frozen=True)
class Convolution:
    """Convolution with zero padding; weight (out, in / groups, \\*kernel), one entry of each tuple for a dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        function = _CONVOLUTIONS[len(self.stride)]
        return function(inputs[0], parameters[0], None, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class TransposedConvolution:
    """Transposed convolution; weight (in, out / groups, \\*kernel)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        function = _TRANSPOSED[len(self.stride)]
        return function(
            inputs[0], parameters[0], None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


@dataclass(frozen=True)
class Scaling:
    """``factor * x`` with broadcasting."""

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        return with_rank(inputs[0], parameters[0].ndim) * parameters[0]


@dataclass(frozen=True)
class Division:
    """``x / divisor`` with broadcasting."""

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        return with_rank(inputs[0], parameters[0].ndim) / parameters[0]


@dataclass(frozen=True)
class Widening:
    """x, repeated along the dimensions where `shape` is longer."""

    shape: tuple[int, ...]

    def __call__(self, inputs: Inputs, _: Parameters) -> Tensor:
        x = with_rank(inputs[0], len(self.shape))
        return x.expand(x.shape[0], *torch.broadcast_shapes(x.shape[1:], self.shape))


@dataclass(frozen=True)
class SignedSum:
    """``sum sign_i x_i`` of branches that broadcast; one number for each branch."""

    def __call__(self, inputs: Inputs, parameters: Parameters) -> Tensor:
        total = parameters[0] * inputs[0]
        for x, sign in zip(inputs[1:], parameters[1:], strict=True):
            total = total + sign * x
        return total


@dataclass(frozen=True)
class Leading:
    """The first entries of all inputs put one after another, in another shape."""

    shape: tuple[int, ...]

    def __call__(self, inputs: Inputs, _: Parameters) -> Tensor:
        flat = _joined(inputs)
        return flat[:, : prod(self.shape)].reshape(flat.shape[0], *self.shape)


@dataclass(frozen=True, eq=False)
class Movement:
    """Every output entry is one input entry (index into the inputs put one after another) or zero (index -1)."""

    index: Tensor
    padded: bool
    shape: tuple[int, ...]

    def __call__(self, inputs: Inputs, _: Parameters) -> Tensor:
        flat = _joined(inputs)
        if self.padded:
            # index -1 is the last column
            flat = torch.cat([flat, flat.new_zeros((flat.shape[0], 1))], dim=1)
        return flat[:, self.index.to(flat.device)].reshape(flat.shape[0], *self.shape)


@dataclass(frozen=True)
class AveragePool:
    """Mean over windows, padding zeros counted."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def __call__(self, inputs: Inputs, _: Parameters) -> Tensor:
        return _POOLS[len(self.kernel)](inputs[0], self.kernel, self.stride, self.padding, False, True)


@dataclass(frozen=True)
class Reduction:
    """Sum or mean over axes, counted with the batch."""

    axes: tuple[int, ...]
    keepdim: bool
    mean: bool

    def __call__(self, inputs: Inputs, _: Parameters) -> Tensor:
        total = inputs[0].sum(dim=self.axes, keepdim=self.keepdim)
        return total / prod(inputs[0].shape[axis] for axis in self.axes) if self.mean else total


@dataclass(frozen=True)
class CumulativeSum:
    """Running sums along an axis, counted with the batch."""

    axis: int

    def __call__(self, inputs: Inputs, _: Parameters) -> Tensor:
        return torch.cumsum(inputs[0], dim=self.axis)


def with_rank(x: Tensor, rank: int) -> Tensor:
    """Put dimensions of size one between batch and sample, as broadcasting without a batch would."""
    missing = rank - (x.ndim - 1)
    return x if missing <= 0 else x.reshape(x.shape[0], *([1] * missing), *x.shape[1:])


def _joined(inputs: Inputs) -> Tensor:
    parts = [x.reshape(x.shape[0], -1) for x in inputs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
