r"""Lipschitz constants of networks: proven upper bounds, attained lower bounds, certificates.

Place in the data flow: level 9. ``Network -> SlopeIntervals -> SdpInstance -> multipliers -> Certificate ->
LipschitzResult``. Knows no auto_LiRPA; `lipschitz.compute_lipschitz` is the entry point for its users.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from geolip_lirpa.baselines import best_norm_bound, brute_force, entrywise_bound, matrix_free_bound, norm_product
from geolip_lirpa.baselines.best_norm import DENSE_VARIABLES
from geolip_lirpa.baselines.matrix_free import NodeRadii
from geolip_lirpa.block_bounding import NORM_SLACK, block_fits, bound_by_blocks
from geolip_lirpa.bounding import BoundsInterrupted, Progress, ProvenBound, bound_programs
from geolip_lirpa.certificate import Certificate, Claim, network_signature, rests_on
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lipschitz_types import (
    METHODS,
    PROVEN_METHODS,
    LipschitzOptions,
    LipschitzProblem,
    LipschitzResult,
    RowBound,
)
from geolip_lirpa.lower_bounds import PatternBound, Vectors, attained_lower_bounds, pattern_lower_bounds
from geolip_lirpa.network import Network
from geolip_lirpa.programs import Part, family_of, make_parts
from geolip_lirpa.proof_cost import proof_fits
from geolip_lirpa.rounding import STATEMENT_RANGE
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.slopes import global_slopes
from geolip_lirpa.solvers.auto import canonical_solver_name, make_solver
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm, OutputNorm, Proof


def global_problem(network: Network, rows: Tensor | None = None, input_scale: Tensor | None = None) -> LipschitzProblem:
    """The problem of the formal global Lipschitz constant.

    Args:
        network: float64.
        rows: (m, n_out) or (1, m, n_out); default: the identity.
        input_scale: (n0,) non-negative; default: ones.
    """
    rows = torch.eye(network.output_size, dtype=torch.float64) if rows is None else rows.to(torch.float64)
    rows = rows[None] if rows.ndim == 2 else rows
    return LipschitzProblem(
        network, check_rows(rows, network), (global_slopes(network),), check_scale(input_scale, network)
    )


def check_rows(rows: Tensor, network: Network) -> Tensor:
    """Validate C of shape (B, m, n_out) and cast it to float64."""
    if not isinstance(rows, Tensor):
        raise SpecificationError(
            f"C: got {type(rows).__name__}; allowed is a tensor of shape (batch, n_spec, "
            f"{network.output_size}). Use torch.tensor."
        )
    if rows.ndim != 3 or rows.shape[2] != network.output_size or 0 in rows.shape:
        raise SpecificationError(
            f"C: got shape {tuple(rows.shape)}; allowed is (batch, n_spec, {network.output_size}) with n_spec >= 1. "
            "Each row of C is one linear functional of the outputs."
        )
    if not bool(torch.isfinite(rows).all()):
        raise SpecificationError("C: holds NaN or infinity. Pass finite numbers.")
    rows = rows.detach().to(device="cpu", dtype=torch.float64)
    if not STATEMENT_RANGE.holds(rows):
        raise SpecificationError(f"C: allowed are entries of size {STATEMENT_RANGE}. Scale C; bounds scale with it.")
    return rows


def check_scale(scale: Tensor | None, network: Network) -> Tensor:
    """Validate the input scale (n0,) and cast it to float64; ones when None."""
    if scale is None:
        return torch.ones(network.input_size, dtype=torch.float64)
    flat = scale.detach().reshape(-1).to(device="cpu", dtype=torch.float64)
    good = flat.shape == (network.input_size,) and bool((flat >= 0).all() and (flat > 0).any())
    if not (good and STATEMENT_RANGE.holds(flat)):
        raise SpecificationError(
            f"input_scale: got shape {tuple(scale.shape)}; allowed are {network.input_size} numbers, one for each "
            f"input coordinate, {STATEMENT_RANGE}, not all zero."
        )
    return flat


class LipschitzInterrupted(KeyboardInterrupt):
    """Ctrl-C while bounds were computed.

    Args:
        result: bounds and certificate from what was proven until then; products of norms where nothing was.
    """

    def __init__(self, result: LipschitzResult) -> None:
        super().__init__()
        self.result = result


def network_lipschitz(
    problem: LipschitzProblem, options: LipschitzOptions, progress: Progress | None = None
) -> LipschitzResult:
    """Bound the Lipschitz constants of a problem.

    Args:
        problem: see `LipschitzProblem`.
        options: see `LipschitzOptions`.
        progress: called with the number of finished programs and of all.

    Raises:
        SpecificationError: contradictory options.
        SolverUnavailableError: the solver's package or licence is missing.
        LipschitzInterrupted: Ctrl-C after the work had begun; holds what was proven until then.
    """
    begin = time.perf_counter()
    _require_method(options)
    whole = not _is_beyond(problem, options)
    parts = make_parts(problem, options, whole)
    lowers: dict[int, tuple[float, Tensor | None]] = {}
    try:
        bounds = _upper_bounds(options, parts, whole, progress)
    except BoundsInterrupted as stop:
        bounds = _at_once(parts, stop.bounds)
        raise LipschitzInterrupted(_result(problem, options, parts, bounds, lowers, begin)) from None
    try:
        lowers = _lower_bounds(problem, options, parts, bounds)
    except KeyboardInterrupt:
        raise LipschitzInterrupted(_result(problem, options, parts, bounds, lowers, begin)) from None
    return _result(problem, options, parts, bounds, lowers, begin)


def _is_beyond(problem: LipschitzProblem, options: LipschitzOptions) -> bool:
    """Whether the network is too large for what the method does on smaller ones."""
    network = problem.network
    large = network.input_size + network.hidden_size > DENSE_VARIABLES
    if options.method == "brute-force" and large:
        raise SpecificationError(
            f"method 'brute-force': got {network.hidden_size} neurons; it enumerates all slope patterns of about 20. "
            "Use method 'sdp'."
        )
    if options.method in ("norm-product", "entrywise"):
        return large
    fits = {"sdp": proof_fits, "compositional": block_fits}.get(options.method)
    return fits is not None and not all(fits(family_of(problem, options, b)) for b in range(problem.rows.shape[0]))


def _upper_bounds(
    options: LipschitzOptions, parts: Sequence[Part], whole: bool, progress: Progress | None
) -> list[ProvenBound]:
    instances = [p.instance for p in parts]
    if options.method in ("sdp", "compositional") and not whole:
        with_values = options.method == "sdp"
        samples, low_rank = [p.sample for p in parts], LowRankSolver(seed=options.seed)
        return bound_by_blocks(instances, samples, low_rank, with_values=with_values, progress=progress)
    if options.method in ("sdp", "compositional"):
        solver = make_solver(options.solver, options.form, options.seed)
        found = bound_programs(instances, [p.group for p in parts], solver, options.relative_gap, progress)
        return [_with_fallback(i, bound) for i, bound in zip(instances, found, strict=True)]
    rules = {"norm-product": norm_product, "entrywise": entrywise_bound, "brute-force": brute_force}
    rule = rules.get(options.method, lambda instance: math.inf) if whole else matrix_free_bound
    bounds = []
    for number, instance in enumerate(instances, start=1):
        begin = time.perf_counter()
        # a claim must survive being recomputed with another order of summation
        upper = rule(instance) * (1.0 + NORM_SLACK)
        bounds.append(ProvenBound(upper, None, None, time.perf_counter() - begin, options.method))
        if progress is not None:
            progress(number, len(instances))
    return bounds


def _require_method(options: LipschitzOptions) -> None:
    if options.method not in METHODS:
        raise SpecificationError(
            f"method: got {options.method!r}; allowed are {', '.join(METHODS)}. 'sdp' is the tightest proven one."
        )
    solver = canonical_solver_name(options.solver)
    if options.method == "compositional" and solver not in ("auto", "low-rank"):
        raise SpecificationError(
            f"method 'compositional': got solver {options.solver!r}; it works with 'low-rank' alone. Leave solver out."
        )


# --- results --------------------------------------------------------------------------------------------------------


def _result(
    problem: LipschitzProblem,
    options: LipschitzOptions,
    parts: Sequence[Part],
    bounds: Sequence[ProvenBound],
    lowers: dict[int, tuple[float, Tensor | None]],
    begin: float,
) -> LipschitzResult:
    rows = _rows(parts, bounds, lowers, options)
    shape = (problem.rows.shape[0], -1)
    return LipschitzResult(
        upper=torch.tensor([r.upper for r in rows], dtype=torch.float64).reshape(shape),
        lower=torch.tensor([r.lower for r in rows], dtype=torch.float64).reshape(shape),
        rows=tuple(rows),
        certificate=_certificate(problem, options, parts, bounds) if options.method in PROVEN_METHODS else None,
        seconds=time.perf_counter() - begin,
    )


def _with_fallback(instance: SdpInstance, bound: ProvenBound) -> ProvenBound:
    """Where the solver's multipliers prove nothing, the product of norms is still a proof."""
    if math.isfinite(bound.upper):
        return bound
    upper = best_norm_bound(instance) * (1.0 + NORM_SLACK)
    return replace(bound, upper=upper, solver="norm-product")


