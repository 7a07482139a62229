"""Lower bounds never exceed what they bound, and come close to it."""

from __future__ import annotations

import csv
import itertools
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa.activations import Clip, LeakyReLU, ReLU, Tanh
from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.baselines import brute_force, norm_product, sampled_lower_bound
from geolip_lirpa.enclosures import attained_values
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.flips import improve_by_flips
from geolip_lirpa.lower_bounds import (
    AscentOptions,
    Vectors,
    attained_lower_bound,
    attained_lower_bounds,
    pattern_lower_bound,
    pattern_lower_bounds,
)
from geolip_lirpa.network import AffineOperator, Network, linear_operator, sequential
from geolip_lirpa.regions import Region
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual
from tests.reference import reference_network

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])
outputs = st.sampled_from([OutputNorm.ROWS, OutputNorm.L1, OutputNorm.L2])
activations = st.sampled_from([ReLU(), LeakyReLU(0.1), Tanh(), Clip(-0.5, 0.5)])
SLACK = 1e-12
QUICK = AscentOptions(iterations=15, starts=6, samples=60)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_dimensional(seed: int, width: int = 6) -> Network:
    return random_mlp(seed, (1, width, 1))


def exact_constant(network: Network, lower: float = -math.inf, upper: float = math.inf) -> float:
    """Largest slope of a one-dimensional ReLU network with one hidden layer, piece by piece."""
    first, second = (n.operation for n in network.nodes if isinstance(n.operation, AffineOperator))
    assert first.bias is not None
    kinks = sorted(float(k) for k in -first.bias / first.parameters[0][:, 0] if lower < k < upper)
    ends = [max(lower, min([*kinks, 0.0]) - 2), *kinks, min(upper, max([*kinks, 0.0]) + 2)]
    middles = torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(ends)], dtype=torch.float64)
    active = (middles[:, None] * first.parameters[0][:, 0] + first.bias > 0).to(torch.float64)
    return float((active * first.parameters[0][:, 0] @ second.parameters[0][0]).abs().max())


def exact_rate(network: Network, x: Tensor, d: Tensor) -> list[Fraction]:
    """J(x) d of a ReLU chain in rational arithmetic."""
    value, rate = [Fraction(float(v)) for v in x], [Fraction(float(v)) for v in d]
    for node in network.nodes[1:]:
        if isinstance(node.operation, AffineOperator):
            weight = [[Fraction(float(w)) for w in row] for row in node.operation.parameters[0]]
            bias = node.operation.bias if node.operation.bias is not None else torch.zeros(len(weight))
            value = [
                sum(w * v for w, v in zip(r, value, strict=True)) + Fraction(float(b))
                for r, b in zip(weight, bias, strict=True)
            ]
            rate = [sum((w * v for w, v in zip(row, rate, strict=True)), Fraction(0)) for row in weight]
        else:
            rate = [r if v > 0 else Fraction(0) for v, r in zip(value, rate, strict=True)]
            value = [max(v, Fraction(0)) for v in value]
    return rate


# --- the order of bounds ---------------------------------------------------------------------------------------------


@given(seeds, norms, outputs, activations, st.booleans())
def test_order_of_bounds(seed: int, norm: Norm, output: OutputNorm, activation: Activation, chain: bool) -> None:
    network = random_mlp(seed, (3, 4, 4, 2), activation) if chain else random_residual(seed, 4, 2, activation)
    scale = torch.rand(network.input_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    instance = lipschitz_instance(network, norm=norm, output=output, input_scale=scale)
    formal = brute_force(instance)
    pattern = pattern_lower_bound(instance, starts=8, seed=seed)
    attained = attained_lower_bound(instance, pattern=pattern, options=QUICK, seed=seed)
    assert 0 < attained.value <= formal * (1 + SLACK)
    assert 0 < pattern.value <= formal * (1 + SLACK)
    assert formal <= norm_product(instance) * (1 + SLACK)


@given(seeds, norms, outputs)
def test_patterns_come_close_to_the_formal_constant(seed: int, norm: Norm, output: OutputNorm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (4, 6, 5, 2)), norm=norm, output=output)
    assert pattern_lower_bound(instance).value >= 0.97 * brute_force(instance)


