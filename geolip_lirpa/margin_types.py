"""What a margin computation takes and gives: problem, options, bounds.

Place in the data flow: level 8, shared by `margins`, `radius` and the reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_certificate import MarginCertificate
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.network import Network
from geolip_lirpa.pointwise_bounding import SOLVERS
from geolip_lirpa.rounding import STATEMENT_RANGE

#: Ways to bound a margin from below, all proven: intervals, linear bounds, the value at the centre minus a Lipschitz
#: constant (global, of the region, of increments from the centre) times the radius, the pointwise program; and all of
#: them, the cheap ones first, until one is good enough.
METHODS = ("ibp", "crown", "alpha-crown", "geolip", "geolip-local", "geolip-anchored", "sdp", "combined")

#: Ways to bound pre-activations: intervals, linear bounds, Lipschitz constants of the neurons, and the pointwise
#: program as well for those that matter most. The last two start from alpha-crown.
BOUNDS = ("ibp", "crown", "alpha-crown", "geolip", "sdp")


@dataclass(frozen=True)
class MarginProblem:
    r"""Find lower bounds of :math:`c f(x) + d` over input sets.

    Args:
        network: float64, on the CPU.
        sets: B of them.
        rows: (B, S, n_out) float64, the vectors c.
        offsets: (B, S), the numbers d.

    Raises:
        SpecificationError: shapes do not fit, or numbers are not finite.
    """

    network: Network
    sets: tuple[MarginSet, ...]
    rows: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        batch, outputs = len(self.sets), self.network.output_size
        if self.rows.ndim != 3 or self.rows.shape[::2] != (batch, outputs) or self.rows.shape[1] < 1:
            raise SpecificationError(
                f"C: got shape {tuple(self.rows.shape)}; allowed is ({batch}, n_spec, {outputs}), one matrix for each "
                "input. Each row of C is one linear functional of the outputs."
            )
        if self.offsets.shape != self.rows.shape[:2]:
            raise SpecificationError(
                f"offsets: got shape {tuple(self.offsets.shape)}; allowed is {tuple(self.rows.shape[:2])}, one number "
                "for each row of C."
            )
        for name, numbers in (("C", self.rows), ("offsets", self.offsets)):
            if not bool(torch.isfinite(numbers).all()) or not STATEMENT_RANGE.holds(numbers):
                raise SpecificationError(
                    f"{name}: holds NaN, infinity or numbers that are not {STATEMENT_RANGE}. Scale the rows; margins "
                    "scale with them."
                )
        for number, margin_set in enumerate(self.sets):
            if tuple(margin_set.center.shape) != self.network.input_shape:
                raise SpecificationError(
                    f"x: input {number} has shape {tuple(margin_set.center.shape)}; the model takes "
                    f"{self.network.input_shape}. Put the batch dimension in front."
                )


@dataclass(frozen=True)
class MarginOptions:
    """How margins are bounded.

    Args:
        method: see `METHODS`.
        bound_method: how pre-activations are bounded over the set, see `BOUNDS`.
        enough: rows whose proven margin exceeds it, or whose attacked margin does not, are left as they are; None:
            every row is bounded as well as the method can.
        whole: an input counts only if all its rows are proven: once a row is given up, the others are left.
        attack: whether to search inputs with small margins as well.
        seed: of random starts.
        solver: of pointwise programs, see `SOLVERS`.
    """

    method: str = "combined"
    bound_method: str = "crown"
    enough: float | None = 0.0
    whole: bool = False
    attack: bool = True
    seed: int = 0
    solver: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise SpecificationError(f"seed: got {self.seed!r}; allowed are 0 to 2^63 - 1. The default is 0.")
        if self.enough is not None and math.isnan(self.enough):
            raise SpecificationError("enough: got nan; allowed are numbers, and None. Pass 0.0 to have signs proven.")
        for name, value, allowed in (
            ("method", self.method, METHODS),
            ("bound_method", self.bound_method, BOUNDS),
            ("solver", self.solver, SOLVERS),
        ):
            if value not in allowed:
                raise SpecificationError(
                    f"{name}: got {value!r}; allowed are {', '.join(allowed)}. Choose one of these."
                )


@dataclass(frozen=True)
class RowMargin:
    """Bounds of one row's margin on one input set.

    Args:
        sample: position in the batch.
        row: position among the rows.
        lower: proven lower bound; minus infinity where nothing is proven.
        attacked: margin at an input of the set; infinite where none was searched.
        method: whose proof `lower` is.
        seconds: spent on this row alone.
    """

    sample: int
    row: int
    lower: float
    attacked: float
    method: str
    seconds: float


@dataclass(frozen=True)
class MarginResult:
    """Margins of a batch.

    Args:
        lower: (B, S) float64, proven.
        attacked: (B, S) float64, attained by inputs of the sets; infinite without an attack.
        points: (B, S, \\*input_shape), the inputs with these margins; None without an attack.
        rows: the same one by one.
        certificate: the proofs of all finite lower bounds.
        seconds: of the whole call.
    """

    lower: Tensor
    attacked: Tensor
    points: Tensor | None = field(repr=False)
    rows: tuple[RowMargin, ...] = field(repr=False)
    certificate: MarginCertificate = field(repr=False)
    seconds: float
