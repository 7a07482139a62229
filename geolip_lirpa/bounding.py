"""Solve programs and prove their bounds, spending effort where it changes the answer.

Place in the data flow: level 8, ``SdpInstance -> solver -> proof``. The only place where untrusted solvers and the
trusted checker meet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geolip_lirpa.composition import Composition
from geolip_lirpa.errors import SolverError
from geolip_lirpa.proof import objective_is_zero, prove
from geolip_lirpa.proof_cost import proof_cost
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.base import Solver, SolverResult
from geolip_lirpa.solvers.interior_point import InteriorPointSolver
from geolip_lirpa.solvers.low_rank import Factor, LowRankResult, LowRankSolver, bytes_needed
from geolip_lirpa.types import Norm

#: Called with the number of programs finished so far and in all.
Progress = Callable[[int, int], None]

# Tolerances of the low-rank solver, stage by stage: of the gradient at the end, and where saddle points are looked for.
# Most programs end after the first.
_STAGES = ((3e-8, 1e-4), (3e-9, 3e-8), (3e-10, 3e-9), (1e-10, 3e-10))
# The only one for programs whose proof takes longer than their solution; from this many multiplications on.
_LARGE_STAGES = ((1e-7, 1e-5),)
_LARGE_PROOF = 1e11
# The interior point solver takes what they miss up to this many rows, where it needs ten seconds and half a gigabyte.
_FINISHER_ROWS = 1500
# Seconds between two calls of a progress function.
_TELL = 0.2
# Memory that the programs of one batch should not exceed by much, in bytes.
_BATCH_BYTES = 1 << 30


@dataclass(frozen=True)
class ProvenBound:
    """A program's proven bound with how it was found.

    Args:
        upper: proven; infinite when no proof was found.
        multipliers: the proof, None when there is none.
        value: the solver's objective at a feasible point of the relaxation (None when it has none): the best bound
            that this relaxation can give is not below it.
        seconds: solving and proving.
        solver: its name.
        factor: low-rank vectors, for rounding.
        composition: the proof by blocks, where `multipliers` is None for that reason.
    """

    upper: float
    multipliers: Multipliers | None
    value: float | None
    seconds: float
    solver: str
    factor: Factor | None = None
    composition: Composition | None = None

    @property
    def relative_gap(self) -> float | None:
        """(upper - value) / upper."""
        if self.value is None or not math.isfinite(self.upper):
            return None
        return max(0.0, (self.upper - self.value) / self.upper) if self.upper > 0 else 0.0


class BoundsInterrupted(KeyboardInterrupt):
    """Ctrl-C while programs were bounded.

    Args:
        bounds: what was proven until then, one for each program; infinite where nothing was.
    """

    def __init__(self, bounds: Sequence[ProvenBound]) -> None:
        super().__init__()
        self.bounds = tuple(bounds)


def bound_programs(
    instances: Sequence[SdpInstance],
    groups: Sequence[int],
    solver: Solver,
    target: float = 1e-6,
    progress: Progress | None = None,
    starts: Sequence[Factor] | None = None,
) -> list[ProvenBound]:
    """Bound programs of one family; those of one group are wanted only through the maximum of their bounds.

    Args:
        instances: programs that share network, norms, ties and number of rows.
        groups: a group number for each.
        solver: which solver to use.
        target: relative gap at which a bound is good enough.
        progress: see `Progress`.
        starts: vectors of similar programs, one for each, from which the low-rank solver goes on (`ProvenBound.factor`
            of the same network with other slopes, or of a checkpoint nearby); other solvers do without.

    Raises:
        BoundsInterrupted: Ctrl-C; holds what was proven until then.
    """
    results: list[ProvenBound | None] = [_trivial(i, solver.name) for i in instances]
    try:
        if isinstance(solver, LowRankSolver):
            _bound_in_stages(instances, groups, solver, target, progress, starts, results)
        else:
            _bound_once(instances, solver, progress, results)
    except KeyboardInterrupt:
        nothing = ProvenBound(math.inf, None, None, 0.0, solver.name)
        raise BoundsInterrupted([result or nothing for result in results]) from None
    return [r for r in results if r is not None]


def _bound_in_stages(
    instances: Sequence[SdpInstance],
    groups: Sequence[int],
    solver: LowRankSolver,
    target: float,
    progress: Progress | None,
    starts: Sequence[Factor] | None,
    results: list[ProvenBound | None],
) -> None:
    """Fill and improve `results`, with more effort for those that still need it."""
    pending = [i for i, result in enumerate(results) if result is None]
    factors: list[Factor | None] = [None] * len(instances) if starts is None else list(starts)
    told = time.monotonic()
    for tolerance, saddle_tolerance in _stages(instances[0]):
        stage = replace(solver, tolerance=tolerance, saddle_tolerance=saddle_tolerance)
        for chunk in _chunks(pending, instances[0], factors, solver.rank):
            known = [f for f in (factors[i] for i in chunk) if f is not None]
            found = stage.solve([instances[i] for i in chunk], known if len(known) == len(chunk) else None)
            for i, result in zip(chunk, found, strict=True):
                results[i], factors[i] = _better(results[i], _prove(instances[i], result)), result.factor
                # a proof may take longer than a thousand solutions; to count after each costs more than a quick one
                if progress is not None and (time.monotonic() > told + _TELL or i == chunk[-1]):
                    progress(len(instances) - len(_pending(results, groups, target)), len(instances))
                    told = time.monotonic()
        pending = _pending(results, groups, target)
        if not pending:
            return
    _finish(instances, groups, target, progress, results)


def _finish(
    instances: Sequence[SdpInstance],
    groups: Sequence[int],
    target: float,
    progress: Progress | None,
    results: list[ProvenBound | None],
) -> None:
    """Take small programs that still miss the target to the interior point solver, once each."""
    for i in _pending(results, groups, target):
        old, forms = results[i], instances[i].forms
        # a group's other member may have settled the question meanwhile
        if old is None or forms.size + forms.rows > _FINISHER_ROWS or i not in _pending(results, groups, target):
            continue
        starts = None if old.multipliers is None else [old.multipliers]
        try:
            found = InteriorPointSolver().solve([instances[i]], starts)[0]
        except SolverError:
            continue
        results[i] = _better(old, replace(_prove(instances[i], found), factor=old.factor))
        if progress is not None:
            progress(len(instances) - len(_pending(results, groups, target)), len(instances))


def _stages(instance: SdpInstance) -> tuple[tuple[float, float], ...]:
    """Where a proof takes long, none is tried before the solver has what it needs."""
    return _LARGE_STAGES if proof_cost(instance).operations > _LARGE_PROOF else _STAGES


def _trivial(instance: SdpInstance, name: str) -> ProvenBound | None:
    """The bound zero of outputs that do not depend on the input; there is nothing to solve."""
    if not objective_is_zero(instance.forms):
        return None
    inputs = 1 if instance.input_norm is Norm.L2 else instance.input_scale.numel()
    hidden = tuple(np.zeros(s.lower.numel()) for s in instance.slopes)
    return ProvenBound(0.0, Multipliers(hidden, np.zeros(inputs), np.ones(instance.rows.shape[0])), 0.0, 0.0, name)


def _bound_once(
    instances: Sequence[SdpInstance],
    solver: Solver,
    progress: Progress | None,
    results: list[ProvenBound | None],
) -> None:
    """Fill `results`, one program after the other."""
    for i, instance in enumerate(instances):
        results[i] = results[i] or _prove(instance, solver.solve([instance])[0])
        if progress is not None:
            progress(i + 1, len(instances))


def _prove(instance: SdpInstance, result: SolverResult) -> ProvenBound:
    begin = time.perf_counter()
    factor = result.factor if isinstance(result, LowRankResult) else None
    try:
        proven = prove(instance, result.multipliers)
        upper, multipliers = proven.upper, proven.multipliers
    except SolverError:
        upper, multipliers = math.inf, None
    seconds = result.seconds + time.perf_counter() - begin
    return ProvenBound(upper, multipliers, result.value, seconds, result.solver, factor)


def _better(old: ProvenBound | None, new: ProvenBound) -> ProvenBound:
    """Keep the smaller bound, the larger value and the latest factor; add up the time."""
    if old is None:
        return new
    best = new if new.upper <= old.upper else replace(old, factor=new.factor)
    values = [v for v in (old.value, new.value) if v is not None]
    return replace(best, value=max(values, default=None), seconds=old.seconds + new.seconds)


def _pending(results: Sequence[ProvenBound | None], groups: Sequence[int], target: float) -> list[int]:
    """Programs whose bound is still the reason why their group's bound exceeds what is known to be attained."""
    attained: dict[int, float] = {}
    for result, group in zip(results, groups, strict=True):
        value = -math.inf if result is None or result.value is None else result.value
        attained[group] = max(value, attained.get(group, -math.inf))
    return [
        i
        for i, (result, group) in enumerate(zip(results, groups, strict=True))
        if result is None or result.upper - attained[group] > target * abs(result.upper) or math.isinf(result.upper)
    ]


def _chunks(
    pending: Sequence[int], instance: SdpInstance, factors: Sequence[Factor | None], rank: int
) -> list[list[int]]:
    """Batches of programs."""
    largest = max((f.rank for f in (factors[i] for i in pending) if f is not None), default=rank)
    count = max(1, _BATCH_BYTES // bytes_needed(instance.network, largest))
    return [list(pending[i : i + count]) for i in range(0, len(pending), count)]
