r"""Low-rank (Burer-Monteiro) solver of the Lipschitz program: forward passes with vector-valued neurons.

Place in the data flow: level 4, ``SdpInstance -> multipliers``; untrusted.

Each increment carries a row of :math:`\mathbb{R}^k` (k = `rank`), i.e. the Gram matrix of the relaxation is written
:math:`Y Y^T`. The product constraint of a neuron with slopes :math:`[\alpha, \beta]`, centre
:math:`m = (\alpha+\beta)/2` and half width :math:`r = (\beta-\alpha)/2`, reads

.. math:: (dz - \alpha dv)(\beta dv - dz) = r^2 dv^2 - (dz - m\,dv)^2 \ge 0 ,

for vectors a ball with centre :math:`m\,dv` and radius :math:`r|dv|`. The objective is maximal on its surface, so

.. math:: dz_i = m_i dv_i + r_i |dv_i| u_i, \quad |u_i| = 1, \qquad w_j \text{ unit (l_inf) or } |w|_F = 1 \text{ (l_2)}

parametrises the problem by unit vectors alone: every point is feasible. With tied multipliers the constraints of a
layer are summed, and u becomes one unit vector for the whole layer. The value :math:`\log |O\,y|` is maximised by
L-BFGS on the product of spheres; gradients by autograd; rows of C, inputs and slopes of a batch are solved together.

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
        max_iterations: L-BFGS iterations for each instance.
        tolerance: gradient norm of log |O y| at which an instance is finished.
        seed: of the random start.
        device: where the float64 iterations run.
    """

    name: ClassVar[str] = "low-rank"
    rank: int = 8
    max_iterations: int = 3000
    tolerance: float = 1e-9
    seed: int = 0
    device: str = "cpu"

    def solve(
        self, instances: Sequence[SdpInstance], starts: Sequence[Factor] | None = None
    ) -> list[LowRankResult]:
        """Solve instances that share network, norms, ties and the number of rows.

        Args:
            instances: the batch.
            starts: factors to start from (of any common rank); random when None.
        """
        begin = time.perf_counter()
        batch = _Batch(instances, torch.device(self.device))
        point = batch.random(self.rank, self.seed) if starts is None else batch.join(starts)
        options = LbfgsOptions(max_iterations=self.max_iterations, gradient_tolerance=self.tolerance)
        solution = minimise(batch.negative_log, point, batch.retract, batch.project, options)
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

    A point is a matrix (P, D): for each problem the vectors w and u_1 .. u_L, each stored as (k, size), one after the
    other. D = k (n0 + N).
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
        self.sizes = [first.network.input_size] + [r.shape[1] for r in self.radius]
        self.device = device

    # -- points ------------------------------------------------------------------------------------------------------

    def _rank(self, point: Tensor) -> int:
        return int(point.shape[1] // sum(self.sizes))

    def split(self, point: Tensor) -> list[Tensor]:
        """Views (P, k, size) of a point's parts."""
        k = self._rank(point)
        parts = point.split([k * s for s in self.sizes], dim=1)
        return [part.reshape(point.shape[0], k, size) for part, size in zip(parts, self.sizes, strict=True)]

    def _grouped(self, part: int) -> bool:
        """Whether the part is one unit vector instead of one for each coordinate."""
        return self.one_input_multiplier if part == 0 else self.tied

    def _dot(self, a: Tensor, b: Tensor, part: int) -> Tensor:
        return (a * b).sum(dim=(1, 2) if self._grouped(part) else 1, keepdim=True)

    def retract(self, point: Tensor) -> Tensor:
        parts = self.split(point)
        unit = [x / self._dot(x, x, i).sqrt().clamp_min(1e-150) for i, x in enumerate(parts)]
        return torch.cat([x.flatten(1) for x in unit], dim=1)

    def project(self, point: Tensor, vector: Tensor) -> Tensor:
        pairs = enumerate(zip(self.split(point), self.split(vector), strict=True))
        return torch.cat([(v - self._dot(x, v, i) * x).flatten(1) for i, (x, v) in pairs], dim=1)

    def random(self, rank: int, seed: int) -> Tensor:
        """The same random unit vectors for every problem, so that a batch does not depend on its order."""
        generator = torch.Generator().manual_seed(seed)
        one = torch.randn((1, rank * sum(self.sizes)), dtype=torch.float64, generator=generator)
        return self.retract(one.to(self.device).repeat(self.count, 1))

    def join(self, factors: Sequence[Factor]) -> Tensor:
        rows = [torch.cat([part.T.flatten() for part in (f.input, *f.hidden)]) for f in factors]
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
        lam = [(i / (2 * q.detach()))[:, 0] for i, q in zip(inner[1:], squares, strict=True)]
        sigma = self._output_multipliers(out.detach(), value.detach())
        found = [
            Multipliers(
                tuple(_clean(l[p].expand(size), r[p]) for l, size, r in zip(lam, self.sizes[1:], self.radius, strict=True)),
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
