"""What a Lipschitz computation takes and gives: problem, options, bounds.

Place in the data flow: level 8, shared by `network_lipschitz`, `lipschitz` and the reports.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from geolip_lirpa.certificate import Certificate, LocalScope
from geolip_lirpa.network import Network
from geolip_lirpa.slopes import SlopeIntervals
from geolip_lirpa.types import Norm, OutputNorm, Proof

#: Ways to bound: GeoLIP's program, the same by consecutive blocks of the network, two products of norms (all proven),
#: enumeration of all slope patterns (exact for the formal constant up to rounding, few neurons) and sampling (a lower
#: bound only).
METHODS = ("sdp", "compositional", "norm-product", "entrywise", "brute-force", "sampled")

#: Methods whose bounds are proven and go into certificates.
PROVEN_METHODS = ("sdp", "compositional", "norm-product", "entrywise")


@dataclass(frozen=True)
class LipschitzOptions:
    """How a bound is computed.

    Args:
        norm: of the input.
        output: "rows" for one bound a row of C, or the norm in which ``C f`` is measured.
        method: see `METHODS`.
        solver: see `solvers.auto.SOLVER_NAMES`.
        form: of the program for cvxpy solvers.
        tie_input: one multiplier for all inputs (GeoLIP's option; looser).
        tie_layers: one multiplier for all neurons of a layer.
        relative_gap: at which the low-rank solver is content.
        lower_bounds: whether to search attained lower bounds.
        seed: of random starts.
    """

    norm: Norm = Norm.LINF
    output: OutputNorm = OutputNorm.ROWS
    method: str = "sdp"
    solver: str = "auto"
    form: str = "auto"
    tie_input: bool = False
    tie_layers: bool = False
    relative_gap: float = 1e-6
    lower_bounds: bool = True
    seed: int = 0


@dataclass(frozen=True)
class RowBound:
    """Bound of one row of C (or of the whole vector) on one input region.

    Args:
        sample: position in the batch of regions; 0 for a global bound.
        row: position among the rows of C; None when they are measured together.
        upper: proven (`proof` is `RIGOROUS`) or estimated (`NUMERICAL`) upper bound.
        lower: attained by a witness.
        proof: what `upper` is worth.
        solver: whose multipliers prove `upper`; ``"compositional"`` where a proof in one piece was out of reach and the
            network was bounded block by block, ``"norm-product"`` where no SDP bound could be proven.
        relative_gap: between `upper` and the relaxation's value at a feasible point; None when unknown.
        seconds: spent on this bound.
        value: the relaxation's value at a feasible point; not a bound of anything but the relaxation.
        witness: input at which `lower` is attained, (\\*input_shape), or None.
    """

    sample: int
    row: int | None
    upper: float
    lower: float
    proof: Proof
    solver: str
    relative_gap: float | None
    seconds: float
    value: float | None
    witness: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LipschitzResult:
    """Bounds for a batch of regions and the rows of C.

    Args:
        upper: (B, n_spec) float64, or (B, 1) for a vector output; host convention.
        lower: the same shape.
        rows: the same bounds one by one, with proof, solver, gap and time.
        certificate: proofs of all rigorous rows; None when any row is only numerical.
        seconds: of the whole call.
    """

    upper: Tensor
    lower: Tensor
    rows: tuple[RowBound, ...]
    certificate: Certificate | None
    seconds: float


@dataclass(frozen=True)
class LipschitzProblem:
    """What is to be bounded.

    Args:
        network: float64.
        rows: (B, m, n_out), the matrices C.
        slopes: one for each of the B regions.
        input_scale: (n0,), the norm is that of ``x / input_scale``.
        local: the regions, or None for the whole space.
    """

    network: Network
    rows: Tensor
    slopes: tuple[SlopeIntervals, ...]
    input_scale: Tensor
    local: LocalScope | None = None
