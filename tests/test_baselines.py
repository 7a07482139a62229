"""Products of norms, sampling and enumeration against independent oracles, and in their order."""

from __future__ import annotations

import csv
import itertools
import math
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.baselines import brute_force, entrywise_bound, norm_product, sampled_lower_bound
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lower_bounds import pattern_lower_bound
from geolip_lirpa.network import AffineOperator, Network, Node, sequential
from geolip_lirpa.positive_definite import sharp_spectral_norm_bound
from geolip_lirpa.regions import Region
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_linear, random_mlp, random_residual, signed_sum
from tests.reference import reference_network

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])
outputs = st.sampled_from([OutputNorm.ROWS, OutputNorm.L1, OutputNorm.L2])
SLACK = 1e-12


def weights(network: Network) -> list[np.ndarray]:
    return [n.operation.parameters[0].numpy() for n in network.nodes if isinstance(n.operation, AffineOperator)]


def operator_norm(matrix: np.ndarray, norm: Norm, output: OutputNorm) -> float:
    """By definition: enumerate sign vectors where there is no closed form."""
    if output is OutputNorm.L2 and norm is Norm.L2:
        return float(np.linalg.norm(matrix, 2))
    if output is OutputNorm.L2:
        signs = itertools.product((-1.0, 1.0), repeat=matrix.shape[1])
        return max(float(np.linalg.norm(matrix @ np.array(w))) for w in signs)
    duals = itertools.product((-1.0, 1.0), repeat=matrix.shape[0])
    return max(float(np.linalg.norm(np.array(u) @ matrix, 1 if norm is Norm.LINF else 2)) for u in duals)


def enumerated(network: Network, slope: float, norm: Norm, output: OutputNorm) -> float:
    """The formal constant of an MLP with slopes in [slope, 1], matrix by matrix."""
    first, *rest = weights(network)
    sizes = [len(w) for w in (first, *rest)][:-1]
    best = 0.0
    for flat in itertools.product((slope, 1.0), repeat=sum(sizes)):
        patterns = np.split(np.array(flat), np.cumsum(sizes)[:-1])
        product = first
        for pattern, weight in zip(patterns, rest, strict=True):
            product = weight @ (pattern[:, None] * product)
        best = max(best, operator_norm(product[:1] if output is OutputNorm.ROWS else product, norm, output))
    return best


@given(seeds, norms, outputs, st.sampled_from([0.0, 0.25]))
def test_brute_force_is_the_maximum_over_all_patterns(seed: int, norm: Norm, output: OutputNorm, slope: float) -> None:
    network = random_mlp(seed, (3, 4, 3, 2), LeakyReLU(slope))
    found = brute_force(lipschitz_instance(network, norm=norm, output=output))
    assert found == pytest.approx(enumerated(network, slope, norm, output), rel=1e-12)


