"""The trusted step: what it proves is true, and what is not true it never proves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.activations import LeakyReLU, ReLU, Tanh
from geolip_lirpa.errors import SolverError
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.positive_definite import cholesky_error, is_positive_semidefinite, powers_of_two, spectral_norm_bound
from geolip_lirpa.proof import prove, verify
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.interior_point import InteriorPointSolver
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual, with_random_slopes

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])


# --- positive semidefiniteness ---------------------------------------------------------------------------------------


@given(seed=seeds, size=st.integers(1, 12), exponent=st.integers(-18, -6))
def test_a_slightly_negative_eigenvalue_is_never_accepted(seed: int, size: int, exponent: int) -> None:
    """Integer matrices of low rank minus a tiny multiple of the identity are indefinite for certain."""
    rng = np.random.default_rng(seed)
    factor = rng.integers(-8, 9, size=(size, max(1, size - 1))).astype(float)
    matrix = factor @ factor.T + 0.0
    matrix[np.diag_indices(size)] -= np.ldexp(1.0, exponent) if size > 1 else matrix[0, 0] + 1
    assert not is_positive_semidefinite(matrix, 0.0)


@given(seed=seeds, size=st.integers(1, 30))
def test_a_safe_matrix_is_accepted_and_an_error_beyond_its_margin_is_not(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(size, size)))
    matrix = (orthogonal * rng.uniform(0.5, 2.0, size)) @ orthogonal.T
    matrix = 0.5 * (matrix + matrix.T)
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    assert is_positive_semidefinite(matrix.copy(), 0.5 * smallest)
    assert not is_positive_semidefinite(matrix.copy(), smallest * (1 + 1e-9))


def test_nan_and_infinity_are_refused() -> None:
    for bad in (np.nan, np.inf):
        matrix = np.eye(70)
        matrix[3, 5] = matrix[5, 3] = bad
        assert not is_positive_semidefinite(matrix, 0.0)
        assert not is_positive_semidefinite(np.eye(3), bad)


@given(seed=seeds, rows=st.integers(1, 20), columns=st.integers(1, 20), exponent=st.integers(-200, 200))
def test_spectral_norm_bound_is_above_and_near(seed: int, rows: int, columns: int, exponent: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns))
    norm = float(np.linalg.norm(matrix, 2))
    bound = spectral_norm_bound(np.ldexp(matrix, exponent))
    assert norm <= np.ldexp(bound, -exponent) * (1 + 1e-14) and np.ldexp(bound, -exponent) <= 2.2 * norm


def test_powers_of_two_are_exact() -> None:
    values = np.array([1.0, 1.5, 3.9, 4.0, 1e-300, 1e300])
    powers = powers_of_two(values)
    assert (powers <= values).all() and (values < 2 * powers).all() and (np.frexp(powers)[0] == 0.5).all()


def test_cholesky_error_covers_the_true_backward_error() -> None:
    """The residual of a float64 factorisation, computed in long double, stays below the bound."""
    rng = np.random.default_rng(0)
    for size in (5, 60, 200):
        a = rng.normal(size=(size, size))
        a = a @ a.T
        factor = np.linalg.cholesky(a).astype(np.longdouble)
        residual = np.abs(factor @ factor.T - a.astype(np.longdouble)).sum(axis=1).max()
        assert float(residual) < cholesky_error(size, float(np.trace(a)))


# --- bounds ----------------------------------------------------------------------------------------------------------


def _solve(instance: SdpInstance) -> tuple[float, float]:
    """Proven bound and the value of the relaxation."""
    result = LowRankSolver(tolerance=1e-8).solve([instance])[0]
    assert result.value is not None
    return prove(instance, result.multipliers).upper, result.value


def _patterns(network_sizes: tuple[int, ...], seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Exact gradients of a two-layer ReLU network for all slope patterns."""
    network = random_mlp(seed, network_sizes)
    weights = [network.nodes[i].operation.parameters[0] for i in (1, 3)]  # type: ignore[union-attr]
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * network_sizes[1])
    gradients = torch.einsum("oh,ph,hi->poi", weights[1], bits.reshape(-1, network_sizes[1]), weights[0])
    return gradients, weights


@settings(max_examples=10)
@given(seed=seeds, norm=norms, hidden=st.integers(2, 9), inputs=st.integers(1, 7))
def test_two_layers_between_brute_force_and_its_known_multiple(seed: int, norm: Norm, hidden: int, inputs: int) -> None:
    """FGL <= bound <= 1.783 FGL (l_inf, Grothendieck) or sqrt(pi/2) FGL (l_2); arXiv 2203.01212."""
    gradients, _ = _patterns((inputs, hidden, 1), seed)
    exact = float(gradients[:, 0].norm(p=1 if norm is Norm.LINF else 2, dim=1).max())
    upper, value = _solve(lipschitz_instance(random_mlp(seed, (inputs, hidden, 1)), norm=norm))
    factor = 1.783 if norm is Norm.LINF else 1.2534
    assert exact <= upper <= factor * exact * (1 + 1e-4)
    assert upper <= value * (1 + 1e-4)


@settings(max_examples=10)
@given(seed=seeds, norm=norms)
def test_vector_outputs_bound_every_pattern(seed: int, norm: Norm) -> None:
    gradients, _ = _patterns((3, 5, 2), seed)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3).reshape(-1, 3)
    for output, p in ((OutputNorm.L2, 2), (OutputNorm.L1, 1)):
        upper, value = _solve(lipschitz_instance(random_mlp(seed, (3, 5, 2)), norm=norm, output=output))
        if norm is Norm.LINF:
            exact = float((signs @ gradients.transpose(1, 2)).norm(p=p, dim=2).max())
        elif p == 2:
            exact = float(torch.linalg.matrix_norm(gradients, 2).max())
        else:
            pairs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
            exact = float((pairs @ gradients).norm(dim=2).max())
        assert exact <= upper
        assert upper <= value * (1 + 1e-3)


