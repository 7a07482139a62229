"""Limited-memory BFGS for a batch of independent problems on products of spheres.

Place in the data flow: level 4, a building block of the untrusted solvers. Every problem has its own curvature pairs,
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
    """Curvature pairs of the problems still at work; a pair with ``rho = 0`` is ignored."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.scale: Tensor | None = None

    def add(self, step: Tensor, change: Tensor, valid: Tensor) -> None:
        product = (step * change).sum(1)
        size = (change * change).sum(1)
        valid = valid & (product > 1e-12 * (step.norm(dim=1) * size.sqrt()))
        rho = torch.where(valid, 1.0 / product.where(valid, torch.ones_like(product)), 0.0)
        scale = torch.where(valid, product / size.where(valid, torch.ones_like(size)), 0.0)
        self.scale = scale if self.scale is None else torch.where(valid, scale, self.scale)
        self.pairs.append((step, change, rho))
        if len(self.pairs) > self.memory:
            self.pairs.pop(0)

    def select(self, keep: Tensor) -> None:
        self.pairs = [(s[keep], y[keep], r[keep]) for s, y, r in self.pairs]
        self.scale = None if self.scale is None else self.scale[keep]

    def forget(self, where: Tensor) -> None:
        self.pairs = [(s, y, r.masked_fill(where, 0.0)) for s, y, r in self.pairs]
        if self.scale is not None:
            self.scale = self.scale.masked_fill(where, 0.0)

    def direction(self, gradient: Tensor) -> Tensor:
        """Two-loop recursion; steepest descent with unit length where there is no curvature yet."""
        q = gradient.clone()
        coefficients = []
        for step, change, rho in reversed(self.pairs):
            a = rho * (step * q).sum(1)
            q -= a[:, None] * change
            coefficients.append(a)
        length = 1.0 / gradient.norm(dim=1).clamp_min(1e-300)
        first = length.clamp_max(1.0) if self.scale is None else torch.where(self.scale > 0, self.scale, length)
        q *= first[:, None]
        for (step, change, rho), a in zip(self.pairs, reversed(coefficients), strict=True):
            b = rho * (change * q).sum(1)
            q += (a - b)[:, None] * step
        return -q


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
    function: Function, start: Tensor, retract: Retraction, project: Projection, options: LbfgsOptions
) -> LbfgsResult:
    """Minimise each problem of a batch.

    Args:
        function: ``function(points, index) -> (values (p,), ambient gradients (p, D))`` for the problems `index`.
        start: (P, D), on the manifold.
        retract: maps ambient points (p, D) back to the manifold.
        project: ``project(points, vectors)`` onto the tangent spaces.
        options: see `LbfgsOptions`.
    """
    count = start.shape[0]
    index = torch.arange(count, device=start.device)
    value, ambient = function(start, index)
    state = _State(index, start, value, project(start, ambient), value.clone(), torch.zeros_like(index))
    result = LbfgsResult(
        start.clone(), value.clone(), torch.full_like(value, torch.inf), torch.zeros_like(index),
        torch.zeros(count, dtype=torch.bool, device=start.device), 0,
    )  # fmt: skip
    history = _History(options.memory)
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
