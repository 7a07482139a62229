"""The interior point solver against other solvers, the checker and what is known exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa import bounding
from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.baselines import brute_force
from geolip_lirpa.bounding import ProvenBound, bound_programs
from geolip_lirpa.network import Network, Node, linear_operator, sequential
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.auto import make_solver
from geolip_lirpa.solvers.base import SolverResult, Status
from geolip_lirpa.solvers.conditioning import condition_dual
from geolip_lirpa.solvers.cvxpy_backend import CvxpySolver
from geolip_lirpa.solvers.interior_point import InteriorPointSolver, product_sdp
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.solvers.step_length import semidefinite_step
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import (
    lipschitz_instance,
    random_mlp,
    random_residual,
    random_skip,
    signed_sum,
    with_random_slopes,
)
from tests.reference import reference_network, reference_value

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])
outputs = st.sampled_from([OutputNorm.ROWS, OutputNorm.L2, OutputNorm.L1])
ties = st.tuples(st.booleans(), st.booleans())
NETWORKS = {
    "deep": lambda seed: random_mlp(seed, (5, 6, 4, 5, 2)),
    "leaky": lambda seed: random_mlp(seed, (4, 7, 6, 2), LeakyReLU(0.1)),
    "residual": lambda seed: random_residual(seed),
    "skip": lambda seed: random_skip(seed, (4, 6, 3)),
}


def solved(instance: SdpInstance, solver: InteriorPointSolver | None = None, gap: float = 1e-7) -> SolverResult:
    """Solve; what the checker proves must meet the value of the feasible point that the solver found."""
    result = (solver or InteriorPointSolver()).solve([instance])[0]
    assert result.status is Status.CONVERGED and result.value is not None
    upper = prove(instance, result.multipliers).upper
    assert result.value <= upper * (1 + 1e-12)
    assert upper <= result.value * (1 + gap)
    return result


# --- values ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=seeds, kind=st.sampled_from(sorted(NETWORKS)), norm=norms, output=outputs, tied=ties, scaled=st.booleans(),
    other_slopes=st.booleans(),
)  # fmt: skip
def test_proven_bound_meets_the_value_in_every_variant(
    seed: int, kind: str, norm: Norm, output: OutputNorm, tied: tuple[bool, bool], scaled: bool, other_slopes: bool
) -> None:
    network = NETWORKS[kind](seed)
    generator = torch.Generator().manual_seed(seed)
    scale = 3.0 * torch.rand(network.input_size, generator=generator, dtype=torch.float64) if scaled else None
    instance = lipschitz_instance(
        network, norm=norm, output=output, input_scale=scale, tie_input=tied[0], tie_layers=tied[1]
    )
    instance = with_random_slopes(instance, seed) if other_slopes else instance
    value = solved(instance).value
    feasible = LowRankSolver(rank=12).solve([instance])[0].value
    assert value is not None and feasible is not None and feasible <= value * (1 + 1e-7)


@settings(max_examples=6)
@given(seed=seeds, norm=norms, output=outputs, tied=ties)
def test_value_is_clarabels(seed: int, norm: Norm, output: OutputNorm, tied: tuple[bool, bool]) -> None:
    instance = lipschitz_instance(
        random_mlp(seed, (4, 5, 4, 2)), norm=norm, output=output, tie_input=tied[0], tie_layers=tied[1]
    )
    other = CvxpySolver("clarabel").solve([instance])[0]
    assert solved(instance).value == pytest.approx(other.value, rel=1e-6)


@settings(max_examples=8)
@given(seed=seeds, norm=norms)
def test_value_is_within_the_known_ratio_of_the_best_slope_pattern(seed: int, norm: Norm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (3, 6, 1)), norm=norm)
    exact, value = brute_force(instance), solved(instance).value
    assert value is not None
    assert exact * (1 - 1e-7) <= value <= (1.783 if norm is Norm.LINF else 1.2534) * exact * (1 + 1e-7)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("digits_64-16-10", Norm.LINF), ("digits_64-64-64-10", Norm.L2), ("mnist_784-64-10", Norm.L2)],
)
def test_reference_values(reference_data: Path, name: str, norm: Norm) -> None:
    network = reference_network(reference_data / "networks" / "relu" / f"{name}.onnx")
    value = solved(lipschitz_instance(network, norm=norm)).value
    assert value == pytest.approx(reference_value(reference_data, name, norm), rel=1e-7)


# --- degenerate programs --------------------------------------------------------------------------------------------


def _layers(*weights: list[list[float]]) -> SdpInstance:
    operations = []
    for number, weight in enumerate(weights):
        operations += [(f"linear{number}", linear_operator(torch.tensor(weight))), (f"act{number}", ReLU())]
    return lipschitz_instance(sequential((len(weights[0][0]),), operations[:-1]))


DEGENERATE = {
    "one neuron": (_layers([[1.0]], [[1.0]]), 1.0, 1.0),
    "linear": (_layers([[1.0, -2.0]]), 3.0, 5**0.5),
    "equal neurons": (_layers([[1.0, 1.0]] * 4, [[1.0] * 4]), 8.0, 4 * 2**0.5),
    "zero weights": (_layers([[1.0, 1.0], [0.0, 0.0]], [[1.0, 5.0]]), 2.0, 2**0.5),
    "unread neuron": (_layers([[1.0, 1.0], [3.0, 1.0]], [[1.0, 0.0]]), 2.0, 2**0.5),
    "chain": (_layers([[2.0]], [[3.0]], [[0.5]], [[1.0]]), 3.0, 3.0),
    "cancelling paths": (_layers([[1.0], [1.0]], [[1.0, -1.0]]), 1.0, 1.0),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_networks(case: str) -> None:
    instance, exact_box, exact_ball = DEGENERATE[case]
    assert solved(instance).value == pytest.approx(exact_box, rel=1e-7)
    assert solved(replace(instance, input_norm=Norm.L2)).value == pytest.approx(exact_ball, rel=1e-7)


def test_a_row_that_is_zero_beside_others() -> None:
    network = random_mlp(3, (3, 4, 2))
    for output in (OutputNorm.L1, OutputNorm.L2):
        rows = torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64)
        both = solved(lipschitz_instance(network, output=output, rows=rows)).value
        assert both == pytest.approx(solved(lipschitz_instance(network, rows=rows[1:])).value, rel=1e-7)


@settings(max_examples=25)
@given(seed=seeds, norm=norms, output=outputs, tied=ties, top=st.sampled_from([1, 2]))
def test_small_integers_as_weights(
    seed: int, norm: Norm, output: OutputNorm, tied: tuple[bool, bool], top: int
) -> None:
    """Equal neurons, cancelling paths, dead neurons and optima that are not unique."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [int(n) for n in torch.randint(1, 6, (5,), generator=generator)]
    operations = []
    for number in range(4):
        weight = torch.randint(-top, top + 1, (sizes[number + 1], sizes[number]), generator=generator).float()
        operations += [(f"linear{number}", linear_operator(weight)), (f"act{number}", ReLU())]
    network = sequential((sizes[0],), operations[:-1])
    instance = lipschitz_instance(network, norm=norm, output=output, rows=_rows(network.output_size, output),
                                  tie_input=tied[0], tie_layers=tied[1])  # fmt: skip
    if bound_programs([instance], [0], LowRankSolver())[0].upper > 0:
        solved(instance)