def _at_once(parts: Sequence[Part], bounds: Sequence[ProvenBound]) -> list[ProvenBound]:
    """As `_with_fallback` for all programs, in a moment: whoever pressed Ctrl-C does not wait for the best of norms.

    Radii of nodes are shared by the rows of a region. The programs of l_1 have other radii for each coordinate, which
    take a third of a second each on convolutions: products of dense blocks take their place where those exist.
    """
    radii: dict[tuple[int, int | None], NodeRadii] = {}
    found = []
    for part, bound in zip(parts, bounds, strict=True):
        instance, key = part.instance, (part.sample, part.coordinate)
        if math.isfinite(bound.upper):
            found.append(bound)
            continue
        dense = instance.network.input_size + instance.network.hidden_size <= DENSE_VARIABLES
        if dense and part.coordinate is not None:
            upper = min(norm_product(instance), entrywise_bound(instance))
        else:
            if key not in radii:
                radii[key] = NodeRadii(instance.network, instance.slopes, instance.input_norm, instance.input_scale)
            upper = best_norm_bound(instance, radii[key])
        found.append(replace(bound, upper=upper * (1.0 + NORM_SLACK), solver="norm-product"))
    return found


def _lower_bounds(
    problem: LipschitzProblem, options: LipschitzOptions, parts: Sequence[Part], bounds: Sequence[ProvenBound]
) -> dict[int, tuple[float, Tensor | None]]:
    """Attained lower bound by group: of the group's program with the largest upper bound."""
    if not options.lower_bounds or (options.norm is Norm.L1 and any(p.coordinate is None for p in parts)):
        # what is attained over the l_2 ball says nothing about l_1
        return {}
    leaders: dict[int, int] = {}
    for i, part in enumerate(parts):
        best = leaders.get(part.group)
        if best is None or bounds[i].upper > bounds[best].upper:
            leaders[part.group] = i
    result: dict[int, tuple[float, Tensor | None]] = {}
    for b in range(problem.rows.shape[0]):
        chosen = [i for i in leaders.values() if parts[i].sample == b]
        region = None if problem.local is None else problem.local.region(b)
        instances = [parts[i].instance for i in chosen]
        patterns = _patterns(instances, [bounds[i] for i in chosen], options.seed)
        found = attained_lower_bounds(instances, region=region, patterns=patterns, seed=options.seed)
        for i, lower in zip(chosen, found, strict=True):
            result[parts[i].group] = (lower.value, lower.witness)
    return result