@settings(max_examples=12)
@given(seeds)
def test_attained_bound_finds_the_true_constant_in_one_dimension(seed: int) -> None:
    network = one_dimensional(seed)
    bound = attained_lower_bound(lipschitz_instance(network))
    exact = exact_constant(network)
    assert 0.9 * exact <= bound.value <= exact * (1 + SLACK)


@given(seeds, st.floats(-3, 3), st.floats(0.05, 2))
def test_local_bound_stays_below_the_local_constant(seed: int, center: float, radius: float) -> None:
    network = one_dimensional(seed)
    region = Region.box(vector(center - radius), vector(center + radius))
    bound = attained_lower_bound(lipschitz_instance(network), region, options=QUICK, seed=seed)
    exact = exact_constant(network, center - radius, center + radius)
    assert bound.value <= exact * (1 + SLACK)
    assert bool(region.contains(bound.witness))


def test_local_bound_usually_finds_the_local_constant() -> None:
    region = Region.box(vector(-0.5), vector(1.0))
    found = [attained_lower_bound(lipschitz_instance(one_dimensional(seed)), region).value for seed in range(12)]
    exact = [exact_constant(one_dimensional(seed), -0.5, 1.0) for seed in range(12)]
    assert sum(value >= 0.99 * truth for value, truth in zip(found, exact, strict=True)) >= 10


@settings(max_examples=10)
@given(seeds, norms)
def test_attained_bound_is_at_least_as_good_as_samples(seed: int, norm: Norm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (4, 8, 8, 1)), norm=norm)
    assert attained_lower_bound(instance).value >= 0.97 * sampled_lower_bound(instance, 200, seed).value


@given(seeds, norms, outputs)
def test_witness_replays(seed: int, norm: Norm, output: OutputNorm) -> None:
    instance = lipschitz_instance(random_mlp(seed, (3, 6, 5, 2)), norm=norm, output=output)
    bound = attained_lower_bound(instance, options=QUICK)
    assert bound.secant(instance, 1e-7) == pytest.approx(bound.value, rel=1e-5)


def test_smooth_networks_are_climbed() -> None:
    # one tanh neuron: the constant is |w2 w1|, attained where its argument vanishes
    network = sequential(
        (2,),
        [
            ("a", linear_operator(torch.tensor([[2.0, -1.0]]), torch.tensor([3.0]))),
            ("t", Tanh()),
            ("b", linear_operator(torch.tensor([[5.0]]))),
        ],
    )
    bound = attained_lower_bound(lipschitz_instance(network))
    assert 15 * (1 - 1e-6) <= bound.value <= 15


# --- nothing is claimed that rounding could spoil ---------------------------------------------------------------------


