"""Slope intervals of activations against secants in high precision, and values against torch."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp

from geolip_lirpa.activations import ACTIVATIONS, ELU, GELU, Clip, LeakyReLU, PReLU, ReLU, SiLU, SlopeInterval, Softplus
from geolip_lirpa.activations.monotone import SLACK, TINY, MonotonePieces
from geolip_lirpa.activations.piecewise import PiecewiseLinear
from geolip_lirpa.errors import SpecificationError
from tests.activation_cases import CASES, Case

over_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
ENDS = st.one_of(
    st.floats(-6, 6), st.floats(-40, 40), st.sampled_from([-1e4, -1.0, -1e-9, 0.0, 1e-30, 1e-9, 1.0, 6.0, 1e4])
)
MODERATE = st.floats(-8, 8)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def grid(case: Case, lower: float, upper: float, *near: float) -> torch.Tensor:
    """Points strictly inside the interval: evenly spaced, near both ends, and near special points."""
    points = torch.linspace(lower, upper, 8001, dtype=torch.float64)[1:-1]
    special = tensor(lower, upper, *case.kinks, *near)
    points = torch.cat([points, special - 1e-9, special + 1e-9])
    return points[(points > lower) & (points < upper)]


def slopes_on(case: Case, points: torch.Tensor) -> torch.Tensor:
    points = points.clone().requires_grad_()
    case.activation.value(points).sum().backward()
    assert points.grad is not None
    return points.grad


def holds(case: Case, interval: SlopeInterval, first: float, second: float, index: int = 0) -> bool:
    """Whether the slope between two points lies in the interval; without rounding for piecewise linear functions."""
    digits = math.log10(max(abs(first), abs(second), 1.0)) - math.log10(abs(first - second))
    exact = isinstance(case.activation, PiecewiseLinear)
    with mp.workdps(1400 if exact else 60 + 3 * int(digits + 1)):
        a, b = mp.mpf(min(first, second)), mp.mpf(max(first, second))
        rise = case.real(b) - case.real(a)
        return bool(interval.lower[index].item() * (b - a) <= rise <= interval.upper[index].item() * (b - a))


def contains(interval: SlopeInterval, slope: mpmath.mpf, index: int = 0) -> bool:
    return bool(interval.lower[index].item() <= slope <= interval.upper[index].item())


def separated(case: Case, lower: float, upper: float) -> bool:
    """Whether sampling resolves the interval: it is not tiny and no end lies just beside a kink."""
    gaps = [abs(end - kink) for end in (lower, upper) for kink in case.kinks]
    return upper - lower > 1e-4 and not any(0 < gap < 1e-4 for gap in gaps)


def test_every_entry_of_the_table_has_a_case() -> None:
    assert {case.activation.name for case in CASES} == set(ACTIVATIONS)
    assert all(ACTIVATIONS[case.activation.name] is type(case.activation) for case in CASES)


def test_the_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        ACTIVATIONS["ReLU"] = ELU  # type: ignore[index]


@over_cases
@given(first=ENDS, second=ENDS, shares=st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_derivative_range_contains_all_secants(case: Case, first: float, second: float, shares: list[float]) -> None:
    lower, upper = min(first, second), max(first, second)
    interval = case.activation.derivative_range(tensor(lower), tensor(upper))
    inner = [min(max(lower + share * (upper - lower), lower), upper) for share in shares]
    points = sorted({lower, upper, *inner, *(k for k in case.kinks if lower <= k <= upper)})
    for a, b in itertools.combinations(points, 2):
        assert holds(case, interval, a, b), (a, b)


@over_cases
def test_the_range_at_one_point_contains_the_exact_derivative(case: Case) -> None:
    # a whole vector: the vectorised kernels of the library, from 1e-20 to 800 on both sides
    generator = torch.Generator().manual_seed(0)
    size = 10 ** (23 * torch.rand(150, generator=generator, dtype=torch.float64) - 20)
    points = torch.cat([size, -size, torch.linspace(-9, 9, 150, dtype=torch.float64)])
    points = points[points.abs() < 800]
    interval = case.activation.derivative_range(points, points)
    with mp.workdps(50):
        for index, point in enumerate(points.tolist()):
            assert contains(interval, case.derivative(mp.mpf(point)), index), point


@pytest.mark.parametrize("case", [c for c in CASES if isinstance(c.activation, MonotonePieces)], ids=lambda c: c.label)
def test_values_are_as_accurate_as_their_magnitudes_say(case: Case) -> None:
    assert isinstance(case.activation, MonotonePieces)
    points = torch.cat([torch.linspace(-701.7, 703.3, 201, dtype=torch.float64), torch.linspace(-9, 9, 201).double()])
    value, magnitude = case.activation.estimate_value(points)
    slack = SLACK * magnitude + TINY
    with mp.workdps(50):
        for index, point in enumerate(points.tolist()):
            error = abs(case.real(mp.mpf(point)) - value[index].item())
            assert error <= slack[index].item(), point


@over_cases
@given(first=MODERATE, second=MODERATE)
def test_derivative_range_is_tight(case: Case, first: float, second: float) -> None:
    lower, upper = min(first, second), max(first, second)
    if not separated(case, lower, upper):
        return
    interval = case.activation.derivative_range(tensor(lower), tensor(upper))
    slopes = slopes_on(case, grid(case, lower, upper))
    assert interval.lower.item() == pytest.approx(slopes.min().item(), abs=1e-6)
    assert interval.upper.item() == pytest.approx(slopes.max().item(), abs=1e-6)


@over_cases
@given(first=MODERATE, second=MODERATE, share=st.floats(0, 1))
def test_secant_range_is_sound_and_tight(case: Case, first: float, second: float, share: float) -> None:
    lower, upper = min(first, second), max(first, second)
    center = min(max(lower + share * (upper - lower), lower), upper)
    if not separated(case, lower, upper):
        return
    interval = case.activation.secant_range(tensor(center), tensor(lower), tensor(upper))
    points = torch.cat([grid(case, lower, upper, center - 1e-6, center + 1e-6), tensor(lower, upper)])
    points = points[(points - center).abs() > 5e-7]
    slopes = (case.activation.value(points) - case.activation.value(tensor(center))) / (points - center)
    for extreme in (slopes.argmin(), slopes.argmax()):
        assert holds(case, interval, points[extreme].item(), center), points[extreme].item()
    assert interval.lower.item() == pytest.approx(slopes.min().item(), abs=1e-5)
    assert interval.upper.item() == pytest.approx(slopes.max().item(), abs=1e-5)


@over_cases
@given(center=ENDS, first=ENDS, second=ENDS, share=st.floats(0, 1))
def test_secant_range_contains_secants(case: Case, center: float, first: float, second: float, share: float) -> None:
    lower, upper = min(center, first, second), max(center, first, second)
    interval = case.activation.secant_range(tensor(center), tensor(lower), tensor(upper))
    inner = min(max(lower + share * (upper - lower), lower), upper)
    for v in {lower, upper, inner, *(k for k in case.kinks if lower <= k <= upper)} - {center}:
        assert holds(case, interval, v, center), v


@over_cases
@given(ends=st.lists(ENDS, min_size=4, max_size=4), share=st.floats(0, 1))
def test_smaller_intervals_have_smaller_ranges(case: Case, ends: list[float], share: float) -> None:
    outer_lower, lower, upper, outer_upper = sorted(ends)
    if lower == upper:
        return
    center = min(max(lower + share * (upper - lower), lower), upper)
    exact = isinstance(case.activation, PiecewiseLinear)
    inner = case.activation.derivative_range(tensor(lower), tensor(upper))
    outer = case.activation.derivative_range(tensor(outer_lower), tensor(outer_upper))
    assert_nested(inner, outer, 0.0 if exact else 1e-13)
    inner = case.activation.secant_range(tensor(center), tensor(lower), tensor(upper))
    outer = case.activation.secant_range(tensor(center), tensor(outer_lower), tensor(outer_upper))
    assert_nested(inner, outer, 1e-13 if exact else 1e-7)


def assert_nested(inner: SlopeInterval, outer: SlopeInterval, tolerance: float) -> None:
    assert (outer.lower <= inner.lower + tolerance).all()
    assert (inner.upper <= outer.upper + tolerance).all()


EXTREME = (5e-324, 1e-300, 1e-8, 1.0, 30.0, 800.0, 1e30, 1e308)
FINITE = (*(-v for v in reversed(EXTREME)), 0.0, *EXTREME)


@over_cases
def test_extreme_intervals_give_finite_ordered_ranges(case: Case) -> None:
    ends = (-math.inf, *FINITE, math.inf)
    table = [(c, lo, hi) for lo, c, hi in itertools.combinations_with_replacement(ends, 3) if math.isfinite(c)]
    center, lower, upper = tensor(*itertools.chain(*table)).reshape(-1, 3).T
    whole = case.activation.derivative_range(tensor(-math.inf), tensor(math.inf))
    free = case.activation.derivative_range(lower, upper)
    anchored = case.activation.secant_range(center, lower, upper)
    for interval in (free, anchored):
        assert torch.isfinite(interval.lower).all()
        assert torch.isfinite(interval.upper).all()
        assert (interval.lower <= interval.upper).all()
    assert_nested(anchored, free, 0.0)
    assert_nested(free, whole, 0.0)


@over_cases
def test_extreme_intervals_contain_their_end_to_end_secants(case: Case) -> None:
    pairs = list(itertools.combinations([v for v in FINITE if abs(v) < 1e300], 2))
    lower, upper = tensor(*itertools.chain(*pairs)).reshape(-1, 2).T
    ranges = (
        case.activation.derivative_range(lower, upper),
        case.activation.secant_range(lower, lower, upper),
        case.activation.secant_range(upper, lower, upper),
    )
    with mp.workdps(1400):
        values = {v: case.real(mp.mpf(v)) for v in FINITE if abs(v) < 1e300}
        for index, (a, b) in enumerate(pairs):
            rise, run = values[b] - values[a], mp.mpf(b) - mp.mpf(a)
            for interval in ranges:
                assert interval.lower[index].item() * run <= rise <= interval.upper[index].item() * run, (a, b)


@over_cases
def test_values_match_torch_with_finite_gradients(case: Case) -> None:
    points = torch.cat([torch.linspace(-50, 50, 2001, dtype=torch.float64), tensor(0.0, 1e-300, 1e6, -1e6)])
    value = case.activation.value(points.reshape(5, 401))
    # torch's softplus jumps by 2e-9
    torch.testing.assert_close(value.flatten(), case.module(points), rtol=1e-14, atol=3e-9)
    assert torch.isfinite(slopes_on(case, points)).all()
    single = case.activation.value(points.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), value.flatten(), rtol=1e-4, atol=1e-5)


@given(center=st.floats(-1e15, 1e15), left=st.floats(0, 10), right=st.floats(0, 10))
@pytest.mark.parametrize("case", CASES[-2:], ids=lambda case: case.label)
def test_periodic_ranges_hold_far_from_zero(case: Case, center: float, left: float, right: float) -> None:
    lower, upper = center - left, center + right
    free = case.activation.derivative_range(tensor(lower), tensor(upper))
    anchored = case.activation.secant_range(tensor(center), tensor(lower), tensor(upper))
    for v in (lower, upper, center - left / 2, center + right / 2):
        assert contains(free, case.derivative(mp.mpf(v)))
        assert v == center or holds(case, anchored, v, center)


@pytest.mark.parametrize(
    ("activation", "second_derivative"),
    [
        (SiLU(), lambda v: 2 - v * mp.tanh(v / 2)),
        (GELU(), lambda v: 2 - v * v),
        (GELU("tanh"), lambda v: mp.diff(lambda x: case_named("gelu-tanh").derivative(x), v)),
    ],
)
def test_turning_points_are_correctly_rounded(activation: SiLU | GELU, second_derivative: object) -> None:
    case = next(case for case in CASES if case.activation == activation)
    with mp.workdps(50):
        turn = mp.findroot(second_derivative, activation.turn)
        assert float(turn) == activation.turn
        assert float(case.derivative(turn)) == activation.top
        whole = activation.derivative_range(tensor(-math.inf), tensor(math.inf))
        assert contains(whole, case.derivative(turn))
        assert contains(whole, case.derivative(-turn))
        assert whole.upper.item() - float(case.derivative(turn)) < 1e-15


def case_named(label: str) -> Case:
    return next(case for case in CASES if case.label == label)


def test_stable_relu_neurons_are_exactly_fixed() -> None:
    lower, upper, center = tensor(0.0, -3.0, 1e-300, -1.0), tensor(2.0, 0.0, 5.0, 3.0), tensor(1.0, -1e-9, 2.0, -0.5)
    free = ReLU().derivative_range(lower, upper)
    assert free.lower.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert free.upper.tolist() == [1.0, 0.0, 1.0, 1.0]
    anchored = ReLU().secant_range(center, lower, upper)
    assert anchored.fixed.tolist() == [True, True, True, False]
    # u / (u - v0)
    assert anchored.upper[3].item() == pytest.approx(3.0 / 3.5, rel=1e-14)
    assert anchored.upper[3].item() >= 3.0 / 3.5
    assert anchored.lower[3].item() == 0.0


def test_prelu_weights_broadcast_over_channels_and_cast() -> None:
    activation = PReLU(torch.tensor([0.5, -2.0]).reshape(2, 1, 1))
    end = torch.full((3, 2, 4, 4), math.inf, dtype=torch.float64)
    interval = activation.derivative_range(-end, end)
    assert interval.lower.shape == (3, 2, 4, 4)
    assert interval.lower[1, :, 0, 0].tolist() == [0.5, -2.0]
    assert (interval.upper == 1.0).all()
    assert activation.to(torch.float64).weight.dtype == torch.float64


@pytest.mark.parametrize(
    "construct",
    [
        lambda: LeakyReLU(math.nan),
        lambda: PReLU(torch.tensor([0.1, math.inf])),
        lambda: Clip(1.0, -1.0),
        lambda: Clip(math.nan, 1.0),
        lambda: Softplus(beta=0.0),
        lambda: Softplus(threshold=5.0),
        lambda: ELU(math.inf),
        lambda: GELU("sigmoid"),
    ],
)
def test_impossible_parameters_are_refused(construct: object) -> None:
    with pytest.raises(SpecificationError, match="allowed"):
        construct()  # type: ignore[operator]
