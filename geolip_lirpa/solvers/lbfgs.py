"""Limited-memory BFGS for a batch of independent problems on products of spheres.

Place in the data flow: level 7, a building block of the untrusted solvers. Every problem has its own curvature pairs,
line search and stopping test; finished problems leave the batch. (Nocedal and Wright, Numerical Optimization, ch. 7;
on manifolds: Huang, Gallivan and Absil, SIAM J. Optim. 25, 2015.) Differences of points and of gradients are stored as
they are: transporting them to the newest tangent space changes them by terms of second order, and the direction is
projected anyway. The preconditioner follows the point, it is renewed whenever all pairs have been replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geolip_lirpa.solvers.curvature import Curvature


@dataclass(frozen=True)
class LbfgsOptions:
    """Settings of one minimisation.

    Args:
        max_iterations: iterations of a problem.
        gradient_tolerance: stop when the Riemannian gradient's norm is below this fraction of the ambient one's.
        stall_iterations: stop when neither the value nor the gradient's norm has improved by more than rounding for so
            many iterations.
        memory: curvature pairs kept.
        small_gradient: stop when the Riemannian gradient's norm itself is below this.
    """

    max_iterations: int = 2000
    gradient_tolerance: float = 1e-9
    stall_iterations: int = 30
    memory: int = 6
    small_gradient: float = 0.0


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
#: Weights of the preconditioner (p, D) from points and their ambient gradients.
Weights = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """What is minimised, for all problems of a batch.

    Args:
        function: ``function(points, index) -> (values (p,) in float64, ambient gradients (p, D))`` for the problems
            `index`.
        retract: maps ambient points (p, D) back to the manifold.
        project: ``project(points, vectors)`` onto the tangent spaces.
        weights: a positive diagonal estimate of the inverse Hessian from points and ambient gradients.
    """

    function: Function
    retract: Retraction
    project: Projection
    weights: Weights


@dataclass
class _State:
    """Problems at work: their numbers in the batch, points, values, ambient and Riemannian gradients."""

    index: Tensor
    point: Tensor
    value: Tensor
    ambient: Tensor
    gradient: Tensor
    best: Tensor
    smallest: Tensor
    since_best: Tensor

    def select(self, keep: Tensor) -> None:
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name)[keep])


def minimise(problem: Problem, start: Tensor, options: LbfgsOptions) -> LbfgsResult:
    """Minimise each problem of a batch.

    Args:
        problem: see `Problem`.
        start: (P, D), on the manifold.
        options: see `LbfgsOptions`.
    """
    count = start.shape[0]
    index = torch.arange(count, device=start.device)
    value, ambient = problem.function(start, index)
    gradient = problem.project(start, ambient)
    norm = gradient.norm(dim=1)
    state = _State(index, start, value, ambient, gradient, value.clone(), norm.clone(), torch.zeros_like(index))
    result = LbfgsResult(
        start.clone(), value.clone(), norm.clone(), torch.zeros_like(index),
        torch.zeros(count, dtype=torch.bool, device=start.device), 1,
    )  # fmt: skip
    evaluations = 1
    curvature = Curvature(options.memory, problem.weights(start, ambient))
    for iteration in range(options.max_iterations + 1):
        norm = state.gradient.norm(dim=1)
        done = norm <= options.small_gradient + options.gradient_tolerance * state.ambient.norm(dim=1)
        keep = ~done & (state.since_best < options.stall_iterations)
        if iteration == options.max_iterations:
            keep = torch.zeros_like(keep)
        if not bool(keep.all()):
            _record(result, state, norm, done, ~keep, iteration)
            if not bool(keep.any()):
                break
            state.select(keep)
            curvature.select(keep)
        if iteration > 0 and iteration % options.memory == 0:
            curvature.precondition(problem.weights(state.point, state.ambient))
        evaluations += _iterate(problem, state, curvature, options)
    return replace(result, evaluations=evaluations)


def _record(result: LbfgsResult, state: _State, norm: Tensor, done: Tensor, leaving: Tensor, iteration: int) -> None:
    """Store what is known of the problems that leave."""
    where = state.index[leaving]
    result.point[where] = state.point[leaving]
    result.value[where] = state.value[leaving]
    result.gradient_norm[where] = norm[leaving]
    result.iterations[where] = iteration
    result.converged[where] = done[leaving]


def _iterate(problem: Problem, state: _State, curvature: Curvature, options: LbfgsOptions) -> int:
    """One step of every problem at work; returns the number of function evaluations of the batch."""
    direction = problem.project(state.point, curvature.direction(state.gradient))
    slope = (direction * state.gradient).sum(1)
    uphill = ~(slope < 0)
    if bool(uphill.any()):
        curvature.forget(uphill)
        direction = problem.project(state.point, curvature.direction(state.gradient))
        slope = (direction * state.gradient).sum(1)
    point, value, ambient, accepted, evaluations = _line_search(problem, state, direction, slope)
    gradient = problem.project(point, ambient)
    curvature.add(point - state.point, gradient - state.gradient, accepted)
    curvature.forget(~accepted)
    norm = gradient.norm(dim=1)
    improved = (value < state.best - _noise(state)) | (norm < 0.9 * state.smallest)
    # a search that fails once may succeed without the old pairs, but not often
    idle = torch.where(accepted, 1, 1 + options.stall_iterations // 3)
    state.since_best = torch.where(improved, 0, state.since_best + idle)
    state.best, state.smallest = torch.minimum(state.best, value), torch.minimum(state.smallest, norm)
    state.point, state.value, state.ambient, state.gradient = point, value, ambient, gradient
    return evaluations


def _noise(state: _State) -> Tensor:
    """What rounding may do to a value: a few units in its last place."""
    return 8 * torch.finfo(state.point.dtype).eps * state.value.abs().clamp_min(1.0)


def _line_search(
    problem: Problem, state: _State, direction: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Backtracking with quadratic interpolation until sufficient decrease, for each problem on its own.

    The test allows for the rounding of the value itself, so that the last digits of the gradient can still be gained
    where values no longer differ.
    """
    noise = _noise(state)
    point = problem.retract(state.point + direction)
    value, ambient = problem.function(point, state.index)
    step = torch.ones_like(value)
    good = torch.isfinite(value) & (value <= state.value + 1e-4 * slope + noise)
    evaluations = 1
    while not bool(good.all()) and evaluations < 25:
        bad = ~good
        # minimiser of the parabola through f0, its slope and the trial value
        a, s, f0 = step[bad], slope[bad], state.value[bad]
        parabola = -s * a * a / (2 * (value[bad] - f0 - s * a)).clamp_min(1e-300)
        shorter = torch.where(torch.isfinite(parabola), parabola, 0.5 * a)
        step[bad] = torch.minimum(torch.maximum(shorter, 0.1 * a), 0.5 * a)
        trial = problem.retract(state.point[bad] + step[bad, None].to(direction.dtype) * direction[bad])
        point[bad] = trial
        value[bad], ambient[bad] = problem.function(trial, state.index[bad])
        evaluations += 1
        good = torch.isfinite(value) & (value <= state.value + 1e-4 * step * slope + noise)
    if not bool(good.all()):
        bad = ~good
        point[bad], value[bad], ambient[bad] = state.point[bad], state.value[bad], state.ambient[bad]
    return point, value, ambient, good, evaluations
