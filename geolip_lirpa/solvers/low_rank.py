r"""Low-rank (Burer-Monteiro) solver of the Lipschitz program: forward passes with vector-valued neurons.

Place in the data flow: level 7, ``SdpInstance -> multipliers``; untrusted.

Each increment carries a row of :math:`\mathbb{R}^k` (k = `rank`), i.e. the Gram matrix of the relaxation is written
:math:`Y Y^T`. The product constraint of a neuron with slopes :math:`[\alpha, \beta]`, centre
:math:`m = (\alpha+\beta)/2` and half width :math:`r = (\beta-\alpha)/2`, reads

.. math:: (dz - \alpha dv)(\beta dv - dz) = r^2 dv^2 - (dz - m\,dv)^2 \ge 0 ,

for vectors a ball with centre :math:`m\,dv` and radius :math:`r|dv|`. The objective is maximal on its surface, so

.. math:: dz_i = m_i dv_i + r_i |dv_i| u_i, \quad |u_i| = 1, \qquad w_j \text{ unit (l_inf) or } |w|_F = 1 \text{ (l_2)}

parametrises the problem by unit vectors alone: every point is feasible. With tied multipliers the constraints of a
layer are summed, and u becomes one unit vector for the whole layer. Gradients come by autograd; rows of C, inputs and
slopes of a batch are solved together. The value :math:`\log |O\,y|` is maximised in two phases.

1. *Power iterations* (Journee et al., arXiv 0811.4724): replace every unit vector by its normalised gradient,
   :math:`u_i \leftarrow g_i/|g_i|`. Given directions that agree with their gradients, the value is convex in each
   block, so the step is an ascent step; and a neuron whose vector disagrees, which would otherwise hold :math:`dv_i` in
   the kink at zero for hundreds of steps, is turned round at once.
2. *L-BFGS* on the product of spheres, preconditioned with :math:`1/\langle g_i, u_i\rangle`, the inverse of the
   sphere's own part of the Riemannian Hessian (a power iteration is the plain step in this metric).

On trained networks 20 power iterations and 10 to 30 of L-BFGS give eight digits.

**Multipliers** come from the same gradients. With :math:`t_i = |dv_i| u_i` and g the derivative of the objective by
:math:`u_i`, stationarity of the Lagrangian gives :math:`\lambda_i = \langle g_i, u_i\rangle / (2 r_i^2 |dv_i|^2)` and
:math:`\tau_j = \langle g_j, w_j\rangle`: the derivative of :math:`r|dv|u` by dv is exactly what the term
:math:`\lambda r^2(|dv|^2 - |t|^2)` contributes to the Lagrangian's derivative, so one ordinary backward pass performs
the whole recursion. At a maximiser of high enough rank these multipliers are optimal (Burer and Monteiro, Math.
Program. 103, 2005; Boumal, Voroninski and Bandeira, arXiv 1606.04970).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.network import Network
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.base import SolverResult, Status
from geolip_lirpa.solvers.lbfgs import LbfgsOptions, LbfgsResult, minimise
from geolip_lirpa.types import Norm, OutputNorm

# Relative size below which the curvature of a vector no longer shortens the steps of the others.
_LEAST_CURVATURE = 1e-6


@dataclass(frozen=True)
class Factor:
    """The low-rank vectors of one instance, for warm starts and rounding.

    Args:
        input: (n0, k) rows w_j.
        hidden: per activation, (N_l, k) rows u_i (one common direction field when layers are tied).
    """

    input: Tensor
    hidden: tuple[Tensor, ...]

    def widened(self, rank: int, size: float = 1e-3, seed: int = 0) -> Factor:
        """The factor with more columns, filled with small random numbers so that saddle points can be left."""
        generator = torch.Generator().manual_seed(seed)

        def widen(part: Tensor) -> Tensor:
            shape = (part.shape[0], max(0, rank - part.shape[1]))
            noise = size * torch.randn(shape, dtype=part.dtype, generator=generator)
            return torch.cat([part, noise * part.abs().mean()], dim=1)

        return Factor(widen(self.input), tuple(widen(h) for h in self.hidden))


@dataclass(frozen=True)
class LowRankResult(SolverResult):
    """A `SolverResult` with the vectors that led to it."""

    factor: Factor


@dataclass(frozen=True)
class LowRankSolver:
    """Burer-Monteiro solver, batched over instances.

    Args:
        rank: number of columns k of the factor.
        power_iterations: of the first phase.
        max_iterations: L-BFGS iterations for each instance.
        tolerance: gradient norm of log |O y| at which an instance is finished.
        precondition: whether L-BFGS uses the spheres' curvature.
        seed: of the random start.
        device: where the float64 iterations run.
    """

    name: ClassVar[str] = "low-rank"
    rank: int = 8
    power_iterations: int = 20
    max_iterations: int = 1000
    tolerance: float = 1e-7
    precondition: bool = True
    seed: int = 0
    device: str = "cpu"

    def solve(self, instances: Sequence[SdpInstance], starts: Sequence[Factor] | None = None) -> list[LowRankResult]:
        """Solve instances that share network, norms, ties and the number of rows.

        Args:
            instances: the batch.
            starts: factors to start from (of any common rank); random when None.
        """
        begin = time.perf_counter()
        batch = _Batch(instances, torch.device(self.device))
        point = batch.random(self.rank, self.seed) if starts is None else batch.join(starts)
        point, preconditioner = batch.power(point, self.power_iterations)
        options = LbfgsOptions(max_iterations=self.max_iterations, gradient_tolerance=self.tolerance)
        weights = preconditioner if self.precondition else None
        solution = minimise(batch.negative_log, point, batch.retract, batch.project, options, weights)
        multipliers, values = batch.multipliers(solution.point)
        seconds = (time.perf_counter() - begin) / len(instances)
        return [
            LowRankResult(
                multipliers=multipliers[p],
                value=float(values[p]),
                status=_status(solution, p, self.max_iterations),
                iterations=int(solution.iterations[p]),
                seconds=seconds,
                solver=self.name,
                factor=batch.factor(solution.point[p]),
            )
            for p in range(len(instances))
        ]


def _status(solution: LbfgsResult, p: int, limit: int) -> Status:
    if bool(solution.converged[p]):
        return Status.CONVERGED
    return Status.ITERATION_LIMIT if int(solution.iterations[p]) >= limit else Status.STALLED


class _Batch:
    """Instances stacked to tensors, and the map from unit vectors to the objective.

    A point is a matrix (P, D), D = k (n0 + N): for each problem the columns of the factor, one after the other, each
    over the inputs and the neurons of all activations.
    """

    def __init__(self, instances: Sequence[SdpInstance], device: torch.device) -> None:
        first = instances[0]
        self.network: Network = first.network.to(torch.float64, device)
        self.count = len(instances)
        self.rows = torch.stack([i.rows for i in instances]).to(device)
        self.scale = torch.stack([i.input_scale.reshape(-1) for i in instances]).to(device)
        self.middle: list[Tensor] = []
        self.radius: list[Tensor] = []
        for l in range(len(first.slopes)):
            lower = torch.stack([i.slopes[l].lower for i in instances]).to(device)
            upper = torch.stack([i.slopes[l].upper for i in instances]).to(device)
            self.middle.append((lower + upper) / 2)
            self.radius.append((upper - lower) / 2)
        self.output = first.output
        self.ball = first.input_norm is Norm.L2
        self.one_input_multiplier = self.ball or first.tie_input
        self.tied = first.tie_layers
        # tied box: the sum of the constraints w_j^2 <= 1 is one ball, |w|^2 <= n
        self.members = (self.scale > 0).sum(1).to(torch.float64) if first.tie_input and not self.ball else None
        if self.members is not None:
            self.scale = self.scale * self.members.sqrt()[:, None]
        self.sizes = [first.network.input_size] + [r.shape[1] for r in self.radius]
        self.device = device

    # -- points ------------------------------------------------------------------------------------------------------

    def _matrix(self, point: Tensor) -> Tensor:
        """View (P, k, n0 + N) of a point."""
        size = sum(self.sizes)
        return point.reshape(point.shape[0], point.shape[1] // size, size)

    def split(self, point: Tensor) -> list[Tensor]:
        """Views (P, k, size) of a point's parts."""
        return list(self._matrix(point).split(self.sizes, dim=2))

    def _grouped(self, part: int) -> bool:
        """Whether the part is one unit vector instead of one for each coordinate."""
        return self.one_input_multiplier if part == 0 else self.tied

    def _dot(self, a: Tensor, b: Tensor, part: int) -> Tensor:
        return (a * b).sum(dim=(1, 2) if self._grouped(part) else 1, keepdim=True)

    def _dots(self, a: Tensor, b: Tensor) -> Tensor:
        """All inner products of two matrices (P, k, n0 + N), repeated over each group: (P, 1, n0 + N)."""
        dots = (a * b).sum(1, keepdim=True)
        for part, values in enumerate(dots.split(self.sizes, dim=2)):
            if self._grouped(part):
                values.copy_(values.sum(2, keepdim=True).expand_as(values))
        return dots

    def retract(self, point: Tensor) -> Tensor:
        x = self._matrix(point)
        return (x / self._dots(x, x).sqrt().clamp_min(1e-150)).flatten(1)

    def project(self, point: Tensor, vector: Tensor) -> Tensor:
        x, v = self._matrix(point), self._matrix(vector)
        return (v - self._dots(x, v) * x).flatten(1)

    def random(self, rank: int, seed: int) -> Tensor:
        """The same random unit vectors for every problem, so that a batch does not depend on its order."""
        generator = torch.Generator().manual_seed(seed)
        one = torch.randn((1, rank * sum(self.sizes)), dtype=torch.float64, generator=generator)
        return self.retract(one.to(self.device).repeat(self.count, 1))

    def join(self, factors: Sequence[Factor]) -> Tensor:
        rows = [torch.cat([f.input, *f.hidden]).T.flatten() for f in factors]
        return self.retract(torch.stack(rows).to(self.device))

    def factor(self, point: Tensor) -> Factor:
        parts = [part[0].T.cpu() for part in self.split(point[None])]
        return Factor(parts[0], tuple(parts[1:]))

    # -- objective ---------------------------------------------------------------------------------------------------

    def _outputs(self, parts: list[Tensor], index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Output increments (p, k, m) and the squared radii q^2 of the hidden balls."""
        p, k = len(index), parts[0].shape[1]
        squares: list[Tensor] = []
        # The smallest normal number keeps the root differentiable at dead neurons without moving any other.
        tiny = torch.finfo(parts[0].dtype).tiny

        def activation(l: int, v: Tensor) -> Tensor:
            flat = v.reshape(p, k, -1)
            spread = self.radius[l][index][:, None] * flat
            square = self._dot(spread, spread, l + 1) + tiny
            squares.append(square)
            # dz = m dv + r |dv| u
            z = self.middle[l][index][:, None] * flat + square.sqrt() * parts[l + 1] * self._mask(l, index)
            return z.reshape(v.shape)

        x = (self.scale[index][:, None] * parts[0]).reshape(p * k, *self.network.input_shape)
        out = self.network.propagate(x, activation).reshape(p, k, -1)
        return out @ self.rows[index].transpose(1, 2), squares

    def _mask(self, l: int, index: Tensor) -> Tensor | float:
        """Tied layers share one ball; neurons with a fixed slope have no part in it."""
        return (self.radius[l][index][:, None] > 0).to(torch.float64) if self.tied else 1.0

    def _measure(self, out: Tensor) -> Tensor:
        """The output's norm for vector-valued rows: (p,)."""
        if self.output is OutputNorm.L1:
            return out.square().sum(1).add(torch.finfo(out.dtype).tiny).sqrt().sum(1)
        return out.square().sum((1, 2)).add(torch.finfo(out.dtype).tiny).sqrt()

    def negative_log(self, point: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """:math:`-\\log |O y|` and its gradient by the unit vectors."""
        leaf = point.detach().requires_grad_(True)
        out, _ = self._outputs(self.split(leaf), index)
        value = -self._measure(out).log()
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient

    def power(self, point: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """Generalised power iterations; returns the last point and the preconditioner 1 / <g, u> there (P, D)."""
        index = torch.arange(self.count, device=self.device)
        for _ in range(iterations):
            _, gradient = self.negative_log(point, index)
            point = self.retract(torch.where(gradient == 0, point, -gradient))
        _, gradient = self.negative_log(point, index)
        curvature = -self._dots(self._matrix(point), self._matrix(gradient))
        # vectors without influence get the step of the weakest that matter
        floor = _LEAST_CURVATURE * curvature.amax(dim=2, keepdim=True).clamp_min(torch.finfo(point.dtype).tiny)
        weights = 1.0 / torch.maximum(curvature, floor)
        return point, weights.expand_as(self._matrix(point)).flatten(1)

    def multipliers(self, point: Tensor) -> tuple[list[Multipliers], Tensor]:
        """Closed-form multipliers at a point, and the objective there (P,)."""
        index = torch.arange(self.count, device=self.device)
        leaf = point.detach().requires_grad_(True)
        out, squares = self._outputs(self.split(leaf), index)
        value = self._measure(out)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        parts, gradients = self.split(leaf.detach()), self.split(gradient)
        inner = [self._dot(g, x, i) for i, (g, x) in enumerate(zip(gradients, parts, strict=True))]
        # tau = <g, w>;  lambda = <g, u> / (2 q^2), q = r |dv|
        tau = inner[0].expand(-1, 1, self._input_multipliers())[:, 0]
        if self.members is not None:
            tau = tau / self.members[:, None]
        lam = [(i / (2 * q.detach()))[:, 0] for i, q in zip(inner[1:], squares, strict=True)]
        sigma = self._output_multipliers(out.detach(), value.detach())
        found = [
            Multipliers(
                tuple(_clean(l[p].expand(r.shape[1]), r[p]) for l, r in zip(lam, self.radius, strict=True)),
                tau[p].clamp_min(0).cpu().numpy(),
                sigma[p].cpu().numpy(),
            )
            for p in range(self.count)
        ]  # fmt: skip
        return found, value.detach().cpu()

    def _input_multipliers(self) -> int:
        return 1 if self.ball else self.sizes[0]

    def _output_multipliers(self, out: Tensor, value: Tensor) -> Tensor:
        """sigma: |O_k y| for l_1 (each row has its own unit vector), equal entries otherwise."""
        if self.output is OutputNorm.L1:
            return out.norm(dim=1)
        return value[:, None].expand(-1, out.shape[2])


def _clean(multiplier: Tensor, radius: Tensor) -> Array:
    """Non-negative finite multipliers; neurons at rest (dv = 0) get the median, any positive number will do there."""
    values = torch.where(radius > 0, multiplier, torch.zeros_like(multiplier)).cpu().numpy().astype(np.float64)
    good = np.isfinite(values) & (values > 0)
    typical = float(np.median(values[good])) if good.any() else 1.0
    return np.where(good, values, np.where(radius.cpu().numpy() > 0, 1e-3 * typical, 0.0))