@settings(max_examples=10)
@given(seed=seeds, norm=norms, activation=st.sampled_from([ReLU(), LeakyReLU(0.2), Tanh()]), residual=st.booleans())
def test_sampled_secants_stay_below(seed: int, norm: Norm, activation: ReLU, residual: bool) -> None:
    network = random_residual(seed, activation=activation) if residual else random_mlp(seed, (5, 6, 6, 2), activation)
    upper, value = _solve(lipschitz_instance(network, norm=norm))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((2, 200, 5), dtype=torch.float64, generator=generator)
    x[1] = x[0] + 10 ** (-3 * torch.rand((200, 1), dtype=torch.float64, generator=generator)) * x[1]
    change = network.forward(x[0])[:, 0] - network.forward(x[1])[:, 0]
    secants = change.abs() / (x[0] - x[1]).norm(p=norm.p, dim=1)
    assert float(secants.max()) <= upper
    assert upper <= value * (1 + 1e-3)


@settings(max_examples=10)
@given(seed=seeds, size=st.sampled_from([1e-30, 1e-6, 1e6, 1e30]))
def test_extreme_weights_give_the_scaled_bound(seed: int, size: float) -> None:
    base = random_mlp(seed, (4, 5, 1))
    first, last = (base.nodes[i].operation.parameters[0] for i in (1, 3))  # type: ignore[union-attr]
    operations = [("a", linear_operator(first * size)), ("r", ReLU()), ("b", linear_operator(last))]
    upper, _ = _solve(lipschitz_instance(sequential((4,), operations)))
    reference, _ = _solve(lipschitz_instance(base))
    assert upper == pytest.approx(reference * size, rel=1e-5)


def test_constant_output_has_bound_zero() -> None:
    network = sequential(
        (3,), [("a", linear_operator(torch.zeros(2, 3))), ("r", ReLU()), ("b", linear_operator(torch.ones(1, 2)))]
    )
    instance = lipschitz_instance(network)
    assert verify(instance, Multipliers((np.ones(2),), np.ones(3), np.ones(1))) == 0.0


def test_affine_network_is_exact() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5]])
    upper, _ = _solve(lipschitz_instance(sequential((3,), [("a", linear_operator(weight))])))
    assert 3.5 <= upper <= 3.5 * (1 + 1e-9)


@settings(max_examples=10)
@given(seed=seeds, factor=st.sampled_from([0.5, 0.9, 0.999, 0.99999]))
def test_forged_multipliers_prove_nothing_better(seed: int, factor: float) -> None:
    """Whatever is done to the multipliers, no bound below the brute-force value comes out."""
    gradients, _ = _patterns((4, 6, 1), seed)
    exact = float(gradients[:, 0].norm(p=1, dim=1).max())
    instance = lipschitz_instance(random_mlp(seed, (4, 6, 1)))
    good = prove(instance, LowRankSolver(tolerance=1e-8).solve([instance])[0].multipliers).multipliers
    forged = [
        replace(good, input=good.input * factor),
        replace(good, output=good.output * factor),
        replace(good, hidden=tuple(h * factor for h in good.hidden)),
        replace(good, hidden=tuple(h / factor for h in good.hidden)),
        replace(good, input=-good.input),
        replace(good, input=good.input * np.nan),
        replace(good, hidden=(good.hidden[0][:-1],)),
        replace(good, output=good.output * 0),
    ]
    for multipliers in forged:
        proven = verify(instance, multipliers)
        assert proven is None or proven >= exact


def test_hopeless_multipliers_are_refused() -> None:
    instance = lipschitz_instance(random_mlp(0, (4, 6, 1)))
    with pytest.raises(SolverError, match="do not prove"):
        prove(instance, Multipliers((np.zeros(6),), np.zeros(4), np.ones(1)))


def test_what_is_proven_is_proven_again_without_margin() -> None:
    instance = lipschitz_instance(random_mlp(3, (8, 10, 10, 1)), norm=Norm.L2)
    proven = prove(instance, LowRankSolver().solve([instance])[0].multipliers)
    again = verify(instance, proven.multipliers)
    assert again is not None and again <= proven.upper


def test_nearly_fixed_slopes_do_not_lose_the_proof() -> None:
    """A program of small integers whose last pivots need more than the estimated rounding."""
    seed = 23503500
    generator = torch.Generator().manual_seed(seed)
    network = random_mlp(seed, (6, 2, 2))
    nodes = list(network.nodes)
    for position in (1, 3):
        shape = nodes[position].operation.parameters[0].shape  # type: ignore[union-attr]
        weight = torch.randint(-1, 2, shape, generator=generator).float()
        weight[1] = weight[0]
        nodes[position] = replace(nodes[position], operation=linear_operator(weight, torch.zeros(len(weight))))
    instance = with_random_slopes(lipschitz_instance(random_mlp(seed, (6, 2, 2)), norm=Norm.L2, tie_layers=True), seed)
    instance = replace(instance, network=Network(tuple(nodes)))
    found = InteriorPointSolver().solve([instance])[0]
    assert found.value is not None
    assert found.value * (1 - 1e-9) <= prove(instance, found.multipliers).upper <= found.value * (1 + 1e-7)
