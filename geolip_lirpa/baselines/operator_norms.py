r"""Upper bounds of the l_2 norms of affine operators, without forming their matrices.

Place in the data flow: level 6, used by `matrix_free`; trusted, rounded outward. The rules:

* A *core* (a dense layer or a convolution) together with the diagonal maps around it: with :math:`|f_i| \le g_i`,
  :math:`\|\mathrm{diag}(f) A\| \le \|\mathrm{diag}(g) A\|`. So a scaling that is not one number for each channel is
  replaced by the largest factors of the channels, and the scaled weights are bounded at once: by `stencil_norm_bound`
  for a convolution, by `sharp_spectral_norm_bound` for a matrix.
* A sum of branches: :math:`\|\sum_i \pm x_i\| \le \sum_i \|x_i\|`; repeating entries m times costs :math:`\sqrt m`.
* A map that moves entries: :math:`\sqrt m`, where m is the largest number of copies of one entry.
* All others: :math:`\|A\|_2 \le \sqrt{\|A\|_1 \|A\|_\infty}`, from :math:`|A| \mathbf 1` and :math:`|A|^T \mathbf 1`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.linear_maps import (
    Convolution,
    Dense,
    Division,
    Leading,
    MatrixSum,
    MatrixTimes,
    Movement,
    Scaling,
    SignedSum,
    TimesMatrix,
    TransposedConvolution,
    Widening,
)
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.positive_definite import sharp_spectral_norm_bound
from geolip_lirpa.rounding import PARAMETER_RANGE, Array, gamma
from geolip_lirpa.stencils import convolution_stencil, stencil_norm_bound

#: Far above what the products of one sum can lose to underflow.
TINY = 1e-290

_MATRICES = (Dense, TimesMatrix, MatrixTimes)
_FILTERS = (Convolution, TransposedConvolution)


@dataclass(frozen=True)
class LinearPart:
    r"""What a node computes from an earlier one, :math:`\mathrm{diag}(f)\, A\, \mathrm{diag}(g)`.

    Args:
        source: position of the earlier node.
        core: the operator A, None for the identity.
        before: bounds of :math:`|g|` at the source, its shape.
        after: bounds of :math:`|f|`, the shape of the core's output.
        roundings: relative errors of the product of both.
    """

    source: int
    core: AffineOperator | None
    before: Tensor
    after: Tensor
    roundings: int

    def norm_bound(self) -> float:
        """Proven upper bound of the norm on l_2."""
        slack = 1.0 + gamma(self.roundings + 8)
        if self.core is None:
            return float((self.after * self.before.reshape(self.after.shape)).max()) * slack + TINY
        if isinstance(self.core.function, _FILTERS):
            return _filter_norm(self.core, self.before, self.after, self.roundings)
        if not is_core(self.core):
            return _scaled_bound(self.core, self.before, self.after) * slack
        weight = _matrix_of(self.core)
        rows, columns = (_along_matrix(f, self.core) for f in (self.after, self.before))
        matrix = rows[:, None] * weight.numpy() * columns
        error = gamma(self.roundings + self.core.parameter_roundings + 4) * np.abs(matrix)
        return sharp_spectral_norm_bound(matrix, error)


def require_range(operator: AffineOperator) -> None:
    """Refuse coefficients whose products might underflow or overflow; error bounds would not hold for them."""
    if not all(PARAMETER_RANGE.holds(p) for p in operator.parameters):
        raise SpecificationError(
            f"{operator.kind}: holds coefficients of another size than {PARAMETER_RANGE}; proofs in float64 need that. "
            "Rescale the layer, or set coefficients that do not matter to zero."
        )


def linear_part(network: Network, position: int, factor: Tensor | None = None) -> LinearPart:
    """A map of one input and the diagonal maps around it, as far back as they reach.

    Args:
        network: float64, on the CPU.
        position: of the node.
        factor: non-negative bounds of factors by which the node's value is multiplied, its shape (slopes).
    """
    after, roundings, position = _diagonal_run(network, position, factor)
    node = network.nodes[position]
    operation = node.operation
    if not isinstance(operation, AffineOperator) or len(node.inputs) != 1:
        return LinearPart(position, None, torch.ones(node.shape, dtype=torch.float64), after, roundings)
    require_range(operation)
    before, more, source = _diagonal_run(network, node.inputs[0])
    return LinearPart(source, operation, before, after.reshape(node.shape), roundings + more + 1)


def is_core(operator: AffineOperator) -> bool:
    """A dense layer with a plain matrix, or a convolution: every coefficient is one parameter."""
    if isinstance(operator.function, _MATRICES):
        return operator.parameters[0].ndim == 2
    return isinstance(operator.function, _FILTERS)


def diagonal_factor(operator: AffineOperator, shape: Sequence[int], result: Sequence[int]) -> tuple[Tensor, int] | None:
    """Sizes of the factors of a map that scales each entry and may reshape, and their roundings; None for others."""
    if math.prod(shape) != math.prod(result):
        return None
    function = operator.function
    if isinstance(function, Scaling | Division):
        factor = operator.parameters[0].abs()
        sizes = 1.0 / factor if isinstance(function, Division) else factor
        # one rounding of a quotient is counted in parameter_roundings
        return torch.broadcast_to(sizes, tuple(result)).contiguous(), operator.parameter_roundings
    if isinstance(function, SignedSum) and len(operator.parameters) == 1:
        return operator.parameters[0].abs().expand(tuple(result)), operator.parameter_roundings
    if isinstance(function, Widening | Leading):
        return torch.ones(tuple(result), dtype=torch.float64), 0
    return None


def _diagonal_run(network: Network, position: int, factor: Tensor | None = None) -> tuple[Tensor, int, int]:
    """Product of the factors of diagonal maps that end in a node, its roundings, and the node where they begin."""
    shape = network.nodes[position].shape
    total, roundings = torch.ones(shape, dtype=torch.float64) if factor is None else factor.reshape(shape), 0
    while True:
        node = network.nodes[position]
        if not isinstance(node.operation, AffineOperator) or len(node.inputs) != 1:
            break
        found = diagonal_factor(node.operation, network.nodes[node.inputs[0]].shape, node.shape)
        if found is None:
            break
        require_range(node.operation)
        total = _raised(total * found[0].reshape(shape))
        roundings += found[1] + 1
        position = node.inputs[0]
    return total, roundings, position


def _raised(factors: Tensor) -> Tensor:
    """Small factors, but not zero, moved up: no product with further ones and with a coefficient underflows."""
    smallest = PARAMETER_RANGE.smallest
    return torch.where((factors > 0) & (factors < smallest), smallest, factors)


# --- norms of operators -----------------------------------------------------------------------------------------------


def branch_bound(operator: AffineOperator, shapes: Sequence[Sequence[int]], lengths: Sequence[float]) -> float:
    """Upper bound of the length of an operator's linear part, given its inputs' lengths; for maps without a core.

    Args:
        operator: any.
        shapes: of the inputs, one sample each.
        lengths: upper bounds of the inputs' l_2 lengths.
    """
    require_range(operator)
    rounding = 1.0 + gamma(4 * len(lengths) + 16)
    if isinstance(operator.function, SignedSum):
        copies = _copies(operator, shapes)
        sizes = [float(p.abs()) for p in operator.parameters]
        parts = [math.sqrt(c) * size * r for c, size, r in zip(copies, sizes, lengths, strict=True)]
        return math.fsum(parts) * rounding
    joint = math.hypot(*lengths) * rounding
    if isinstance(operator.function, Leading):
        return joint
    if isinstance(operator.function, Movement):
        index = operator.function.index
        counts = torch.bincount(index[index >= 0].cpu(), minlength=1)
        return math.sqrt(float(counts.max())) * joint * rounding
    if isinstance(operator.function, MatrixSum):
        return _matrix_sum_bound(operator, shapes, lengths)
    ones = tuple(torch.ones(tuple(s), dtype=torch.float64) for s in shapes)
    return _row_column_bound(operator, ones, None) * joint * rounding


def _copies(operator: AffineOperator, shapes: Sequence[Sequence[int]]) -> list[int]:
    size = math.prod(torch.broadcast_shapes(*(tuple(s) for s in shapes)))
    return [size // max(1, math.prod(s)) for s in shapes]


def _matrix_sum_bound(operator: AffineOperator, shapes: Sequence[Sequence[int]], lengths: Sequence[float]) -> float:
    weight, factor = operator.parameters
    first = (
        sharp_spectral_norm_bound(weight.numpy(), gamma(operator.parameter_roundings + 1) * np.abs(weight.numpy()))
        * lengths[0]
    )
    product = (*tuple(shapes[0])[:-1], weight.shape[-1])
    whole = math.prod(torch.broadcast_shapes(product, tuple(shapes[1])))
    repeated = whole // math.prod(product), whole // max(1, math.prod(shapes[1]))
    second = abs(float(factor)) * lengths[1] * (1.0 + gamma(operator.parameter_roundings + 2))
    return (math.sqrt(repeated[0]) * first + math.sqrt(repeated[1]) * second) * (1.0 + gamma(16)) + TINY


def _scaled_bound(operator: AffineOperator, before: Tensor, after: Tensor) -> float:
    """Bound of a map without a core between two diagonal ones."""
    whole = _row_column_bound(operator, (before,), after)
    outer = float(after.max()) * float(before.max()) * (1.0 + gamma(4))
    return min(whole, outer * branch_bound(operator, [tuple(before.shape)], [1.0]) + TINY)


def _row_column_bound(operator: AffineOperator, before: tuple[Tensor, ...], after: Tensor | None) -> float:
    """Largest absolute row and column sums of ``diag(after) A diag(before)``, of the whole map from all inputs."""
    inputs = tuple(b[None].clone().requires_grad_(True) for b in before)
    with torch.enable_grad():
        rows = operator.magnitude(inputs)
        weighted = rows if after is None else rows * after
        columns = torch.autograd.grad(weighted.sum(), inputs)
    largest = max(float((c * b).max()) for c, b in zip(columns, before, strict=True) if c.numel())
    # a column sum has as many terms as the output has entries
    count = rows.numel() + operator.sum_roundings + operator.parameter_roundings
    roots = math.sqrt(float(weighted.detach().max())) * math.sqrt(largest)
    return roots * (1.0 + gamma(2 * count + 24)) + TINY


def _matrix_of(operator: AffineOperator) -> Tensor:
    """Weight as (out, in)."""
    weight = operator.parameters[0]
    return weight.transpose(0, 1) if isinstance(operator.function, TimesMatrix) else weight


def _along_matrix(factor: Tensor, operator: AffineOperator) -> Array:
    """Largest factors along the axis of a sample that a matrix works on."""
    axis = factor.ndim - (2 if isinstance(operator.function, MatrixTimes) else 1)
    others = tuple(a for a in range(factor.ndim) if a != axis)
    return np.asarray((factor.amax(dim=others) if others else factor).numpy())


def _filter_norm(operator: AffineOperator, before: Tensor, after: Tensor, roundings: int) -> float:
    """Largest norm of the groups of a convolution whose channels are scaled on both sides."""
    function = operator.function
    if not isinstance(function, Convolution | TransposedConvolution):
        raise TypeError(f"{operator.kind}: not a convolution")
    weight, groups = operator.parameters[0].numpy(), function.groups
    rows, columns = (f.reshape(f.shape[0], -1).amax(dim=1).numpy() for f in (after, before))
    if isinstance(function, TransposedConvolution):
        # the adjoint of the convolution with the same weight
        rows, columns = columns, rows
    relative = gamma(operator.parameter_roundings + 1)
    # positions with a common divisor of stride and dilation form separate lattices
    common = [math.gcd(s, d) for s, d in zip(function.stride, function.dilation, strict=True)]
    stride = [s // g for s, g in zip(function.stride, common, strict=True)]
    dilation = [d // g for d, g in zip(function.dilation, common, strict=True)]
    one, zero = [1] * len(stride), [0] * len(stride)
    phases = math.prod(stride)
    bounds = []
    for part, r, c in zip(*(np.split(a, groups) for a in (weight, rows, columns)), strict=True):
        error = relative * np.abs(part) if operator.parameter_roundings else None
        stencil = convolution_stencil(part, error, stride, zero, dilation, one)
        bounds.append(stencil_norm_bound(stencil.scaled(r, np.repeat(c, phases), roundings)))
    return max(bounds, default=0.0)
