"""The low-rank solver: values, multipliers, batches, ties; and its optimiser on problems with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa.bounding import bound_programs
from geolip_lirpa.lmi import assemble_lmi
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.auto import canonical_solver_name, make_solver
from geolip_lirpa.solvers.base import Status
from geolip_lirpa.solvers.lbfgs import LbfgsOptions, Problem, minimise
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual

seeds = st.integers(0, 10_000)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def _tangent(x: Tensor, v: Tensor) -> Tensor:
    return v - (x * v).sum(1, keepdim=True) * x


@settings(max_examples=8)
@given(seed=seeds, precondition=st.booleans())
def test_lbfgs_finds_smallest_eigenvectors_of_a_batch(seed: int, precondition: bool) -> None:
    """Rayleigh quotients of several matrices at once; each problem stops on its own."""
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn((4, 12, 12), dtype=torch.float64, generator=generator)
    matrices = matrices + matrices.transpose(1, 2)

    def quotient(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        image = torch.einsum("pij,pj->pi", matrices[index], x)
        return 0.5 * (x * image).sum(1), image

    start = _unit(torch.randn((4, 12), dtype=torch.float64, generator=generator))
    weights = 0.1 + torch.rand((1, 12), dtype=torch.float64, generator=generator) if precondition else torch.ones(1, 12)
    problem = Problem(quotient, _unit, _tangent, lambda x, _: weights.expand_as(x))
    found = minimise(problem, start, LbfgsOptions(gradient_tolerance=1e-7))
    smallest = torch.linalg.eigvalsh(matrices)[:, 0]
    np.testing.assert_allclose(2 * found.value, smallest, rtol=1e-9, atol=1e-9)
    assert bool((found.iterations > 0).all())


def test_lbfgs_reports_the_iteration_limit() -> None:
    matrix = torch.diag(torch.arange(1.0, 30.0, dtype=torch.float64))

    def quotient(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * ((x @ matrix) * x).sum(1), x @ matrix

    start = _unit(torch.ones((1, 29), dtype=torch.float64))
    problem = Problem(quotient, _unit, _tangent, lambda x, _: torch.ones_like(x))
    found = minimise(problem, start, LbfgsOptions(max_iterations=3))
    assert int(found.iterations[0]) == 3 and not bool(found.converged[0])


def _gap(instance: SdpInstance, solver: LowRankSolver) -> float:
    result = solver.solve([instance])[0]
    assert result.value is not None
    return prove(instance, result.multipliers).upper / result.value - 1


@settings(max_examples=12)
@given(
    seed=seeds,
    norm=st.sampled_from([Norm.LINF, Norm.L2]),
    output=st.sampled_from([OutputNorm.ROWS, OutputNorm.L1, OutputNorm.L2]),
    ties=st.tuples(st.booleans(), st.booleans()),
    residual=st.booleans(),
)
def test_primal_and_dual_meet(
    seed: int, norm: Norm, output: OutputNorm, ties: tuple[bool, bool], residual: bool
) -> None:
    """Value at a feasible point and proven bound agree: both are the optimum, in every variant of the program."""
    network = random_residual(seed) if residual else random_mlp(seed, (5, 7, 6, 2))
    instance = lipschitz_instance(network, norm=norm, output=output, tie_input=ties[0], tie_layers=ties[1])
    assert -1e-9 <= _gap(instance, LowRankSolver(rank=12, tolerance=1e-8)) <= 1e-4


@settings(max_examples=4)
@given(seed=seeds)
def test_ties_only_loosen(seed: int) -> None:
    network = random_mlp(seed, (5, 7, 6, 1))
    uppers = {
        ties: bound_programs(
            [lipschitz_instance(network, tie_input=ties[0], tie_layers=ties[1])], [0], LowRankSolver()
        )[0]
        for ties in ((False, False), (True, False), (False, True), (True, True))
    }
    free = uppers[False, False].upper
    assert all(free <= bound.upper * (1 + 1e-5) for bound in uppers.values())
    assert uppers[True, False].upper <= uppers[True, True].upper * (1 + 1e-5)


def test_tied_multipliers_are_equal() -> None:
    instance = lipschitz_instance(random_mlp(4, (5, 7, 6, 1)), tie_input=True, tie_layers=True)
    multipliers = LowRankSolver().solve([instance])[0].multipliers
    for values in (multipliers.input, *multipliers.hidden):
        assert np.ptp(values) == 0 and values[0] > 0


@settings(max_examples=6)
@given(seed=seeds, norm=st.sampled_from([Norm.LINF, Norm.L2]))
def test_a_batch_gives_what_its_members_give(seed: int, norm: Norm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (5, 8, 8, 3)), norm=norm)
    rows = torch.eye(3, dtype=torch.float64)
    members = [instance.with_rows(rows[i : i + 1]) for i in range(3)]
    together = LowRankSolver().solve(members)
    for member, result in zip(members, together, strict=True):
        assert result.value == pytest.approx(LowRankSolver().solve([member])[0].value, rel=1e-7)


def test_multipliers_are_stationary() -> None:
    """At the solution the dual matrix annihilates the vectors: M Y = 0 up to the solver's tolerance."""
    instance = lipschitz_instance(random_mlp(7, (6, 9, 8, 1)))
    result = LowRankSolver(tolerance=1e-10).solve([instance])[0]
    lmi = assemble_lmi(instance.forms, result.multipliers).to_dense()[: instance.forms.size]
    # dz from the vectors, by one forward pass
    parts = [result.factor.input]

    def activation(l: int, v: Tensor) -> Tensor:
        middle = (instance.slopes[l].lower + instance.slopes[l].upper) / 2
        radius = (instance.slopes[l].upper - instance.slopes[l].lower) / 2
        z = middle * v + radius * v.norm(dim=0) * result.factor.hidden[l].T
        parts.append(z.T)
        return z

    out = instance.network.propagate(result.factor.input.T, activation)
    y = torch.cat([part[torch.as_tensor(kept)] for part, kept in zip(parts, instance.forms.kept, strict=True)]).numpy()
    direction = (out[:, :1].T / out[:, :1].norm()).numpy()
    residual = lmi @ np.vstack([y, direction])
    assert np.abs(residual).max() <= 1e-6 * np.abs(lmi).max()