@given(seeds, st.sampled_from([1e-8, 1.0, 1e8]))
def test_attained_values_are_below_rational_arithmetic(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    network = random_mlp(seed, (3, 5, 4, 1))
    points = size * torch.randn((4, 3), dtype=torch.float64, generator=generator)
    directions = torch.randn((4, 3), dtype=torch.float64, generator=generator)
    instance = lipschitz_instance(network)
    values, _ = attained_values(instance, points, directions)
    for x, d, value in zip(points, directions, values, strict=True):
        exact = abs(exact_rate(network, x, d)[0]) / max(abs(Fraction(float(v))) for v in d)
        assert exact * (1 - Fraction(1, 10**9)) - Fraction(1, 10**12) <= Fraction(float(value)) <= exact


@given(seeds, st.integers(20, 60))
def test_cancellation_near_a_kink_proves_nothing_false(seed: int, exponent: int) -> None:
    # v = K x1 - K x2 + b with x1 almost x2: float64 may see the wrong sign
    generator = torch.Generator().manual_seed(seed)
    large = float(2**exponent)
    network = sequential(
        (2,),
        [
            ("a", linear_operator(torch.tensor([[large, -large]]), torch.randn(1, generator=generator))),
            ("r", ReLU()),
            ("b", linear_operator(torch.tensor([[1.0]]))),
        ],
    )
    x = torch.rand(1, dtype=torch.float64, generator=generator)
    steps = torch.randint(-4, 5, (8, 1), generator=generator) * 2.0**-53
    points = torch.cat([x.expand(8, 1), x + steps], dim=1)
    values, _ = attained_values(lipschitz_instance(network), points, torch.tensor([[1.0, -1.0]] * 8).double())
    for point, value in zip(points, values, strict=True):
        assert Fraction(float(value)) <= abs(exact_rate(network, point, vector(1, -1))[0])


def test_a_point_on_a_kink_proves_nothing_false() -> None:
    # relu(x) - relu(-x) = x has constant 1; both derivatives taken from the right at 0 would give 2
    network = sequential(
        (1,),
        [
            ("a", linear_operator(torch.tensor([[1.0], [-1.0]]))),
            ("r", ReLU()),
            ("b", linear_operator(torch.tensor([[1.0, -1.0]]))),
        ],
    )
    values, _ = attained_values(lipschitz_instance(network), torch.zeros((1, 1)).double(), torch.ones((1, 1)).double())
    assert float(values[0]) <= 1.0
    bound = attained_lower_bound(lipschitz_instance(network), Region.box(vector(0.0), vector(0.0)))
    assert bound.value == 0.0


def test_overflow_gives_a_finite_answer() -> None:
    huge = torch.full((3, 3), 1e38)
    layers = [(f"w{k}", linear_operator(huge)) for k in range(10)]
    operations = [part for name, layer in layers for part in ((name, layer), (f"r{name}", ReLU()))][:-1]
    instance = lipschitz_instance(sequential((3,), operations))
    bound = attained_lower_bound(instance, options=QUICK)
    assert bound.value == 0.0 and norm_product(instance) == math.inf


def test_coordinates_that_cannot_vary_do_not_count() -> None:
    network = sequential((2,), [("a", linear_operator(torch.tensor([[1.0, 100.0]])))])
    region = Region.ball(vector(1.0, 1.0), vector(0.5, 0.0), Norm.L2)
    for norm in (Norm.LINF, Norm.L2):
        bound = attained_lower_bound(lipschitz_instance(network, norm=norm), region)
        assert bound.value <= 1.0 and bound.direction[1] == 0.0
    scaled = lipschitz_instance(network, input_scale=vector(2.0, 0.0))
    assert attained_lower_bound(scaled).value == pytest.approx(2.0, rel=1e-12)
    assert pattern_lower_bound(scaled).value == pytest.approx(2.0, rel=1e-12)


def test_points_outside_the_region_prove_nothing() -> None:
    instance = lipschitz_instance(random_mlp(1, (2, 4, 1)))
    points, directions = torch.tensor([[0.0, 0.0], [0.9, 0.9]]).double(), torch.ones((2, 2)).double()
    free, _ = attained_values(instance, points, directions)
    values, _ = attained_values(instance, points, directions, Region.ball(vector(0, 0), 1.0, Norm.L2))
    assert float(free[1]) > 0 and values.tolist() == [float(free[0]), 0.0]


# --- regions ---------------------------------------------------------------------------------------------------------


@given(seeds, st.sampled_from(list(Norm)), st.sampled_from([1e-12, 1e-3, 1.0, 1e6]))
def test_regions_contain_their_samples_and_projections(seed: int, norm: Norm, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(4, dtype=torch.float64, generator=generator)
    radius = size * torch.rand(4, dtype=torch.float64, generator=generator)
    radius[0] = 0.0
    region = Region.ball(center, radius, norm)
    far = center + 3 * torch.randn((20, 4), dtype=torch.float64, generator=generator)
    points = torch.cat([region.sample(20, generator), region.nearest(far)])
    exact = [[Fraction(float(v)) for v in (*point,)] for point in points]
    for point, inside in zip(exact, region.contains(points), strict=True):
        ratios = [
            abs(p - Fraction(float(c))) / Fraction(float(r)) if r > 0 else Fraction(int(p != Fraction(float(c))) * 9)
            for p, c, r in zip(point, center, radius, strict=True)
        ]
        total = {Norm.LINF: max(ratios), Norm.L1: sum(ratios), Norm.L2: sum(r * r for r in ratios)}[norm]
        assert not bool(inside) or total <= 1
        # a set that is small beside its centre has few floating-point numbers in it
        assert float(total) <= 1 + 1e-6 or size < 1e-9
    assert size < 1e-9 or bool(region.contains(points).all())
    assert not bool(region.contains(center + 1.01 * size + 0.01))


def test_regions_refuse_bad_input() -> None:
    with pytest.raises(SpecificationError, match=r"lower=1\.0 above upper=0\.0"):
        Region.box(vector(1.0), vector(0.0))
    with pytest.raises(SpecificationError, match=r"radius of -1\.0"):
        Region.ball(vector(1.0), -1.0, Norm.L2)
    with pytest.raises(SpecificationError, match="center has 1 entries"):
        Region.ball(vector(math.nan), 1.0, Norm.L2)
    with pytest.raises(SpecificationError, match="length 2 where 1"):
        Region.box(vector(0.0), vector(1.0, 2.0))


@given(seeds, st.sampled_from([Norm.L1, Norm.L2]))
def test_bounds_over_balls_have_witnesses_inside(seed: int, norm: Norm) -> None:
    network = random_mlp(seed, (3, 6, 2))
    center = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    instance, region = lipschitz_instance(network), Region.ball(center, 0.3, norm)
    bound = attained_lower_bound(instance, region, options=QUICK)
    assert 0 <= bound.value <= brute_force(instance)
    assert float((bound.witness - center).norm(p=norm.p)) <= 0.3


def test_search_in_balls_finds_what_samples_find() -> None:
    """On the whole: a single small ball may hide its steepest piece from a search with few starts."""
    found = sampled = 0.0
    for seed in range(20):
        norm = Norm.L2 if seed % 2 else Norm.L1
        center = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        instance, region = lipschitz_instance(random_mlp(seed, (3, 6, 2))), Region.ball(center, 0.3, norm)
        found += attained_lower_bound(instance, region, options=QUICK).value
        sampled += sampled_lower_bound(instance, 50, seed, region).value
    assert found >= 0.98 * sampled


# --- interface -------------------------------------------------------------------------------------------------------


def test_low_rank_vectors_round_to_good_patterns() -> None:
    instance = lipschitz_instance(random_mlp(5, (5, 7, 6, 1)))
    factor = LowRankSolver().solve([instance])[0].factor
    bound = pattern_lower_bound(instance, factor.input, factor.hidden, starts=8)
    assert bound.value >= 0.97 * brute_force(instance)
    with pytest.raises(SpecificationError, match="only one of inputs and activations"):
        pattern_lower_bound(instance, factor.input)
    with pytest.raises(SpecificationError, match=r"got \[5, 7, 7\] rows; allowed are \[5, 7, 6\]"):
        pattern_lower_bound(instance, factor.input, (factor.hidden[0], factor.hidden[0]))
    with pytest.raises(SpecificationError, match="got 2 for 1 instances"):
        pattern_lower_bounds([instance], [Vectors(factor.input, factor.hidden)] * 2)


def test_flips_only_help() -> None:
    for seed in range(10):
        instance = lipschitz_instance(random_mlp(seed, (4, 12, 12, 1)))
        plain = pattern_lower_bounds([instance], starts=1, flips=0)[0].value
        assert pattern_lower_bounds([instance], starts=1, flips=30)[0].value >= plain * (1 - 1e-12)


@given(seeds, norms)
def test_no_flip_improves_a_flipped_pattern(seed: int, norm: Norm) -> None:
    network = random_mlp(seed, (4, 5, 4, 1))
    instance = lipschitz_instance(network, norm=norm)
    start = [torch.zeros(len(i.lower), dtype=torch.float64) + (k % 2) for k, i in enumerate(instance.slopes)]
    start[0][::2] = 1.0
    found = improve_by_flips(instance, start, torch.ones(1).double(), 100)

    def size(slopes: list[Tensor]) -> float:
        gradient = network.propagate(torch.eye(4, dtype=torch.float64), lambda l, v: slopes[l] * v)[:, 0]
        return float(gradient.norm(p=1 if norm is Norm.LINF else 2))

    best = size(found)
    assert best >= size(start) * (1 - SLACK)
    for l, slopes in enumerate(found):
        for i in range(len(slopes)):
            flipped = [s.clone() for s in found]
            flipped[l][i] = 1.0 - slopes[i]
            assert size(flipped) <= best * (1 + 1e-8)


def test_pattern_slopes_attain_the_bound() -> None:
    network = random_mlp(6, (4, 6, 5, 1))
    instance = lipschitz_instance(network)
    bound = pattern_lower_bound(instance)
    for slopes, interval in zip(bound.slopes, instance.slopes, strict=True):
        assert bool(((slopes == interval.lower) | (slopes == interval.upper)).all())
    frozen = tuple(SlopeInterval(s, s) for s in bound.slopes)
    fixed = SdpInstance(network, frozen, Norm.LINF, instance.input_scale, instance.rows)
    assert brute_force(fixed) == pytest.approx(bound.value, rel=1e-12)


@given(seeds, norms)
def test_rows_of_one_network_share_a_batch(seed: int, norm: Norm) -> None:
    network = random_mlp(seed, (3, 6, 5, 3))
    instances = [lipschitz_instance(network, row, norm) for row in range(3)]
    for instance, pattern, attained in zip(
        instances, pattern_lower_bounds(instances), attained_lower_bounds(instances, options=QUICK), strict=True
    ):
        formal = brute_force(instance)
        assert 0.95 * formal <= pattern.value <= formal * (1 + SLACK)
        assert 0 < attained.value <= formal * (1 + SLACK)
        assert attained.secant(instance, 1e-7) == pytest.approx(attained.value, rel=1e-5)


def test_same_seed_same_answer() -> None:
    instance = lipschitz_instance(random_mlp(8, (4, 8, 8, 1)))
    first, second = (attained_lower_bound(instance, options=QUICK, seed=3) for _ in range(2))
    assert first.value == second.value and torch.equal(first.witness, second.witness)


def test_mismatches_are_refused() -> None:
    one, other = lipschitz_instance(random_mlp(1, (2, 3, 1))), lipschitz_instance(random_mlp(2, (2, 3, 1)))
    with pytest.raises(SpecificationError, match="instance 1 differs from instance 0"):
        attained_lower_bounds([one, other])
    with pytest.raises(SpecificationError, match="no instances"):
        pattern_lower_bounds([])
    with pytest.raises(SpecificationError, match="0 patterns for 1 instances"):
        attained_lower_bounds([one], patterns=[])
    with pytest.raises(SpecificationError, match="region of 3 coordinates; the network has 2"):
        attained_lower_bound(one, Region.box(torch.zeros(3), torch.ones(3)))


def test_network_without_activations() -> None:
    network = sequential((2,), [("a", linear_operator(torch.tensor([[3.0, -4.0]])))])
    for norm, exact in ((Norm.LINF, 7.0), (Norm.L2, 5.0)):
        instance = lipschitz_instance(network, norm=norm)
        assert pattern_lower_bound(instance).value == pytest.approx(exact, rel=1e-12)
        assert attained_lower_bound(instance).value == pytest.approx(exact, rel=1e-12)


def test_reference_lower_bounds(reference_data: Path) -> None:
    folder = reference_data / "networks" / "relu"
    with open(folder / "reference.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        network = reference_network(folder / line["network"])
        instance = lipschitz_instance(network, int(line["row"]), Norm.parse(line["norm"]))
        pattern = pattern_lower_bound(instance)
        attained = attained_lower_bound(instance, pattern=pattern)
        upper = float(line["sdp_value"] or line["norm_product"])
        assert 0.97 * float(line["pattern_lower_bound"]) <= pattern.value <= upper * (1 + 1e-6), line
        assert 0.93 * float(line["attained_lower_bound"]) <= attained.value <= upper * (1 + 1e-6), line
