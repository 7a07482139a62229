r"""Affine operators and their adjoints, for the hand-written backward pass of the low-rank solver.

Place in the data flow: level 7, a building block of the low-rank solver; untrusted. A *step* applies the linear part of
an operator and, later, its transpose. The kinds that carry the cost have a transpose of their own, which keeps no
values; all others are differentiated by torch.

Convolutions on a CPU are slow in two cases, which are treated apart: float64 ones unfold the whole batch at once, which
leaves the caches and, above some size, touches fresh memory on every call, so they go piece by piece; float32 gradients
by inputs of very few channels become one matrix product and a fold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from geolip_lirpa.linear_maps import Convolution, Dense, Inputs, Leading, TimesMatrix
from geolip_lirpa.network import AffineOperator

# Bytes of unfolded columns that are worked on together.
_PIECE_BYTES = 4 << 20
# Inputs with fewer channels get their float32 gradients by folding.
_FEW_CHANNELS = 8

Adjoint = Callable[[Tensor], Inputs]


class LinearStep(Protocol):
    """The linear part of an operator."""

    def apply(self, inputs: Inputs) -> tuple[Tensor, Adjoint]:
        """The value, and the map from the gradient by it to the gradients by the inputs."""
        ...


def linear_step(operator: AffineOperator) -> LinearStep:
    """The quickest step for an operator (its parameters must not change afterwards)."""
    function = operator.function
    if isinstance(function, Dense):
        return MatrixStep(operator.parameters[0])
    if isinstance(function, TimesMatrix) and operator.parameters[0].ndim == 2:
        return MatrixStep(operator.parameters[0].T.contiguous())
    if isinstance(function, Convolution) and len(function.stride) == 2 and function.groups == 1:
        return ConvolutionStep(function, operator.parameters[0])
    if isinstance(function, Leading):
        return ReshapeStep(operator)
    return GeneralStep(operator)


@dataclass(frozen=True)
class MatrixStep:
    """``weight x`` along the last axis."""

    weight: Tensor

    def apply(self, inputs: Inputs) -> tuple[Tensor, Adjoint]:
        return F.linear(inputs[0], self.weight), lambda g: (g @ self.weight,)


@dataclass(frozen=True)
class ReshapeStep:
    """All entries of one input in another shape; whatever else `Leading` does is left to torch."""

    operator: AffineOperator

    def apply(self, inputs: Inputs) -> tuple[Tensor, Adjoint]:
        value = self.operator.linear(inputs)
        if len(inputs) > 1 or value.numel() != inputs[0].numel():
            return GeneralStep(self.operator).apply(inputs)
        shape = inputs[0].shape
        return value, lambda g: (g.reshape(shape),)


@dataclass(frozen=True)
class GeneralStep:
    """Any operator, differentiated by torch; keeps what torch keeps."""

    operator: AffineOperator

    def apply(self, inputs: Inputs) -> tuple[Tensor, Adjoint]:
        leaves = tuple(x.detach().requires_grad_(True) for x in inputs)
        with torch.enable_grad():
            value = self.operator.linear(leaves)
        return value.detach(), lambda g: torch.autograd.grad(value, leaves, g)


@dataclass(frozen=True)
class ConvolutionStep:
    """A two-dimensional convolution with zero padding."""

    function: Convolution
    weight: Tensor

    def apply(self, inputs: Inputs) -> tuple[Tensor, Adjoint]:
        shape = inputs[0].shape
        return self._forward(inputs[0]), lambda g: (self._backward(g, shape),)

    def _forward(self, x: Tensor) -> Tensor:
        if x.dtype is not torch.float64 or x.device.type != "cpu":
            return self.function((x,), (self.weight,))
        pieces = x.split(self._piece(prod(x.shape[2:]) // prod(self.function.stride), x.element_size()))
        return _joined([self.function((piece,), (self.weight,)) for piece in pieces])

    def _backward(self, g: Tensor, shape: torch.Size) -> Tensor:
        if g.dtype is torch.float32 and g.device.type == "cpu" and shape[1] < _FEW_CHANNELS:
            return _joined([self._fold(part, shape) for part in g.split(self._piece(prod(g.shape[2:]), 4))])
        f = self.function
        # only the input's shape matters where its values do
        like = g.new_empty(1).expand(shape)
        found: Tensor = torch.ops.aten.convolution_backward(
            g, like, self.weight, None, f.stride, f.padding, f.dilation, False, [0, 0], 1, [True, False, False]
        )[0]
        return found

    def _fold(self, g: Tensor, shape: torch.Size) -> Tensor:
        columns = self.weight.flatten(1).T @ g.flatten(2)
        f = self.function
        return F.fold(columns, shape[2:], self.weight.shape[2:], f.dilation, f.padding, f.stride)

    def _piece(self, places: int, bytes_each: int) -> int:
        """Samples whose unfolded columns, one for each place of the output, fill one piece."""
        return max(1, _PIECE_BYTES // (prod(self.weight.shape[1:]) * places * bytes_each))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
