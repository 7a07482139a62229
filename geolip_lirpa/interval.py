r"""Rigorous interval bounds of every value of a network.

Place in the data flow: level 3, beside `lirpa`; knows `Network` only. Bound propagation in float64 in which every
rounding error is accounted for: an affine map's error is at most :math:`\gamma_n = n u / (1 - n u)` times the sum of
absolute products, with n from `AffineOperator.sum_roundings` and `parameter_roundings` (Higham, "Accuracy and
Stability of Numerical Algorithms", section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from geolip_lirpa.activations import GELU, Abs, Activation, Clip, Cos, ReLU, SiLU, Sin
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.rounding import UNIT_ROUNDOFF, gamma
from geolip_lirpa.types import Norm

Bounds = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class InputSet:
    r"""A box, or a ball inside of it.

    Args:
        lower: float64, (B, \*shape); the box.
        upper: the same shape.
        center: the ball's centre; None for a box.
        radius: the ball's radius.
        norm: the ball's norm.
    """

    lower: Tensor
    upper: Tensor
    center: Tensor | None = None
    radius: float = 0.0
    norm: Norm = Norm.LINF


# far above the sum of all underflow errors of one output entry
_TINY = 1e-290
# values of these are entries of their inputs or limits: no rounding
_EXACT_ACTIVATIONS = (ReLU, Abs, Clip)
# error of a library function relative to its value and, where it cancels, its argument: ten times what torch's allow
_FUNCTION_ERROR = 2.0**-48
# ranges over all real numbers, for activations that are not monotone
_GLOBAL_RANGES: Mapping[type[Activation], tuple[float, float]] = MappingProxyType(
    {
        Abs: (0.0, math.inf),
        SiLU: (-0.27847, math.inf),
        GELU: (-0.17005, math.inf),
        Sin: (-1.0, 1.0),
        Cos: (-1.0, 1.0),
    }
)
# these fall, then rise: the larger end is the maximum
_ONE_MINIMUM = (Abs, SiLU, GELU)
# entries of the dense derivative that ball bounds may build
_DENSE_LIMIT = 2**26


def interval_bounds(network: Network, lower: Tensor, upper: Tensor) -> list[Bounds]:
    r"""Pre-activation bounds :math:`l \le v \le u` over a box, one pair for each activation.

    Args:
        network: in float64.
        lower: (B, \*input_shape), cast to float64.
        upper: the same shape, at least `lower`.

    Returns:
        Pairs of float64 tensors (B, \*shape), in the order of ``network.activations``. They hold for the network in
        real arithmetic.

    Raises:
        SpecificationError: shapes differ, NaN or infinity, or lower above upper.

    References:
        Gowal et al., arXiv:1810.12715.
    """
    return preactivations(network, node_bounds(network, lower, upper))


def ball_bounds(network: Network, center: Tensor, radius: float, norm: Norm) -> list[Bounds]:
    r"""Pre-activation bounds over a ball :math:`|x - c|_p \le \rho`.

    Values that depend on the input through affine maps alone are bounded by the dual norm of their derivative,
    :math:`v(c) \pm \rho |J_i|_q`, the others over the bounds of these and the box around the ball.

    Args:
        network: in float64.
        center: (B, \*input_shape), cast to float64.
        radius: finite and at least 0.
        norm: the ball's norm.

    Raises:
        SpecificationError: a shape that does not fit, NaN, a negative radius.
    """
    center = center.detach().to(torch.float64)
    if not 0 <= radius < math.inf:
        raise SpecificationError(f"radius: got {radius}; it must be finite and at least 0.")
    lower, upper = _down(center - radius), _up(center + radius)
    known = {} if norm is Norm.LINF else linear_prefix_bounds(network, center, radius, norm)
    return preactivations(network, node_bounds(network, lower, upper, known))


def preactivations(network: Network, bounds: Sequence[Bounds]) -> list[Bounds]:
    """The bounds of the activations' inputs out of those of all nodes."""
    return [bounds[network.nodes[i].inputs[0]] for i in network.activations]


def node_bounds(
    network: Network, lower: Tensor, upper: Tensor, known: Mapping[int, Bounds] | None = None
) -> list[Bounds]:
    """Bounds of all nodes over a box.

    Args:
        network: in float64.
        lower: (B, \\*input_shape).
        upper: the same shape.
        known: proven bounds of some nodes by position, to be intersected with; an entry that is NaN says nothing.

    Raises:
        SpecificationError: as in `interval_bounds`.
    """
    given = known or {}
    found = [intersected(_checked(network, lower, upper), given.get(0))]
    for position in range(1, len(network.nodes)):
        found.append(next_bounds(network, position, found, given.get(position)))
    return found