def _rows(count: int, output: OutputNorm) -> torch.Tensor:
    rows = torch.eye(count, dtype=torch.float64)
    return rows[:1] if output is OutputNorm.ROWS else rows


def test_constant_output_needs_no_solver() -> None:
    result = InteriorPointSolver().solve([_layers([[0.0, 0.0]])])[0]
    assert result.value == 0.0 and result.iterations == 0 and result.multipliers.output.tolist() == [1.0]


# --- starts and ends ------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(seed=seeds, norm=norms, output=outputs, tied=ties)
def test_a_random_start_ends_at_the_same_value(
    seed: int, norm: Norm, output: OutputNorm, tied: tuple[bool, bool]
) -> None:
    """Without power iterations multipliers are far from feasible: the method has to find the way by itself."""
    instance = lipschitz_instance(
        random_mlp(seed, (5, 8, 7, 2)), norm=norm, output=output, tie_input=tied[0], tie_layers=tied[1]
    )
    lost = solved(instance, InteriorPointSolver(power_iterations=0))
    usual = solved(instance)
    assert lost.value == pytest.approx(usual.value, rel=3e-8)
    assert usual.iterations < lost.iterations <= 60


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_good_multipliers_save_iterations(norm: Norm) -> None:
    solver = InteriorPointSolver()
    instances = [lipschitz_instance(random_mlp(seed, (10, 20, 20, 1)), norm=norm) for seed in range(4)]
    starts = [result.multipliers for result in LowRankSolver(tolerance=1e-9).solve(instances[:1])]
    starts += [LowRankSolver(tolerance=1e-9).solve([instance])[0].multipliers for instance in instances[1:]]
    cold, warm = solver.solve(instances), solver.solve(instances, starts)
    for first, second in zip(cold, warm, strict=True):
        assert second.status is Status.CONVERGED and second.value == pytest.approx(first.value, rel=3e-8)
    assert sum(r.iterations for r in warm) < sum(r.iterations for r in cold)