def dense_graph(seed: int) -> Network:
    """Three activations; the second also reads the input, the third also reads the first."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3,)

    def linear() -> AffineOperator:
        return random_linear(3, 3, generator)

    return Network(
        (
            Node("input", shape),
            Node("linear0", shape, (0,), linear()),
            Node("act0", shape, (1,), ReLU()),
            Node("linear1", shape, (2,), linear()),
            Node("add1", shape, (3, 0), signed_sum(1.0, -1.0)),
            Node("act1", shape, (4,), ReLU()),
            Node("linear2", shape, (5,), linear()),
            Node("add2", shape, (6, 2), signed_sum(1.0, 2.0)),
            Node("act2", shape, (7,), ReLU()),
            Node("linear3", (2,), (8,), random_linear(2, 3, generator)),
        )
    )


@settings(max_examples=8)
@given(seeds, norms, outputs)
def test_brute_force_follows_every_path_of_a_graph(seed: int, norm: Norm, output: OutputNorm) -> None:
    network = dense_graph(seed)
    instance = lipschitz_instance(network, norm=norm, output=output)
    columns = torch.eye(3, dtype=torch.float64)
    best = 0.0
    for flat in itertools.product((0.0, 1.0), repeat=9):
        slopes = torch.tensor(flat, dtype=torch.float64).reshape(3, 3)
        matrix = network.propagate(columns, lambda l, v, s=slopes: s[l] * v).numpy().T
        best = max(best, operator_norm(matrix[:1] if output is OutputNorm.ROWS else matrix, norm, output))
    assert brute_force(instance) == pytest.approx(best, rel=1e-12)
    assert best <= norm_product(instance) * (1 + SLACK)
    assert 0.95 * best <= pattern_lower_bound(instance).value <= best * (1 + SLACK)


@given(seeds, norms)
def test_no_interior_slopes_exceed_brute_force(seed: int, norm: Norm) -> None:
    network = random_residual(seed, 4, 1)
    instance = lipschitz_instance(network, norm=norm)
    generator = torch.Generator().manual_seed(seed)
    slopes = [torch.rand(len(s.lower), dtype=torch.float64, generator=generator) for s in instance.slopes]
    columns = network.propagate(torch.eye(4, dtype=torch.float64), lambda l, v: slopes[l] * v)
    inside = operator_norm(columns.numpy().T, norm, OutputNorm.ROWS)
    assert inside <= brute_force(instance) * (1 + SLACK)


@given(seeds, norms, outputs, st.booleans())
def test_products_of_norms_bound_the_formal_constant(seed: int, norm: Norm, output: OutputNorm, chain: bool) -> None:
    network = random_mlp(seed, (3, 5, 4, 3)) if chain else random_residual(seed, 4, 3)
    scale = torch.rand(network.input_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    instance = lipschitz_instance(network, norm=norm, output=output, input_scale=scale)
    exact = brute_force(instance)
    assert exact <= norm_product(instance) * (1 + SLACK)
    assert exact <= entrywise_bound(instance) * (1 + SLACK)


@given(seeds)
def test_entrywise_bound_is_at_most_the_product_for_boxes(seed: int) -> None:
    instance = lipschitz_instance(random_mlp(seed, (3, 5, 4, 1)))
    assert entrywise_bound(instance) <= norm_product(instance) * (1 + SLACK)


@given(seeds)
def test_norm_product_is_rounded_up_by_very_little(seed: int) -> None:
    network = random_mlp(seed, (4, 6, 5, 1))
    exact = Fraction(1)
    for weight in weights(network):
        exact *= max(sum(abs(Fraction(float(v))) for v in row) for row in weight)
    found = Fraction(norm_product(lipschitz_instance(network)))
    assert exact <= found <= exact * (1 + Fraction(1, 10**12))


@given(seeds)
def test_norm_product_of_balls_is_the_product_of_spectral_norms(seed: int) -> None:
    network = random_mlp(seed, (4, 6, 5, 2))
    exact = math.prod(float(np.linalg.norm(w, 2)) for w in weights(network))
    found = norm_product(lipschitz_instance(network, norm=Norm.L2, output=OutputNorm.L2))
    assert exact * (1 - 1e-14) <= found <= exact * (1 + 1e-9)


@given(seeds, st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-30, 1.0, 1e30]))
def test_spectral_norm_bound_is_sharp_and_above(seed: int, rows: int, columns: int, size: float) -> None:
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((rows, columns)) * size
    exact = float(np.linalg.norm(matrix, 2))
    assert exact * (1 - 1e-14) <= sharp_spectral_norm_bound(matrix) <= exact * (1 + 1e-9)
    error = 0.01 * np.abs(matrix)
    worst = float(np.linalg.norm(matrix + error * generator.choice((-1.0, 1.0), matrix.shape), 2))
    assert worst <= sharp_spectral_norm_bound(matrix, error) * (1 + 1e-14)


def test_spectral_norm_bound_of_exactly_known_matrices() -> None:
    # singular values of ((3, 0), (4, 5)) are sqrt 45 and sqrt 5; all ones: sqrt(6 * 7)
    for matrix, square in ((np.array([[3.0, 0.0], [4.0, 5.0]]), 45), (np.ones((6, 7)), 42)):
        assert square <= Fraction(sharp_spectral_norm_bound(matrix)) ** 2 <= square * (1 + Fraction(1, 10**9))
    assert sharp_spectral_norm_bound(np.zeros((3, 2))) == 0.0
    assert sharp_spectral_norm_bound(np.zeros((0, 2))) == 0.0


def test_fixed_slopes_become_linear() -> None:
    network = random_mlp(3, (3, 4, 2))
    half = torch.full((4,), 0.5, dtype=torch.float64)
    instance = lipschitz_instance(network)
    fixed = SdpInstance(network, (SlopeInterval(half, half),), Norm.LINF, instance.input_scale, instance.rows)
    first, second = weights(network)
    exact = float(np.abs(0.5 * second[:1] @ first).sum())
    assert brute_force(fixed) == pytest.approx(exact, rel=1e-13)
    assert norm_product(fixed) == pytest.approx(exact, rel=1e-12)


def test_network_without_activations() -> None:
    layer = random_linear(2, 3, torch.Generator().manual_seed(0))
    instance = lipschitz_instance(sequential((3,), [("only", layer)]))
    exact = float(layer.parameters[0][0].abs().sum())
    for bound in (brute_force, norm_product, entrywise_bound):
        assert bound(instance) == pytest.approx(exact, rel=1e-12)
    assert sampled_lower_bound(instance, 3).value == pytest.approx(exact, rel=1e-12)


def test_one_coordinate_boxes_give_the_largest_column() -> None:
    network = random_mlp(4, (3, 5, 1))
    single = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    instance = lipschitz_instance(network, input_scale=single)
    first, second = weights(network)
    column = first[:, 1] * second[0]
    exact = 2 * max(column[column > 0].sum(), -column[column < 0].sum())
    assert brute_force(instance) == pytest.approx(float(exact), rel=1e-12)
    assert sampled_lower_bound(instance, 50).direction[0] == 0.0


def test_no_moving_input_gives_zero() -> None:
    instance = lipschitz_instance(random_mlp(1, (2, 3, 1)), input_scale=torch.zeros(2, dtype=torch.float64))
    assert [bound(instance) for bound in (brute_force, norm_product, entrywise_bound)] == [0.0, 0.0, 0.0]
    assert sampled_lower_bound(instance, 5).value == 0.0


def test_brute_force_refuses_large_networks() -> None:
    with pytest.raises(SpecificationError, match=r"21 hidden units .* allowed are 20"):
        brute_force(lipschitz_instance(random_mlp(0, (2, 21, 1))))
    with pytest.raises(SpecificationError, match=r"3 hidden units .* and 4 signs"):
        brute_force(lipschitz_instance(random_mlp(0, (2, 3, 5)), output=OutputNorm.L1), max_neurons=6)


def test_brute_force_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = lipschitz_instance(random_mlp(9, (3, 6, 4, 1)))
    whole = brute_force(instance)
    monkeypatch.setattr(import_module("geolip_lirpa.baselines.brute_force"), "_BATCH_NUMBERS", 1)
    assert brute_force(instance) == pytest.approx(whole, rel=1e-14)


@given(seeds, norms, outputs)
def test_samples_stay_below_the_formal_constant(seed: int, norm: Norm, output: OutputNorm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (3, 5, 4, 2)), norm=norm, output=output)
    bound = sampled_lower_bound(instance, 40, seed)
    assert 0.0 <= bound.value <= brute_force(instance) * (1 + SLACK)
    assert bound.value <= bound.secant(instance, 1e-7) * (1 + 1e-6)


def test_samples_come_from_the_region() -> None:
    instance = lipschitz_instance(random_mlp(2, (3, 5, 2)))
    center = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    bound = sampled_lower_bound(instance, 30, region=Region.ball(center, 0.1, Norm.L2))
    assert bound.value > 0 and float((bound.witness - center).norm()) <= 0.1


def test_sampling_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = lipschitz_instance(random_mlp(2, (3, 8, 2)))
    once = sampled_lower_bound(instance, 60).value
    monkeypatch.setattr(import_module("geolip_lirpa.baselines.sampling"), "_BATCH_NUMBERS", 200)
    assert sampled_lower_bound(instance, 60).value == pytest.approx(once, rel=1e-12)
    with pytest.raises(SpecificationError, match="samples=0"):
        sampled_lower_bound(instance, 0)


def test_reference_norm_products_and_small_formal_constants(reference_data: Path) -> None:
    folder = reference_data / "networks" / "relu"
    with open(folder / "reference.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    checked = 0
    for line in lines:
        network = reference_network(folder / line["network"])
        instance = lipschitz_instance(network, int(line["row"]), Norm.parse(line["norm"]))
        expected = float(line["norm_product"])
        assert expected * (1 - 1e-7) <= norm_product(instance) <= expected * (1 + 1e-6), line
        if network.hidden_size <= 16:
            checked += 1
            assert brute_force(instance) == pytest.approx(float(line["pattern_lower_bound"]), rel=1e-6), line
    assert len(lines) == 26 and checked == 8
