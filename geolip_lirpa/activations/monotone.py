r"""Slope intervals of functions whose derivative is monotone between a few known points.

Place in the data flow: level 1, the common rule behind every smooth activation. A subclass says where the pieces end,
in which direction the derivative runs on each, and how large the rounding errors of its formulas are; both kinds of
slope interval follow here, by the proofs in the two range methods below.

Rounding. Every formula returns an approximation and a *magnitude*; its error is at most `SLACK` times the magnitude
plus `TINY`. The formulas cost at most about ten roundings and library calls (each below one unit in the last place,
2^-52) per unit of magnitude, and `SLACK` grants sixteen units. Ends of pieces that are irrational are rounded to
double: within one unit in the last place of such a point the derivative, stationary there, changes by less than 1e-29,
which the same slack absorbs.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation, SlopeInterval

SLACK = 2.0**-48
TINY = 1e-300
BISECTIONS = 56
# sinh of it is about 1e304: the farthest point a bisection looks at.
FARTHEST = 700.0

Estimate = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Piece:
    r"""An interval on which the derivative is monotone.

    Args:
        left: its left end, -inf for the first piece.
        right: its right end, inf for the last.
        rising: whether the derivative is non-decreasing there (else non-increasing).
    """

    left: float
    right: float
    rising: bool


class MonotonePieces(Activation):
    r"""A continuous function whose derivative is bounded and monotone on each of finitely many pieces.

    The derivative may jump between pieces. Subclasses implement `pieces`, `hull`, `estimate_derivative`,
    `estimate_value` and `value`.
    """

    @property
    @abc.abstractmethod
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces from left to right; they cover the real line."""

    @property
    @abc.abstractmethod
    def hull(self) -> tuple[float, float]:
        """Proven bounds on the derivative over the whole line; enclosures are cut with them."""

    @abc.abstractmethod
    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        """Derivative (one-sided at the ends of the piece) and magnitude of its error; `v` lies in the piece.

        At infinite `v` it returns the limit.
        """

    @abc.abstractmethod
    def estimate_value(self, v: Tensor) -> Estimate:
        """Value at finite `v` and magnitude of its error; whatever it returns at infinite `v` is ignored."""

    def derivative_range(self, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Hull of the derivatives at both ends of every piece of the interval, rounded outward.

        Proof: by the mean value theorem, piece by piece, a secant slope is a mean of derivatives between its ends; on
        each piece the derivative is monotone and so between its (one-sided) values at the ends. At a single point,
        where there is no secant, the piece on the right is used.

        Args:
            lower: float64, the pre-activation's shape with any leading batch shape; -inf allowed.
            upper: float64, the same shape, at least `lower`; inf allowed.
        """
        low = torch.full_like(lower, math.inf)
        high = torch.full_like(lower, -math.inf)
        for index, piece in enumerate(self.pieces):
            meets = (lower < piece.right) & ((upper > piece.left) | (lower >= piece.left))
            for end in (lower, upper):
                slope = self._derivative(end.clamp(piece.left, piece.right), index)
                low = torch.where(meets, torch.minimum(low, slope.lower), low)
                high = torch.where(meets, torch.maximum(high, slope.upper), high)
        return SlopeInterval(low, high)

    def secant_range(self, center: Tensor, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Range of :math:`s(v) = (\sigma(v) - \sigma(v_0)) / (v - v_0)` over :math:`[l, u]`, rounded outward.

        Proof: :math:`s(v)` is the mean of :math:`\sigma'` over :math:`[v_0, v]`. Walk away from :math:`v_0` through one
        piece, from `a` to `b`, and let :math:`\sigma'` fall along the walk (otherwise negate everything).

        * Once :math:`s \ge \sigma'` holds it persists, because a mean falls towards smaller, falling terms: `s` first
          rises, then falls. Its minimum over the piece is at `a` or `b`, its maximum at `a`, `b` or the one point
          between them where :math:`s = \sigma'` (a tangent through :math:`v_0`).
        * For every `m` of the piece, points beyond `m` have :math:`s(v) \le \max(s(m), \sigma'(m))`, a mean of a mean
          and of terms below :math:`\sigma'(m)`. If :math:`s(m) \le \sigma'(m)`, points before `m` have
          :math:`s(v) \le s(m)`. So any such `m` proves :math:`s \le \sigma'(m)` on the whole piece; bisection moves `m`
          towards the tangent and accepts a point only if the inequality holds with all rounding errors.

        The interval is the hull over the pieces on both sides, cut with `derivative_range`. It is tight up to rounding
        (1e-8 in the worst case, where `v` almost meets the centre).

        Args:
            center: float64, finite, between `lower` and `upper`.
            lower: float64, the same shape; -inf allowed.
            upper: float64, the same shape; inf allowed.
        """
        free = self.derivative_range(lower, upper)
        low = torch.full_like(free.lower, math.inf)
        high = torch.full_like(free.lower, -math.inf)
        for far in (lower, upper):
            for index, piece in enumerate(self.pieces):
                start, stop = center.clamp(piece.left, piece.right), far.clamp(piece.left, piece.right)
                walked = start != stop
                if walked.any():
                    part = self._walk(index, center[walked], start[walked], stop[walked])
                    low[walked] = torch.minimum(low[walked], part.lower)
                    high[walked] = torch.maximum(high[walked], part.upper)
        single = lower == upper
        low = torch.where(single, free.lower, low.clamp(free.lower, free.upper))
        return SlopeInterval(low, torch.where(single, free.upper, high.clamp(free.lower, free.upper)))

    def _walk(self, index: int, center: Tensor, start: Tensor, stop: Tensor) -> SlopeInterval:
        """Range of the secant slopes from `center` to the points between `start` and `stop` of one piece; vectors."""
        at_start = self._secant(center, start)
        slope = self._derivative(start, index)
        touching = start == center
        at_start = SlopeInterval(
            torch.where(touching, slope.lower, at_start.lower), torch.where(touching, slope.upper, at_start.upper)
        )
        at_stop = self._secant(center, stop)
        # The derivative rises along the walk in a rising piece walked to the right or a falling one walked to the left.
        rises = (stop > start) == self.pieces[index].rising
        peak = self._peak(index, rises, center, start, stop, at_start, at_stop)
        low = torch.where(rises, -peak, torch.minimum(at_start.lower, at_stop.lower))
        high = torch.where(rises, torch.maximum(at_start.upper, at_stop.upper), peak)
        return SlopeInterval(low, high)

    def _peak(
        self,
        index: int,
        rises: Tensor,
        center: Tensor,
        start: Tensor,
        stop: Tensor,
        at_start: SlopeInterval,
        at_stop: SlopeInterval,
    ) -> Tensor:
        """Upper bound on the secant slope over the piece; on its negative where the derivative rises."""
        secant_start, slope_start = _turn(at_start, rises), _turn(self._derivative(start, index), rises)
        secant_stop, slope_stop = _turn(at_stop, rises), _turn(self._derivative(stop, index), rises)
        # m = start: s <= max(s(a), sigma'(a)) for all points of the piece.
        peak = torch.maximum(secant_start.upper, slope_start.upper)
        # m = stop: if s(b) <= sigma'(b) then s <= s(b) for all points of the piece.
        done = (slope_stop.lower >= secant_stop.upper) & torch.isfinite(stop)
        peak = torch.where(done, secant_stop.upper, peak)
        tangent = ~done & (slope_start.lower >= secant_start.upper)
        if tangent.any():
            peak[tangent] = self._tangent(index, rises[tangent], center[tangent], start[tangent], stop[tangent])
        return peak

    def _tangent(self, index: int, rises: Tensor, center: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        """The derivative at the last point `m` for which bisection proves that the tangent lies behind it."""
        sign = torch.where(stop > start, 1.0, -1.0).to(start)
        lowest, highest = torch.minimum(start, stop), torch.maximum(start, stop)
        near, far = torch.zeros_like(start), torch.asinh((stop - start).abs()).clamp(max=FARTHEST)
        bound = _turn(self._derivative(start, index), rises).upper
        for _ in range(BISECTIONS):
            middle = (near + far) / 2
            point = (start + sign * torch.sinh(middle)).clamp(lowest, highest)
            slope, secant = _turn(self._derivative(point, index), rises), _turn(self._quotient(center, point), rises)
            proven = slope.lower >= secant.upper
            near, far = torch.where(proven, middle, near), torch.where(proven, far, middle)
            bound = torch.where(proven, torch.minimum(bound, slope.upper), bound)
        return bound

    def _derivative(self, v: Tensor, piece: int) -> SlopeInterval:
        """Enclosure of the derivative at points of the piece, cut with its global hull."""
        estimate, magnitude = self.estimate_derivative(v, piece)
        slack = SLACK * magnitude + TINY
        return SlopeInterval((estimate - slack).clamp(*self.hull), (estimate + slack).clamp(*self.hull))

    def _secant(self, center: Tensor, v: Tensor) -> SlopeInterval:
        """Enclosure of the secant slope: the quotient cut with the mean value theorem; its limit at infinite `v`."""
        quotient = self._quotient(center, v)
        mean = self.derivative_range(torch.minimum(center, v), torch.maximum(center, v))
        last = len(self.pieces) - 1
        limit = [self._derivative(torch.full_like(v, end), i) for end, i in ((-math.inf, 0), (math.inf, last))]
        low = quotient.lower.clamp(mean.lower, mean.upper)
        high = quotient.upper.clamp(mean.lower, mean.upper)
        for end, at_end in zip((-math.inf, math.inf), limit, strict=True):
            low = torch.where(v == end, at_end.lower, low)
            high = torch.where(v == end, at_end.upper, high)
        return SlopeInterval(low, high)

    def _quotient(self, center: Tensor, v: Tensor) -> SlopeInterval:
        """Enclosure of the secant slope by its definition; the whole line where that fails."""
        (at_center, error_center), (at_v, error_v) = self.estimate_value(center), self.estimate_value(v)
        step = v - center
        slope = (at_v - at_center) / step
        slack = SLACK * ((error_center + error_v) / step.abs() + slope.abs()) + TINY * (1 + 1 / step.abs())
        known = torch.isfinite(slope) & torch.isfinite(slack) & torch.isfinite(step)
        return SlopeInterval(torch.where(known, slope - slack, -math.inf), torch.where(known, slope + slack, math.inf))


def _turn(interval: SlopeInterval, negate: Tensor) -> SlopeInterval:
    """The interval, negated where asked."""
    return SlopeInterval(
        torch.where(negate, -interval.upper, interval.lower), torch.where(negate, -interval.lower, interval.upper)
    )
