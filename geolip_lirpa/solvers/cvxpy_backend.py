r"""Interior-point and splitting solvers behind cvxpy: MOSEK, CLARABEL and SCS, for small programs and cross-checks.

Place in the data flow: level 7, ``SdpInstance -> multipliers``; untrusted. The program is that of
`geolip_lirpa.standard_form`, ``dual`` or ``natural``; of its pair the side with the matrix inequality is stated, which
has far fewer variables and whose sparsity can be used, and the Gram matrix comes back as the dual value. cvxpy is
imported on first use and is always told the solver: it would otherwise pick an installed MOSEK that has no licence.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from geolip_lirpa.errors import SolverError, SolverUnavailableError, SpecificationError
from geolip_lirpa.natural_form import has_natural_form
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.base import SolverResult, Status, constant_multipliers
from geolip_lirpa.solvers.conditioning import condition
from geolip_lirpa.sparse_sdp import Form, SparseMatrices, SparseSdp, is_constant

BACKENDS = ("CLARABEL", "MOSEK", "SCS")
FORMS = ("auto", "dual", "natural")

# Interior-point methods reach 1e-9 on the scaled program; a splitting method does not.
_TOLERANCES = {"CLARABEL": 1e-9, "MOSEK": 1e-9, "SCS": 1e-6}
# Beyond this size CLARABEL spends longer on merging cliques than on the iterations that this would save.
_MERGE_LIMIT = 200
_MERGE_METHOD = "chordal_decomposition_merge_method"


@dataclass(frozen=True)
class CvxpySolver:
    """A general purpose solver through cvxpy.

    Args:
        backend: ``"CLARABEL"``, ``"MOSEK"`` or ``"SCS"``, any case.
        form: ``"dual"``, ``"natural"`` (one row over one layer of activations), or ``"auto"``: natural where it exists,
            which takes fewer and cheaper iterations.
        tolerance: relative gap and feasibility asked of the backend; None for 1e-9, or 1e-6 with SCS.
        time_limit: seconds for each instance, or None.
        options: further keywords of ``cvxpy.Problem.solve`` for this backend; they win over all others.

    Raises:
        SpecificationError: unknown backend or form, or a limit that is not positive.
    """

    name: ClassVar[str] = "cvxpy"
    backend: str = "CLARABEL"
    form: str = "auto"
    tolerance: float | None = None
    time_limit: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", _one_of("backend", self.backend.upper(), BACKENDS))
        object.__setattr__(self, "form", _one_of("form", self.form.lower(), FORMS))
        for what, number in (("tolerance", self.tolerance), ("time_limit", self.time_limit)):
            if number is not None and not 0 < number < np.inf:
                raise SpecificationError(
                    f"cvxpy solver, {what}: got {number!r}; allowed are positive numbers and None. Pass one of these."
                )

    def solve(self, instances: Sequence[SdpInstance]) -> list[SolverResult]:
        """Solve instances one after the other, in order.

        Raises:
            SolverUnavailableError: cvxpy, the backend's package or MOSEK's licence is missing.
            SolverError: the backend failed or returned no numbers.
            SpecificationError: the natural form was asked for, and a program has none.
        """
        _require(self.backend)
        return [self._solve_one(instance) for instance in instances]

    def _solve_one(self, instance: SdpInstance) -> SolverResult:
        start = time.perf_counter()
        if is_constant(instance.forms):
            seconds = time.perf_counter() - start
            return SolverResult(constant_multipliers(instance), 0.0, Status.CONVERGED, 0, seconds, self._label)
        program = condition(instance, self._form(instance))
        outcome = _optimum(program.sdp, self)
        multipliers = program.multipliers(outcome.x)
        value = None if outcome.gram is None else program.feasible_value(outcome.gram)
        seconds = time.perf_counter() - start
        return SolverResult(multipliers, value, outcome.status, outcome.iterations, seconds, self._label)

    def _form(self, instance: SdpInstance) -> Form:
        if self.form == "auto":
            return Form.NATURAL if has_natural_form(instance.forms) else Form.DUAL
        return Form.parse(self.form)

    @property
    def _label(self) -> str:
        return f"{self.name}-{self.backend.lower()}"

    def arguments(self, size: int) -> dict[str, Any]:
        """Keywords of ``cvxpy.Problem.solve`` for a program with a matrix of `size` rows."""
        tolerance = _TOLERANCES[self.backend] if self.tolerance is None else self.tolerance
        chosen = _ARGUMENTS[self.backend](tolerance, self.time_limit, size)
        return {"solver": self.backend, **chosen, **_merged(chosen, self.options)}


def _clarabel(tolerance: float, time_limit: float | None, size: int) -> dict[str, Any]:
    interface = import_module("cvxpy.reductions.solvers.conic_solvers.clarabel_conif").CLARABEL
    settings = import_module("clarabel").DefaultSettings()
    chosen: dict[str, Any] = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance)
    if time_limit is not None:
        chosen["time_limit"] = time_limit
    # older versions of the two packages refuse keywords that they do not know
    if hasattr(interface, "ACCEPT_UNKNOWN"):
        chosen["accept_unknown"] = True
    if size > _MERGE_LIMIT and hasattr(settings, _MERGE_METHOD):
        chosen[_MERGE_METHOD] = "none"
    return chosen


def _mosek(tolerance: float, time_limit: float | None, size: int) -> dict[str, Any]:
    keys = ("REL_GAP", "PFEAS", "DFEAS")
    parameters: dict[str, Any] = {f"MSK_DPAR_INTPNT_CO_TOL_{key}": tolerance for key in keys}
    if time_limit is not None:
        parameters["MSK_DPAR_OPTIMIZER_MAX_TIME"] = time_limit
    return {"mosek_params": parameters, "accept_unknown": True}


def _scs(tolerance: float, time_limit: float | None, size: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {"eps_abs": tolerance, "eps_rel": tolerance}
    if time_limit is not None:
        chosen["time_limit_secs"] = time_limit
    return chosen


_ARGUMENTS = {"CLARABEL": _clarabel, "MOSEK": _mosek, "SCS": _scs}


def _merged(chosen: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The user's options, nested mappings (mosek_params) joined with ours."""
    return {
        key: {**chosen[key], **value} if isinstance(value, Mapping) and key in chosen else value
        for key, value in options.items()
    }


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise SpecificationError(
            f"cvxpy solver, {what}: got {value!r}; allowed are {', '.join(allowed)}. Pass one of these."
        )
    return value


