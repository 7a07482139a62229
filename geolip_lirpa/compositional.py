r"""The search for good blocks: where to cut, with which weights, and the proof of every block.

Place in the data flow: level 8, ``SdpInstance -> Composition``, beside `bounding`: untrusted multipliers meet the
trusted checker. `composition` derives why any cuts and weights give a proof; here they are chosen.

**Weights.** For given cuts the best weights, with the best multipliers of all blocks, are those of one semidefinite
program: the network's own, with the slopes of every cut activation widened to :math:`[-\kappa, \kappa]`. Its constraint
:math:`(dz + \kappa dv)(\kappa dv - dz) \ge 0` says :math:`dz^2 \le \kappa^2 dv^2`. The multiplier :math:`\lambda` adds
:math:`2\lambda dz^2` to what follows the cut and :math:`-2\lambda\kappa^2 dv^2` to what precedes it, and nothing else
couples the two sides: the matrix is a direct sum of the blocks' matrices with weights :math:`d = \sqrt{2\lambda}`. So
one run of the low-rank solver yields the weights at the cuts and the multipliers of the blocks at once. A cut at an
affine node is a neuron with slopes [-1, 1] put behind it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from geolip_lirpa.activations import Abs
from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.baselines.matrix_free import steepest
from geolip_lirpa.composition import (
    WEIGHT_RANGE,
    Block,
    Composition,
    Front,
    last_block,
    product,
    split,
)
from geolip_lirpa.cut_planning import Fits, Plan, plan_cuts
from geolip_lirpa.errors import SolverError
from geolip_lirpa.gain_proof import prove_gain
from geolip_lirpa.network import Network, Node
from geolip_lirpa.proof import prove
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.low_rank import LowRankResult, LowRankSolver

# Weights are kept within this factor of their cut's median.
_WEIGHT_RATIO = 1e6
# What the low-rank solver is given: columns beyond its own (more for that many variables), and iterations.
_ADDITIONAL_RANK = (12, 24)
_MANY_VARIABLES = 20_000
_ITERATIONS = 150
# Widest cut for which a block is solved on its own.
_WIDEST = 4096
# Relative slack of constants that the checker computes again: another BLAS sums in another order.
_SLACK = 1e-10


@dataclass(frozen=True)
class Composed:
    """A proven bound by blocks.

    Args:
        upper: proven.
        composition: its proof.
        seconds: for solving and proving.
    """

    upper: float
    composition: Composition
    seconds: float


def compose(instance: SdpInstance, solver: LowRankSolver, fits: Fits) -> Composed | None:
    """Bound a program by blocks.

    Args:
        instance: the program; its forms are not built.
        solver: finds weights and multipliers.
        fits: decides which blocks are proven by multipliers.

    Returns:
        The bound, or None where no cut helps or nothing finite was proven.
    """
    return compose_rows([instance], instance, solver, fits)[0]


def compose_rows(
    instances: Sequence[SdpInstance], joint: SdpInstance, solver: LowRankSolver, fits: Fits
) -> list[Composed | None]:
    """Bound programs that differ in their rows only by blocks, with one front for all of them.

    Args:
        instances: the programs.
        joint: the program from which cuts and weights are taken: all rows together, in l_2.
        solver: see `compose`.
        fits: see `compose`.

    Returns:
        A bound for each program, None where nothing finite was proven.
    """
    begin = time.perf_counter()
    plan = plan_cuts(joint, fits)
    if plan is None:
        return [None] * len(instances)
    marked = mark_cuts(joint, plan.cuts)
    multipliers = solve_quickly(solver, [marked.instance])[0].multipliers
    weights, hints = _weights(joint, plan, marked, multipliers)
    front, constant = _prove_front(joint, plan, weights, hints, solver)
    seconds = (time.perf_counter() - begin) / len(instances)
    found: list[Composed | None] = []
    for instance in instances:
        begin = time.perf_counter()
        block = last_block(instance, front)
        hint = hints[-1] if len(instances) == 1 else None
        last, bound = _prove_block(block, hint if plan.by_multipliers[-1] else None, plan.by_multipliers[-1], solver)
        upper = product([constant, bound])
        spent = seconds + time.perf_counter() - begin
        found.append(Composed(upper, Composition(front, last), spent) if math.isfinite(upper) else None)
    return found


# --- weights ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marked:
    """The program in which cuts forget directions.

    Args:
        instance: of the network with a neuron at every cut.
        numbers: which of its activations are the cuts.
    """

    instance: SdpInstance
    numbers: tuple[int, ...]


def solve_quickly(solver: LowRankSolver, instances: Sequence[SdpInstance]) -> list[LowRankResult]:
    """Solve with so high a rank that no saddle point stops it, and no further than the proof's repair makes good."""
    network = instances[0].network
    many = network.input_size + network.hidden_size > _MANY_VARIABLES
    rank = solver.rank + _ADDITIONAL_RANK[many]
    return replace(solver, rank=rank, tolerance=1e-6, max_iterations=_ITERATIONS).solve(instances)


