"""Solvers by name.

Place in the data flow: level 7. ``auto`` never needs a licence.
"""

from __future__ import annotations

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.solvers.base import Solver
from geolip_lirpa.solvers.interior_point import InteriorPointSolver
from geolip_lirpa.solvers.low_rank import LowRankSolver

#: Names that `make_solver` accepts.
SOLVER_NAMES = ("auto", "low-rank", "interior-point", "cvxpy-clarabel", "cvxpy-scs", "cvxpy-mosek")
_SHORT = {"clarabel": "cvxpy-clarabel", "scs": "cvxpy-scs", "mosek": "cvxpy-mosek", "cvxpy": "cvxpy-clarabel"}


def canonical_solver_name(name: str) -> str:
    """The full name of a solver; case-insensitive, short names (clarabel, scs, mosek) allowed.

    Raises:
        SpecificationError: unknown name.
    """
    key = str(name).strip().lower().replace("_", "-")
    key = _SHORT.get(key, key)
    if key not in SOLVER_NAMES:
        raise SpecificationError(
            f"solver: got {name!r}; allowed are {', '.join(SOLVER_NAMES)}. Use 'auto' when in doubt."
        )
    return key


def make_solver(name: str, form: str = "auto", seed: int = 0) -> Solver:
    """A configured solver.

    Args:
        name: see `SOLVER_NAMES`; ``auto`` is the low-rank solver.
        form: for cvxpy only: ``"dual"``, ``"natural"`` or ``"auto"``, see `CvxpySolver`.
        seed: of random starts.

    Raises:
        SpecificationError: unknown name.
        SolverUnavailableError: its package or licence is missing.
    """
    key = canonical_solver_name(name)
    if key in ("auto", "low-rank"):
        return LowRankSolver(seed=seed)
    if key == "interior-point":
        return InteriorPointSolver()
    # cvxpy takes a second to import; only those who ask for it wait
    from geolip_lirpa.solvers.cvxpy_backend import CvxpySolver

    return CvxpySolver(backend=key.removeprefix("cvxpy-").upper(), form=form)
