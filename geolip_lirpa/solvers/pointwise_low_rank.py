r"""Low-rank solver of the pointwise program: an augmented Lagrangian over vector-valued neurons, without any matrix.

Place in the data flow: level 7, ``PointwiseInstances of one input set -> multipliers``; untrusted.

Rows are solved together: their forms are the same, so one product of matrices serves all of them. A row leaves the
batch when its margin is proven to be good enough, or cannot become so.

1. *Feasible points* of small margins come from forward passes (`pointwise_forward`). For balls their margins are upper
   bounds of the program's optimum: rows whose value is below the target are settled.
2. *Multipliers* start from those of the row's Lipschitz constant (derived in `pointwise_point`), which are feasible and
   prove the margin at the centre minus the constant times the radius.
3. *Rounds*: L-BFGS minimises the augmented Lagrangian, the new multipliers are :math:`\max(0, \theta - \sigma g)`: a
   proximal step of the dual (`pointwise_augmented`), extrapolated as in Gueler's accelerated proximal point method
   (SIAM J. Optim. 2, 1992) until the dual falls. Each product has its own penalty,
   :math:`\sigma_j \propto \sqrt{\lambda_j}` of the start. Penalties are never raised, which would spoil the inner
   minimisations and with them the multipliers; they are halved where one of these ends far from a stationary point.
4. *Proofs* are tried between rounds. An inner minimisation that is cut short leaves negative eigenvalues in the dual
   matrix. What repairs them cheaply is a mixture with the graded Lipschitz multipliers, which lie in the interior: the
   feasible set is convex and the dual concave, so a share of 5 per cent costs 5 per cent of the gain at most.

**Memory**: 2 x 10 curvature pairs in float32 and about ten float64 copies of (rows) x (rank + 1) x (inputs + neurons).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.pointwise import PointwiseInstance, PointwiseMultipliers
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.solvers.base import Status
from geolip_lirpa.solvers.lbfgs import LbfgsOptions, Problem, minimise
from geolip_lirpa.solvers.pointwise_augmented import Evaluation, evaluate
from geolip_lirpa.solvers.pointwise_forward import forward_optimum, margins, nearest_feasible
from geolip_lirpa.solvers.pointwise_point import PointwiseResult
from geolip_lirpa.solvers.pointwise_scaled import ScaledRows

#: ``prove(number of the instance, multipliers)``: the margin that they prove, None when nothing.
Prove = Callable[[int, PointwiseMultipliers], float | None]

# Shares of a round's multipliers in what is tried to be proven; the rest is the interior start, graded by so much.
_SHARES = (0.95, 1.0)
_GRADING = 0.03
# Size of the random numbers added to the first point, without which unused columns stay zero.
_NOISE = 0.05
# Penalties of the products differ by the square roots of their multipliers, at most by this factor each way.
_SPREAD = 5.0
# L-BFGS within a round: pairs, iterations without progress, and the gradient that is small enough.
_MEMORY = 10
_PATIENCE = 20
_SMALL_GRADIENT = 2e-4
# Penalties are halved where the gradient stays above this.
_ROUGH = 0.1
# Gradients below which multipliers are believed without a proof.
_STATIONARY = 1e-3
# A row is given up when even this multiple of the last round's gain in each remaining round would not do.
_HOPE = 3.0


@dataclass(frozen=True)
class PointwiseLowRank:
    """Augmented Lagrangian over low-rank points, batched over rows.

    Args:
        products: optional products to use, see `pointwise_point.OPTIONAL_PRODUCTS`.
        rank: columns beside the one of the constants.
        max_rounds: updates of the multipliers.
        inner_iterations: of L-BFGS in each round.
        forward_iterations: of L-BFGS over feasible points before the first round.
        penalty: sigma, for margins whose linear part moves by 1 over the set.
        tolerance: relative to the same size, the gap between primal and dual that ends a row's rounds.
        target: leave a row as soon as its margin is proven to be above, or cannot get above it; None: go on.
        whole: rows count together only: once one of them cannot get above the target, leave all.
        seed: of random numbers.
    """

    name: ClassVar[str] = "low-rank"
    products: tuple[str, ...] = ()
    rank: int = 2
    max_rounds: int = 8
    inner_iterations: int = 300
    forward_iterations: int = 100
    penalty: float = 200.0
    tolerance: float = 1e-3
    target: float | None = None
    whole: bool = False
    seed: int = 0

    def solve(
        self,
        instances: Sequence[PointwiseInstance],
        starts: Sequence[Multipliers | None] | None = None,
        prove: Prove | None = None,
    ) -> list[PointwiseResult]:
        """Solve instances; those of one family that follow each other are a batch.

        Args:
            instances: the programs.
            starts: as in `PointwiseInteriorPoint.solve`.
            prove: tries multipliers; without it rows stop at the gap alone.

        Returns:
            For each instance the multipliers that proved most, and the margin of a feasible point as `value`, None
            where products beside the first three leave none.
        """
        starts = [None] * len(instances) if starts is None else starts
        found: list[PointwiseResult] = []
        for _, group in groupby(range(len(instances)), key=lambda i: id(instances[i].family)):
            members = list(group)
            batch = [instances[i] for i in members]
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                run = _Run(self, batch, [starts[i] for i in members], _renumbered(prove, members[0]))
                found += run.solve()
        return found


def _renumbered(prove: Prove | None, first: int) -> Prove | None:
    return None if prove is None else lambda number, multipliers: prove(first + number, multipliers)


@dataclass(frozen=True)
class _Round:
    """The rows at work after a round: their numbers, points, what was evaluated there, and L-BFGS iterations."""

    index: Tensor
    point: Tensor
    found: Evaluation
    iterations: Tensor


class _Run:
    """The rows of one batch; tables have one entry for each."""

    def __init__(
        self,
        options: PointwiseLowRank,
        instances: Sequence[PointwiseInstance],
        starts: Sequence[Multipliers | None],
        prove: Prove | None,
    ) -> None:
        self.begin = time.perf_counter()
        self.options, self.prove = options, prove
        self.rows = rows = ScaledRows.of(instances, options.products)
        count = len(instances)
        self.interior = [None if s is None else rows.from_lipschitz(s, i, _GRADING) for i, s in enumerate(starts)]
        plain = [None if s is None else rows.from_lipschitz(s, i) for i, s in enumerate(starts)]
        theta = torch.stack([rows.crude(i) if t is None else t for i, t in enumerate(plain)])
        # multipliers of the last round, where the next one starts, and the best so far
        self.last, self.base, self.chosen = theta, theta.clone(), theta.clone()
        self.penalty = _penalties(rows, theta, options.penalty)
        self.momentum = torch.ones(count, dtype=torch.float64)
        self.dual = torch.full((count,), -torch.inf, dtype=torch.float64)
        self.primal = torch.full((count,), torch.inf, dtype=torch.float64)
        self.proven = self.dual.clone()
        self.status = [Status.ITERATION_LIMIT] * count
        self.iterations = [0] * count
        target = -torch.inf if options.target is None else options.target
        self.target = target / rows.scale
        # other products may cut off the points of forward passes
        self.primal_holds = len(rows.products) == 3

    def solve(self) -> list[PointwiseResult]:
        rows, options = self.rows, self.options
        index = torch.arange(len(self.last))
        point = forward_optimum(rows, index, options.rank + 1, options.forward_iterations, options.seed)
        self._meet(index, point)
        index, point = self._open(index, point, settled=torch.zeros_like(index, dtype=torch.bool))
        generator = torch.Generator().manual_seed(options.seed + 1)
        noise = torch.randn(point.shape[1:], generator=generator, dtype=torch.float64)
        point = point + (_NOISE * noise).to(rows.dtype)
        for number in range(options.max_rounds):
            if len(index) == 0:
                break
            after = self._minimise(index, point)
            settled = self._judge(after, options.max_rounds - number - 1)
            self._step(after)
            index, point = self._open(index, after.point, settled)
        return self._results()

    def _minimise(self, index: Tensor, point: Tensor) -> _Round:
        """Minimise the augmented Lagrangian of the rows `index` from a point."""
        shape, base, penalty = point.shape, self.base[index], self.penalty[index]

        def function(points: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
            found = evaluate(self.rows, index[where], points.view(-1, *shape[1:]), base[where], penalty[where])
            return found.value, found.gradient.flatten(1)

        problem = Problem(function, lambda x: x, lambda x, g: g, lambda x, g: torch.ones_like(x))
        settings = LbfgsOptions(self.options.inner_iterations, 0.0, _PATIENCE, _MEMORY, _SMALL_GRADIENT)
        result = minimise(problem, point.flatten(1), settings)
        point = result.point.view(shape)
        return _Round(index, point, evaluate(self.rows, index, point, base, penalty), result.iterations)

    def _judge(self, after: _Round, remaining: int) -> Tensor:
        """Try proofs; which rows (p,) need no further round."""
        self._meet(after.index, nearest_feasible(self.rows, after.point))
        settled = torch.zeros(len(after.index), dtype=torch.bool)
        for place, i in enumerate(after.index.tolist()):
            self.iterations[i] += int(after.iterations[place])
            dual, target = float(after.found.dual[place]), float(self.target[i])
            if dual > target:
                self._attempt(i, after.found.multipliers[place])
            elif self.prove is None or self.proven[i] == -torch.inf:
                self.chosen[i] = after.found.multipliers[place]
            enough = self.options.target is not None and bool(self.proven[i] > target)
            closed = float(self.primal[i]) - self._reached(i, after, place) < self.options.tolerance
            gain = dual - float(self.dual[i])
            hopeless = remaining > 0 and dual + _HOPE * remaining * max(gain, 0.0) < target
            if enough or closed:
                self.status[i] = Status.CONVERGED
            elif hopeless:
                self.status[i] = Status.STALLED
            settled[place] = enough or closed or hopeless
        return settled

    def _reached(self, row: int, after: _Round, place: int) -> float:
        """The margin that counts as found: what is proven, or the dual of a round that went to its end."""
        if self.prove is not None:
            return float(self.proven[row])
        small = float(after.found.gradient[place].norm()) < _STATIONARY
        return float(after.found.dual[place]) if small else -np.inf

    def _attempt(self, row: int, theta: Tensor) -> None:
        """Keep the multipliers of a round, or their mixture with the interior start, if they prove more than before."""
        if self.prove is None:
            self.chosen[row] = theta
            return
        interior = self.interior[row]
        for share in _SHARES:
            mixed = theta if interior is None else share * theta + (1.0 - share) * interior
            proven = self.prove(row, self.rows.multipliers(mixed, row))
            value = -torch.inf if proven is None else proven / float(self.rows.scale[row])
            if value > self.proven[row]:
                self.proven[row], self.chosen[row] = value, mixed
            if interior is None or (self.options.target is not None and value > self.target[row]):
                return

    def _step(self, after: _Round) -> None:
        """The next round's multipliers: extrapolated, unless the dual has fallen or the round ended too early."""
        index, new, dual = after.index, after.found.multipliers, after.found.dual
        rough = after.found.gradient.flatten(1).norm(dim=1) > _ROUGH
        self.penalty[index] = torch.where(rough[:, None], 0.5, 1.0).to(new.dtype) * self.penalty[index]
        momentum = torch.where((dual < self.dual[index]) | rough, 1.0, self.momentum[index])
        following = 0.5 + (0.25 + momentum.square()).sqrt()
        factor = ((momentum - 1.0) / following).to(new.dtype)[:, None]
        self.base[index] = (new + factor * (new - self.last[index])).clamp_min(0.0)
        self.last[index], self.dual[index], self.momentum[index] = new, dual, following

    def _meet(self, index: Tensor, point: Tensor) -> None:
        """Lower the primal values by those of feasible points."""
        if self.primal_holds:
            self.primal[index] = torch.minimum(self.primal[index], margins(self.rows, index, point))

    def _open(self, index: Tensor, point: Tensor, settled: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that are worth another round; none if a row is lost that all others need."""
        lost = self.primal[index] <= self.target[index]
        for i in index[lost].tolist():
            self.status[i] = Status.CONVERGED
        given_up = settled & ~(self.proven[index] > self.target[index]) | lost
        if self.options.whole and self.options.target is not None and bool(given_up.any()):
            return index[:0], point[:0]
        keep = ~settled & ~lost
        return index[keep], point[keep]

    def _results(self) -> list[PointwiseResult]:
        seconds = (time.perf_counter() - self.begin) / len(self.last)
        values = (self.primal * self.rows.scale).tolist()
        return [
            PointwiseResult(
                self.rows.multipliers(self.chosen[i], i), value if np.isfinite(value) else None,
                self.status[i], self.iterations[i], seconds,
            )
            for i, value in enumerate(values)
        ]  # fmt: skip


def _penalties(rows: ScaledRows, theta: Tensor, size: float) -> Tensor:
    r""":math:`\sigma\sqrt{\lambda_j / \lambda}` (p, m) with the median :math:`\lambda`; sigma for the inputs."""
    groups, tau = rows.groups(theta)
    if not groups:
        return torch.full_like(tau, size)
    relative = groups[0] / groups[0].median(dim=1, keepdim=True).values.clamp_min(1e-30)
    own = relative.sqrt().clamp(1.0 / _SPREAD, _SPREAD)
    return size * torch.cat([own] * len(rows.products) + [torch.ones_like(tau)], dim=1)