def mark_cuts(instance: SdpInstance, cuts: Sequence[int]) -> Marked:
    r"""Widen the slopes of cut activations to :math:`[-\kappa, \kappa]`, put slopes [-1, 1] behind affine cuts."""
    network = instance.network
    nodes: list[Node] = []
    moved: dict[int, int] = {}
    slopes: list[SlopeInterval] = []
    numbers: list[int] = []
    given = iter(instance.slopes)
    for position, node in enumerate(network.nodes):
        nodes.append(replace(node, inputs=tuple(moved[i] for i in node.inputs)))
        if isinstance(node.operation, Activation):
            interval = next(given)
            if position in cuts:
                kappa = steepest(interval)
                numbers.append(len(slopes))
                interval = SlopeInterval(-kappa, kappa)
            slopes.append(interval)
        elif position in cuts:
            nodes.append(Node(f"{node.name}/cut", node.shape, (len(nodes) - 1,), Abs()))
            numbers.append(len(slopes))
            ones = torch.ones(node.size, dtype=torch.float64)
            slopes.append(SlopeInterval(-ones, ones))
        moved[position] = len(nodes) - 1
    marked = replace(instance, network=Network(tuple(nodes)), slopes=tuple(slopes), family=None)
    return Marked(marked, tuple(numbers))


def _weights(
    instance: SdpInstance, plan: Plan, marked: Marked, multipliers: Multipliers
) -> tuple[list[Array], list[Multipliers | None]]:
    """Weights at the cuts, and each block's part of the multipliers where its weights are those of the solution."""
    weights = []
    own = []
    for k, (cut, number) in enumerate(zip(plan.cuts, marked.numbers, strict=True)):
        d = _positive(np.sqrt(2.0 * multipliers.hidden[number]))
        own.append(plan.by_multipliers[k] and plan.by_multipliers[k + 1])
        weights.append(d if own[-1] else _channelwise(d, instance.network.nodes[cut]))
    bounds = [-1, *marked.numbers, len(multipliers.hidden)]
    hints: list[Multipliers | None] = []
    for k in range(len(plan.cuts) + 1):
        left, right = k == 0 or own[k - 1], k == len(plan.cuts) or own[k]
        hidden = multipliers.hidden[bounds[k] + 1 : bounds[k + 1]]
        first = multipliers.input if k == 0 else np.ones(1)
        last = multipliers.output if k == len(plan.cuts) else np.ones(1)
        hints.append(Multipliers(hidden, first, last) if left and right else None)
    return weights, hints


def _positive(weights: Array) -> Array:
    """Finite positive weights: neurons at rest have infinite ones in the solution, neurons without a reader none."""
    good = weights[np.isfinite(weights) & (weights > 0)]
    typical = float(np.median(good)) if len(good) else 1.0
    known = np.where(np.isnan(weights), typical, weights)
    inside = np.clip(known, typical / _WEIGHT_RATIO, typical * _WEIGHT_RATIO)
    return np.clip(inside, WEIGHT_RANGE.smallest, WEIGHT_RANGE.largest)


def _channelwise(weights: Array, node: Node) -> Array:
    """The root mean square of each channel (first axis) at all its positions."""
    if len(node.shape) < 2:
        return weights
    channels = weights.reshape(node.shape[0], -1)
    mean = np.sqrt(np.mean(channels**2, axis=1, keepdims=True))
    # rounding may carry the mean of equal numbers past them, and past the ends of the checker's range
    inside = np.clip(mean, channels.min(axis=1, keepdims=True), channels.max(axis=1, keepdims=True))
    return np.broadcast_to(inside, channels.shape).reshape(-1).copy()


# --- proofs -----------------------------------------------------------------------------------------------------------


def _prove_front(
    instance: SdpInstance,
    plan: Plan,
    weights: Sequence[Array],
    hints: Sequence[Multipliers | None],
    solver: LowRankSolver,
) -> tuple[Front, float]:
    blocks = split(instance, plan.cuts, weights)[:-1]
    proofs, constants = [], []
    for block, hint, wanted in zip(blocks, hints, plan.by_multipliers, strict=False):
        proof, constant = _prove_block(block, hint, wanted, solver)
        proofs.append(proof)
        constants.append(constant)
    return Front(plan.cuts, tuple(weights), tuple(proofs)), product(constants)


def _prove_block(
    block: Block, hint: Multipliers | None, by_multipliers: bool, solver: LowRankSolver
) -> tuple[Multipliers | None, float]:
    """A block's constant with its proof: from the hint, else from multipliers of its own, else from norms."""
    if by_multipliers:
        for attempt in (lambda: hint, lambda: _solved(block, solver)):
            multipliers = attempt()
            if multipliers is None:
                continue
            try:
                return _proven(block, multipliers)
            except SolverError:
                continue
    return None, block.norm_bound() * (1.0 + _SLACK)


def _proven(block: Block, multipliers: Multipliers) -> tuple[Multipliers, float]:
    gain = block.gain_program()
    if gain is None:
        proven = prove(block.program(), multipliers)
        return proven.multipliers, proven.upper
    upper, repaired = prove_gain(gain, multipliers)
    return repaired, upper


def _solved(block: Block, solver: LowRankSolver) -> Multipliers | None:
    """Multipliers of the block's own program; None where its rows, a dense matrix, would be too large."""
    if block.weights is not None and len(block.weights) > _WIDEST:
        return None
    m = solve_quickly(solver, [block.program()])[0].multipliers
    if block.weights is None:
        return m
    # in units in which every row of diag(weights) has the multiplier one
    factor = float(m.output[0])
    return Multipliers(tuple(factor * h for h in m.hidden), factor * m.input, np.ones(1))
