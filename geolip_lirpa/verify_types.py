r"""What a verification takes and gives: options, verdict, witness.

Place in the data flow: level 9, shared by `verify`, the benchmark runner and the reports.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_types import METHODS
from geolip_lirpa.rounding import Array


class Verdict(enum.StrEnum):
    """The answer, in the words of VNN-COMP."""

    SAT = "sat"  # violated, by the witness that comes with it
    UNSAT = "unsat"  # proven to hold
    UNKNOWN = "unknown"  # neither was found
    TIMEOUT = "timeout"  # the time was over before


@dataclass(frozen=True)
class VerifyOptions:
    """How a specification is verified.

    Args:
        method: one of `margin_types.METHODS`. "combined" attacks, tries all methods and splits; a single method is the
            attack and one bound of each case, without splitting, so that methods can be compared.
        timeout: seconds after which the search gives up with `Verdict.TIMEOUT`.
        seed: of random starts.

    Raises:
        SpecificationError: another method, or a timeout that is not positive.
    """

    method: str = "combined"
    timeout: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SpecificationError(
                f"method: got {self.method!r}; allowed are {', '.join(METHODS)}. Choose one of these."
            )
        if not self.timeout > 0:
            raise SpecificationError(f"timeout: got {self.timeout!r}; allowed are positive seconds.")
        if not 0 <= self.seed < 2**63:
            raise SpecificationError(f"seed: got {self.seed!r}; allowed are 0 to 2^63 - 1. The default is 0.")


@dataclass(frozen=True)
class Witness:
    """An input that violates the specification.

    Args:
        inputs: (n_in,) float64.
        outputs: (n_out,) float64, what onnxruntime (or the model itself) answers there.
    """

    inputs: Array
    outputs: Array


@dataclass(frozen=True)
class VerifyResult:
    """What was found.

    Args:
        verdict: see `Verdict`.
        witness: for `Verdict.SAT`, else None.
        bound: proven lower bound of the distance to the unsafe sets, in the units of their rows: the smallest over all
            cases and polytopes of the largest margin of a row, before any splitting; positive proves `Verdict.UNSAT`
            alone. None where nothing was bounded.
        seconds: wall time.
        proved_by: methods that took part in a proof, e.g. ("crown", "splitting inputs").
        boxes: input boxes that were bounded, splitting included.
        reason: one line: why it is unknown; empty otherwise.
    """

    verdict: Verdict
    witness: Witness | None
    bound: float | None
    seconds: float
    proved_by: tuple[str, ...] = ()
    boxes: int = 0
    reason: str = ""