def _patterns(instances: Sequence[SdpInstance], bounds: Sequence[ProvenBound], seed: int) -> list[PatternBound] | None:
    """Slope patterns rounded from the relaxation's vectors, for the search of attained bounds to follow."""
    factors = [b.factor for b in bounds if b.factor is not None]
    if len(factors) < len(instances):
        return None
    vectors = [Vectors(f.input, f.hidden) for f in factors]
    return pattern_lower_bounds(instances, vectors, seed=seed, flips=0)


def _rows(
    parts: Sequence[Part],
    bounds: Sequence[ProvenBound],
    lowers: dict[int, tuple[float, Tensor | None]],
    options: LipschitzOptions,
) -> list[RowBound]:
    members: dict[int, list[int]] = {}
    for i, part in enumerate(parts):
        members.setdefault(part.group, []).append(i)
    proof = Proof.RIGOROUS if options.method in PROVEN_METHODS else Proof.NUMERICAL
    rows = []
    for group, indices in sorted(members.items()):
        leader = max(indices, key=lambda i: bounds[i].upper)
        values = [bounds[i].value for i in indices]
        value = max((v for v in values if v is not None), default=None)
        whole = replace(bounds[leader], value=value)
        lower, witness = lowers.get(group, (0.0, None))
        row = parts[leader].row if options.output is OutputNorm.ROWS else None
        seconds = sum(bounds[i].seconds for i in indices)
        rows.append(
            RowBound(
                parts[leader].sample, row, whole.upper, lower, proof, whole.solver, whole.relative_gap,
                seconds, value, witness,
            )
        )  # fmt: skip
    return rows


def _certificate(
    problem: LipschitzProblem, options: LipschitzOptions, parts: Sequence[Part], bounds: Sequence[ProvenBound]
) -> Certificate:
    claims = [
        Claim(part.sample, part.row, part.coordinate, bound.upper, bound.multipliers, bound.composition)
        for part, bound in zip(parts, bounds, strict=True)
    ]
    return Certificate(
        signature=network_signature(problem.network),
        norm=options.norm,
        input_scale=problem.input_scale,
        rows=problem.rows,
        output=options.output,
        scope="global" if problem.local is None else "local",
        claims=tuple(claims),
        local=problem.local,
        metadata={},
        rests_on=rests_on(problem.local),
    )
