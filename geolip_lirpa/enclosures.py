r"""Lower bounds that rounding cannot spoil: values and directional derivatives of a network with error bounds.

Place in the data flow: level 5. ``point, direction -> LowerBound``. Whatever search proposes a point, the number a user
sees comes from here.

**The bound.** Let d be a direction that is zero where the input scale s is zero. Moving from x along d changes f at the
rate :math:`J(x)\,d`, hence the Lipschitz constant of the instance is at least

.. math:: \|C\,J(x)\,d\|_{out} \,/\, \|d / s\|_{in} .

**Its evaluation.** A forward pass at x encloses every pre-activation, :math:`|v - \hat v| \le e` with e strictly
positive, hence the slopes of all activations near x (`Activation.derivative_range` of a whole interval). Slopes
:math:`m \pm r` turn the pass of d into another enclosure, whose smallest possible norm is returned. Where a kink lies
within the rounding error, the interval of slopes is wide and the bound becomes weak, never wrong: in every
neighbourhood of x there is a full-dimensional set of points at which f is differentiable with slopes in these intervals
(on the set where a pre-activation sits at a kink, its gradient vanishes almost everywhere, so that any slope serves the
chain rule). A convex region that contains x meets every neighbourhood of x in such a set, within the coordinates that
may vary.

**Rounding.** For an affine operator with K roundings a sum, :math:`|fl(Ax+b) - (Ax+b)| \le \gamma_K(|A||x|+|b|)`
(Higham, ASNA, Lemma 3.1), and an error e of x adds :math:`|A|e`. Activations are taken as evaluated within 2^-48 of
:math:`1 + |v| + |\sigma(v)|`: more than ten times what the libraries behind torch allow themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.regions import Region
from geolip_lirpa.rounding import UNIT_ROUNDOFF, gamma, lengths
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm, OutputNorm

_ACTIVATION_ERROR = 2.0**-48
# Far above everything that underflow can add (eta = 2^-1074).
_UNDERFLOW = 1e-250
# quotients below count as zero, sizes are enlarged by a part of it: rounding is relative for normal numbers only
_SMALLEST = 1e-280
_TINY = 1e-290
_UP = 1.0 + 16 * UNIT_ROUNDOFF


@dataclass(frozen=True)
class LowerBound:
    r"""A lower bound of the true Lipschitz constant and the place where it is attained.

    Args:
        value: rounded down; 0.0 when nothing was found.
        witness: x, shaped like one input, float64.
        direction: d, the same shape: :math:`\|C J(x) d\|_{out} / \|d / s\|_{in} \ge` `value`.
    """

    value: float
    witness: Tensor
    direction: Tensor

    def secant(self, instance: SdpInstance, step: float = 1e-6) -> float:
        r"""The plain float64 quotient :math:`\|C(f(x + t d) - f(x))\| / (t \|d / s\|)`, to replay the witness.

        Args:
            instance: the program the bound belongs to.
            step: t; small enough, the quotient agrees with `value` up to rounding.
        """
        ends = torch.stack([self.witness, self.witness + step * self.direction])
        values = instance.network.forward(ends) @ instance.rows.T
        moved = (ends[1] - ends[0]).reshape(1, -1)
        size = _input_norm(instance, moved)[0]
        return float(_output_norm(instance.output, values[1] - values[0]) / size) if float(size) > 0 else 0.0


@dataclass(frozen=True)
class Enclosure:
    """Real numbers known up to an error: ``|true - value| <= error`` elementwise."""

    value: Tensor
    error: Tensor

    @property
    def interval(self) -> tuple[Tensor, Tensor]:
        """Ends of the enclosure, rounded outward and never equal."""
        margin = (self.error + 4 * UNIT_ROUNDOFF * self.value.abs()) * _UP + _UNDERFLOW
        return self.value - margin, self.value + margin


Rule = Callable[[int, Activation, Enclosure], Enclosure]


def attained_values(
    instance: SdpInstance, points: Tensor, directions: Tensor, region: Region | None = None
) -> tuple[Tensor, Tensor]:
    """Proven lower bounds of the true Lipschitz constant from points and directions.

    Args:
        instance: network, norms, scale and rows; its slopes are not used.
        points: (B, n0) float64.
        directions: (B, n0).
        region: for local constants; points that are not proven to lie in it count nothing.

    Returns:
        The bounds (B,), non-negative and finite, and the directions (B, n0), zero in the coordinates that cannot vary.
    """
    directions = directions * (instance.input_scale.reshape(-1) > 0)
    if region is not None:
        directions = directions * (region.radius > 0)
    values = _bound(instance, _slopes_near(instance.network, points), directions)
    return values if region is None else values * region.contains(points), directions


def best_attained(
    instance: SdpInstance, points: Tensor, directions: Tensor, region: Region | None = None
) -> LowerBound:
    """The best of the bounds of `attained_values`, with its witness."""
    values, directions = attained_values(instance, points, directions, region)
    best = int(values.argmax())
    shape = instance.network.input_shape
    return LowerBound(float(values[best]), points[best].reshape(shape), directions[best].reshape(shape))


def pattern_values(instance: SdpInstance, slopes: Sequence[Tensor], directions: Tensor) -> Tensor:
    """Proven lower bounds of the formal constant from slopes chosen within the instance's intervals.

    Args:
        instance: the program.
        slopes: per activation (B, N_l); clamped to the instance's intervals.
        directions: (B, n0), zero where the scale is zero.

    Returns:
        (B,) float64, non-negative, finite.
    """
    chosen = [torch.minimum(torch.maximum(s, i.lower), i.upper) for s, i in zip(slopes, instance.slopes, strict=True)]
    directions = directions * (instance.input_scale.reshape(-1) > 0)
    return _bound(instance, [SlopeInterval(s, s) for s in chosen], directions)


def _bound(instance: SdpInstance, slopes: Sequence[SlopeInterval], directions: Tensor) -> Tensor:
    """Smallest norm of the enclosed output increment over the largest norm of the direction."""
    start = Enclosure(directions.reshape(-1, *instance.network.input_shape), torch.zeros(1).to(directions))

    def rule(number: int, activation: Activation, v: Enclosure) -> Enclosure:
        return _times(slopes[number], v)

    out = _pass(instance.network, start, rule, with_bias=False)
    length = _input_norm(instance, directions)
    # entries of d / s that underflow add less than the last term
    size = length * (1.0 + gamma(directions.shape[1] + 16)) + _TINY
    smallest = _smallest_norm(instance, out) / size
    value = smallest * (1.0 - 16 * UNIT_ROUNDOFF)
    proven = torch.isfinite(value) & (length > 0) & (value >= _SMALLEST)
    return torch.where(proven, value, torch.zeros_like(value))


def _slopes_near(network: Network, points: Tensor) -> list[SlopeInterval]:
    """Slopes of every activation at all inputs near each point, (B, N_l)."""
    found: list[SlopeInterval] = []

    def rule(number: int, activation: Activation, v: Enclosure) -> Enclosure:
        slopes = activation.derivative_range(*v.interval)
        found.append(SlopeInterval(_rows(slopes.lower), _rows(slopes.upper)))
        steepest = torch.maximum(slopes.lower.abs(), slopes.upper.abs())
        value = activation.value(v.value)
        rounding = _ACTIVATION_ERROR * (1.0 + v.value.abs() + value.abs())
        return Enclosure(value, (steepest * v.error + rounding) * _UP)

    x = points.reshape(-1, *network.input_shape)
    _pass(network, Enclosure(x, torch.zeros_like(x)), rule, with_bias=True)
    return found


def _pass(network: Network, start: Enclosure, rule: Rule, with_bias: bool) -> Enclosure:
    """Send an enclosure from the input to the output."""
    values: list[Enclosure] = []
    number = 0
    for node in network.nodes:
        if node.operation is None:
            values.append(Enclosure(start.value, start.error.expand_as(start.value)))
        elif isinstance(node.operation, AffineOperator):
            values.append(_affine(node.operation, tuple(values[i] for i in node.inputs), with_bias))
        else:
            values.append(rule(number, node.operation, values[node.inputs[0]]))
            number += 1
    return values[-1]


def _affine(operator: AffineOperator, parts: tuple[Enclosure, ...], with_bias: bool) -> Enclosure:
    r""":math:`|A|e + \gamma_K(|A|(|\hat x| + e) + |b|)`, itself inflated for its own rounding."""
    values = tuple(p.value for p in parts)
    result = operator.affine(values) if with_bias else operator.linear(values)
    inherited = operator.magnitude(tuple(p.error for p in parts))
    size = operator.magnitude(tuple(p.value.abs() for p in parts))
    if with_bias and operator.bias is not None:
        size = size + operator.bias.abs()
    count = operator.sum_roundings + operator.parameter_roundings + 2
    error = (inherited + gamma(count) * (size + inherited)) * (1.0 + gamma(2 * count + 16)) + _UNDERFLOW
    return Enclosure(result, error)


def _times(slopes: SlopeInterval, v: Enclosure) -> Enclosure:
    r""":math:`(m \pm r)(\hat v \pm e) \in m\hat v \pm (|m|e + r(|\hat v| + e) + u|m\hat v|)`."""
    lower, upper = slopes.lower.reshape(-1, *v.value.shape[1:]), slopes.upper.reshape(-1, *v.value.shape[1:])
    middle = lower + (upper - lower) / 2
    radius = torch.maximum(upper - middle, middle - lower) * _UP
    value = middle * v.value
    error = (middle.abs() * v.error + radius * (v.value.abs() + v.error) + 2 * UNIT_ROUNDOFF * value.abs()) * _UP
    # A slope of exactly zero stops every increment and every error.
    return Enclosure(value, torch.where((middle != 0) | (radius != 0), error + _UNDERFLOW, error))


def _smallest_norm(instance: SdpInstance, out: Enclosure) -> Tensor:
    """The norm of C y is at least that of the vector of ``max(|C y| - error, 0)``."""
    count = 2 * instance.rows.shape[1] + 8
    value, error = _rows(out.value), _rows(out.error)
    rows = instance.rows
    increments = value @ rows.T
    slack = (error @ rows.abs().T + gamma(count) * (value.abs() @ rows.abs().T)) * (1.0 + gamma(count)) + _UNDERFLOW
    least = (increments.abs() * (1.0 - 4 * UNIT_ROUNDOFF) - slack).clamp_min(0.0)
    norm = _output_norm(instance.output, least) * (1.0 - gamma(2 * rows.shape[0] + 8))
    return torch.where(norm < _SMALLEST, 0.0, norm)


def _output_norm(output: OutputNorm, increments: Tensor) -> Tensor:
    """Norm of C y along the last axis; a single row has its absolute value."""
    return increments.abs().sum(dim=-1) if output is OutputNorm.L1 else lengths(increments)


def _input_norm(instance: SdpInstance, directions: Tensor) -> Tensor:
    """Norm of d / s along the last axis, over the coordinates with positive scale."""
    scale = instance.input_scale.reshape(-1)
    scaled = torch.where(scale > 0, directions / scale.where(scale > 0, torch.ones_like(scale)), 0.0)
    return scaled.abs().amax(dim=-1) if instance.input_norm is Norm.LINF else lengths(scaled)


def _rows(values: Tensor) -> Tensor:
    """(B, \\*shape) as (B, size); shape may be empty."""
    return values.reshape(values.shape[0], -1)
