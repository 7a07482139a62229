r"""The trusted step of the pointwise program: from multipliers to a proven lower bound of a margin.

Place in the data flow: level 6, ``PointwiseInstance + multipliers -> proven margin``. Imports `lmi` and
`block_elimination`, no solver. The derivation of the matrix is in `pointwise`.

Every number of the matrix is computed with a bound on its rounding error, and the corner is rounded down, so a
completed factorisation proves :math:`q \ge 0` and with it the margin (`verify_margin`). For multipliers from a solver
`prove_margin` first repairs the part over y: :math:`\lambda` and :math:`\tau` are those of a Lipschitz program with
slopes [0, 1], so *grading* them, :math:`(1+\eta)^{L-l}` for layer l, makes that part positive definite for the reasons
given in `proof`.
The corner then decides b: the largest one is half of the rest minus :math:`p^T M_{yy}^{-1} p`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geolip_lirpa.block_elimination import (
    elimination_order,
    is_positive_semidefinite_matrix,
    lower_diagonal,
    rounding_of_elimination,
    schur_complement,
)
from geolip_lirpa.lmi import LayerTerms, MatrixTerms, assemble, error_norm, scale_to_unit_diagonal
from geolip_lirpa.pointwise import PointwiseInstance, PointwiseMultipliers, triangle_slope
from geolip_lirpa.rounding import MULTIPLIER_RANGE, Array, gamma
from geolip_lirpa.types import Norm

_TINY = 1e-250
_FIRST_REPAIR = 1e-9
_REPAIR_RATIO = 10.0
_LARGEST_REPAIR = 0.3


@dataclass(frozen=True)
class ProvenMargin:
    """A proven lower bound of a margin and the (repaired) multipliers from which `verify_margin` proves it."""

    lower: float
    multipliers: PointwiseMultipliers


def verify_margin(
    instance: PointwiseInstance, multipliers: PointwiseMultipliers, lower: float, margin: float = 1.0
) -> bool:
    """Prove that the margin is at least `lower` on the whole input set.

    Args:
        instance: the program, rebuilt from the network.
        multipliers: untrusted numbers.
        lower: the claim.
        margin: error allowances are multiplied by it; whoever creates a proof uses 2.

    Returns:
        True only if proven.
    """
    if not (np.isfinite(lower) and _plausible(instance, multipliers)):
        return False
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        terms, rest = _terms(instance, multipliers)
        corner = 2.0 * (rest - lower)
        # the subtraction and the product are rounded once each; the rest carries its own error
        corner -= gamma(4) * 2.0 * (abs(rest) + abs(lower)) + _TINY
        if not (np.isfinite(corner) and corner > 0):
            return False
        terms = replace(terms, output=np.array([corner]))
        matrix = assemble(terms)
        divisors = scale_to_unit_diagonal(matrix)
        if not all(np.isfinite(d).all() for d in divisors):
            return False
        return is_positive_semidefinite_matrix(matrix, margin * error_norm(terms, divisors), margin)


def prove_margin(instance: PointwiseInstance, multipliers: PointwiseMultipliers) -> ProvenMargin | None:
    """The best margin that repaired multipliers prove, or None when they prove nothing.

    Args:
        instance: the program.
        multipliers: from any solver; negative entries are set to zero.
    """
    multipliers = _clip(multipliers)
    best: ProvenMargin | None = None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        repair = _FIRST_REPAIR
        while repair <= _LARGEST_REPAIR:
            graded = _graded(multipliers, repair)
            lower = _attainable(instance, graded)
            if lower is not None and (best is None or lower > best.lower):
                if verify_margin(instance, graded, lower, 2.0):
                    best = ProvenMargin(lower, graded)
            elif best is not None:
                break
            repair *= _REPAIR_RATIO
    return best


# --- the matrix -------------------------------------------------------------------------------------------------------


def _terms(instance: PointwiseInstance, multipliers: PointwiseMultipliers) -> tuple[MatrixTerms, float]:
    r"""All terms but the corner, and a lower bound of :math:`o - \frac12\sum\tau + \sum_i [\ldots]`."""
    forms = instance.forms
    column = {s: block[0].copy() for s, block in forms.output.items()}
    error = {s: block[0].copy() for s, block in forms.output_error.items()}
    layers: list[LayerTerms] = []
    tau = _input_diagonal(instance, multipliers)
    budget = float(multipliers.input[0]) if instance.family.input_norm is Norm.L2 else float(tau.sum())
    rest, size = instance.constant[0] - 0.5 * budget, abs(instance.constant[0]) + budget
    for l in range(1, len(forms.kept)):
        layer = _Layer.of(instance, multipliers, l)
        layers.append(layer.terms())
        own, own_error = layer.own_column()
        _accumulate(column, error, l, own, own_error)
        pulled, pulled_error = layer.pulled()
        for (row, s), block in forms.blocks.items():
            if row != l:
                continue
            absolute = abs(block).T
            spread = absolute @ (pulled_error + gamma(len(pulled) + 8) * np.abs(pulled))
            if (l, s) in forms.block_errors:
                spread = spread + forms.block_errors[l, s].T @ (np.abs(pulled) + pulled_error)
            _accumulate(column, error, s, block.T @ pulled, spread * (1.0 + gamma(len(pulled) + 16)))
        value, magnitude = layer.constant()
        rest, size = rest + value, size + magnitude
    count = sum(len(k) for k in forms.kept) + 64
    # sums of `constant` in any order, and what the layers' own roundings add
    rest -= gamma(2 * count) * size + _TINY
    signed = {s: -values[None] for s, values in column.items()}
    charged = {s: (e * (1.0 + gamma(16)) + gamma(16) * np.abs(column[s]) + _TINY)[None] for s, e in error.items()}
    whole = replace(forms, output=signed, output_error=charged)
    return MatrixTerms(whole, tau, tuple(layers), np.ones(1)), rest


def _accumulate(column: dict[int, Array], error: dict[int, Array], s: int, value: Array, spread: Array) -> None:
    """Add to the column of the constant; each addition is rounded once."""
    old = column.get(s, np.zeros_like(value))
    column[s] = old + value
    rounding = gamma(2) * (np.abs(old) + np.abs(value))
    error[s] = error.get(s, np.zeros_like(value)) + spread + rounding


def _input_diagonal(instance: PointwiseInstance, multipliers: PointwiseMultipliers) -> Array:
    kept = instance.forms.kept[0]
    tau = multipliers.input
    return np.full(len(kept), tau[0]) if instance.family.input_norm is Norm.L2 else tau[kept]


@dataclass(frozen=True)
class _Layer:
    """Multipliers and constants of one layer's free neurons, in the notation of `pointwise`."""

    lam: Array
    mu: Array
    eta: Array
    t: Array
    iota: Array
    kappa: Array
    lower: Array
    upper: Array
    v0: Array
    v0_error: Array

    @staticmethod
    def of(instance: PointwiseInstance, multipliers: PointwiseMultipliers, l: int) -> _Layer:
        kept = instance.forms.kept[l]
        lower, upper = instance.family.limits(l)
        low, high = instance.family.constants.hidden[l - 1]
        middle = 0.5 * (low + high)
        radius = np.maximum(high - middle, middle - low) * (1.0 + gamma(4)) + _TINY
        lam, mu, eta, t, iota = (group[l - 1][kept] for group in multipliers.hidden())
        return _Layer(lam, mu, eta, t, iota, triangle_slope(lower, upper), lower, upper, middle, radius)

    def terms(self) -> LayerTerms:
        return LayerTerms(2.0 * self.lam, self.lam, 2.0 * self.iota)

    def own_column(self) -> tuple[Array, Array]:
        r""":math:`-\lambda v^0 - \mu - \eta + t` and its error."""
        value = -self.lam * self.v0 - self.mu - self.eta + self.t
        size = self.lam * np.abs(self.v0) + self.mu + self.eta + self.t
        return value, self.lam * self.v0_error * (1.0 + gamma(4)) + gamma(6) * size

    def pulled(self) -> tuple[Array, Array]:
        r""":math:`h = \eta - \kappa t - \iota (u + l - 2 v^0)` and its error."""
        width = self.upper + self.lower - 2.0 * self.v0
        value = self.eta - self.kappa * self.t - self.iota * width
        size = self.eta + self.kappa * self.t
        size = size + self.iota * (np.abs(self.upper) + np.abs(self.lower) + 2.0 * np.abs(self.v0))
        return value, 2.0 * self.iota * self.v0_error * (1.0 + gamma(4)) + gamma(10) * size

    def constant(self) -> tuple[float, float]:
        r"""Lower bound of :math:`\sum \eta v^0 - t\kappa(v^0-l) - \iota(v^0-l)(u-v^0)`, and the size of its terms.

        The rounding of the sum is left to the caller.
        """
        low, high = self.v0 - self.lower, self.upper - self.v0
        tk = self.t * self.kappa
        value = self.eta * self.v0 - tk * low - self.iota * low * high
        reach_low = np.abs(self.v0) + np.abs(self.lower) + self.v0_error
        reach_high = np.abs(self.v0) + np.abs(self.upper) + self.v0_error
        size = self.eta * np.abs(self.v0) + tk * reach_low + self.iota * reach_low * reach_high
        moved = (self.eta + tk + self.iota * (reach_low + reach_high)) * self.v0_error
        slack = moved * (1.0 + gamma(16)) + gamma(16) * size
        return float((value - slack).sum()), float(size.sum() + moved.sum())