def next_bounds(network: Network, position: int, found: Sequence[Bounds], known: Bounds | None = None) -> Bounds:
    """Bounds of one node over the bounds of the nodes before it, intersected with known ones."""
    node = network.nodes[position]
    inputs = [found[i] for i in node.inputs]
    if isinstance(node.operation, AffineOperator):
        return intersected(affine_bounds(node.operation, inputs), known)
    if isinstance(node.operation, Activation):
        return intersected(activation_bounds(node.operation, *inputs[0]), known)
    raise SpecificationError(f"network: node '{node.name}' is a second input; exactly one is allowed.")


def affine_bounds(operator: AffineOperator, inputs: Sequence[Bounds]) -> Bounds:
    r"""Bounds of an affine map over a box, from centre and radius: :math:`A c + b \pm |A| r`."""
    bias = operator.bias
    count = operator.sum_roundings + operator.parameter_roundings
    relative = gamma(count + 4)
    if not operator.parameters:
        # no negative coefficient: both ends map to ends; nothing is rounded when entries only move
        lower, upper = (operator.affine(tuple(pair[side] for pair in inputs)) for side in (0, 1))
        if count == 0:
            return lower, upper
        largest = tuple(torch.maximum(low.abs(), high.abs()) for low, high in inputs)
        error = _up(relative * _with_bias(operator.magnitude(largest), bias) + _TINY)
        return _finite(lower - error, upper + error)
    centers = tuple(low / 2 + high / 2 for low, high in inputs)
    radii = tuple(_radius(c, low, high) for c, (low, high) in zip(centers, inputs, strict=True))
    # |A| (r + gamma |c|) holds the radius and the rounding error of A c
    reach = operator.magnitude(tuple(r + relative * c.abs() for r, c in zip(radii, centers, strict=True)))
    reach = reach if bias is None else reach + relative * bias.abs()
    reach = reach * (1 + 4 * relative) + _TINY
    center = operator.affine(centers)
    return _finite(center - reach, center + reach)


def activation_bounds(activation: Activation, lower: Tensor, upper: Tensor) -> Bounds:
    r"""Bounds of an activation's values over ``[lower, upper]``.

    Where the slope does not change sign the ends give the range; elsewhere
    :math:`\sigma(c) + s (v - c)` with s in the slope range does.
    """
    slope = activation.derivative_range(lower, upper)
    exact = isinstance(activation, _EXACT_ACTIVATIONS)
    at_lower, at_upper = (_value_bounds(activation, v, exact) for v in (lower, upper))
    rising, falling = slope.lower >= 0, slope.upper <= 0
    low = torch.where(rising, at_lower[0], at_upper[0])
    high = torch.where(rising, at_upper[1], at_lower[1])
    if bool((rising | falling).all()):
        return low, high
    mixed = ~(rising | falling)
    inner = _mixed_bounds(activation, lower, upper, exact)
    return torch.where(mixed, inner[0], low), torch.where(mixed, inner[1], high)


def linear_prefix_bounds(network: Network, center: Tensor, radius: float, norm: Norm) -> dict[int, Bounds]:
    r"""Bounds :math:`v(c) \pm \rho |J_i|_q` of the nodes that are affine in the input, by position.

    Nodes whose dense derivative would be too large are left out.

    Args:
        network: in float64.
        center: float64, (B, \*input_shape).
        radius: at least 0.
        norm: the ball's norm; its dual measures the rows of the derivative.
    """
    affine = _affine_prefix(network)
    values = node_bounds(_head(network, max(affine)), center, center)
    found: dict[int, Bounds] = {}
    derivative, error = _derivatives(network, affine, center.device)
    for position in affine[1:]:
        if position in derivative:
            reach = radius * _dual_norm(derivative[position], error[position], norm)
            reach = _up(reach * (1 + 8 * UNIT_ROUNDOFF))
            found[position] = (_down(values[position][0] - reach), _up(values[position][1] + reach))
    return found