@pytest.mark.parametrize("number", [0.0, -1.0, 1e12, np.nan])
def test_bad_multipliers_do_no_harm(number: float) -> None:
    instance = lipschitz_instance(random_mlp(5, (4, 6, 5, 1)))
    start = Multipliers((np.full(6, number), np.full(5, number)), np.full(4, number), np.full(1, number))
    result = InteriorPointSolver().solve([instance], [start])[0]
    assert result.status is Status.CONVERGED
    assert result.value == pytest.approx(solved(instance).value, rel=3e-8)


def test_a_limit_still_returns_a_proof_and_a_value_below_it() -> None:
    instance = lipschitz_instance(random_mlp(14, (5, 8, 8, 1)))
    result = InteriorPointSolver(max_iterations=2).solve([instance])[0]
    assert result.status is Status.ITERATION_LIMIT and result.iterations == 2
    optimum = solved(instance).value
    assert result.value is not None and optimum is not None and result.value <= optimum * (1 + 1e-7)
    assert prove(instance, result.multipliers).upper >= optimum * (1 - 1e-7)


def test_it_is_available_by_name() -> None:
    solver = make_solver("Interior_Point")
    assert isinstance(solver, InteriorPointSolver)
    bound = bound_programs([lipschitz_instance(random_mlp(0, (3, 4, 1)))], [0], solver)[0]
    assert bound.solver == "interior-point" and bound.relative_gap is not None and bound.relative_gap <= 1e-7


# --- where the low-rank solver misses its target ----------------------------------------------------------------------


def _low_rank_misses() -> SdpInstance:
    network = random_residual(202117876, width=2, outputs=3)
    return with_random_slopes(lipschitz_instance(network, output=OutputNorm.L1, tie_layers=True), 202117876)


def _bound(instance: SdpInstance, monkeypatch: pytest.MonkeyPatch, rows: int) -> ProvenBound:
    """With one stage of hardly any work, so that the outcome does not depend on how good the low-rank solver is."""
    monkeypatch.setattr(bounding, "_STAGES", ((1e-1, 1.0),))
    monkeypatch.setattr(bounding, "_FINISHER_ROWS", rows)
    return bound_programs([instance], [0], LowRankSolver(power_iterations=1, max_iterations=1))[0]