# --- repair (untrusted: whatever it returns goes through verify_margin) -----------------------------------------------


def _plausible(instance: PointwiseInstance, multipliers: PointwiseMultipliers) -> bool:
    """Shapes fit, everything is non-negative, finite and of a size that cannot underflow."""
    sizes = [s.lower.numel() for s in instance.family.slopes]
    for group in multipliers.hidden():
        if [g.shape for g in group] != [(size,) for size in sizes]:
            return False
    inputs = 1 if instance.family.input_norm is Norm.L2 else instance.family.input_scale.numel()
    numbers = [multipliers.input, *(g for group in multipliers.hidden() for g in group)]
    good = all(bool(np.isfinite(v).all() and (v >= 0).all()) and MULTIPLIER_RANGE.holds(v) for v in numbers)
    return good and multipliers.input.shape == (inputs,)


def _clip(multipliers: PointwiseMultipliers) -> PointwiseMultipliers:
    def clip(values: Array) -> Array:
        clean = np.where(np.isfinite(values), np.maximum(values, 0.0), 0.0)
        return np.where(clean < 1e-40, 0.0, np.minimum(clean, 1e40))

    hidden = [tuple(clip(g) for g in group) for group in multipliers.hidden()]
    # a neuron needs a positive diagonal
    scale = max([float(g.max(initial=0.0)) for g in hidden[0]] + [1e-30])
    hidden[0] = tuple(np.maximum(g, 1e-9 * scale) for g in hidden[0])
    tau = clip(multipliers.input)
    return multipliers.with_hidden(hidden, np.maximum(tau, 1e-12 * float(tau.max(initial=1e-30))))


