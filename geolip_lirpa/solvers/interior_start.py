r"""Starts of the interior point method for Lipschitz programs: vectors, multipliers, and points between.

Place in the data flow: level 7, a tool of `interior_point`; works on the scaled programs of `conditioning`.

*Vectors.* Power iterations (as in `low_rank`, here on dense forms) give feasible vectors whose value is close to the
optimum, and the multipliers that stationarity asks for. The better they are the fewer steps follow: three to five
instead of twenty. Bad ones do no harm but for that.

*A strictly feasible Gram matrix.* Send a normal random vector through the network: inputs of the allowed variance,
:math:`t_i = \tfrac{g_i}2 (dv_i + \kappa\,\mathrm{sd}(dv_i)\,\varepsilon_i)` with independent :math:`\varepsilon_i` and
:math:`0 < \kappa < 1`, outputs likewise. Its covariance is positive definite because each variable has a share of its
own, and :math:`E[t_i (g_i dv_i - t_i)] = \tfrac{g_i^2}4 (1 - \kappa^2) E[dv_i^2] > 0`. The start is a mean of this
covariance and the Gram matrix of the vectors.

*Multipliers in the interior.* Multiplied by :math:`(1 + \eta)^{L + 1 - l}` in layer l, multipliers whose matrix is
semidefinite give a definite one (`geolip_lirpa.proof` says why); the smallest :math:`\eta` of a ladder that does is
taken, and the share of the covariance is as large, so that both matrices are about as far from the boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geolip_lirpa.forms import Forms
from geolip_lirpa.rounding import Array
from geolip_lirpa.solvers.conditioning import ConditionedDual
from geolip_lirpa.solvers.product_sdp import ProductSdp
from geolip_lirpa.solvers.step_length import cholesky

# More vectors than the optimum needs spread the start over more directions.
_RANK = 16
# Power iterations end when ten of them add less than this share to the value.
_GROWTH = 1e-7
# Repairs eta that are tried, smallest first; given multipliers are taken for better ones.
_PUSHES = tuple(1e-3 * 4.0**i for i in range(7))
_GIVEN_PUSHES = (1e-5, 1e-4, *_PUSHES)
# Share of the covariance: times eta, and at most.
_SPREAD = 0.3
_LARGEST_SPREAD = 0.1
# kappa^2, which is 1/2 where the last layer's slack and variance balance, and the outputs' correlation with O y.
_NOISE = 0.5
_ALIGNMENT = 0.5
# Repairs eta that are tried, smallest first.
_PUSHES = tuple(0.003 * 4.0**i for i in range(6))
# Multipliers start at this share of their layer's median at least.
_SMALLEST_SHARE = 1e-3
_TINY = 1e-150


@dataclass(frozen=True)
class Start:
    """A start for `PathFollowing`: theta (p,) and X (n, n) of a scaled program."""

    theta: Array
    gram: Array


def interior_start(
    program: ConditionedDual, sdp: ProductSdp, theta: Array | None = None, power_iterations: int = 500
) -> Start:
    """A start in the interior, or near it.

    Args:
        program: the scaled program.
        sdp: the same program as products.
        theta: multipliers to start from, (p,), in the program's units; those of the power iterations are taken when
            they are better.
        power_iterations: at most.
    """
    found = _Vectors(program, power_iterations)
    inside, push = _interior(program, sdp, found.theta(), _PUSHES)
    if theta is not None:
        given, given_push = _interior(program, sdp, theta, _GIVEN_PUSHES)
        if given_push < np.inf and (push == np.inf or sdp.weights @ given < sdp.weights @ inside):
            inside, push = given, given_push
    share = min(_LARGEST_SPREAD, _SPREAD * push)
    spread = _covariance_factor(program)
    vectors = np.concatenate([*found.points.values(), found.output])
    return Start(inside, 0.5 * ((1.0 - share) * vectors @ vectors.T + share * spread @ spread.T))


# --- vectors --------------------------------------------------------------------------------------------------------


class _Vectors:
    """Feasible vectors of a scaled program after some power iterations.

    `points` has rows w and t by block, `output` unit vectors u, `gradients` the derivative of :math:`|O y|` by them.
    """

    def __init__(self, program: ConditionedDual, iterations: int) -> None:
        self.program, self.forms = program, program.forms
        self.tied = program.instance.tie_layers
        generator = np.random.default_rng(0)
        sizes = [len(kept) for kept in self.forms.kept]
        self.units = [self._unit(generator.standard_normal((size, _RANK))) for size in sizes]
        self.points = {0: program.project_input(self.units[0])}
        self._pass()
        before = self.value
        for iteration in range(iterations):
            self.points[0] = program.project_input(self.gradients[0])
            self.units[1:] = [self._unit(self.gradients[l]) for l in range(1, len(sizes))]
            self._pass()
            if iteration % 10 == 9:
                if self.value <= before * (1.0 + _GROWTH):
                    break
                before = self.value

    @property
    def value(self) -> float:
        """:math:`|O y|`."""
        return float(self.lengths.sum())

    def _pass(self) -> None:
        self._forward()
        self._backward()

    def _unit(self, vectors: Array) -> Array:
        """Rows of length one; for tied layers the whole matrix."""
        return vectors / np.maximum(_lengths(vectors, self.tied), _TINY)

    def _forward(self) -> None:
        """t = g/2 (dv + |dv| u), layer by layer."""
        self.moved: dict[int, Array] = {}
        self.radius: dict[int, Array] = {}
        for l in range(1, len(self.forms.kept)):
            half = 0.5 * self.forms.upper[l - 1][:, None]
            self.moved[l] = half * _image(self.forms, l, self.points)
            self.radius[l] = _lengths(self.moved[l], self.tied)
            self.points[l] = self.moved[l] + self.radius[l] * self.units[l]
        image = _image(self.forms, None, self.points)
        self.lengths = _lengths(image, self.program.one_output)
        self.output = image / np.maximum(self.lengths, _TINY)

    def _backward(self) -> None:
        """Derivatives of the value by the points, last layer first."""
        self.gradients = {s: np.zeros_like(points) for s, points in self.points.items()}
        self.inner: dict[int, Array] = {}
        for s, block in self.forms.output.items():
            self.gradients[s] += block.T @ self.output
        for l in reversed(range(1, len(self.forms.kept))):
            gradient, moved, radius = self.gradients[l], self.moved[l], self.radius[l]
            self.inner[l] = _sums(gradient * self.units[l], self.tied)
            # d(half dv + |half dv| u), half dv = moved
            half = 0.5 * self.forms.upper[l - 1][:, None]
            passed = half * (gradient + self.inner[l] * moved / np.maximum(radius, _TINY))
            for (row, s), block in self.forms.hidden.items():
                if row == l:
                    self.gradients[s] += block.T @ passed

    def theta(self) -> Array:
        r""":math:`\lambda_i = \langle g_i, u_i\rangle / (2 r_i)`, :math:`\tau = \langle g, w\rangle / |w|^2`, sigma."""
        groups, weights = self.program.sdp.groups, self.program.sdp.rhs
        theta = np.zeros(len(weights))
        for l, variables in enumerate(groups.hidden, start=1):
            theta[variables] = (self.inner[l] / (2.0 * np.maximum(self.radius[l], _TINY))).ravel()
        # the weights are half of the squared lengths
        np.add.at(theta, groups.input, (self.gradients[0] * self.points[0]).sum(axis=1))
        theta[groups.output] = self.lengths.ravel()
        theta[groups.input] /= 2.0 * weights[groups.input]
        return theta


def _lengths(vectors: Array, together: bool) -> Array:
    """Lengths of the rows, (n, 1), or of the whole matrix, (1, 1)."""
    return np.sqrt(_sums(vectors * vectors, together))


def _sums(values: Array, together: bool) -> Array:
    return np.asarray(values.sum(axis=(0, 1) if together else 1, keepdims=True))


def _image(forms: Forms, l: int | None, points: dict[int, Array]) -> Array:
    """The forms of block l, or of the output if None, at vectors of the blocks before it."""
    blocks = forms.output if l is None else {s: block for (row, s), block in forms.hidden.items() if row == l}
    rows = forms.rows if l is None else len(forms.kept[l])
    total = np.zeros((rows, points[0].shape[1]))
    for s, block in blocks.items():
        total += block @ points[s]
    return total


# --- the interior ---------------------------------------------------------------------------------------------------


def _covariance_factor(program: ConditionedDual) -> Array:
    """Lower triangular F, (n, n): ``F F^T`` is the covariance of a random vector sent through the network."""
    forms, groups, weights = program.forms, program.sdp.groups, program.sdp.rhs
    size = forms.size + forms.rows
    factor = np.zeros((size, size))
    members = np.bincount(groups.diagonal, minlength=len(weights))
    allowed = np.sqrt(2.0 * weights / np.maximum(members, 1))
    inputs = np.arange(forms.block(0).stop)
    factor[inputs, inputs] = allowed[groups.input]
    for l in range(1, len(forms.kept)):
        rows = np.arange(forms.block(l).start, forms.block(l).stop)
        points = {s: factor[forms.block(s)] for s in range(l)}
        moved = 0.5 * forms.upper[l - 1][:, None] * _image(forms, l, points)
        deviation = np.linalg.norm(moved, axis=1)
        factor[rows] = moved
        # a neuron whose form vanishes after scaling still needs a share of its own
        factor[rows, rows] = np.sqrt(_NOISE) * np.maximum(deviation, 1e-8 * deviation.max(initial=_TINY))
    rows = np.arange(forms.size, size)
    image = _image(forms, None, {s: factor[forms.block(s)] for s in range(len(forms.kept))})
    factor[rows] = _ALIGNMENT * allowed[groups.output][:, None] * image / np.maximum(_lengths(image, False), _TINY)
    factor[rows, rows] = np.sqrt(1.0 - _ALIGNMENT**2) * allowed[groups.output]
    return factor


def _interior(
    program: ConditionedDual, sdp: ProductSdp, theta: Array, pushes: tuple[float, ...]
) -> tuple[Array, float]:
    """Multipliers pushed until their matrix is positive definite, and the push; infinite if it never is."""
    floored = _floored(program, theta)
    hidden = program.sdp.groups.hidden
    pushed = floored
    for push in pushes:
        pushed = floored.copy()
        for l, variables in enumerate((program.sdp.groups.input, *hidden)):
            pushed[variables] = floored[variables] * (1.0 + push) ** (len(hidden) + 1 - l)
        if cholesky(sdp.matrix(pushed)) is not None:
            return pushed, push
    return pushed, np.inf


def _floored(program: ConditionedDual, theta: Array) -> Array:
    """Positive finite multipliers: none far below its layer's median."""
    result = np.where(np.isfinite(theta), theta, 0.0)
    groups = program.sdp.groups
    for variables in (groups.input, *groups.hidden, groups.output):
        positive = result[variables][result[variables] > 0]
        floor = _SMALLEST_SHARE * float(np.median(positive)) if positive.size else 1.0
        result[variables] = np.maximum(result[variables], floor)
    return result
