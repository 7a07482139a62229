r"""Low-rank (Burer-Monteiro) solver of the Lipschitz program: forward passes with vector-valued neurons.

Place in the data flow: level 7, ``SdpInstance -> multipliers``; untrusted.

Each increment carries a row of :math:`\mathbb{R}^k` (k = `rank`), i.e. the Gram matrix of the relaxation is written
:math:`Y Y^T`. The product constraint of a neuron with slopes :math:`[\alpha, \beta]`, centre
:math:`m = (\alpha+\beta)/2` and half width :math:`r = (\beta-\alpha)/2`, reads

.. math:: (dz - \alpha dv)(\beta dv - dz) = r^2 dv^2 - (dz - m\,dv)^2 \ge 0 ,

for vectors a ball with centre :math:`m\,dv` and radius :math:`r|dv|`. The objective is maximal on its surface, so

.. math:: dz_i = m_i dv_i + r_i |dv_i| u_i, \quad |u_i| = 1, \qquad w_j \text{ unit (l_inf) or } |w|_F = 1 \text{ (l_2)}

parametrises the problem by unit vectors alone: every point is feasible. With tied multipliers the constraints of a
layer are summed, and u becomes one unit vector for the whole layer. Rows of C, inputs and slopes of a batch are solved
together. The value :math:`\log |O\,y|` is maximised in phases.

1. *Power iterations* (Journee et al., arXiv 0811.4724): replace every unit vector by its normalised gradient,
   :math:`u_i \leftarrow g_i/|g_i|`. Given directions that agree with their gradients, the value is convex in each
   block, so the step is an ascent step; and a neuron whose vector disagrees, which would otherwise hold :math:`dv_i` in
   the kink at zero for hundreds of steps, is turned round at once.
2. *L-BFGS* on the product of spheres, preconditioned with :math:`1/|g_i|`, at stationary points the inverse of the
   sphere's own part of the Riemannian Hessian (a power iteration is the plain step in this metric).
3. *Escapes*: where the columns are linearly independent, the point may be a saddle; eigenvectors of the dual matrix
   become new columns (module `escape`), and L-BFGS goes on. So the rank adapts itself.
4. L-BFGS to the full tolerance.

Large batches go through phases 1 to 3 in float32, and through the last one twice, first in float32 as far as that
carries.

**Multipliers** come from the same gradients. With :math:`t_i = |dv_i| u_i` and g the derivative of the objective by
:math:`u_i`, stationarity of the Lagrangian gives :math:`\lambda_i = \langle g_i, u_i\rangle / (2 r_i^2 |dv_i|^2)` and
:math:`\tau_j = \langle g_j, w_j\rangle`: the derivative of :math:`r|dv|u` by dv is exactly what the term
:math:`\lambda r^2(|dv|^2 - |t|^2)` contributes to the Lagrangian's derivative, so one ordinary backward pass performs
the whole recursion. At a maximiser of high enough rank these multipliers are optimal (Burer and Monteiro, Math.
Program. 103, 2005; Boumal, Voroninski and Bandeira, arXiv 1606.04970).

**Memory**: about 24 float64 copies of the k x (inputs + neurons) numbers of a factor, for each program of a batch: 6
for the curvature pairs of L-BFGS (6 pairs in float32), the rest for points, gradients and what passes through the
network. k is the rank in the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.base import SolverResult, Status
from geolip_lirpa.solvers.escape import leave_saddles
from geolip_lirpa.solvers.lbfgs import LbfgsOptions, LbfgsResult, Problem, minimise
from geolip_lirpa.solvers.objective import Objective

# Vectors with less curvature than this fraction of the largest take the steps of one that has it.
_LEAST_CURVATURE = 1e-6
# Gradient, relative to the one before projection, that float32 reaches, and iterations without progress that end it.
_SINGLE_TOLERANCE = 1e-6
_SINGLE_PATIENCE = 12
# Multiplications of a forward pass, over all columns and problems, from which float32 is worth a second start.
_SINGLE_OPERATIONS = 3e6
# Float64 numbers kept for each of the k x (inputs + neurons) numbers of a factor, see the module's docstring.
_COPIES = 24


@dataclass(frozen=True)
class Factor:
    """The low-rank vectors of one instance, for warm starts and rounding.

    Args:
        input: (n0, k) rows w_j.
        hidden: per activation, (N_l, k) rows u_i (one common direction field when layers are tied).
    """

    input: Tensor
    hidden: tuple[Tensor, ...]

    @property
    def rank(self) -> int:
        """Number of columns, k."""
        return self.input.shape[1]


@dataclass(frozen=True)
class LowRankResult(SolverResult):
    """A `SolverResult` with the vectors that led to it."""

    factor: Factor


@dataclass(frozen=True)
class LowRankSolver:
    """Burer-Monteiro solver, batched over instances.

    Args:
        rank: number of columns k of a random start; more are added at saddle points.
        power_iterations: before L-BFGS, from a random start.
        max_iterations: L-BFGS iterations of an instance in all.
        tolerance: norm of the gradient, relative to that before projection, at which an instance is finished.
        saddle_tolerance: the same where saddle points are looked for, and the growth from which they are left.
        escapes: how often factors may get new columns.
        single: whether float32 goes first; None: where the work of a pass is worth a second start in float64.
        seed: of the random start.
        device: where the iterations run.
    """

    name: ClassVar[str] = "low-rank"
    rank: int = 8
    power_iterations: int = 6
    max_iterations: int = 1000
    tolerance: float = 3e-8
    saddle_tolerance: float = 1e-4
    escapes: int = 8
    single: bool | None = None
    seed: int = 0
    device: str = "cpu"

    def solve(self, instances: Sequence[SdpInstance], starts: Sequence[Factor] | None = None) -> list[LowRankResult]:
        """Solve instances that share network, norms, ties and the number of rows.

        Args:
            instances: the batch.
            starts: factors to start from, of any ranks; random when None.
        """
        begin = time.perf_counter()
        found = _Run(self, instances).solve(starts)
        seconds = (time.perf_counter() - begin) / len(instances)
        return [
            LowRankResult(x.multipliers, x.value, x.status, x.iterations, seconds, self.name, x.factor) for x in found
        ]


@dataclass(frozen=True)
class _Group:
    """Problems whose factors have the same rank: their numbers in the batch (p,), and points (p, D)."""

    index: Tensor
    point: Tensor


@dataclass(frozen=True)
class _Found:
    multipliers: Multipliers
    value: float
    status: Status
    iterations: int
    factor: Factor


class _Run:
    """One call of the solver."""

    def __init__(self, solver: LowRankSolver, instances: Sequence[SdpInstance]) -> None:
        self.solver = solver
        self.instances = instances
        self.device = torch.device(solver.device)
        self.double = Objective(instances, torch.float64, self.device)
        self.iterations = torch.zeros(len(instances), dtype=torch.int64, device=self.device)

    def solve(self, starts: Sequence[Factor] | None) -> list[_Found]:
        """All phases; results in the order of the instances."""
        groups = None
        single = self._single(starts)
        if single is not None:
            groups = self._climb(single, self._start(single, starts))
            groups = [self._minimise(single, g, _SINGLE_TOLERANCE, _SINGLE_PATIENCE)[0] for g in groups]
            groups = [_Group(g.index, self.double.spheres.retract(g.point.to(torch.float64))) for g in groups]
        if groups is None or not all(bool(torch.isfinite(g.point).all()) for g in groups):
            groups = self._climb(self.double, self._start(self.double, starts))
        found: dict[int, _Found] = {}
        for group in groups:
            found.update(self._finish(group))
        return [found[p] for p in range(len(self.instances))]

    def _single(self, starts: Sequence[Factor] | None) -> Objective | None:
        """The float32 objective, where it saves time, is exact enough and does not leave its range."""
        solver = self.solver
        rank = solver.rank if starts is None else max(f.rank for f in starts)
        work = rank * len(self.instances) * operations(self.instances[0].network)
        wanted = work >= _SINGLE_OPERATIONS if solver.single is None else solver.single
        if not wanted or solver.saddle_tolerance <= 4 * _SINGLE_TOLERANCE:
            return None
        single = Objective(self.instances, torch.float32, self.device)
        point = self.double.spheres.random(1, 1, solver.seed).to(self.device).expand(len(self.instances), -1)
        index = torch.arange(len(self.instances), device=self.device)
        exact, rough = self.double.values(point, index), single.values(point.to(torch.float32), index)
        return single if bool(((rough - exact).abs() <= 1e-2 * exact).all()) else None

    def _start(self, objective: Objective, starts: Sequence[Factor] | None) -> _Group:
        """A random point after power iterations, or given factors."""
        count, solver = len(self.instances), self.solver
        index = torch.arange(count, device=self.device)
        if starts is not None:
            rank = max(f.rank for f in starts)
            parts = [torch.cat([f.input, *f.hidden]) for f in starts]
            padded = [torch.nn.functional.pad(p, (0, rank - p.shape[1])).T.reshape(-1) for p in parts]
            point = torch.stack(padded).to(device=self.device, dtype=objective.dtype)
            return _Group(index, objective.spheres.retract(point))
        point = objective.spheres.random(count, solver.rank, solver.seed).to(device=self.device, dtype=objective.dtype)
        for _ in range(solver.power_iterations):
            _, gradient = objective.negative_log(point, index)
            point = objective.spheres.turned(point, -gradient)
        return _Group(index, point)

    def _climb(self, objective: Objective, group: _Group) -> list[_Group]:
        """Roughly stationary points that no new column leaves."""
        settled: list[_Group] = []
        solver = self.solver
        for attempt in range(solver.escapes):
            # something must be left for the last phase
            group, _ = self._minimise(objective, group, solver.saddle_tolerance, share=0.5)
            grown, wider = leave_saddles(
                objective, group.point, group.index, solver.saddle_tolerance, solver.seed + attempt
            )
            stays = torch.ones_like(group.index, dtype=torch.bool)
            stays[grown] = False
            if bool(stays.any()):
                settled.append(_Group(group.index[stays], group.point[stays]))
            if len(grown) == 0:
                return settled
            group = _Group(group.index[grown], wider)
        return [*settled, group]

    def _minimise(
        self,
        objective: Objective,
        group: _Group,
        tolerance: float,
        patience: int = LbfgsOptions.stall_iterations,
        share: float = 1.0,
    ) -> tuple[_Group, LbfgsResult]:
        """L-BFGS with a share of the iterations that are left."""
        spheres = objective.spheres

        def function(point: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            return objective.negative_log(point, group.index[index])

        def weights(point: Tensor, gradient: Tensor) -> Tensor:
            curvature = spheres.dots(gradient, gradient).sqrt_()
            least = _LEAST_CURVATURE * curvature.amax(dim=2, keepdim=True).clamp_min(torch.finfo(point.dtype).tiny)
            return (1.0 / torch.maximum(curvature, least)).expand_as(spheres.matrix(point)).flatten(1)

        left = max(0, self.solver.max_iterations - int(self.iterations[group.index].max()))
        options = LbfgsOptions(math.ceil(share * left), tolerance, patience)
        result = minimise(Problem(function, spheres.retract, spheres.project, weights), group.point, options)
        self.iterations[group.index] += result.iterations
        return _Group(group.index, result.point), result

    def _finish(self, group: _Group) -> dict[int, _Found]:
        """The last phase of a group, with multipliers."""
        group, result = self._minimise(self.double, group, self.solver.tolerance)
        multipliers, values = self.double.multipliers(group.point, group.index)
        found: dict[int, _Found] = {}
        for i, p in enumerate(group.index.tolist()):
            parts = [part[0].T.cpu() for part in self.double.spheres.split(group.point[i : i + 1])]
            factor = Factor(parts[0], tuple(parts[1:]))
            status = self._status(p, bool(result.converged[i]))
            found[p] = _Found(multipliers[i], float(values[i]), status, int(self.iterations[p]), factor)
        return found

    def _status(self, p: int, converged: bool) -> Status:
        if converged:
            return Status.CONVERGED
        return Status.ITERATION_LIMIT if int(self.iterations[p]) >= self.solver.max_iterations else Status.STALLED


def bytes_needed(network: Network, rank: int) -> int:
    """Memory that one program of a batch takes, in bytes."""
    return 8 * _COPIES * rank * (network.input_size + network.hidden_size)


def operations(network: Network) -> float:
    """Multiplications of one forward pass, roughly."""
    affine = ((n.size, n.operation) for n in network.nodes if isinstance(n.operation, AffineOperator))
    return float(sum(size * max(1, operator.sum_roundings) for size, operator in affine))
