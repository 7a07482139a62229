"""What every solver takes and returns. Solvers are untrusted: their numbers are never shown as bounds.

Place in the data flow: level 7, ``SdpInstance -> multipliers``. Never imports the checker.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.types import Norm


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


def constant_multipliers(instance: SdpInstance) -> Multipliers:
    """Multipliers of an output that does not move: all zero, but for the output's proportions."""
    tau = np.zeros(1 if instance.input_norm is Norm.L2 else instance.input_scale.numel())
    hidden = tuple(np.zeros(s.lower.numel()) for s in instance.slopes)
    return Multipliers(hidden, tau, np.ones(instance.rows.shape[0]))
