r"""Rigorous pre-activation bounds by backward propagation of linear bounds.

Place in the data flow: level 3, beside `interval`; knows `Network` only. This is CROWN in float64 in which nothing is
left to trust: every inequality is made to hold for the coefficients as computed. When a coefficient vector c of a value
z is pulled back through an affine map, the computed :math:`\hat c` differs from the exact :math:`A^T c` by at most
:math:`e = \gamma_n |A|^T |c|`, and

.. math:: c^T A z \ge \hat c^T z - e^T \max(|l|, |u|)

with known bounds of z; what is subtracted goes into the constant, and so does what coefficients may lose to underflow.
Upper bounds are lower bounds of the negative value.

References:
    Zhang et al., arXiv:1811.00866 (CROWN); Xu et al., arXiv:2011.13824 (optimised slopes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from geolip_lirpa import interval
from geolip_lirpa.activations import Activation
from geolip_lirpa.concretise import is_cut, linear_minimum
from geolip_lirpa.interval import Bounds, InputSet
from geolip_lirpa.linear_maps import Inputs
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.relaxation import Lines, Relaxation
from geolip_lirpa.rounding import UNIT_ROUNDOFF, gamma
from geolip_lirpa.slope_ascent import ascended_lines
from geolip_lirpa.types import Norm

# far above what one product, or the sums over a node of a value, may lose to underflow
_TINY = 1e-280
# products of larger coefficients and bounds may overflow: their rows keep the interval bounds
_LARGEST = 1e150
# numbers in one coefficient tensor; more rows are done one chunk after the other
_CHUNK = 2**23
# coefficients of one backward pass; nodes that need more keep their interval bounds
_WORK = 2**28


def crown_bounds(network: Network, inputs: InputSet, iterations: int = 0) -> list[Bounds]:
    r"""Bounds :math:`l \le v \le u` of every pre-activation.

    Args:
        network: in float64.
        inputs: the input set.
        iterations: steps of gradient ascent on the slopes of piecewise linear activations, for each pre-activation and
            each of its neurons (alpha-CROWN); 0 takes the lines of smallest area.

    Returns:
        Pairs of float64 tensors (B, \*shape), in the order of ``network.activations``; they hold in real arithmetic
        and are never wider than interval bounds.

    Raises:
        SpecificationError: the input set does not fit the network.
    """
    return interval.preactivations(network, crown_node_bounds(network, inputs, iterations, output=False))


def crown_node_bounds(
    network: Network,
    inputs: InputSet,
    iterations: int = 0,
    *,
    output: bool = True,
    known: Mapping[int, Bounds] | None = None,
) -> list[Bounds]:
    """Bounds of all nodes, in order; the last pair bounds the network's output.

    Backward propagation serves the pre-activations that need it and the output, interval arithmetic all others.

    Args:
        network: in float64.
        inputs: the input set.
        iterations: as in `crown_bounds`.
        output: whether the output is wanted as tight as the rest.
        known: proven bounds of some nodes over the input set, to be intersected with.
    """
    prefix, given = _prefix_bounds(network, inputs), known or {}
    bounds = interval.node_bounds(Network(network.nodes[:1]), inputs.lower, inputs.upper, known)
    targets = {network.nodes[i].inputs[0] for i in network.activations}
    # true of boxes alone: over a ball a row counts with its dual norm
    exact = {i for i in targets if inputs.center is None and _interval_is_exact(network, i)}
    relaxations: dict[int, Relaxation] = {}
    for position in range(1, len(network.nodes)):
        operation = network.nodes[position].operation
        found = interval.next_bounds(network, position, bounds, prefix.get(position))
        found = interval.intersected(found, given.get(position))
        bounds.append(found)
        if isinstance(operation, Activation):
            relaxations[position] = Relaxation(operation, *bounds[network.nodes[position].inputs[0]])
        # the dual norm is exact for whole balls
        if position not in prefix or is_cut(inputs):
            needed = _needed(network, position, targets - exact, found, output)
            if needed.numel():
                backward = _backward(network, position, needed, bounds, relaxations, inputs, iterations)
                bounds[position] = interval.intersected(found, backward)
    return bounds


def crown_lower_bounds(network: Network, inputs: InputSet, bounds: Sequence[Bounds], iterations: int = 0) -> Tensor:
    """Lower bounds of the network's outputs, (B, n_out), from known bounds of its nodes in one backward pass.

    Args:
        network: in float64.
        inputs: the input set.
        bounds: proven bounds of all nodes but the last over the input set, in order.
        iterations: steps of gradient ascent on the slopes, for each output.
    """
    last = len(network.nodes) - 1
    operations = [(i, network.nodes[i].operation) for i in network.activations]
    relaxations = {
        i: Relaxation(operation, *bounds[network.nodes[i].inputs[0]])
        for i, operation in operations
        if isinstance(operation, Activation)
    }
    sweep = _Sweep(network, last, bounds, relaxations, inputs)
    neurons = torch.arange(network.output_size, device=inputs.lower.device)
    chunks = neurons.split(_chunk_size(network, last, inputs.lower.shape[0]))
    return torch.cat([sweep.one_sided(sweep.rows(chunk), iterations) for chunk in chunks]).T


def _needed(network: Network, position: int, targets: set[int], bounds: Bounds, output: bool) -> Tensor:
    """Indices of the neurons of a node whose interval bounds are not good enough already.

    A neuron whose activation has a single slope over its interval is linear: tighter bounds change nothing.
    """
    if output and position == len(network.nodes) - 1:
        return torch.arange(network.nodes[position].size)
    needed = torch.zeros(network.nodes[position].size, dtype=torch.bool)
    for node in network.nodes[position + 1 :] if position in targets else ():
        if position in node.inputs and isinstance(node.operation, Activation):
            slopes = node.operation.derivative_range(*bounds)
            needed |= (slopes.lower != slopes.upper).reshape(len(slopes.lower), -1).any(dim=0).cpu()
    found = needed.nonzero()[:, 0]
    work = 2 * found.numel() * sum(node.size for node in network.nodes[: position + 1])
    return found if work <= _WORK else found[:0]


def _interval_is_exact(network: Network, position: int) -> bool:
    """Whether a chain of maps leads here from the input of which at most one mixes entries."""
    mixing = 0
    while position:
        node = network.nodes[position]
        if not isinstance(node.operation, AffineOperator) or len(node.inputs) != 1:
            return False
        # a product and a sum at most: an entrywise map
        mixing += node.operation.sum_roundings > 2
        position = node.inputs[0]
    return mixing <= 1


def _prefix_bounds(network: Network, inputs: InputSet) -> dict[int, Bounds]:
    if inputs.center is None or inputs.norm is Norm.LINF:
        return {}
    return interval.linear_prefix_bounds(network, inputs.center, inputs.radius, inputs.norm)


def _backward(
    network: Network,
    target: int,
    neurons: Tensor,
    bounds: Sequence[Bounds],
    relaxations: Mapping[int, Relaxation],
    inputs: InputSet,
    iterations: int,
) -> Bounds:
    """Proven bounds of some neurons of one node, a chunk at a time; infinite for the others."""
    batch, size = inputs.lower.shape[0], network.nodes[target].size
    both = inputs.lower.new_full((2, size, batch), -torch.inf)
    sweep = _Sweep(network, target, bounds, relaxations, inputs)
    for chunk in neurons.to(both.device).split(_chunk_size(network, target, batch)):
        rows = sweep.rows(chunk)
        both[:, chunk] = sweep.one_sided(torch.cat([rows, -rows]), iterations).unflatten(0, (2, -1))
    lower, upper = both[0].T, -both[1].T
    shape = (batch, *network.nodes[target].shape)
    return lower.reshape(shape), upper.reshape(shape)


def _chunk_size(network: Network, target: int, batch: int) -> int:
    largest = max(node.size for node in network.nodes[: target + 1])
    return max(1, _CHUNK // (2 * batch * largest))


class _Sweep:
    """Backward passes from one node."""

    def __init__(
        self,
        network: Network,
        target: int,
        bounds: Sequence[Bounds],
        relaxations: Mapping[int, Relaxation],
        inputs: InputSet,
    ) -> None:
        self.network, self.target, self.relaxations, self.inputs = network, target, relaxations, inputs
        self.default_lines = {i: relaxation.default for i, relaxation in relaxations.items()}
        self.free = [i for i in self.default_lines if relaxations[i].free_slopes]
        self.reach = [torch.maximum(lower.abs(), upper.abs()) for lower, upper in bounds[: target + 1]]

    def rows(self, neurons: Tensor) -> Tensor:
        r"""Unit coefficients of some neurons of the target, (G, B, \*shape)."""
        node = self.network.nodes[self.target]
        rows = torch.nn.functional.one_hot(neurons, node.size).to(torch.float64).reshape(-1, 1, *node.shape)
        return rows.expand(-1, self.inputs.lower.shape[0], *([-1] * len(node.shape)))

    def one_sided(self, start: Tensor, iterations: int) -> Tensor:
        """Lower bounds (G, B) with the lines of smallest area and, if wanted, with optimised ones: the better."""
        lower = self.lower_bounds(start, self.default_lines)
        if iterations and self.free:
            lower = torch.fmax(lower, self.lower_bounds(start, self._optimised(start, iterations)))
        return lower

    def _optimised(self, start: Tensor, iterations: int) -> Mapping[int, Lines]:
        def value(lines: Mapping[int, Lines]) -> Tensor:
            return self.lower_bounds(start, {**self.default_lines, **lines}, rigorous=False)

        free = {i: self.relaxations[i] for i in self.free}
        return {**self.default_lines, **ascended_lines(free, value, start.shape[:2], iterations)}

    def lower_bounds(self, start: Tensor, lines: Mapping[int, Lines], rigorous: bool = True) -> Tensor:
        r"""Lower bounds of :math:`c^T z` for rows c of `start`, (G, B, \*shape), over the input set: (G, B)."""
        coefficients = {self.target: start}
        total = start.new_zeros(start.shape[:2])
        size, error = torch.zeros_like(total), torch.zeros_like(total)
        for position in range(self.target, 0, -1):
            c = coefficients.pop(position, None)
            if c is None:
                continue
            operation = self.network.nodes[position].operation
            if isinstance(operation, AffineOperator):
                value, magnitude, lost = self._through_affine(position, operation, c, coefficients, rigorous)
            else:
                value, magnitude, lost = self._through_activation(position, lines[position], c, coefficients, rigorous)
            total, size, error = total + value, size + magnitude, error + lost
        c = coefficients.get(0)
        if c is not None:
            value, magnitude = linear_minimum(c, self.inputs)
            total, size = total + value, size + magnitude
        return self._rounded(total, size, error) if rigorous else total

    def _rounded(self, total: Tensor, size: Tensor, error: Tensor) -> Tensor:
        # every sum over a node and over the nodes, all of them of terms whose absolute values add up to size
        longest = max(node.size for node in self.network.nodes[: self.target + 1])
        relative = gamma(longest + len(self.network.nodes) + 64)
        return total - (relative * size + error) * (1 + 8 * relative) - _TINY

    def _through_affine(
        self, position: int, operator: AffineOperator, c: Tensor, coefficients: dict[int, Tensor], rigorous: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        node = self.network.nodes[position]
        shapes = [self.network.nodes[i].shape for i in node.inputs]
        pulled = _pull_back(operator.linear, shapes, c)
        lost = c.new_zeros(c.shape[:2])
        if rigorous:
            # the transposed sums run over the entries of the output
            relative = gamma(2 * node.size + operator.sum_roundings + operator.parameter_roundings + 8)
            spread = _pull_back(operator.magnitude, shapes, c.abs())
            for part, i in zip(spread, node.inputs, strict=True):
                lost = lost + relative * _dot(part, self.reach[i])
        underflow = _TINY * (node.size + operator.sum_roundings + 2) * _amplification(operator) if rigorous else 0.0
        for part, i in zip(pulled, node.inputs, strict=True):
            lost = lost + self._accumulate(coefficients, i, part, rigorous, underflow)
        if operator.bias is None:
            return torch.zeros_like(lost), torch.zeros_like(lost), lost
        bias = operator.bias.expand(node.shape)
        return _dot(c, bias[None]), _dot(c.abs(), bias.abs()[None]), lost

    def _through_activation(
        self, position: int, lines: Lines, c: Tensor, coefficients: dict[int, Tensor], rigorous: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        before = self.network.nodes[position].inputs[0]
        up, down = c.clamp(min=0), c.clamp(max=0)
        slopes = up * lines.lower_slope + down * lines.upper_slope
        terms = up * lines.lower_intercept + down * lines.upper_intercept
        lost = self._accumulate(coefficients, before, slopes, rigorous, 4 * _TINY)
        if rigorous:
            # one rounding of each product; the other one is zero
            lost = lost + 2 * UNIT_ROUNDOFF * _dot(slopes.abs(), self.reach[before])
        return _total(terms), _total(terms.abs()), lost

    def _accumulate(
        self, coefficients: dict[int, Tensor], position: int, part: Tensor, rigorous: bool, underflow: float
    ) -> Tensor:
        """Add to the coefficients of a node; returns what the rounding of this sum and underflow may cost.

        `underflow` bounds what each coefficient in `part` has lost. Infinite where numbers come close to overflow.
        """
        first = position not in coefficients
        coefficients[position] = part if first else coefficients[position] + part
        if not rigorous:
            return part.new_zeros(part.shape[:2])
        reach, sizes = self.reach[position], coefficients[position].abs()
        lost = (underflow * reach.flatten(1).sum(dim=1)).expand(part.shape[:2])
        if not first:
            lost = lost + 2 * UNIT_ROUNDOFF * _dot(sizes, reach)
        # comparisons with NaN are false
        safe = (sizes.flatten(2).amax(dim=2) <= _LARGEST) & (reach.flatten(1).amax(dim=1) <= _LARGEST)
        return torch.where(safe, lost, torch.inf)


def _pull_back(function: Callable[[Inputs], Tensor], shapes: Sequence[tuple[int, ...]], c: Tensor) -> list[Tensor]:
    r"""The transposed linear map applied to rows (G, B, \*output shape)."""
    count = c.shape[0] * c.shape[1]
    with torch.enable_grad():
        zeros = tuple(c.new_zeros((count, *shape)).requires_grad_() for shape in shapes)
        output = function(zeros)
        parts = torch.autograd.grad(output, zeros, c.reshape(output.shape), create_graph=c.requires_grad)
    return [part.reshape(*c.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True)]


def _amplification(operator: AffineOperator) -> float:
    """How much an operator that multiplies by several parameters in a row can enlarge what the first product lost."""
    return math.prod(max(1.0, float(p.abs().max())) for p in operator.parameters if p.numel())


def _dot(c: Tensor, values: Tensor) -> Tensor:
    return _total(c * values)


def _total(values: Tensor) -> Tensor:
    r"""Sums over the shape of a sample, (G, B, \*shape) to (G, B)."""
    return values.reshape(*values.shape[:2], -1).sum(2)
