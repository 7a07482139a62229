"""Limited-memory BFGS for a batch of independent problems on products of spheres.

Place in the data flow: level 7, a building block of the untrusted solvers. Every problem has its own curvature pairs,
line search and stopping test; finished problems leave the batch. (Nocedal and Wright, Numerical Optimization, ch. 7;
on manifolds: Huang, Gallivan and Absil, SIAM J. Optim. 25, 2015. Vectors are transported by projection.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LbfgsOptions:
    """Settings of one minimisation.

    Args:
        memory: curvature pairs kept.
        max_iterations: iterations of a problem.
        gradient_tolerance: stop when the Riemannian gradient's norm is below.
        stall_iterations: stop when the value has not improved by `stall_tolerance` (absolute) for so many iterations.
        stall_tolerance: see above.
    """

    memory: int = 12
    max_iterations: int = 2000
    gradient_tolerance: float = 1e-9
    stall_iterations: int = 30
    stall_tolerance: float = 1e-15


@dataclass(frozen=True)
class LbfgsResult:
    """Outcome for a batch of P problems: point (P, D), value (P,), gradient_norm (P,), iterations (P,)."""

    point: Tensor
    value: Tensor
    gradient_norm: Tensor
    iterations: Tensor
    converged: Tensor
    evaluations: int


Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Retraction = Callable[[Tensor], Tensor]
Projection = Callable[[Tensor, Tensor], Tensor]


class _History:
    r"""Curvature pairs (s, y) of the problems still at work, in the compact representation.

    With the pairs as columns of S and Y, oldest first, R the upper triangle of :math:`S^T Y`, D its diagonal, P the
    diagonal preconditioner and :math:`\gamma` the scale (Byrd, Nocedal and Schnabel, Math. Program. 63, 1994):

    .. math:: H g = \gamma P g + S R^{-T}((D + \gamma Y^T P Y) u - \gamma Y^T P g) - \gamma P Y u,
        \quad u = R^{-1} S^T g .

    A pair that is not valid for a problem is stored as zeros with a unit pivot, which takes it out of the formula.
    """

    def __init__(self, memory: int, preconditioner: Tensor) -> None:
        count, size = preconditioner.shape
        self.preconditioner = preconditioner
        self.steps = preconditioner.new_zeros((count, memory, size))
        self.changes = preconditioner.new_zeros((count, memory, size))  # P y
        self.cross = preconditioner.new_zeros((count, memory, memory))  # s_i y_j
        self.inner = preconditioner.new_zeros((count, memory, memory))  # y_i P y_j
        self.scale = preconditioner.new_zeros(count)
        self.newest = -1

    def add(self, step: Tensor, change: Tensor, valid: Tensor) -> None:
        """Store a pair for each problem in place of the oldest; `valid` says where it may be used."""
        product = (step * change).sum(1)
        valid = valid & (product > 1e-12 * (step.norm(dim=1) * change.norm(dim=1)))
        step, change = step * valid[:, None], change * valid[:, None]
        scaled = self.preconditioner * change
        size = (change * scaled).sum(1)
        self.scale = torch.where(valid, product / size.where(valid, torch.ones_like(size)), self.scale)
        self.newest = (self.newest + 1) % self.steps.shape[1]
        j = self.newest
        self.steps[:, j], self.changes[:, j] = step, scaled
        self.cross[:, j, :] = torch.einsum("pd,pmd->pm", step / self.preconditioner, self.changes)
        self.cross[:, :, j] = torch.einsum("pd,pmd->pm", change, self.steps)
        self.inner[:, j, :] = torch.einsum("pd,pmd->pm", change, self.changes)
        self.inner[:, :, j] = self.inner[:, j, :]

    def select(self, keep: Tensor) -> None:
        for name in ("preconditioner", "steps", "changes", "cross", "inner", "scale"):
            setattr(self, name, getattr(self, name)[keep])

    def forget(self, where: Tensor) -> None:
        if bool(where.any()):
            for values in (self.steps, self.changes, self.cross, self.inner, self.scale):
                values[where] = 0.0

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian times the gradient; preconditioned descent of unit scale without curvature."""
        gamma = torch.where(self.scale > 0, self.scale, 1.0)[:, None]
        first = gamma * self.preconditioner * gradient
        if self.newest < 0:
            return -first
        order = (torch.arange(self.steps.shape[1], device=gradient.device) + self.newest + 1) % self.steps.shape[1]
        pick = order[:, None], order[None, :]
        pivots = self.cross[:, order, order]
        upper = self.cross[:, *pick].triu(1) + torch.diag_embed(torch.where(pivots > 0, pivots, 1.0))
        along_steps = torch.einsum("pmd,pd->pm", self.steps, gradient)[:, order, None]
        along_changes = torch.einsum("pmd,pd->pm", self.changes, gradient)[:, order, None]
        u = torch.linalg.solve_triangular(upper, along_steps, upper=True)
        middle = pivots[..., None] * u + gamma[..., None] * (self.inner[:, *pick] @ u - along_changes)
        w = torch.linalg.solve_triangular(upper.transpose(1, 2), middle, upper=False)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        result = first + torch.einsum("pmd,pm->pd", self.steps, w[:, back, 0])
        return -(result - gamma * torch.einsum("pmd,pm->pd", self.changes, u[:, back, 0]))


