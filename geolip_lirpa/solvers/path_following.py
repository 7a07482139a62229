r"""Primal-dual interior point method for `ProductSdp`: follows the central path :math:`X M(\theta) = \mu I`.

Place in the data flow: level 7, ``ProductSdp -> PathResult``; untrusted, knows no networks.

The HKM direction with Mehrotra's predictor and corrector. With :math:`S = M(\theta)`, :math:`P = S^{-1}`, the slacks s
of the inequalities of X and a target :math:`\mu`, linearising :math:`XS = \mu I`, :math:`s_j\theta_j = \mu` gives

.. math:: dX = \mu P - X - \mathrm{sym}(X\, dS\, P), \qquad ds_j = \mu/\theta_j - s_j - s_j\, d\theta_j/\theta_j ,

and inserting this in the equations of X leaves a system for :math:`d\theta` with the matrix
:math:`\mathrm{tr}(Q_i X Q_j P) + \mathrm{diag}(s/\theta)` (`ProductSdp.schur`). Starts need not be feasible: X
approaches its equations by itself, and :math:`S = M(\theta) + \delta D` with a diagonal D, where :math:`\delta` is led
to zero. From then on S is computed from :math:`\theta` alone, and every iterate is feasible for the first program of
the pair.

References: Helmberg, Rendl, Vanderbei, Wolkowicz, SIAM J. Optim. 6 (1996); Todd, Toh, Tutuncu, SIAM J. Optim. 8 (1998)
for the choice of steps and targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve

from geolip_lirpa.rounding import Array
from geolip_lirpa.solvers.base import Status
from geolip_lirpa.solvers.path_point import (
    Point,
    complementarity,
    mean_product,
    shortfall,
    start_point,
    values,
    violation,
)
from geolip_lirpa.solvers.product_sdp import ProductSdp
from geolip_lirpa.solvers.step_length import cholesky, inverse, semidefinite_step

# Progress is a smaller gap by this factor, within some iterations: many far from the end, few where float64 ends.
_PROGRESS = 0.8
_PATIENCE = ((100.0, 3), (np.inf, 10))
_SMALLEST_TARGET = 1e-6
_SMALLEST_STEP = 1e-10
# Instead of a step that multiplies mu by more than this, or near the end one that is shorter than this, the iteration
# returns to the central path at this share of mu.
_WORSE = 2.0
_NEAR = 1e-4
_SHORT = 0.3
_CENTRING = 0.8


@dataclass(frozen=True)
class PathResult:
    r"""Where the path ended.

    Args:
        theta: (p,); feasible if `feasible` is true.
        gram: X, (n, n) positive definite, its equations violated a little.
        value: :math:`c^T\theta`.
        gram_value: :math:`-\langle C, X\rangle`.
        feasible: whether :math:`M(\theta)` is positive definite.
        violation: what the errors of X's equations are worth, relative to the value.
        status: `CONVERGED` when the two values agree to the tolerance.
        iterations: number of Schur systems.
    """

    theta: Array
    gram: Array
    value: float
    gram_value: float
    feasible: bool
    violation: float
    status: Status
    iterations: int

    @property
    def gap(self) -> float:
        """Difference of the two values, relative to the larger of 1 and their size."""
        return abs(self.value - self.gram_value) / max(1.0, abs(self.value))


@dataclass(frozen=True)
class PathFollowing:
    """The method with its settings.

    Args:
        tolerance: relative gap and violation that count as converged; for values near 1 (see `PathResult.gap`).
        max_iterations: Schur systems at most.
    """

    tolerance: float = 5e-9
    max_iterations: int = 100

    def solve(
        self, sdp: ProductSdp, theta: Array, gram: Array, enough: Callable[[PathResult], bool] | None = None
    ) -> PathResult:
        """Follow the path from a start.

        Args:
            sdp: the program; well scaled, with values near 1.
            theta: (p,), positive where signed; the nearer :math:`M(\\theta)` is to semidefinite the better.
            gram: X, (n, n) positive definite; the nearer to feasible the better.
            enough: asked after each iteration whether its result will do.

        Raises:
            SolverError: the start is not in the interior.
        """
        point = start_point(sdp, theta, gram)
        best, since, iterations, merit, smallest = point, 0, 0, np.inf, np.inf
        for iterations in range(self.max_iterations + 1):
            current, mu = shortfall(sdp, point), complementarity(sdp, point)
            # far from the end mu falls steadily, while a gap relative to the value may rise with a value near zero
            if current < _PROGRESS * merit or mu < _PROGRESS * smallest or not point.feasible:
                since, smallest = 0, min(smallest, mu)
            if current < merit or not point.feasible:
                best, merit = point, min(merit, current)
            patience = next(count for factor, count in _PATIENCE if merit <= factor * self.tolerance)
            if merit <= self.tolerance or since > patience or iterations == self.max_iterations:
                break
            if enough is not None and enough(self._result(sdp, point, iterations)):
                return self._result(sdp, point, iterations)
            since += 1
            following = _advance(sdp, point)
            if following is None:
                break
            point = following
        return self._result(sdp, best, iterations)

    def _result(self, sdp: ProductSdp, point: Point, iterations: int) -> PathResult:
        if shortfall(sdp, point) <= self.tolerance:
            status = Status.CONVERGED
        else:
            status = Status.ITERATION_LIMIT if iterations >= self.max_iterations else Status.STALLED
        value, gram_value = values(sdp, point)
        return PathResult(
            point.theta, point.gram, value, gram_value, point.feasible, violation(sdp, point), status, iterations
        )  # fmt: skip


# --- steps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Direction:
    """A step, and dS P, which the corrector needs again."""

    theta: Array
    slack: Array
    gram: Array
    matrix: Array
    product: Array


class _Newton:
    """The linearised equations at a point."""

    def __init__(self, sdp: ProductSdp, point: Point) -> None:
        self.sdp, self.point = sdp, point
        self.inverse = inverse(point.matrix_factor)
        # 1 / theta and s / theta, zero for variables without a sign
        on = sdp.signed
        self.reciprocal = np.where(on, 1.0 / np.where(on, point.theta, 1.0), 0.0)
        self.images = sdp.images(self.inverse)
        schur = sdp.schur(point.images, self.images)
        schur[np.diag_indices(len(schur))] += point.slack * self.reciprocal
        self.center = sdp.pairing_of_images(self.images) + self.reciprocal
        self.scale = 1.0 / np.sqrt(np.maximum(schur.diagonal(), np.finfo(np.float64).tiny))
        schur *= self.scale[:, None]
        schur *= self.scale
        self.schur, self.factor = schur, cholesky(schur)
        self.constant = -sdp.weights
        if not point.feasible:
            self.constant = self.constant + sdp.pairing(_symmetric((point.gram * point.shift) @ self.inverse))

    def direction(self, target: float, first: _Direction | None = None) -> _Direction:
        """Towards :math:`XS = target I`, with the second order terms of a first direction."""
        point = self.point
        right = self.constant + target * self.center
        gram = target * self.inverse - point.gram
        slack = target * self.reciprocal - np.where(self.sdp.signed, point.slack, 0.0)
        if first is not None:
            # XS + dX S + X dS + dX dS = target I
            second = _symmetric(first.gram @ first.product)
            second_slack = first.slack * first.theta * self.reciprocal
            right = right - self.sdp.pairing(second) - second_slack
            gram -= second
            slack = slack - second_slack
        theta = self._solve(right)
        matrix, product = self.sdp.change(theta), self.sdp.change_times(theta, self.images)
        if not point.feasible:
            matrix[np.diag_indices(len(matrix))] -= point.shift
            product -= point.shift[:, None] * self.inverse
        gram -= _symmetric(point.gram @ product)
        slack = slack - point.slack * theta * self.reciprocal
        return _Direction(theta, slack, gram, matrix, product)

    def _solve(self, right: Array) -> Array:
        scaled = self.scale * right
        solution = cho_solve((self.factor, True), scaled, check_finite=False)
        # one step of refinement
        solution += cho_solve((self.factor, True), scaled - self.schur @ solution, check_finite=False)
        return self.scale * solution


def _advance(sdp: ProductSdp, point: Point) -> Point | None:
    """One predictor-corrector iteration; None when rounding errors leave no way to go."""
    newton = _Newton(sdp, point)
    if newton.factor is None:
        return None
    current = complementarity(sdp, point)
    predictor = newton.direction(0.0)
    primal, dual = (min(1.0, t) for t in _largest_steps(sdp, point, predictor, 1e-2))
    reached = mean_product(
        sdp,
        point.gram + primal * predictor.gram,
        point.matrix + dual * predictor.matrix,
        point.slack + primal * predictor.slack,
        point.theta + dual * predictor.theta,
    )
    # Mehrotra's target, bolder the longer the predictor's steps
    exponent = max(1.0, 3.0 * min(primal, dual) ** 2)
    share = min(1.0, max(_SMALLEST_TARGET, max(reached / current, 0.0) ** exponent))
    fraction = 0.9 + 0.09 * min(primal, dual)
    following, length = _try(sdp, point, newton.direction(share * current, predictor), fraction)
    if following is None or complementarity(sdp, following) > _WORSE * current:
        # second order terms mislead far from the central path: go back to it first
        return _try(sdp, point, newton.direction(_CENTRING * current), fraction)[0]
    if length < _SHORT and shortfall(sdp, point) < _NEAR:
        # near the end it is rounding errors that push a step against the boundary
        central, central_length = _try(sdp, point, newton.direction(_CENTRING * current), fraction)
        return central if central_length > 2.0 * length else following
    return following


def _try(sdp: ProductSdp, point: Point, direction: _Direction, fraction: float) -> tuple[Point | None, float]:
    """Go a fraction of the way to the boundary, at most a full step; the length of the shorter of the two steps."""
    primal, dual = (min(1.0, fraction * t) for t in _largest_steps(sdp, point, direction, 1e-4))
    return _step(sdp, point, direction, primal, dual), min(primal, dual)


def _largest_steps(sdp: ProductSdp, point: Point, direction: _Direction, tolerance: float) -> tuple[float, float]:
    """How far X with s and S with theta can go."""
    on = sdp.signed
    primal = semidefinite_step(point.gram_factor, direction.gram, tolerance)
    dual = semidefinite_step(point.matrix_factor, direction.matrix, tolerance)
    primal = min(primal, _positive_step(point.slack[on], direction.slack[on]))
    return primal, min(dual, _positive_step(point.theta[on], direction.theta[on]))


def _positive_step(values: Array, change: Array) -> float:
    falling = change < 0
    return float((-values[falling] / change[falling]).min(initial=np.inf))


def _step(sdp: ProductSdp, point: Point, direction: _Direction, primal: float, dual: float) -> Point | None:
    """Take a step, shortened until both matrices are positive definite in floating point."""
    gram_factor = None
    while gram_factor is None and primal > _SMALLEST_STEP:
        gram = point.gram + primal * direction.gram
        gram_factor = cholesky(gram)
        primal *= 1.0 if gram_factor is not None else 0.8
    factor = None
    while factor is None and dual > _SMALLEST_STEP:
        shift = (1.0 - dual) * point.shift
        theta = point.theta + dual * direction.theta
        # S from theta, so that errors of many steps do not add up
        matrix = sdp.matrix(theta) + np.diag(shift)
        factor = cholesky(matrix)
        dual *= 1.0 if factor is not None else 0.8
    if gram_factor is None or factor is None:
        return None
    slack = point.slack + primal * direction.slack
    return Point(theta, slack, gram, gram_factor, sdp.images(gram), matrix, factor, shift)


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + matrix.T)
