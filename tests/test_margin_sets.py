"""Sets of inputs: what proofs take contains them, what attacks take is contained in them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa.concretise import is_cut, linear_minimum
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_values import margin_enclosures, required_margins
from geolip_lirpa.regions import Region
from geolip_lirpa.types import Norm
from tests.margin_cases import NORMS, dense_points, random_set
from tests.networks import random_mlp

SEEDS = st.integers(0, 10_000)


def exactly_inside(margin_set: MarginSet, point: Tensor) -> bool:
    """Membership in rational arithmetic."""
    x, center = ([Fraction(v) for v in t.reshape(-1).tolist()] for t in (point, margin_set.center))
    offset = [abs(a - b) for a, b in zip(x, center, strict=True)]
    eps = Fraction(margin_set.eps)
    sizes = {Norm.L1: sum(offset) <= eps, Norm.L2: sum(v * v for v in offset) <= eps**2, Norm.LINF: max(offset) <= eps}
    low = margin_set.center - math.inf if margin_set.lower is None else margin_set.lower
    high = margin_set.center + math.inf if margin_set.upper is None else margin_set.upper
    return sizes[margin_set.norm] and bool(((low <= point) & (point <= high)).all())


@given(SEEDS, st.sampled_from(NORMS), st.booleans(), st.sampled_from([1e-14, 1e-7, 0.3, 5.0]))
def test_region_lies_within_the_set_and_the_box_around_it(seed: int, norm: Norm, cut: bool, eps: float) -> None:
    margin_set = random_set(seed, 4, norm, cut, eps)
    region, inputs = margin_set.region(), margin_set.input_set()
    wild = margin_set.center + 3 * eps * torch.randn((40, 4), dtype=torch.float64)
    points = torch.cat([region.nearest(wild), region.sample(40, torch.Generator().manual_seed(seed))])
    for point, member in zip(points, region.contains(points).tolist(), strict=True):
        assert exactly_inside(margin_set, point) or not member
    # tiny balls may lose points to rounding, others none
    assert eps < 1e-6 or bool(region.contains(points).all())
    assert bool(region.contains(margin_set.center))
    members = points[region.contains(points)]
    assert bool(((members >= inputs.lower) & (members <= inputs.upper)).all())
    assert bool((region.nearest(members) - members).abs().max() <= 1e-8 * eps + 1e-15)


@given(SEEDS, st.sampled_from([1e-300, 1e-9, 0.1, 1 / 3]))
def test_box_encloses_the_ball_in_exact_arithmetic(seed: int, eps: float) -> None:
    margin_set = random_set(seed, 5, Norm.L2, cut=False, eps=eps)
    inputs = margin_set.input_set()
    for low, middle, high in zip(inputs.lower[0].tolist(), margin_set.center.tolist(), inputs.upper[0], strict=True):
        assert Fraction(low) <= Fraction(middle) - Fraction(eps)
        assert Fraction(float(high)) >= Fraction(middle) + Fraction(eps)


def test_stacked_regions_are_their_parts() -> None:
    sets = [random_set(seed, 3, Norm.L2, cut=seed % 2 == 1) for seed in range(4)]
    stacked = Region.stacked([s.region() for s in sets])
    points = torch.randn((4, 6, 3), dtype=torch.float64)
    near = stacked.nearest(points)
    assert stacked.sample(7, torch.Generator().manual_seed(0)).shape == (4, 7, 3)
    for b, margin_set in enumerate(sets):
        assert torch.equal(near[b], margin_set.region().nearest(points[b]))
        assert torch.equal(stacked.contains(points)[b], margin_set.region().contains(points[b]))
    with pytest.raises(SpecificationError, match="2 norms and shapes"):
        Region.stacked([sets[0].region(), random_set(0, 3, Norm.L1, cut=False).region()])


@given(SEEDS, st.sampled_from([Norm.L2, Norm.L1]))
def test_linear_functions_are_bounded_over_cut_balls(seed: int, norm: Norm) -> None:
    """Below every point of the set, never worse than box or ball, and attained up to the density of the points."""
    margin_set = random_set(seed, 3, norm, cut=True)
    inputs = margin_set.input_set()
    c = torch.randn((6, 1, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found, size = linear_minimum(c, inputs)
    values = (dense_points(margin_set, 20_000) @ c[:, 0].T).amin(0)
    found, size = found[:, 0], size[:, 0]
    assert bool((found <= values + 1e-12 * size).all())
    gap = values - found
    scale = margin_set.eps * c[:, 0].norm(dim=1)
    assert bool((gap <= 0.12 * scale + 1e-12).all())
    box, _ = linear_minimum(c, type(inputs)(inputs.lower, inputs.upper))
    ball, _ = linear_minimum(c, random_set(seed, 3, norm, cut=False).input_set())
    assert bool((found >= torch.maximum(box, ball)[:, 0] - 1e-6 * scale).all())


@given(SEEDS, st.sampled_from([Norm.L2, Norm.L1]))
def test_best_splitting_is_optimal(seed: int, norm: Norm) -> None:
    """No splitting of the coefficients is better: its bound is attained by a point of the cut ball."""
    cp: Any = pytest.importorskip("cvxpy")
    margin_set = random_set(seed, 5, norm, cut=True)
    assert margin_set.lower is not None
    assert margin_set.upper is not None
    c = torch.randn((1, 1, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = cp.Variable(5)
    constraints = [cp.pnorm(x - margin_set.center.numpy(), norm.p) <= margin_set.eps]
    constraints += [x >= margin_set.lower.numpy(), x <= margin_set.upper.numpy()]
    best = cp.Problem(cp.Minimize(c[0, 0].numpy() @ x), constraints).solve(solver="CLARABEL")
    assert float(linear_minimum(c, margin_set.input_set())[0]) == pytest.approx(best, abs=1e-6)


def test_whole_balls_are_not_cut() -> None:
    for norm in NORMS:
        assert not is_cut(random_set(1, 4, norm, cut=False).input_set())
    assert is_cut(random_set(1, 4, Norm.L2, cut=True).input_set())


@given(SEEDS)
def test_margins_at_points_are_enclosed_in_exact_arithmetic(seed: int) -> None:
    network = random_mlp(seed, (3, 4, 2))
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn((2, 3), generator=generator, dtype=torch.float64)
    rows = 1e3 * torch.randn((2, 5, 2), generator=generator, dtype=torch.float64)
    offsets = torch.randn((2, 5), generator=generator, dtype=torch.float64)
    low, high = margin_enclosures(network, points, rows, offsets)
    assert low.shape == high.shape == offsets.shape
    assert bool((high - low <= 1e-10 * rows.abs().sum(-1)).all())
    for b in range(2):
        first, second = (network.nodes[i].operation for i in (1, 3))
        hidden = [max(v, Fraction(0)) for v in exact_affine(first, [Fraction(v) for v in points[b].tolist()])]
        outputs = exact_affine(second, hidden)
        for s in range(5):
            margin = sum((Fraction(c) * v for c, v in zip(rows[b, s].tolist(), outputs, strict=True)), Fraction(0))
            margin += Fraction(float(offsets[b, s]))
            assert Fraction(float(low[b, s])) <= margin <= Fraction(float(high[b, s]))


def exact_affine(operation: object, x: list[Fraction]) -> list[Fraction]:
    weight, bias = operation.parameters[0], operation.bias  # type: ignore[attr-defined]
    products = [[Fraction(w) * v for w, v in zip(row, x, strict=True)] for row in weight.tolist()]
    return [sum(row, Fraction(b)) for row, b in zip(products, bias.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -1.0}, "eps"),
        ({"eps": math.nan}, "eps"),
        ({"eps": math.inf}, "eps"),
        ({"center": torch.tensor([0.0, math.nan])}, "center"),
        ({"lower": torch.tensor([0.5, 0.0])}, "outside of the domain"),
        ({"upper": torch.tensor(-1.0)}, "outside of the domain"),
        ({"upper": torch.ones(3)}, "shape"),
        ({"lower": torch.tensor([-math.inf, 0.0])}, "infinity"),
    ],
)
def test_wrong_sets_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        MarginSet(**{"center": torch.zeros(2), "eps": 1.0, "norm": Norm.L2, **arguments})  # type: ignore[arg-type]


def test_wrong_rows_are_refused() -> None:
    network = random_mlp(0, (2, 3, 2))
    for rows, offsets in (
        (torch.zeros(4, 3), torch.zeros(4)),
        (torch.zeros(4, 2), torch.zeros(3)),
        (torch.full((4, 2), math.nan), torch.zeros(4)),
    ):
        with pytest.raises(SpecificationError, match="rows, offsets"):
            required_margins(network, rows, offsets)