def test_iteration_limit_is_reported_and_still_proves_something() -> None:
    instance = lipschitz_instance(random_mlp(3, (6, 20, 20, 1)))
    result = LowRankSolver(power_iterations=10, max_iterations=1).solve([instance])[0]
    assert result.status is Status.ITERATION_LIMIT
    bound = bound_programs([instance], [0], LowRankSolver())[0]
    assert math.isfinite(bound.upper) and bound.relative_gap is not None and bound.relative_gap <= 1e-6


def test_groups_stop_at_their_maximum() -> None:
    """Rows that cannot be the maximum of their group are not refined, and the maximum is still right."""
    instance = lipschitz_instance(random_mlp(5, (6, 12, 4)))
    rows = torch.diag(torch.tensor([1.0, 1e-3, 1e-3, 1e-3], dtype=torch.float64))
    members = [instance.with_rows(rows[i : i + 1]) for i in range(4)]
    bounds = bound_programs(members, [0, 0, 0, 0], LowRankSolver())
    alone = bound_programs(members[:1], [0], LowRankSolver())[0]
    assert max(b.upper for b in bounds) == pytest.approx(alone.upper, rel=1e-5)


def test_rows_of_zeros_have_bound_zero() -> None:
    instance = lipschitz_instance(random_mlp(5, (6, 12, 2)))
    zero = instance.with_rows(torch.zeros((1, 2), dtype=torch.float64))
    bound = bound_programs([zero], [0], LowRankSolver())[0]
    assert bound.upper == 0.0 and bound.relative_gap == 0.0


def test_names() -> None:
    assert canonical_solver_name("SCS") == "cvxpy-scs"
    assert isinstance(make_solver("auto"), LowRankSolver)
