"""The interior point solver against other solvers, the checker and what is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import Activation
from geolip_lirpa.baselines import brute_force
from geolip_lirpa.network import linear_operator, sequential
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.base import Status
from geolip_lirpa.solvers.cvxpy_backend import CvxpySolver
from geolip_lirpa.solvers.interior_point import InteriorPointSolver, product_sdp
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual, with_random_slopes

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])
outputs = st.sampled_from([OutputNorm.ROWS, OutputNorm.L2, OutputNorm.L1])


def check(instance: SdpInstance, gap: float = 1e-6) -> float:
    """Solve, prove, and compare the proven bound with the value of the feasible point that the solver found."""
    result = InteriorPointSolver().solve([instance])[0]
    upper = prove(instance, result.multipliers).upper
    assert result.value is not None and result.value <= upper * (1 + 1e-12)
    assert upper <= result.value * (1 + gap)
    return upper


@settings(max_examples=25)
@given(
    seed=seeds, norm=norms, output=outputs, residual=st.booleans(), activation=st.sampled_from([ReLU(), LeakyReLU(0.1)])
)
def test_bounds_are_tight(seed: int, norm: Norm, output: OutputNorm, residual: bool, activation: Activation) -> None:
    network = random_residual(seed, activation=activation) if residual else random_mlp(seed, (4, 7, 6, 2), activation)
    instance = lipschitz_instance(network, norm=norm, output=output)
    upper = check(instance, 1e-5)
    low_rank = LowRankSolver(rank=12, tolerance=1e-9).solve([instance])[0]
    assert low_rank.value is not None and low_rank.value <= upper * (1 + 1e-9)


@settings(max_examples=10)
@given(seed=seeds, norm=norms, ties=st.tuples(st.booleans(), st.booleans()))
def test_random_slopes_and_ties(seed: int, norm: Norm, ties: tuple[bool, bool]) -> None:
    instance = lipschitz_instance(random_mlp(seed, (4, 6, 5, 1)), norm=norm, tie_input=ties[0], tie_layers=ties[1])
    check(with_random_slopes(instance, seed), 1e-4)


@settings(max_examples=6)
@given(seed=seeds, norm=norms)
def test_the_value_is_clarabels(seed: int, norm: Norm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (3, 5, 4, 1)), norm=norm)
    other = CvxpySolver("clarabel").solve([instance])[0]
    assert check(instance) == pytest.approx(prove(instance, other.multipliers).upper, rel=1e-5)


@settings(max_examples=8)
@given(seed=seeds, norm=norms)
def test_bounds_are_above_every_slope_pattern(seed: int, norm: Norm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (3, 6, 1)), norm=norm)
    exact = brute_force(instance)
    assert exact * (1 - 1e-9) <= check(instance) <= 1.783 * exact * (1 + 1e-4)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_degenerate_networks(norm: Norm) -> None:
    one = sequential(
        (1,), [("a", linear_operator(torch.ones(1, 1))), ("r", ReLU()), ("b", linear_operator(torch.ones(1, 1)))]
    )
    assert check(lipschitz_instance(one, norm=norm)) == pytest.approx(1.0, rel=1e-6)
    twice = sequential(
        (2,), [("a", linear_operator(torch.ones(4, 2))), ("r", ReLU()), ("b", linear_operator(torch.ones(1, 4)))]
    )
    # four equal neurons: 4 (x1 + x2)
    exact = 8.0 if norm is Norm.LINF else 4 * 2**0.5
    assert check(lipschitz_instance(twice, norm=norm), 1e-4) == pytest.approx(exact, rel=1e-4)
    dead = torch.randn((4, 3), generator=torch.Generator().manual_seed(0))
    dead[2] = 0
    network = sequential((3,), [("a", linear_operator(dead)), ("r", ReLU()), ("b", linear_operator(torch.ones(1, 4)))])
    check(lipschitz_instance(network, norm=norm), 1e-5)
    constant = sequential((3,), [("a", linear_operator(torch.zeros(1, 3)))])
    assert InteriorPointSolver().solve([lipschitz_instance(constant, norm=norm)])[0].value == 0.0


def test_a_good_start_saves_iterations() -> None:
    instance = lipschitz_instance(random_mlp(4, (10, 20, 20, 1)))
    solver = InteriorPointSolver()
    cold = solver.solve([instance])[0]
    warm = solver.solve([instance], [LowRankSolver().solve([instance])[0].multipliers])[0]
    assert cold.status is Status.CONVERGED and warm.status is Status.CONVERGED
    assert warm.value == pytest.approx(cold.value, rel=1e-7)
    assert warm.iterations <= cold.iterations


@settings(max_examples=15)
@given(seed=seeds, norm=norms)
def test_linear_algebra_against_its_definition(seed: int, norm: Norm) -> None:
    """Change, pairing and Schur matrix of the products, one by one."""
    from geolip_lirpa.solvers.conditioning import condition_dual

    sdp = product_sdp(condition_dual(lipschitz_instance(random_mlp(seed, (3, 4, 3, 1)), norm=norm)))
    rng = np.random.default_rng(seed)
    a, b = sdp.left.toarray(), sdp.right.toarray()
    count = len(sdp.weights)
    terms = np.zeros((count, sdp.size, sdp.size))
    for i, v in enumerate(sdp.variables):
        terms[v] -= np.outer(a[i], b[i]) + np.outer(b[i], a[i])
    theta = rng.uniform(0, 1, count)
    np.testing.assert_allclose(sdp.change(theta), np.einsum("v,vij->ij", theta, terms), atol=1e-12)
    factor = rng.normal(size=(2, sdp.size, sdp.size))
    x, p = factor[0] @ factor[0].T, factor[1] @ factor[1].T
    np.testing.assert_allclose(sdp.pairing(x), np.einsum("vij,ij->v", terms, x), atol=1e-9)
    schur, pairing = sdp.schur(sdp.images(x), sdp.images(p))
    np.testing.assert_allclose(schur, np.einsum("vij,jk,wkl,li->vw", terms, x, terms, p), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(pairing, np.einsum("vij,ij->v", terms, p), atol=1e-9)
