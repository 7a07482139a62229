"""From pointwise programs to proven margins: where their solvers meet the proof.

Place in the data flow: level 8. ``PointwiseInstances -> multipliers -> ProvenMargins``. Solvers are untrusted; what is
returned has passed `margin_proof`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from geolip_lirpa.errors import SolverError
from geolip_lirpa.margin_proof import ProvenMargin, prove_margin
from geolip_lirpa.pointwise import PointwiseInstance, PointwiseMultipliers
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.solvers.pointwise_low_rank import PointwiseLowRank
from geolip_lirpa.solvers.pointwise_point import OPTIONAL_PRODUCTS, PointwiseInteriorPoint
from geolip_lirpa.types import Norm

#: Who solves pointwise programs: whichever suits the number of variables, the dense interior point method, or the
#: low-rank one, which keeps no matrix.
SOLVERS = ("auto", "interior-point", "low-rank")
# Rows of the matrix from which the low-rank solver is quicker, and those that the dense solver takes on at all: half a
# minute an iteration.
_LOW_RANK_FROM = 1000
_MOST_VARIABLES = 3000


@dataclass(frozen=True)
class ProgramOptions:
    """How pointwise programs are solved.

    Args:
        solver: see `SOLVERS`; "interior-point" leaves out programs of more than 3,000 variables.
        target: rows are left once their margin is proven to exceed it, or found not to; None: go to the optimum.
        whole: rows count together only; once one is given up, the others are left.
        seed: of random numbers.
        all_products: whether programs over balls take the optional products, too, as those over boxes always do.
        tolerance: relative gap at which the interior point method is content.
    """

    solver: str = "auto"
    target: float | None = None
    whole: bool = False
    seed: int = 0
    all_products: bool = False
    tolerance: float = 1e-6


def program_variables(instance: PointwiseInstance) -> int:
    """Variables of the dense solver: unstable neurons, and inputs, of a ball no more than forms read them."""
    sizes = [len(kept) for kept in instance.forms.kept]
    inputs = sizes[0] if instance.family.input_norm is Norm.LINF else min(sizes[0], sum(sizes[1:]) + 1)
    return inputs + sum(sizes[1:])


def prove_programs(
    instances: Sequence[PointwiseInstance], starts: Sequence[Multipliers | None], options: ProgramOptions
) -> Iterator[tuple[int, ProvenMargin | None, float]]:
    """Solve and prove the programs of rows over one input set.

    Args:
        instances: of one family.
        starts: multipliers of the rows' Lipschitz constants, see `PointwiseInteriorPoint.solve`.
        options: see `ProgramOptions`.

    Yields:
        For each row, as soon as it is known, its number, what was proven, and seconds; rows that are left out never.
    """
    if not instances:
        return
    size = program_variables(instances[0])
    limit = {"auto": _LOW_RANK_FROM, "interior-point": _MOST_VARIABLES}.get(options.solver, -1)
    if size <= limit:
        yield from _interior_point(instances, starts, options)
    elif options.solver != "interior-point":
        yield from _low_rank(instances, starts, options)


def _products(instance: PointwiseInstance, options: ProgramOptions) -> tuple[str, ...]:
    return OPTIONAL_PRODUCTS if options.all_products or instance.family.input_norm is Norm.LINF else ()


def _interior_point(
    instances: Sequence[PointwiseInstance], starts: Sequence[Multipliers | None], options: ProgramOptions
) -> Iterator[tuple[int, ProvenMargin | None, float]]:
    solver = PointwiseInteriorPoint(
        _products(instances[0], options), options.tolerance, target=options.target, seed=options.seed
    )
    for number, (instance, start) in enumerate(zip(instances, starts, strict=True)):
        begin = time.perf_counter()
        try:
            found = solver.solve([instance], [start])[0]
            proven = prove_margin(instance, found.multipliers)
        except SolverError:
            proven = None
        yield number, proven, time.perf_counter() - begin
        lost = options.target is not None and not (proven is not None and proven.lower > options.target)
        if options.whole and lost:
            return


def _low_rank(
    instances: Sequence[PointwiseInstance], starts: Sequence[Multipliers | None], options: ProgramOptions
) -> Iterator[tuple[int, ProvenMargin | None, float]]:
    """All rows in one batch, which proofs are tried for on the way."""
    best: dict[int, ProvenMargin] = {}

    def prove(number: int, multipliers: PointwiseMultipliers) -> float | None:
        proven = prove_margin(instances[number], multipliers)
        if proven is not None and (number not in best or proven.lower > best[number].lower):
            best[number] = proven
        return None if proven is None else proven.lower

    solver = PointwiseLowRank(
        products=_products(instances[0], options), target=options.target, whole=options.whole, seed=options.seed
    )
    results = solver.solve(instances, starts, prove)
    for number, result in enumerate(results):
        yield number, best.get(number), result.seconds
