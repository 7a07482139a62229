r"""Bounds of networks whose proof in one piece is out of reach: by blocks, by norms, and what the relaxation is worth.

Place in the data flow: level 8, ``SdpInstance -> ProvenBound``, beside `bounding`. Every program gets the smaller of
the bound by blocks and the product of norms, and, when it was asked for, the value of its relaxation at a feasible
point: a number that no proof of this relaxation can beat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from geolip_lirpa.baselines import best_norm_bound
from geolip_lirpa.baselines.matrix_free import NodeRadii
from geolip_lirpa.bounding import BoundsInterrupted, Progress, ProvenBound
from geolip_lirpa.compositional import Composed, compose, compose_rows, solve_quickly
from geolip_lirpa.cut_planning import Fits, plan_cost
from geolip_lirpa.proof_cost import proof_cost
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.low_rank import Factor, LowRankSolver
from geolip_lirpa.types import OutputNorm

#: Relative slack of norms in claims: whoever checks them may sum in another order.
NORM_SLACK = 1e-8
#: Multiplications, over all rows, up to which every row gets cuts' weights of its own.
OWN_FRONT_OPERATIONS = 4e12
#: Largest memory of a block's proof, in bytes, and multiplications of one elimination: some ten seconds.
BLOCK_BYTES = 4 * 2.0**30
BLOCK_OPERATIONS = 5e11
# Numbers of one program, times its copies in L-BFGS, should stay below this many bytes; no value where one exceeds it.
_VALUE_BYTES = 4 << 30
_COPIES = 40


def block_fits(instance: SdpInstance) -> bool:
    """Whether a block's proof is quick enough."""
    cost = proof_cost(instance)
    return cost.bytes <= BLOCK_BYTES and cost.operations <= BLOCK_OPERATIONS


def bound_by_blocks(
    instances: Sequence[SdpInstance],
    samples: Sequence[int],
    solver: LowRankSolver,
    *,
    with_values: bool,
    fits: Fits = block_fits,
    progress: Progress | None = None,
) -> list[ProvenBound]:
    """Bound programs of one family by blocks or norms, whichever is smaller.

    Args:
        instances: programs that share network, norms and number of rows.
        samples: number of the input region of each; those of one region differ in their rows only.
        solver: for weights, multipliers and values.
        with_values: whether the relaxation of the whole network is to be solved as well.
        fits: decides which blocks are proven by multipliers.
        progress: called after each program.

    Raises:
        BoundsInterrupted: Ctrl-C; holds what was proven until then.
    """
    nothing = ProvenBound(math.inf, None, None, 0.0, "compositional")
    results = [nothing] * len(instances)
    done = 0
    try:
        for sample in sorted(set(samples)):
            chosen = [i for i, s in enumerate(samples) if s == sample]
            group = [instances[i] for i in chosen]
            for i, bound in zip(chosen, _bound_rows(group, solver, fits), strict=True):
                results[i] = bound
            if with_values:
                values = relaxation_values(group, solver)
                for i, (value, factor, seconds) in zip(chosen, values, strict=True):
                    spent = results[i].seconds + seconds
                    results[i] = replace(results[i], value=value, factor=factor, seconds=spent)
            done += len(chosen)
            if progress is not None:
                progress(done, len(instances))
    except KeyboardInterrupt:
        raise BoundsInterrupted(results) from None
    return results


def _bound_rows(group: Sequence[SdpInstance], solver: LowRankSolver, fits: Fits) -> list[ProvenBound]:
    """Programs of one region."""
    first = group[0]
    begin = time.perf_counter()
    radii = NodeRadii(first.network, first.slopes, first.input_norm, first.input_scale)
    norms = [best_norm_bound(instance, radii) * (1.0 + NORM_SLACK) for instance in group]
    seconds = (time.perf_counter() - begin) / len(group)
    return [
        _smaller(norm, composed, seconds)
        for norm, composed in zip(norms, _composed(group, solver, fits), strict=True)
    ]  # fmt: skip


def _composed(group: Sequence[SdpInstance], solver: LowRankSolver, fits: Fits) -> Sequence[Composed | None]:
    if len(group) == 1:
        return [compose(group[0], solver, fits)]
    joint = group[0].with_rows(torch.cat([i.rows for i in group]), OutputNorm.L2)
    if plan_cost(group[0], fits) * len(group) <= OWN_FRONT_OPERATIONS:
        return [compose(instance, solver, fits) for instance in group]
    return compose_rows(group, joint, solver, fits)


def _smaller(norm: float, composed: Composed | None, seconds: float) -> ProvenBound:
    if composed is not None and composed.upper < norm:
        spent = seconds + composed.seconds
        return ProvenBound(composed.upper, None, None, spent, "compositional", composition=composed.composition)
    spent = seconds + (composed.seconds if composed is not None else 0.0)
    return ProvenBound(norm, None, None, spent, "norm-product")


def relaxation_values(
    instances: Sequence[SdpInstance], solver: LowRankSolver
) -> list[tuple[float | None, Factor | None, float]]:
    """Value of each program's relaxation at a feasible point, with its vectors and seconds; None where memory ends."""
    network = instances[0].network
    bytes_each = 8 * _COPIES * (solver.rank + 24) * (network.input_size + network.hidden_size)
    if bytes_each > _VALUE_BYTES:
        return [(None, None, 0.0)] * len(instances)
    count = max(1, _VALUE_BYTES // (4 * bytes_each))
    found: list[tuple[float | None, Factor | None, float]] = []
    for first in range(0, len(instances), count):
        for result in solve_quickly(solver, instances[first : first + count]):
            found.append((result.value, result.factor, result.seconds))
    return found
