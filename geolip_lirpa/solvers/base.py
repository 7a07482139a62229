"""What every solver takes and returns. Solvers are untrusted: their numbers are never shown as bounds.

Place in the data flow: level 7, ``SdpInstance -> multipliers``. Never imports the checker.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from geolip_lirpa.sdp import Multipliers, SdpInstance


class Status(enum.Enum):
    """How a solver stopped; the value is the message."""

    CONVERGED = "converged"
    ITERATION_LIMIT = "stopped at the iteration limit"
    STALLED = "stopped without further progress"


@dataclass(frozen=True)
class SolverResult:
    """Multipliers of one instance and what the solver says of itself.

    Args:
        multipliers: any non-negative values; the checker decides what they prove.
        value: objective of a feasible point of the relaxation (a lower estimate of the program's value, not of the
            Lipschitz constant), or None when the solver has none.
        status: how it stopped.
        iterations: the solver's own count.
        seconds: wall time, shared evenly between the instances of one batch.
        solver: name, e.g. ``"low-rank"`` or ``"cvxpy-clarabel"``.
    """

    multipliers: Multipliers
    value: float | None
    status: Status
    iterations: int
    seconds: float
    solver: str


class Solver(Protocol):
    """A configured solver: a small frozen object that solves many instances."""

    name: ClassVar[str]

    def solve(self, instances: Sequence[SdpInstance]) -> Sequence[SolverResult]:
        """Solve instances that share network, norms and number of rows, in order."""
        ...
