r"""The trusted step: from multipliers to a proven bound.

Place in the data flow: level 6, ``multipliers -> proven bound``. Imports `lmi` and `block_elimination`, no solver.

**Verification.** Given multipliers :math:`\lambda, \tau \ge 0` and :math:`\sigma > 0`, `verify` proves
:math:`M \succeq 0` (module `sdp`) by a floating-point Cholesky factorisation with all errors bounded, and returns
:math:`\sqrt{(\sum\tau)(\sum\sigma)}`, rounded up. Scaling by powers of two makes the diagonal near one and is exact.

**Repair.** A solver's multipliers are optimal to some digits only and M is singular at the optimum, so M has slightly
negative eigenvalues. `prove` repairs them before it verifies: with layers numbered from the input (0, the :math:`\tau`)
to the last activation (L), multipliers of layer l are multiplied by :math:`(1 + \eta)^{L - l}`.

Why this works: write :math:`M = \sum_l M_l`, one term for each layer's constraints. In the coordinates
:math:`\tilde z = z - \alpha v` (a congruence, which changes no sign) every constraint reads
:math:`\tilde z((\beta - \alpha) v - \tilde z) \ge 0`, so the partial sum :math:`S_l = M_0 + .. + M_l` is a principal
submatrix of M, hence positive semidefinite when M is. To first order the repaired matrix is :math:`M + \eta (S_0 + ..
+ S_{L-1})`, and the added part is positive definite: its kernel would have vanishing inputs, then vanishing first
layer, and so on. For a chain of layers with :math:`\alpha = 0` the repaired matrix is congruent to
:math:`\sqrt{1-\eta'}\,M + (1-\sqrt{1-\eta'})\,\mathrm{diag}(M)` with :math:`\eta' = \eta/(1+\eta)`: it removes
eigenvalues down to :math:`-\eta/2` of the matrix with unit diagonal. The cost is a factor
:math:`(1+\eta)^{L/2}` of the bound, whatever the norms of the layers. (A diagonal shift, the usual repair, must be paid
with bounds on the activations, which grow like the product of the layers' norms.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from geolip_lirpa.block_elimination import (
    is_positive_semidefinite_matrix,
    lower_diagonal,
    rounding_of_elimination,
    schur_complement,
)
from geolip_lirpa.dissection import Arrangement, arrangement_of
from geolip_lirpa.errors import SolverError
from geolip_lirpa.forms import Forms
from geolip_lirpa.lmi import (
    MatrixTerms,
    assemble,
    assemble_lmi,
    error_norm,
    lipschitz_terms,
    scale_to_unit_diagonal,
)
from geolip_lirpa.rounding import MULTIPLIER_RANGE, Array, gamma
from geolip_lirpa.sdp import Multipliers, SdpInstance, input_diagonal
from geolip_lirpa.types import Norm, OutputNorm

#: Candidate repairs eta are powers of this ratio times the smallest that rounding allows.
_REPAIR_RATIO = 16.0
# Added to the output's multipliers, as parts of them: rounding at the last pivots is known up to a factor only.
_OUTPUT_SLACKS = (0.0, 1e-12, 1e-9, 1e-7, 1e-5)
_LARGEST_REPAIR = 0.5
# The first candidate: it costs half of this, relative to the bound, which nobody misses. Most need no more.
_CHEAP_REPAIR = 1e-7


@dataclass(frozen=True)
class Proven:
    """A proven upper bound and the (repaired) multipliers from which `verify` proves it."""

    upper: float
    multipliers: Multipliers


def verify(
    instance: SdpInstance, multipliers: Multipliers, margin: float = 1.0, arrangement: Arrangement | None = None
) -> float | None:
    """Prove a bound from multipliers; the only function whose result may be called rigorous.

    Args:
        instance: the program, rebuilt from the network.
        multipliers: untrusted numbers.
        margin: error allowances are multiplied by it. Whoever creates a proof uses 2, so that checking it elsewhere
            (other BLAS, other rounding) does not fail by a hair.
        arrangement: of a matrix with the same entries, to save time; any will do.

    Returns:
        The proven upper bound of the instance's Lipschitz constant, or None when the multipliers prove nothing.
    """
    if objective_is_zero(instance.forms):
        return 0.0
    if not is_plausible(instance, multipliers):
        return None
    # From here on overflow would show as inf or NaN, which the factorisation refuses.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if not is_feasible(lipschitz_terms(instance.forms, multipliers), margin, arrangement):
            return None
        bound = objective(instance, instance.forms, multipliers) * (1.0 + (margin - 1.0) * gamma(256))
    return bound if np.isfinite(bound) else None


def prove(instance: SdpInstance, multipliers: Multipliers) -> Proven:
    """Repair a solver's multipliers and prove the bound they give.

    Args:
        instance: the program.
        multipliers: from any solver; negative entries are set to zero, the scale of `output` is chosen here.

    Raises:
        SolverError: no repair turns these multipliers into a proof.
    """
    multipliers = _centred(_clip(multipliers))
    if objective_is_zero(instance.forms):
        return Proven(0.0, multipliers)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        arrangement = arrangement_of(assemble_lmi(instance.forms, multipliers))
        repaired = _repair(instance, multipliers, arrangement)
    if repaired is not None:
        for slack in _OUTPUT_SLACKS:
            found = _balanced(replace(repaired, output=repaired.output * (1.0 + slack)))
            upper = verify(instance, found, 2.0, arrangement)
            if upper is not None:
                return Proven(upper, found)
    raise SolverError(
        "proof: the solver's multipliers do not prove a finite bound (the matrix is far from positive "
        "semidefinite). Raise the rank or the iterations of the solver, or choose another solver."
    )


# --- verification ---------------------------------------------------------------------------------------------------


def objective_is_zero(forms: Forms) -> bool:
    """C f does not depend on the variables, exactly: the constant is zero."""
    tables = [*forms.output.values(), *forms.output_error.values()]
    return all(not block.any() for block in tables)


def is_plausible(instance: SdpInstance, multipliers: Multipliers) -> bool:
    """Shapes fit, everything finite and of a size that cannot underflow, signs as promised."""
    sizes = [s.lower.numel() for s in instance.slopes]
    inputs = 1 if instance.input_norm is Norm.L2 else instance.input_scale.numel()
    if [h.shape for h in multipliers.hidden] != [(s,) for s in sizes]:
        return False
    if multipliers.input.shape != (inputs,) or multipliers.output.shape != (instance.rows.shape[0],):
        return False
    numbers = [*multipliers.hidden, multipliers.input, multipliers.output]
    if not all(bool(np.isfinite(v).all()) and bool((v >= 0).all()) for v in numbers):
        return False
    return bool((multipliers.output > 0).all()) and all(MULTIPLIER_RANGE.holds(v) for v in numbers)


def is_feasible(terms: MatrixTerms, margin: float, arrangement: Arrangement | None = None) -> bool:
    """Prove that a matrix is positive semidefinite whatever rounding did when it was computed from its terms."""
    matrix = assemble(terms)
    divisors = scale_to_unit_diagonal(matrix)
    if not all(np.isfinite(d).all() for d in divisors):
        return False
    error = margin * error_norm(terms, divisors)
    arrangement = arrangement_of(matrix) if arrangement is None else arrangement
    return is_positive_semidefinite_matrix(arrangement.apply(matrix), error, margin, arrangement.order)


def objective(instance: SdpInstance, forms: Forms, multipliers: Multipliers) -> float:
    r""":math:`\sqrt{B Z}`, rounded up: B bounds :math:`\sum\tau_j w_j^2`, Z bounds :math:`\sum\sigma_k u_k^2`."""
    if instance.input_norm is Norm.L2:
        budget = float(multipliers.input[0])
    else:
        tau = input_diagonal(forms, multipliers)
        budget = float(tau.sum()) * (1.0 + gamma(len(tau) + 2))
    sigma = multipliers.output
    weight = float(sigma.max() if instance.output is OutputNorm.L2 else sigma.sum()) * (1.0 + gamma(len(sigma) + 2))
    return float(np.sqrt(budget) * np.sqrt(weight) * (1.0 + gamma(16)))


# --- repair (untrusted: whatever it returns goes through verify) ------------------------------------------------------


def _clip(multipliers: Multipliers) -> Multipliers:
    def clip(values: Array) -> Array:
        return np.where(np.isfinite(values), np.maximum(values, 0.0), 0.0)

    output = clip(multipliers.output)
    floor = 1e-12 * float(output.max(initial=0.0)) or 1.0
    return Multipliers(tuple(clip(h) for h in multipliers.hidden), clip(multipliers.input), np.maximum(output, floor))


def _centred(multipliers: Multipliers) -> Multipliers:
    """Scale all but the output's so that they lie around one; the bound does not depend on it."""
    values = np.concatenate([*multipliers.hidden, multipliers.input])
    positive = values[values > 0]
    if len(positive) == 0:
        return multipliers
    return _scaled(multipliers, -0.5 * float(np.log2(positive.min()) + np.log2(positive.max())))