def _require(backend: str) -> None:
    for package in ("cvxpy", backend.lower()):
        if find_spec(package) is None:
            raise SolverUnavailableError(
                f"solver cvxpy-{backend.lower()}: the package {package!r} is missing. Install it with: pip install "
                "'geolip-lirpa[mosek]', or use the built-in solver (--solver low-rank)."
            )


# --- the program in cvxpy -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcome:
    """A backend's answer for the scaled program: x, and X if there is one."""

    x: Array
    gram: Array | None
    status: Status
    iterations: int


def _stacked(matrices: SparseMatrices, size: int, count: int) -> sparse.csr_array:
    """The linear map from coefficients x to the flattened symmetric matrix, (size * size, count)."""
    below = matrices.rows != matrices.cols
    lower, upper = matrices.rows * size + matrices.cols, matrices.cols * size + matrices.rows
    values = np.concatenate([matrices.values, matrices.values[below]])
    index = np.concatenate([matrices.index, matrices.index[below]])
    return sparse.csr_array((values, (np.concatenate([lower, upper[below]]), index)), shape=(size * size, count))


def _optimum(sdp: SparseSdp, solver: CvxpySolver) -> _Outcome:
    r""":math:`\min b^T x` with :math:`\sum x_i A_i - C \succeq 0` and :math:`x_S \ge 0`."""
    cvxpy: Any = import_module("cvxpy")

    x = cvxpy.Variable(len(sdp.rhs))
    constant = _stacked(sdp.objective, sdp.size, 1).toarray().ravel()
    flat = _stacked(sdp.constraints, sdp.size, len(sdp.rhs)) @ x - constant
    lmi = cvxpy.reshape(flat, (sdp.size, sdp.size), order="C") >> 0
    signs = [x[np.flatnonzero(sdp.signed)] >= 0] if sdp.signed.any() else []
    problem = cvxpy.Problem(cvxpy.Minimize(sdp.rhs @ x), [lmi, *signs])
    status = _run(problem, solver, sdp.size)
    return _outcome(problem, status, x.value, lmi.dual_value, solver)


def _run(problem: Any, solver: CvxpySolver, size: int) -> Status:
    """Call the backend and translate its ways to stop or fail."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate" is reported as a status
            problem.solve(**solver.arguments(size))
    except Exception as error:
        raise _translated(error, solver.backend) from error
    statuses = {
        "optimal": Status.CONVERGED,
        "optimal_inaccurate": Status.STALLED,
        "user_limit": Status.ITERATION_LIMIT,
    }
    if problem.status not in statuses:
        raise SolverError(
            f"solver cvxpy-{solver.backend.lower()}: stopped with status {problem.status!r}, but the program has an "
            "optimum; allowed are optimal, optimal_inaccurate and user_limit. Use --solver low-rank, or another form."
        )
    return statuses[problem.status]


def _translated(error: Exception, backend: str) -> SolverError | SolverUnavailableError:
    """An error of cvxpy or of the backend as one of ours."""
    text = " ".join(str(error).split())
    if type(error).__module__.startswith("mosek") and "license" in text.lower():
        return SolverUnavailableError(
            f"solver cvxpy-mosek: MOSEK has no valid licence ({text}). Put the licence file at ~/mosek/mosek.lic or "
            "name it in the environment variable MOSEKLM_LICENSE_FILE, or use a solver that needs none "
            "(--solver low-rank)."
        )
    return SolverError(
        f"solver cvxpy-{backend.lower()}: failed with {type(error).__name__}: {text} "
        "Check the options given to the backend, or use --solver low-rank."
    )


def _outcome(problem: Any, status: Status, x: Any, gram: Any, solver: CvxpySolver) -> _Outcome:
    if x is None or not np.isfinite(x).all():
        raise SolverError(
            f"solver cvxpy-{solver.backend.lower()}: status {problem.status!r} without multipliers; allowed are finite "
            "numbers. Raise the time limit, or use --solver low-rank."
        )
    iterations = getattr(problem.solver_stats, "num_iters", None) or 0
    usable = gram is not None and np.isfinite(gram).all()
    return _Outcome(np.asarray(x, dtype=np.float64), np.asarray(gram) if usable else None, status, int(iterations))