def _derivatives(
    network: Network, affine: Sequence[int], device: torch.device
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Dense derivatives (n0, \\*shape) of affine nodes, and bounds on their rounding errors."""
    size = network.input_size
    identity = torch.eye(size, dtype=torch.float64, device=device).reshape(size, *network.input_shape)
    derivative, error = {0: identity}, {0: torch.zeros_like(identity)}
    for position in affine[1:]:
        node, operation = network.nodes[position], network.nodes[position].operation
        if not isinstance(operation, AffineOperator) or any(i not in derivative for i in node.inputs):
            continue
        if size * node.size > _DENSE_LIMIT:
            continue
        inputs = tuple(derivative[i] for i in node.inputs)
        relative = gamma(operation.sum_roundings + operation.parameter_roundings + 4)
        spread = tuple(error[i] + relative * derivative[i].abs() for i in node.inputs)
        derivative[position] = operation.linear(inputs)
        error[position] = operation.magnitude(spread) * (1 + 4 * relative) + _TINY
    return derivative, error


def _dual_norm(derivative: Tensor, error: Tensor, norm: Norm) -> Tensor:
    """Upper bound on the dual norm over the inputs, shape of the value."""
    entries = derivative.abs() + error
    if norm is Norm.L1:
        return entries.amax(dim=0) * (1 + 4 * UNIT_ROUNDOFF)
    relative = 1 + gamma(entries.shape[0] + 8)
    if norm is Norm.L2:
        return entries.square().sum(dim=0).sqrt() * relative + math.sqrt(_TINY)
    return entries.sum(dim=0) * relative


def _affine_prefix(network: Network) -> list[int]:
    """Positions of the nodes that depend on the input through affine maps alone, the input first."""
    found = [0]
    for position, node in enumerate(network.nodes[1:], start=1):
        if isinstance(node.operation, AffineOperator) and all(i in found for i in node.inputs):
            found.append(position)
    return found


def _head(network: Network, last: int) -> Network:
    return Network(network.nodes[: last + 1])


def _checked(network: Network, lower: Tensor, upper: Tensor) -> Bounds:
    low, high = lower.detach().to(torch.float64), upper.detach().to(torch.float64)
    if low.shape != high.shape or tuple(low.shape[1:]) != network.input_shape:
        raise SpecificationError(
            f"lower, upper: got shapes {tuple(low.shape)} and {tuple(high.shape)}; expected a batch of "
            f"{network.input_shape}. Put the batch dimension in front."
        )
    if not bool((low <= high).all()) or not bool((low.isfinite() & high.isfinite()).all()):
        raise SpecificationError("lower, upper: lower exceeds upper, or NaN or infinity. Pass finite lower <= upper.")
    return low, high


def intersected(bounds: Bounds, known: Bounds | None) -> Bounds:
    """Intersection of proven bounds; an entry that is NaN says nothing."""
    if known is None:
        return bounds
    # fmax and fmin pass over NaN
    return torch.fmax(bounds[0], known[0]), torch.fmin(bounds[1], known[1])


def _value_bounds(activation: Activation, v: Tensor, exact: bool) -> Bounds:
    value = activation.value(v)
    if exact:
        return value, value
    error = _up(_FUNCTION_ERROR * (value.abs() + v.abs()) + _TINY)
    return _down(value - error), _up(value + error)


def _mean_value_bounds(activation: Activation, lower: Tensor, upper: Tensor, exact: bool) -> Bounds:
    center = lower / 2 + upper / 2
    slope = activation.derivative_range(lower, upper)
    left, right = _up(center - lower), _up(upper - center)
    low, high = _value_bounds(activation, center, exact)
    fall = torch.maximum(-slope.lower * right, slope.upper * left).clamp(min=0)
    rise = torch.maximum(slope.upper * right, -slope.lower * left).clamp(min=0)
    return _down(low - _up(fall)), _up(high + _up(rise))


def _mixed_bounds(activation: Activation, lower: Tensor, upper: Tensor, exact: bool) -> Bounds:
    low, high = _mean_value_bounds(activation, lower, upper, exact)
    if isinstance(activation, _ONE_MINIMUM):
        ends = [_value_bounds(activation, v, exact)[1] for v in (lower, upper)]
        high = torch.fmin(high, torch.maximum(*ends))
    least, most = _GLOBAL_RANGES.get(type(activation), (-math.inf, math.inf))
    return low.clamp(min=least), high.clamp(max=most)


def _with_bias(values: Tensor, bias: Tensor | None) -> Tensor:
    return values if bias is None else values + bias.abs()


def _radius(center: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """At least the distance from the centre to either end; zero for a single point."""
    reach = torch.maximum(upper - center, center - lower)
    return torch.where(reach > 0, _up(reach), reach)


def _finite(lower: Tensor, upper: Tensor) -> Bounds:
    """Rounded outward; where values overflowed nothing is known."""
    low = torch.where(lower.isnan(), -math.inf, lower)
    high = torch.where(upper.isnan(), math.inf, upper)
    return _down(low), _up(high)


def _down(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -math.inf))


def _up(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, math.inf))