def _balanced(multipliers: Multipliers) -> Multipliers:
    """Scale both sides of the inequality to the same size, so that neither leaves the range of the checker."""
    exponent = 0.5 * float(np.log2(multipliers.output.sum()) - np.log2(multipliers.input.sum()))
    if not np.isfinite(exponent):
        return multipliers
    return _scaled(multipliers, exponent)


def _scaled(multipliers: Multipliers, exponent: float) -> Multipliers:
    """Divide the output's by the nearest power of two and multiply all others by it; exact, and proves the same."""
    factor = 2.0 ** float(np.round(exponent))
    hidden = tuple(h * factor for h in multipliers.hidden)
    return Multipliers(hidden, multipliers.input * factor, multipliers.output / factor)


def _graded(multipliers: Multipliers, repair: float) -> Multipliers:
    """Multiply layer l of L by (1 + eta)^(L - l), counted from the input."""
    depth = len(multipliers.hidden)
    hidden = tuple(h * (1.0 + repair) ** (depth - l) for l, h in enumerate(multipliers.hidden, start=1))
    return replace(multipliers, hidden=hidden, input=multipliers.input * (1.0 + repair) ** depth)


def _repair(instance: SdpInstance, multipliers: Multipliers, arrangement: Arrangement) -> Multipliers | None:
    """Smallest workable repair, by a geometric ladder and bisection, with the output scale that goes with it."""
    rounding = twice_the_rounding(lipschitz_terms(instance.forms, multipliers), arrangement)
    failed, repair, best = 0.0, first_repair(rounding, len(multipliers.hidden)), None
    while repair <= _LARGEST_REPAIR:
        found = _with_output_scale(instance, _graded(multipliers, repair), arrangement, rounding)
        if found is None:
            failed, repair = repair, repair * (_REPAIR_RATIO if best is None else 2.0)
            if best is not None:
                break
            continue
        best = found
        if failed == 0.0 or repair <= 4.0 * failed:
            break
        repair = float(np.sqrt(repair * failed))
    return best