def _graded(multipliers: PointwiseMultipliers, repair: float) -> PointwiseMultipliers:
    depth = len(multipliers.complementarity)
    factors = [(1.0 + repair) ** (depth - l) for l in range(1, depth + 1)]
    hidden = list(multipliers.hidden())
    hidden[0] = tuple(g * f for g, f in zip(hidden[0], factors, strict=True))
    return multipliers.with_hidden(hidden, multipliers.input * (1.0 + repair) ** depth)


def _attainable(instance: PointwiseInstance, multipliers: PointwiseMultipliers) -> float | None:
    r""":math:`b = \mathrm{rest} - \frac12 p^T M_{yy}^{-1} p`, lowered a little; None when M_yy does not factorise."""
    terms, rest = _terms(instance, multipliers)
    matrix = assemble(terms)
    divisors = scale_to_unit_diagonal(matrix)
    if not all(np.isfinite(d).all() for d in divisors):
        return None
    order = elimination_order(matrix)
    rounding = 4.0 * rounding_of_elimination(matrix, order) + 4.0 * error_norm(terms, divisors)
    matrix.diagonal[-1] = np.zeros(1)
    lower_diagonal(matrix, rounding, blocks=len(divisors) - 1)
    remainder = schur_complement(matrix, order)
    if remainder is None or not np.isfinite(remainder).all():
        return None
    needed = -float(remainder[0, 0]) * divisors[-1][0] ** 2
    slack = 8.0 * rounding * (needed + abs(rest)) + _TINY
    return float(rest - 0.5 * needed - slack)


def zeros(instance: PointwiseInstance) -> PointwiseMultipliers:
    """All multipliers zero, to be filled in."""
    empty: Sequence[Array] = [np.zeros(s.lower.numel()) for s in instance.family.slopes]
    inputs = 1 if instance.family.input_norm is Norm.L2 else instance.family.input_scale.numel()
    group = tuple(empty)
    return PointwiseMultipliers(group, group, group, group, group, np.zeros(inputs))
