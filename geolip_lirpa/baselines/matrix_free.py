r"""Proven bounds for networks of any size: radii of every node, by one pass through the graph.

Place in the data flow: level 6, ``SdpInstance -> proven bound``; trusted, rounded outward. No matrix of the program is
formed. For increments over the input set each node has a radius for every entry and one in l_2,

.. math:: |dz_i| \le r_i, \qquad \|dz\|_2 \le R ,

and the rules, from node to node, are

* affine, :math:`dz = A\,dy`: :math:`r_i \le \sum_j |A_{ij}| r_j`; where A is dense or a convolution also
  :math:`r_i \le \|A_i\|_2 R`, and :math:`r_i \le \|A_i \mathrm{diag}(s)\|_2` at the first layer above a ball with
  semi-axes s; :math:`R \le \|A\|_2 R` by the rules of `operator_norms`;
* activation, :math:`|dz_i| \le \kappa_i |dv_i|`, :math:`\kappa_i = \max(|\alpha_i|, |\beta_i|)`:
  :math:`r_i \le \kappa_i r_i`, and :math:`R \le \|\mathrm{diag}(\kappa) A\|_2 R` with the layer A before it;
* always :math:`R \le \|r\|_2`.

Where branches meet, radii are added. For a chain R is the product of the layers' norms, r that of their absolute
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.baselines.operator_norms import (
    TINY,
    LinearPart,
    branch_bound,
    diagonal_factor,
    is_core,
    linear_part,
    require_range,
)
from geolip_lirpa.network import AffineOperator, Network, Node
from geolip_lirpa.positive_definite import sharp_spectral_norm_bound
from geolip_lirpa.rounding import FORM_RANGE, SMALLEST_SLOPE, gamma, lengths
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm, OutputNorm

# Radii that are smaller, but not zero, are raised to it: products with coefficients cannot underflow then.
_SMALLEST_RADIUS = 1e-150
# Entries of C's rows behind the affine maps at the end of a network, for which these are put together.
_LARGEST_TAIL = 2**26
# Entries relative to the largest, below which they are raised to it before they are squared.
_SMALLEST_RATIO = 1e-60


def matrix_free_bound(instance: SdpInstance, radii: NodeRadii | None = None) -> float:
    r"""Proven bound of an instance of any size.

    .. math:: \sup_{x \ne x'} \frac{\|C(f(x) - f(x'))\|_{out}}{\|(x - x')/s\|_{in}}
        \le \min\bigl(\|\,|C| r\,\|_{out},\; \|C\|_{2 \to out} R\bigr)

    Args:
        instance: any program; its forms are not built.
        radii: of a program that differs in its rows only, to save time.

    Returns:
        The bound, rounded up; infinite when float64 overflows.

    Raises:
        SpecificationError: a layer's coefficients are so small or large that rounding errors could not be bounded.
    """
    if radii is None:
        radii = NodeRadii(instance.network, instance.slopes, instance.input_norm, instance.input_scale)
    source, rows = _pulled_back(instance.network, instance.rows)
    entries, length = radii.entries[source].reshape(-1), radii.length(source)
    by_entries = (rows @ entries) * (1.0 + gamma(rows.shape[1] + 4))
    by_length = lengths(rows) * length * (1.0 + gamma(rows.shape[1] + 16))
    # fmin passes over NaN, zero times infinity
    sizes = torch.fmin(by_entries, by_length)
    if len(sizes) == 1:
        return _finite(float(sizes[0]))
    if instance.output is OutputNorm.L1:
        bound = float(sizes.sum()) * (1.0 + gamma(len(sizes)))
        factor = math.sqrt(len(sizes))
    else:
        bound, factor = _length(sizes), 1.0
    last = radii.length(len(instance.network.nodes) - 1)
    whole = sharp_spectral_norm_bound(instance.rows.numpy()) * last * factor * (1.0 + gamma(8))
    return min(_finite(bound), _finite(whole))


def _pulled_back(network: Network, rows: Tensor) -> tuple[int, Tensor]:
    """A node from which affine maps lead to the output, and the sizes of C's rows as functionals of it, rounded up.

    Args:
        network: float64, on the CPU.
        rows: (m, n_out).

    Returns:
        Its position and (m, N) non-negative numbers.
    """
    source, count = len(network.nodes) - 1, 0
    value, size = rows, rows.abs()
    while len(network.nodes[source].inputs) == 1:
        node = network.nodes[source]
        before = network.nodes[node.inputs[0]]
        if not isinstance(node.operation, AffineOperator) or rows.shape[0] * before.size > _LARGEST_TAIL:
            break
        require_range(node.operation)
        reached = _adjoint(node.operation.magnitude, size, before, node)
        # smaller numbers might underflow in the next product
        if not FORM_RANGE.holds(reached):
            break
        value, size = _adjoint(node.operation.linear, value, before, node), reached
        # backwards, a sum has at most as many terms as the output has entries
        count += node.size + node.operation.sum_roundings + node.operation.parameter_roundings + 1
        source = node.inputs[0]
    return source, (value.abs() + gamma(2 * count + 8) * size) * (1.0 + gamma(4))


def _adjoint(function: Callable[[tuple[Tensor, ...]], Tensor], rows: Tensor, before: Node, node: Node) -> Tensor:
    """Functionals (m, \\*) of a node's value as functionals (m, N) of the node before."""
    x = torch.zeros((rows.shape[0], *before.shape), dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        y = function((x,))
    return torch.autograd.grad(y, x, rows.reshape(rows.shape[0], *node.shape))[0].reshape(rows.shape[0], -1)


def matrix_free_gain(
    network: Network, slopes: Sequence[SlopeInterval], norm: Norm, input_scale: Tensor | None = None
) -> float:
    r"""Proven bound of :math:`\|f(x) - f(x')\|_2 / \|(x - x')/s\|`, without rows of C.

    Args:
        network: float64, on the CPU.
        slopes: per activation, (N_l,).
        norm: of the input, l_2 or l_inf.
        input_scale: (n0,), ones when None.
    """
    scale = torch.ones(network.input_size, dtype=torch.float64) if input_scale is None else input_scale
    return _finite(NodeRadii(network, slopes, norm, scale).length(len(network.nodes) - 1))


def steepest(interval: SlopeInterval) -> Tensor:
    r""":math:`\kappa = \max(|\alpha|, |\beta|)`, moved up where products with it might underflow."""
    kappa = torch.maximum(interval.lower.abs(), interval.upper.abs())
    return torch.where((kappa > 0) & (kappa < SMALLEST_SLOPE), SMALLEST_SLOPE, kappa)


class NodeRadii:
    """Radii of all nodes; those in l_2 are computed when somebody asks for them.

    Args:
        network: float64, on the CPU.
        slopes: per activation, (N_l,).
        norm: of the input, l_2 or l_inf.
        scale: (n0,) half widths of the box or semi-axes of the ball.
    """

    def __init__(self, network: Network, slopes: Sequence[SlopeInterval], norm: Norm, scale: Tensor) -> None:
        flat = scale.reshape(-1)
        self.network = network
        self.ball = norm is Norm.L2
        self.kappa = [steepest(s) for s in slopes]
        self.entries: list[Tensor] = [flat.reshape(network.input_shape)]
        self._lengths: dict[int, float] = {0: float(flat.max()) if self.ball else _length(flat)}
        # factors of nodes whose every entry is one input times a number, no input twice
        self._monomials: dict[int, Tensor] = {0: self.entries[0]}
        number = 0
        for position in range(1, len(network.nodes)):
            operation = network.nodes[position].operation
            if isinstance(operation, AffineOperator):
                found = self._affine(position, operation)
            else:
                kappa = self.kappa[number].reshape(network.nodes[position].shape)
                found = kappa * self.entries[network.nodes[position].inputs[0]] * (1.0 + gamma(2))
                number += 1
            self.entries.append(_cleaned(found))

    def length(self, position: int) -> float:
        """R of a node."""
        # iterative, since a deep network would exhaust the stack
        waiting = [position]
        while waiting:
            current = waiting[-1]
            missing = [i for i in self._needed(current) if i not in self._lengths]
            if current in self._lengths:
                waiting.pop()
            elif missing:
                waiting.extend(missing)
            else:
                self._lengths[current] = self._length_of(current)
                waiting.pop()
        return self._lengths[position]

    def _needed(self, position: int) -> tuple[int, ...]:
        node = self.network.nodes[position]
        return (self._part(position).source,) if len(node.inputs) == 1 else node.inputs

    def _part(self, position: int) -> LinearPart:
        """What a node with one input computes from an earlier one, slopes included."""
        node = self.network.nodes[position]
        if not isinstance(node.operation, AffineOperator):
            kappa = self.kappa[self.network.activations.index(position)]
            return linear_part(self.network, node.inputs[0], kappa.reshape(node.shape))
        return linear_part(self.network, position)

    def _length_of(self, position: int) -> float:
        node = self.network.nodes[position]
        own = _length(self.entries[position])
        if len(node.inputs) == 1:
            part = self._part(position)
            bound = part.norm_bound() * self._lengths[part.source]
        elif not isinstance(node.operation, AffineOperator):
            raise TypeError(f"node {node.name!r}: an activation has one input")
        else:
            shapes = [self.network.nodes[i].shape for i in node.inputs]
            bound = branch_bound(node.operation, shapes, [self._lengths[i] for i in node.inputs])
        least = min(own, _finite(bound * (1.0 + gamma(4)) + TINY))
        return least if least == 0 else max(least, _SMALLEST_RADIUS)

    def _affine(self, position: int, operator: AffineOperator) -> Tensor:
        require_range(operator)
        inputs = self.network.nodes[position].inputs
        parts = tuple(self.entries[i][None] for i in inputs)
        count = operator.sum_roundings + operator.parameter_roundings
        reach = operator.magnitude(parts)[0] * (1.0 + gamma(count + 4))
        reach = torch.where(reach.isnan(), math.inf, reach)
        if is_core(operator):
            reach = torch.minimum(reach, self._row_lengths(inputs[0], operator).reshape(reach.shape))
        elif inputs[0] in self._monomials and len(inputs) == 1:
            before, after = self.network.nodes[inputs[0]].shape, self.network.nodes[position].shape
            if diagonal_factor(operator, before, after) is not None:
                self._monomials[position] = _cleaned(reach)
        return reach

    def _row_lengths(self, source: int, operator: AffineOperator) -> Tensor:
        r""":math:`\|A_i\|_2 R`, or :math:`\|A_i \mathrm{diag}(m)\|_2` where the source is diag(m) w in a ball."""
        if self.ball and source in self._monomials:
            factor, length = self._monomials[source], 1.0
        else:
            factor, length = torch.ones(self.network.nodes[source].shape, dtype=torch.float64), self.length(source)
        # every coefficient of the map is one parameter, so squared parameters give squared lengths
        weight = operator.parameters[0].abs()
        (weight, size), (factor, other) = _to_square(weight), _to_square(factor)
        squares = operator.function((factor.square()[None],), (weight.square(), *operator.parameters[1:]))[0]
        count = operator.sum_roundings + 2 * operator.parameter_roundings
        result = squares.sqrt() * (size * other) * length * (1.0 + gamma(count + 16))
        return torch.where(result.isnan(), math.inf, result)


def _to_square(values: Tensor) -> tuple[Tensor, float]:
    """Non-negative values divided by a power of two near the largest, small ones raised: their squares are normal."""
    largest = float(values.max()) if values.numel() else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return values, 1.0
    power = 2.0 ** math.frexp(largest)[1]
    scaled = values / power
    return torch.where((values > 0) & (scaled < _SMALLEST_RATIO), _SMALLEST_RATIO, scaled), power


def _cleaned(radii: Tensor) -> Tensor:
    """Small radii raised, what is not a number replaced by infinity."""
    raised = torch.where((radii > 0) & (radii < _SMALLEST_RADIUS), _SMALLEST_RADIUS, radii)
    return torch.where(raised.isnan(), math.inf, raised)


def _length(radii: Tensor) -> float:
    """Euclidean length, rounded up."""
    flat = radii.reshape(1, -1)
    return _finite(float(lengths(flat)[0]) * (1.0 + gamma(flat.shape[1] + 16)))


def _finite(value: float) -> float:
    return value if np.isfinite(value) else math.inf