def first_repair(rounding: float, layers: int) -> float:
    """The first repair that is worth a try: what rounding asks for, or what costs next to nothing."""
    return max(4.0 * rounding, _CHEAP_REPAIR / max(1, layers))


def twice_the_rounding(terms: MatrixTerms, arrangement: Arrangement) -> float:
    """What the check will subtract for a proof, with its margin of two, and as much again."""
    matrix = assemble(terms)
    divisors = scale_to_unit_diagonal(matrix)
    elimination = rounding_of_elimination(arrangement.apply(matrix), arrangement.order)
    return 4.0 * elimination + 4.0 * error_norm(terms, divisors)


def _with_output_scale(
    instance: SdpInstance, multipliers: Multipliers, arrangement: Arrangement, rounding: float
) -> Multipliers | None:
    """Scale sigma to the Schur complement O M_yy^-1 O^T, if M_yy (lowered by `rounding`) factorises."""
    matrix = assemble_lmi(instance.forms, multipliers)
    sigma = multipliers.output
    divisors = scale_to_unit_diagonal(matrix)
    matrix.diagonal[-1] = np.zeros(len(sigma))
    lower_diagonal(matrix, rounding, blocks=len(divisors) - 1)
    remainder = schur_complement(arrangement.apply(matrix), arrangement.order)
    if remainder is None:
        return None
    # -O M_yy^-1 O^T in units of the divisors, measured in units of sigma
    weights = divisors[-1] / np.sqrt(sigma)
    ratio = -weights[:, None] * remainder * weights
    zeta = float(np.linalg.eigvalsh(0.5 * (ratio + ratio.T))[-1])
    # the last pivots must survive the lowering, too
    return replace(multipliers, output=sigma * max(zeta * (1.0 + 8.0 * rounding), 1e-300))