def test_missed_targets_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = lipschitz_instance(random_mlp(3, (6, 9, 9, 1)))
    missed, finished = _bound(instance, monkeypatch, 0), _bound(instance, monkeypatch, 25)
    assert missed.upper > finished.upper * (1 + 1e-3) and missed.solver == "low-rank"
    assert finished.relative_gap is not None and finished.relative_gap <= 1e-7
    assert finished.solver == "interior-point" and finished.factor is not None


def test_a_program_whose_low_rank_multipliers_are_poor() -> None:
    bound = bound_programs([_low_rank_misses()], [0], LowRankSolver())[0]
    assert bound.relative_gap is not None and bound.relative_gap <= 1e-6
    assert bound.upper == pytest.approx(4.99412517, rel=1e-6)


# --- the matrices of a Lipschitz program ----------------------------------------------------------------------------


@settings(max_examples=10)
@given(seed=seeds, norm=norms, output=outputs, tied=ties)
def test_products_make_the_matrix_of_the_scaled_program(
    seed: int, norm: Norm, output: OutputNorm, tied: tuple[bool, bool]
) -> None:
    instance = lipschitz_instance(
        random_residual(seed), norm=norm, output=output, tie_input=tied[0], tie_layers=tied[1]
    )
    program = condition_dual(instance)
    x = np.random.default_rng(seed).uniform(0.1, 1.0, len(program.sdp.rhs))
    expected = np.zeros((program.sdp.size, program.sdp.size))
    for matrices, factors in ((program.sdp.constraints, x), (program.sdp.objective, -np.ones(1))):
        lower = np.zeros_like(expected)
        np.add.at(lower, (matrices.rows, matrices.cols), factors[matrices.index] * matrices.values)
        expected += lower + np.tril(lower, -1).T
    np.testing.assert_allclose(product_sdp(program).matrix(x), expected, atol=1e-12)


@settings(max_examples=10)
@given(seed=seeds, norm=norms, output=outputs, tied=ties)
def test_multipliers_become_variables_and_come_back(
    seed: int, norm: Norm, output: OutputNorm, tied: tuple[bool, bool]
) -> None:
    """Up to the factor between both sides of the inequality, which changes no bound."""
    instance = lipschitz_instance(
        random_mlp(seed, (4, 5, 4, 2)), norm=norm, output=output, tie_input=tied[0], tie_layers=tied[1]
    )
    program = condition_dual(instance)
    multipliers = program.multipliers(np.random.default_rng(seed).uniform(0.1, 1.0, len(program.sdp.rhs)))
    back = program.multipliers(program.variables(multipliers))
    ratio = back.input[0] / multipliers.input[0]
    for new, old in zip((back.input, *back.hidden), (multipliers.input, *multipliers.hidden), strict=True):
        np.testing.assert_allclose(new, ratio * old, rtol=1e-9)
    np.testing.assert_allclose(back.output, multipliers.output / ratio, rtol=1e-9)


@pytest.mark.parametrize("size", [3, 100])
def test_no_step_is_known_where_numbers_overflow(size: int) -> None:
    factor = np.asfortranarray(np.diag(np.full(size, 1e-200)))
    with np.errstate(all="ignore"):
        for change in (np.eye(size), np.full((size, size), np.nan), np.full((size, size), np.inf)):
            assert semidefinite_step(factor, change) == 0.0


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_a_layer_that_reads_nothing_but_resting_neurons(norm: Norm) -> None:
    shape = (2,)
    nodes = (
        Node("input", shape),
        Node("linear", shape, (0,), linear_operator(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))),
        Node("resting", shape, (1,), ReLU()),
        Node("reader", shape, (2,), ReLU()),
        Node("relu", shape, (1,), ReLU()),
        Node("add", shape, (3, 4), signed_sum()),
    )
    instance = lipschitz_instance(Network(nodes), norm=norm)
    zero = torch.zeros(2, dtype=torch.float64)
    instance = replace(instance, slopes=(SlopeInterval(zero, zero), *instance.slopes[1:]))
    assert solved(instance).value == pytest.approx(3.0 if norm is Norm.LINF else 5**0.5, rel=1e-7)
