r"""Points in the interior of a `ProductSdp` and its dual, and how good they are.

Place in the data flow: level 7, a tool of `path_following`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geolip_lirpa.errors import SolverError
from geolip_lirpa.rounding import Array
from geolip_lirpa.solvers.product_sdp import ProductSdp
from geolip_lirpa.solvers.step_length import cholesky, smallest_eigenvalue

# Slacks start at this share of mu / theta at least, so that none starts at or below zero.
_LEAST_CENTRALITY = 1e-4


@dataclass(frozen=True)
class Point:
    """An interior point: theta, slacks (zero where unsigned), X, S = M(theta) + diag(shift), and Cholesky factors.

    `images` are those of X.
    """

    theta: Array
    slack: Array
    gram: Array
    gram_factor: Array
    images: Array
    matrix: Array
    matrix_factor: Array
    shift: Array

    @property
    def feasible(self) -> bool:
        """Whether M(theta) itself is positive definite."""
        return not self.shift.any()


def start_point(sdp: ProductSdp, theta: Array, gram: Array) -> Point:
    """A point from multipliers and X, with whatever shift the multipliers need.

    Raises:
        SolverError: X is not positive definite, or a signed multiplier is not positive.
    """
    gram_factor = cholesky(gram)
    if gram_factor is None or not bool(np.isfinite(theta).all() and (theta[sdp.signed] > 0).all()):
        raise SolverError(
            "interior point: the start is not in the interior; allowed are a positive definite X and positive signed "
            "variables. Begin without a start."
        )
    shift = _shift(sdp.matrix(theta), gram)
    matrix = sdp.matrix(theta) + np.diag(shift)
    factor = cholesky(matrix)
    if factor is None:
        raise SolverError("interior point: the start overflows. Scale the program to values near 1.")
    target = float(np.vdot(gram, matrix)) / sdp.size
    slack = np.zeros_like(theta)
    on = sdp.signed
    images = sdp.images(gram)
    room = sdp.weights - sdp.pairing_of_images(images)
    slack[on] = np.maximum(room[on], _LEAST_CENTRALITY * target / theta[on])
    return Point(theta, slack, gram, gram_factor, images, matrix, factor, shift)


def _shift(matrix: Array, gram: Array) -> Array:
    """A diagonal that makes a matrix positive definite, in units that fit X; zero when it is."""
    if cholesky(matrix) is not None:
        return np.zeros(len(matrix))
    units = 1.0 / gram.diagonal()
    lowest = smallest_eigenvalue(np.asfortranarray(np.diag(np.sqrt(units))), matrix)
    amount = -1.5 * min(lowest, -1e-12)
    while cholesky(matrix + np.diag(amount * units)) is None and np.isfinite(amount):
        amount *= 2.0
    return amount * units


def complementarity(sdp: ProductSdp, point: Point) -> float:
    r""":math:`\mu` of a point."""
    return mean_product(sdp, point.gram, point.matrix, point.slack, point.theta)


def mean_product(sdp: ProductSdp, gram: Array, matrix: Array, slack: Array, theta: Array) -> float:
    """The mean of the eigenvalues of X S and of the products s theta."""
    total = float(np.vdot(gram, matrix)) + float(slack[sdp.signed] @ theta[sdp.signed])
    return total / (sdp.size + int(sdp.signed.sum()))


def values(sdp: ProductSdp, point: Point) -> tuple[float, float]:
    """Objectives of both programs."""
    return float(sdp.weights @ point.theta), -float(np.vdot(sdp.constant, point.gram))


def violation(sdp: ProductSdp, point: Point) -> float:
    """What the errors of X's equations are worth: the sum of their sizes times theta, relative to the value."""
    errors = sdp.weights - sdp.pairing_of_images(point.images) - point.slack
    return float(np.abs(errors * point.theta).sum()) / max(1.0, abs(float(sdp.weights @ point.theta)))


def shortfall(sdp: ProductSdp, point: Point) -> float:
    """The larger of relative gap and violation; infinite while S is shifted."""
    if not point.feasible:
        return np.inf
    value, gram_value = values(sdp, point)
    return max(abs(value - gram_value) / max(1.0, abs(value)), violation(sdp, point))