@dataclass
class _State:
    """Problems at work: their numbers in the batch, points, values, Riemannian gradients."""

    index: Tensor
    point: Tensor
    value: Tensor
    gradient: Tensor
    best: Tensor
    since_best: Tensor

    def select(self, keep: Tensor) -> None:
        for name in ("index", "point", "value", "gradient", "best", "since_best"):
            setattr(self, name, getattr(self, name)[keep])


def minimise(
    function: Function,
    start: Tensor,
    retract: Retraction,
    project: Projection,
    options: LbfgsOptions,
    preconditioner: Tensor | None = None,
) -> LbfgsResult:
    """Minimise each problem of a batch.

    Args:
        function: ``function(points, index) -> (values (p,), ambient gradients (p, D))`` for the problems `index`.
        start: (P, D), on the manifold.
        retract: maps ambient points (p, D) back to the manifold.
        project: ``project(points, vectors)`` onto the tangent spaces.
        options: see `LbfgsOptions`.
        preconditioner: (P, D) positive, a diagonal estimate of the inverse Hessian; default: ones.
    """
    count = start.shape[0]
    index = torch.arange(count, device=start.device)
    value, ambient = function(start, index)
    state = _State(index, start, value, project(start, ambient), value.clone(), torch.zeros_like(index))
    result = LbfgsResult(
        start.clone(), value.clone(), torch.full_like(value, torch.inf), torch.zeros_like(index),
        torch.zeros(count, dtype=torch.bool, device=start.device), 0,
    )  # fmt: skip
    history = _History(options.memory, torch.ones_like(start) if preconditioner is None else preconditioner)
    evaluations = 1
    for iteration in range(options.max_iterations + 1):
        _record(result, state, iteration)
        norm = state.gradient.norm(dim=1)
        done = norm <= options.gradient_tolerance
        result.converged[state.index[done]] = True
        keep = ~done & (state.since_best < options.stall_iterations)
        if iteration == options.max_iterations or not bool(keep.any()):
            break
        if not bool(keep.all()):
            state.select(keep)
            history.select(keep)
        evaluations += _iterate(function, state, history, retract, project, options)
    return LbfgsResult(
        result.point, result.value, result.gradient_norm, result.iterations, result.converged, evaluations
    )


def _record(result: LbfgsResult, state: _State, iteration: int) -> None:
    """Keep the latest point of each problem at work (values never rise, so it is also the best)."""
    result.point[state.index] = state.point
    result.value[state.index] = state.value
    result.gradient_norm[state.index] = state.gradient.norm(dim=1)
    result.iterations[state.index] = iteration


def _iterate(
    function: Function,
    state: _State,
    history: _History,
    retract: Retraction,
    project: Projection,
    options: LbfgsOptions,
) -> int:
    """One step of every problem at work; returns the number of function evaluations of the batch."""
    direction = project(state.point, history.direction(state.gradient))
    slope = (direction * state.gradient).sum(1)
    uphill = slope >= 0
    if bool(uphill.any()):
        history.forget(uphill)
        length = state.gradient.norm(dim=1, keepdim=True).clamp_min(1.0)
        direction = torch.where(uphill[:, None], -state.gradient / length, direction)
        slope = (direction * state.gradient).sum(1)
    point, value, gradient, accepted, evaluations = _line_search(function, state, direction, slope, retract, project)
    step = project(point, point - state.point)
    change = gradient - project(point, state.gradient)
    history.add(step, change, accepted)
    history.forget(~accepted)
    improved = value < state.best - options.stall_tolerance
    state.since_best = torch.where(improved, 0, state.since_best + 1)
    state.best = torch.minimum(state.best, value)
    state.point, state.value, state.gradient = point, value, gradient
    return evaluations


def _line_search(
    function: Function,
    state: _State,
    direction: Tensor,
    slope: Tensor,
    retract: Retraction,
    project: Projection,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Backtracking with quadratic interpolation until sufficient decrease, for each problem on its own.

    The test allows for the rounding of the value itself (a few units in its last place), so that the last digits of
    the gradient can still be gained where values no longer differ.
    """
    point, value, gradient = state.point.clone(), state.value.clone(), state.gradient.clone()
    count = len(value)
    step = torch.ones_like(value)
    pending = torch.arange(count, device=value.device)
    accepted = torch.zeros(count, dtype=torch.bool, device=value.device)
    noise = 8 * torch.finfo(value.dtype).eps * state.value.abs().clamp_min(1.0)
    evaluations = 0
    for _ in range(25):
        trial = retract(state.point[pending] + step[pending, None] * direction[pending])
        trial_value, ambient = function(trial, state.index[pending])
        evaluations += 1
        a, s, f0 = step[pending], slope[pending], state.value[pending]
        good = torch.isfinite(trial_value) & (trial_value <= f0 + 1e-4 * a * s + noise[pending])
        where = pending[good]
        point[where], value[where] = trial[good], trial_value[good]
        gradient[where] = project(trial[good], ambient[good])
        accepted[where] = True
        if bool(good.all()):
            break
        # minimiser of the parabola through f0, its slope and the trial value
        parabola = -s * a * a / (2 * (trial_value - f0 - s * a)).clamp_min(1e-300)
        shorter = torch.where(torch.isfinite(parabola), parabola, 0.5 * a)
        step[pending] = torch.minimum(torch.maximum(shorter, 0.1 * a), 0.5 * a)
        pending = pending[~good]
    return point, value, gradient, accepted, evaluations
