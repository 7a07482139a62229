r"""Interior point solver of the pointwise program.

Place in the data flow: level 7, ``PointwiseInstance -> multipliers``; untrusted. `path_following` does the work; this
module states the program in few and well scaled variables:

* inputs of a ball are rotated into the row space of the forms on them, at most one more than there are neurons;
* :math:`z_i = d_i z_i'` with :math:`d_i = \max(u_i, -l_i)`, so that all variables are of size one;
* the margin is divided by its size at random points.

**Start of the dual.** A product of increments from the centre, with :math:`z^0 = \mathrm{ReLU}(v^0)` its values,

.. math:: (z_i - z^0_i)(v_i - v^0_i - z_i + z^0_i) = z_i (v_i - z_i) + (z^0_i - v^0_i) z_i + z^0_i (z_i - v_i) ,

is made of three products of this program. So multipliers of a Lipschitz constant L with slopes [0, 1] are a feasible
point, whose b is the margin at the centre minus L times the radius. Graded, they lie in the interior.

The matrix of the dual is that of `pointwise` over :math:`(w', z', 1)`; b is a free variable of weight -1. The primal
starts at the second moments of true points of the set, which satisfy every product.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse
from scipy.linalg import solve_triangular

from geolip_lirpa.pointwise import PointwiseInstance, PointwiseMultipliers, triangle_slope
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.solvers.base import Status
from geolip_lirpa.solvers.path_following import PathFollowing, PathResult
from geolip_lirpa.solvers.product_sdp import ProductSdp
from geolip_lirpa.solvers.step_length import cholesky
from geolip_lirpa.types import Norm

#: Products beside complementarity, z >= 0 and z >= v, which are always there.
OPTIONAL_PRODUCTS = ("triangle", "interval")

_SAMPLES = 400
# Samples stay this far inside the input set.
_INSIDE = 0.95
# What a proof's repair may cost, and the error of a primal value that counts, both relative to the margin's size.
_REPAIR = 1e-5
_UNCERTAIN = 1e-3
# Gradings of Lipschitz multipliers that are tried as a start, and how far b begins below what they prove, in parts of
# the radius times the constant; smallest multipliers, relative to the largest.
_START_REPAIRS = (0.03, 0.1, 0.3, 1.0)
_START_ROOM = 0.1
_LEAST_PART = 1e-6
_LEAST = 1e-300
# Added to the diagonal of their second moments, relative to its mean.
_SPREAD = 1e-3


@dataclass(frozen=True)
class PointwiseResult:
    """What the solver found.

    Args:
        multipliers: of all products.
        value: objective of the primal, near the program's optimum when converged; None where it failed.
        status: how it stopped.
        iterations: of the interior point method.
        seconds: wall time.
    """

    multipliers: PointwiseMultipliers
    value: float | None
    status: Status
    iterations: int
    seconds: float


@dataclass(frozen=True)
class PointwiseInteriorPoint:
    """Primal-dual interior point method, one instance after the other.

    Args:
        products: optional products to use, see `OPTIONAL_PRODUCTS`; they matter for boxes, hardly for balls.
        tolerance: relative gap of the scaled program.
        max_iterations: for each instance.
        target: stop as soon as the margin is found to be above, or the optimum below it; None: go to the optimum.
        seed: of the samples.
    """

    name: ClassVar[str] = "interior-point"
    products: tuple[str, ...] = ()
    tolerance: float = 1e-6
    max_iterations: int = 100
    target: float | None = None
    seed: int = 0

    def solve(
        self, instances: Sequence[PointwiseInstance], starts: Sequence[Multipliers | None] | None = None
    ) -> list[PointwiseResult]:
        """Solve instances in order; those of one family should follow each other.

        Args:
            instances: the programs.
            starts: multipliers of the rows' Lipschitz constants over the same input sets, with slopes [0, 1] for all
                unstable neurons and unscaled inputs; None where there are none.
        """
        starts = [None] * len(instances) if starts is None else starts
        # programs whose numbers leave float64 give multipliers from which nothing can be proven
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return [self._solve_one(instance, start) for instance, start in zip(instances, starts, strict=True)]

    def _solve_one(self, instance: PointwiseInstance, start: Multipliers | None) -> PointwiseResult:
        begin = time.perf_counter()
        program = _Program.of(instance, self.products, self.seed)
        path = self._follow(program, start)
        if start is not None and path.status is Status.STALLED and not self._is_settled(path, program.value_scale):
            # far from the central path, as multipliers of constants of deep networks may be
            again = self._follow(program, None)
            path = again if not path.feasible or (again.feasible and again.value < path.value) else path
        value = -path.gram_value * program.value_scale
        found = program.multipliers(path.theta)
        return PointwiseResult(found, value, path.status, path.iterations, time.perf_counter() - begin)

    def _follow(self, program: _Program, start: Multipliers | None) -> PathResult:
        method = PathFollowing(self.tolerance, self.max_iterations)
        return method.solve(
            program.sdp, program.start(start), program.gram, lambda p: self._is_settled(p, program.value_scale)
        )

    def _is_settled(self, path: PathResult, scale: float) -> bool:
        """Whether a path shows on which side of the target the optimum is."""
        if self.target is None:
            return False
        above = path.feasible and -path.value * scale > self.target + _REPAIR * scale
        return above or (path.violation < _UNCERTAIN and -path.gram_value * scale < self.target - _UNCERTAIN * scale)


@dataclass(frozen=True)
class _Stacked:
    """The forms of all free neurons: V over (w', z), constants, bounds, layers and units."""

    inputs: Array
    neurons: Array
    constant: Array
    lower: Array
    upper: Array
    layer: Array
    unit: Array
    objective_inputs: Array
    objective_neurons: Array
    offsets: tuple[int, ...]

    @staticmethod
    def of(instance: PointwiseInstance) -> _Stacked:
        forms, family = instance.forms, instance.family
        sizes = [len(k) for k in forms.kept]
        offsets = tuple(int(v) for v in np.concatenate([[0], np.cumsum(sizes[1:])]))
        total = offsets[-1]
        inputs, neurons = np.zeros((total, sizes[0])), np.zeros((total, total))
        for (l, s), block in forms.hidden.items():
            rows = slice(offsets[l - 1], offsets[l])
            if s == 0:
                inputs[rows] = block
            else:
                neurons[rows, offsets[s - 1] : offsets[s]] = block
        of_inputs, of_neurons = np.zeros(sizes[0]), np.zeros(total)
        for s, row in forms.output.items():
            if s == 0:
                of_inputs = row[0]
            else:
                of_neurons[offsets[s - 1] : offsets[s]] = row[0]
        if family.input_norm is Norm.L2:
            basis, _ = np.linalg.qr(np.vstack([inputs, of_inputs[None]]).T)
            inputs, of_inputs = inputs @ basis, of_inputs @ basis
        limits = [family.limits(l) for l in range(1, len(sizes))]
        lower = np.concatenate([a for a, _ in limits]) if limits else np.zeros(0)
        upper = np.concatenate([b for _, b in limits]) if limits else np.zeros(0)
        ends = family.constants.hidden
        constant = np.concatenate([0.5 * (a + b) for a, b in ends]) if ends else np.zeros(0)
        layer = np.repeat(np.arange(1.0, len(sizes)), sizes[1:])
        unit = np.maximum(upper, -lower)
        return _Stacked(inputs, neurons, constant, lower, upper, layer, unit, of_inputs, of_neurons, offsets)

    def at_center(self) -> tuple[Array, Array]:
        """Pre-activations and values of the neurons at w = 0."""
        v, z = np.zeros(len(self.constant)), np.zeros(len(self.constant))
        for l in range(1, len(self.offsets)):
            rows = slice(self.offsets[l - 1], self.offsets[l])
            v[rows] = self.neurons[rows] @ z + self.constant[rows]
            z[rows] = np.maximum(v[rows], 0.0)
        return v, z

    def samples(self, ball: bool, seed: int) -> tuple[Array, Array]:
        """Points w' (count, n0') of the input set, and the neurons' values there."""
        rng = np.random.default_rng(seed)
        size = self.inputs.shape[1]
        w = rng.normal(size=(_SAMPLES, size))
        if ball:
            w *= rng.random((_SAMPLES, 1)) ** (1.0 / max(1, size)) / np.maximum(
                np.linalg.norm(w, axis=1)[:, None], 1e-30
            )
        else:
            w = rng.uniform(-1.0, 1.0, w.shape)
        w *= _INSIDE
        z = np.zeros((_SAMPLES, len(self.constant)))
        for l in range(1, len(self.offsets)):
            rows = slice(self.offsets[l - 1], self.offsets[l])
            v = w @ self.inputs[rows].T + z @ self.neurons[rows].T + self.constant[rows]
            z[:, rows] = np.maximum(v, 0.0)
        return w, z


@dataclass(frozen=True)
class _Program:
    """The scaled program, a primal start, and the way back."""

    instance: PointwiseInstance
    stacked: _Stacked
    sdp: ProductSdp
    gram: Array
    value_scale: float
    products: tuple[str, ...]

    @staticmethod
    def of(instance: PointwiseInstance, products: tuple[str, ...], seed: int) -> _Program:
        stacked = _Stacked.of(instance)
        ball = instance.family.input_norm is Norm.L2
        w, z = stacked.samples(ball, seed)
        center = 0.5 * (instance.constant[0] + instance.constant[1])
        margins = w @ stacked.objective_inputs + z @ stacked.objective_neurons + center
        scale = float(np.abs(margins).max()) or 1.0
        points = np.hstack([w, z / stacked.unit, np.ones((len(w), 1))])
        gram = points.T @ points / len(points)
        gram[np.diag_indices_from(gram)] += _SPREAD * float(gram.diagonal().mean())
        sdp = _product_sdp(stacked, ball, center, scale, products)
        return _Program(instance, stacked, sdp, gram, scale, products)

    def start(self, lipschitz: Multipliers | None) -> Array:
        """Start of the dual: from multipliers of a Lipschitz constant where they serve, see the module's docstring."""
        if lipschitz is not None and len(self.stacked.constant) > 0:
            for repair in _START_REPAIRS:
                theta = self._lipschitz_start(lipschitz, repair)
                if theta is not None:
                    return theta
        return self._crude_start()

    def _lipschitz_start(self, lipschitz: Multipliers, repair: float) -> Array | None:
        """The start with graded multipliers; None where they are not in the interior."""
        stacked, family, kept = self.stacked, self.instance.family, self.instance.forms.kept
        unit, count, depth = stacked.unit, len(stacked.constant), len(stacked.offsets) - 1
        ball = family.input_norm is Norm.L2
        square = family.input_scale.numpy() ** 2
        tau = lipschitz.input * square[: len(lipschitz.input)] if ball else (lipschitz.input * square)[kept[0]]
        lam = np.concatenate([h[k] for h, k in zip(lipschitz.hidden, kept[1:], strict=True)])
        # the scale at which budget and output balance, in units of the scaled program
        scale = np.sqrt(float(lipschitz.output.sum()) / max(float(tau.sum()), _LEAST)) / self.value_scale
        lam, tau = scale * lam * (1.0 + repair) ** (depth - stacked.layer), scale * tau * (1.0 + repair) ** depth
        if not (np.isfinite(lam).all() and np.isfinite(tau).all() and len(lam) == count and tau.max(initial=0) > 0):
            return None
        lam = np.maximum(lam * unit**2, _LEAST_PART * float((lam * unit**2).max(initial=1.0)))
        v, z = stacked.at_center()
        small = _LEAST_PART * float(lam.max(initial=1.0))
        groups = [lam, lam * (z - v) / unit + small, lam * z / unit + small]
        groups += [np.full(count, small)] * len(self.products)
        theta = np.concatenate([*groups, np.maximum(tau, _LEAST_PART * tau.max()), [0.0]])
        matrix = self.sdp.matrix(theta)
        factor = cholesky(np.ascontiguousarray(matrix[:-1, :-1]))
        if factor is None:
            return None
        half = solve_triangular(factor, matrix[:-1, -1], lower=True, check_finite=False)
        needed = float(half @ half)
        theta[-1] = 0.5 * (float(matrix[-1, -1]) - needed) - _START_ROOM * float(tau.sum())
        return theta

    def _crude_start(self) -> Array:
        r"""Multipliers that grow towards the input, which makes the part over (w, z) nearly semidefinite."""
        count, depth = len(self.stacked.constant), len(self.stacked.offsets) - 1
        theta = np.full(len(self.sdp.weights), 0.1)
        theta[:count] = 0.3 * 4.0 ** (depth - self.stacked.layer)
        first = (3 + len(self.products)) * count
        theta[first:-1] = 4.0**depth / (1 if len(theta) == first + 2 else max(1, self.stacked.inputs.shape[1]))
        theta[-1] = -20.0
        return theta

    def multipliers(self, theta: Array) -> PointwiseMultipliers:
        """In the units of the instance; negative entries become zero."""
        count, unit = len(self.stacked.constant), self.stacked.unit
        theta = np.maximum(theta, 0.0) * self.value_scale
        groups = {"complementarity": theta[:count] / unit**2}
        names = ("positive", "above", *self.products)
        for number, name in enumerate(names, start=1):
            power = 2 if name == "interval" else 1
            groups[name] = theta[number * count : (number + 1) * count] / unit**power
        empty = np.zeros(count)
        lam, mu, eta, t, iota = (self._spread(groups.get(name, empty)) for name in ("complementarity", *_NAMES))
        tau = theta[(1 + len(names)) * count : -1]
        family = self.instance.family
        if family.input_norm is Norm.LINF:
            whole = np.zeros(family.input_scale.numel())
            whole[self.instance.forms.kept[0]] = tau
            tau = whole
        return PointwiseMultipliers(lam, mu, eta, t, iota, tau)

    def _spread(self, values: Array) -> tuple[Array, ...]:
        """Numbers of the free neurons, back in their places among all neurons."""
        result = []
        for l, slope in enumerate(self.instance.family.slopes, start=1):
            whole = np.zeros(slope.lower.numel())
            whole[self.instance.forms.kept[l]] = values[self.stacked.offsets[l - 1] : self.stacked.offsets[l]]
            result.append(whole)
        return tuple(result)


_NAMES = ("positive", "above", "triangle", "interval")


def _product_sdp(stacked: _Stacked, ball: bool, center: float, scale: float, products: tuple[str, ...]) -> ProductSdp:
    """All products over (w', z', 1): neurons group by group, inputs, the corner's share of them, and b."""
    count, inputs = len(stacked.constant), stacked.inputs.shape[1]
    size, unit = inputs + count + 1, stacked.unit
    own = np.zeros((count, size))
    own[:, inputs:-1] = np.eye(count)
    value = np.hstack([stacked.inputs, stacked.neurons * unit, stacked.constant[:, None]]) / unit[:, None]
    one = np.zeros((1, size))
    one[0, -1] = 1.0
    ones = np.repeat(one, count, axis=0)
    low, high = value - (stacked.lower / unit)[:, None] * ones, (stacked.upper / unit)[:, None] * ones - value
    line = triangle_slope(stacked.lower, stacked.upper)[:, None] * low - own
    pairs = {"triangle": (ones, line), "interval": (low, high)}
    chosen = [(own, value - own), (ones, own), (ones, own - value), *(pairs[name] for name in products)]
    coordinates = np.eye(size)[:inputs]
    left = np.vstack([*(a for a, _ in chosen), coordinates, np.repeat(one, 1 if ball else inputs, axis=0), one])
    budget = np.repeat(0.5 * one, 1 if ball else inputs, axis=0)
    right = np.vstack([*(b for _, b in chosen), -0.5 * coordinates, budget, one])
    hidden = len(chosen) * count
    tau = np.full(inputs, hidden) if ball else hidden + np.arange(inputs)
    last = hidden + (1 if ball else inputs)
    variables = np.concatenate([np.arange(hidden), tau, np.array([hidden]) if ball else tau, [last]])
    constant = np.zeros((size, size))
    constant[:inputs, -1], constant[inputs:-1, -1] = stacked.objective_inputs, stacked.objective_neurons * unit
    constant[-1] = constant[:, -1]
    constant[-1, -1] = 2.0 * center
    weights = np.zeros(last + 1)
    weights[-1] = -1.0
    signed = np.ones(last + 1, dtype=bool)
    signed[-1] = False
    return ProductSdp(
        sparse.csr_array(left), sparse.csr_array(right), variables.astype(np.int64), constant / scale, weights, signed
    )  # fmt: skip
