"""What the low-rank solver is made of: derivatives, curvature pairs, escapes, float32, warm starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa.bounding import bound_programs
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.curvature import Curvature
from geolip_lirpa.solvers.linear_steps import ConvolutionStep, linear_step
from geolip_lirpa.solvers.low_rank import LowRankSolver, bytes_needed
from geolip_lirpa.solvers.objective import Objective
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_convnet, random_mlp, random_residual

CPU = torch.device("cpu")
seeds = st.integers(0, 10_000)


def _objective(instance: SdpInstance, dtype: torch.dtype = torch.float64) -> Objective:
    return Objective([instance], dtype, CPU)


def _shifted(objective: Objective, point: Tensor, direction: Tensor, size: float) -> float:
    """The value at a point off the spheres: gradients are those of the ambient space."""
    return float(objective.values(point + size * direction, torch.zeros(1, dtype=torch.int64)).log())


@settings(max_examples=20)
@given(
    seed=seeds,
    norm=st.sampled_from([Norm.LINF, Norm.L2]),
    output=st.sampled_from([OutputNorm.ROWS, OutputNorm.L1, OutputNorm.L2]),
    ties=st.tuples(st.booleans(), st.booleans()),
    kind=st.sampled_from(["mlp", "residual", "conv"]),
)
def test_gradient_is_the_derivative(
    seed: int, norm: Norm, output: OutputNorm, ties: tuple[bool, bool], kind: str
) -> None:
    small = {"mlp": lambda: random_mlp(seed, (5, 7, 6, 2)), "residual": lambda: random_residual(seed)}
    network = small[kind]() if kind in small else random_convnet(seed, size=5, layers=2)
    instance = lipschitz_instance(network, norm=norm, output=output, tie_input=ties[0], tie_layers=ties[1])
    objective = _objective(instance)
    point = objective.spheres.random(1, 3, seed)
    _, gradient = objective.negative_log(point, torch.zeros(1, dtype=torch.int64))
    direction = torch.randn(point.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    size = 1e-6
    difference = (_shifted(objective, point, direction, size) - _shifted(objective, point, direction, -size)) / (
        2 * size
    )
    assert float((gradient * direction).sum()) == pytest.approx(-difference, rel=1e-5, abs=1e-7)


@settings(max_examples=10)
@given(seed=seeds, norm=st.sampled_from([Norm.LINF, Norm.L2]))
def test_linearised_is_the_second_derivative_by_new_columns(seed: int, norm: Norm) -> None:
    """Value with a small new column, against J v - c v, at a stationary point."""
    instance = lipschitz_instance(random_mlp(seed, (4, 6, 5, 1)), norm=norm)
    solver = LowRankSolver(rank=2, escapes=0, tolerance=1e-10, single=False)
    factor = solver.solve([instance])[0].factor
    objective, index = _objective(instance), torch.zeros(1, dtype=torch.int64)
    point = objective.spheres.join([[factor.input, *factor.hidden]])
    linear = objective.linearised(point, index)
    generator = torch.Generator().manual_seed(seed)
    column = torch.randn((1, 1, objective.spheres.size), dtype=torch.float64, generator=generator)
    curvature = float((column * (linear.product(column) - linear.curvature * column)).sum())
    size = 1e-3
    old = objective.spheres.matrix(point)
    wider = objective.spheres.retract(torch.cat([old, size * column], dim=1).flatten(1))
    gain = float(objective.values(wider, index).log() - objective.values(point, index).log())
    scale = float((column * linear.curvature * column).sum())
    assert 2 * gain / size**2 == pytest.approx(curvature, abs=2e-2 * scale)


def test_products_with_the_curvature_are_those_of_bfgs() -> None:
    """Against the dense recursion H <- V^T H V + rho s s^T of the textbook."""
    generator = torch.Generator().manual_seed(3)
    size, memory = 7, 4
    matrix = torch.randn((size, size), dtype=torch.float64, generator=generator)
    hessian = matrix @ matrix.T + torch.eye(size, dtype=torch.float64)
    weights = 0.5 + torch.rand((1, size), dtype=torch.float64, generator=generator)
    curvature = Curvature(memory, weights)
    pairs = []
    for _ in range(memory + 2):
        step = torch.randn((1, size), dtype=torch.float64, generator=generator)
        change = step @ hessian
        curvature.add(step, change, torch.ones(1, dtype=torch.bool))
        pairs.append((step[0], change[0]))
    s, y = pairs[-1]
    gamma = float(s @ y / (y @ (weights[0] * y)))
    inverse = gamma * torch.diag(weights[0])
    for s, y in pairs[-memory:]:
        rho = 1 / float(s @ y)
        v = torch.eye(size, dtype=torch.float64) - rho * torch.outer(y, s)
        inverse = v.T @ inverse @ v + rho * torch.outer(s, s)
    gradient = torch.randn((1, size), dtype=torch.float64, generator=generator)
    np.testing.assert_allclose(curvature.direction(gradient)[0], -inverse @ gradient[0], rtol=1e-3, atol=1e-4)


@settings(max_examples=10)
@given(seed=seeds, norm=st.sampled_from([Norm.LINF, Norm.L2]))
def test_a_single_column_grows_to_the_optimum(seed: int, norm: Norm) -> None:
    """Rank one is full of local maxima; escapes along eigenvectors leave them, and add no more than is needed."""
    instance = lipschitz_instance(random_mlp(seed, (6, 12, 12, 1)), norm=norm)
    narrow = LowRankSolver(rank=1).solve([instance])[0]
    wide = LowRankSolver(rank=16, single=False).solve([instance])[0]
    assert narrow.value is not None and wide.value is not None
    # growth below the solver's `saddle_tolerance` is left to the next stage
    assert narrow.value == pytest.approx(wide.value, rel=1e-3)
    assert narrow.factor.rank <= 16


def test_without_escapes_a_single_column_stays_below() -> None:
    """The test above would not notice escapes that do nothing if rank one were enough."""
    short = 0
    for seed in range(20):
        instance = lipschitz_instance(random_mlp(seed, (6, 12, 12, 1)))
        stuck = LowRankSolver(rank=1, escapes=0).solve([instance])[0].value
        free = LowRankSolver(rank=1).solve([instance])[0].value
        assert stuck is not None and free is not None and stuck <= free * (1 + 1e-9)
        short += stuck < free * (1 - 1e-3)
    assert short >= 5


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_float32_first_ends_where_float64_does(norm: Norm) -> None:
    instance = lipschitz_instance(random_convnet(4, size=6), norm=norm)
    first = LowRankSolver(single=True).solve([instance])[0]
    never = LowRankSolver(single=False).solve([instance])[0]
    assert first.value == pytest.approx(never.value, rel=1e-6)
    assert first.factor.input.dtype is torch.float64


def test_numbers_beyond_float32_are_left_to_float64() -> None:
    """Weights whose products leave the range of float32: the first phase is skipped, the bound is the same, scaled."""
    network = random_mlp(2, (5, 8, 8, 1))
    rows = torch.eye(1, dtype=torch.float64)
    solver = LowRankSolver(single=True)
    small = bound_programs([lipschitz_instance(network).with_rows(1e-60 * rows)], [0], solver)[0].upper
    usual = bound_programs([lipschitz_instance(network).with_rows(rows)], [0], solver)[0].upper
    assert small == pytest.approx(1e-60 * usual, rel=1e-5)


def test_warm_starts_need_fewer_iterations() -> None:
    instance = lipschitz_instance(random_mlp(9, (10, 30, 30, 1)))
    cold = LowRankSolver().solve([instance])[0]
    warm = LowRankSolver().solve([instance], [cold.factor])[0]
    assert warm.value == pytest.approx(cold.value, rel=1e-9)
    assert warm.iterations < cold.iterations / 4
    bound = bound_programs([instance], [0], LowRankSolver(), starts=[cold.factor])[0]
    assert bound.relative_gap is not None and bound.relative_gap <= 1e-6


@settings(max_examples=10)
@given(seed=seeds, single=st.booleans())
def test_convolution_steps_are_torch(seed: int, single: bool) -> None:
    """Value and adjoint of the special steps against the operator and its derivative."""
    dtype = torch.float32 if single else torch.float64
    network = random_convnet(seed).to(dtype, CPU)
    generator = torch.Generator().manual_seed(seed)
    seen = 0
    for node in network.nodes:
        step = linear_step(node.operation) if hasattr(node.operation, "parameters") else None
        if not isinstance(step, ConvolutionStep):
            continue
        seen += 1
        shape = network.nodes[node.inputs[0]].shape
        x = torch.randn((3, *shape), dtype=dtype, generator=generator, requires_grad=True)
        value, adjoint = step.apply((x.detach(),))
        truth = node.operation.linear((x,))  # type: ignore[union-attr]
        g = torch.randn(truth.shape, dtype=dtype, generator=generator)
        torch.testing.assert_close(value, truth.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(adjoint(g)[0], torch.autograd.grad(truth, x, g)[0], rtol=1e-4, atol=1e-5)
    assert seen > 0


def test_memory_grows_with_rank_and_network() -> None:
    small, large = random_mlp(0, (4, 6, 1)), random_mlp(0, (40, 60, 1))
    assert bytes_needed(large, 8) == 10 * bytes_needed(small, 8) == 5 * bytes_needed(small, 16)
