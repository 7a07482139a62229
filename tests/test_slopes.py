"""Slope intervals of whole networks: shapes, refusals, and that they hold for real increments."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa.activations import GELU, Abs, Activation, PReLU, ReLU, SlopeInterval, Tanh
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.slopes import anchored_slopes, global_slopes, local_slopes

WIDTH = 6


def network_of(*activations: Activation, seed: int = 0) -> Network:
    generator = torch.Generator().manual_seed(seed)
    operations: list[tuple[str, object]] = []
    width = 3
    for index, activation in enumerate(activations):
        weight = torch.randn(WIDTH, width, generator=generator)
        operations += [(f"linear{index}", linear_operator(weight, weight[:, 0])), (f"act{index}", activation)]
        width = WIDTH
    operations.append(("last", linear_operator(torch.ones(1, width))))
    return sequential((3,), operations)  # type: ignore[arg-type]


def preactivations(network: Network, x: Tensor) -> list[Tensor]:
    values = network.values(x)
    return [values[network.nodes[position].inputs[0]] for position in network.activations]


def sampled(network: Network, count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return preactivations(network, torch.randn(count, 3, generator=generator, dtype=torch.float64))


def assert_slopes(
    network: Network, values: list[Tensor], start: list[Tensor], slopes: tuple[SlopeInterval, ...]
) -> None:
    """Every increment from `start` (broadcast) obeys lower dv <= dz <= upper dv, for dv >= 0, up to float64 noise."""
    for position, v, v0, slope in zip(network.activations, values, start, slopes, strict=True):
        operation = network.nodes[position].operation
        assert isinstance(operation, Activation)
        increment, change = v - v0, operation.value(v) - operation.value(v0)
        middle, radius = (slope.upper + slope.lower) / 2, (slope.upper - slope.lower) / 2
        assert ((change - middle * increment).abs() <= radius * increment.abs() + 1e-12).all()


@given(seed=st.integers(0, 10_000))
def test_each_scope_holds_on_its_increments_and_is_inside_the_wider_one(seed: int) -> None:
    network = network_of(ReLU(), GELU(), PReLU(torch.linspace(-1, 1, WIDTH)), Tanh(), seed=seed)
    values = sampled(network, 30, seed)
    bounds = [(v.amin(0), v.amax(0)) for v in values]
    centers = [v[0] for v in values]
    everywhere, local = global_slopes(network), local_slopes(network, bounds)
    anchored = anchored_slopes(network, centers, bounds)
    shuffled = [v.roll(1, 0) for v in values]
    assert_slopes(network, values, shuffled, everywhere)
    assert_slopes(network, values, shuffled, local)
    assert_slopes(network, values, centers, anchored)
    for outer, inner in zip(everywhere + local, local + anchored, strict=True):
        assert inner.lower.shape == inner.upper.shape == (WIDTH,)
        assert inner.lower.dtype == torch.float64
        assert (outer.lower <= inner.lower).all()
        assert (inner.upper <= outer.upper).all()


def test_batched_bounds_give_the_rows_of_single_ones() -> None:
    network = network_of(ReLU(), Tanh())
    values = sampled(network, 4, seed=1)
    bounds = [(v - 0.3, v + 0.5) for v in values]
    local, anchored = local_slopes(network, bounds), anchored_slopes(network, values, bounds)
    for row in range(4):
        single = [(lower[row], upper[row]) for lower, upper in bounds]
        alone = local_slopes(network, single) + anchored_slopes(network, [v[row] for v in values], single)
        for batched, expected in zip(local + anchored, alone, strict=True):
            assert batched.lower.shape == (4, WIDTH)
            torch.testing.assert_close(batched.lower[row], expected.lower, rtol=0, atol=1e-12)
            torch.testing.assert_close(batched.upper[row], expected.upper, rtol=0, atol=1e-12)


def test_global_slopes_of_known_functions() -> None:
    relu, absolute = global_slopes(network_of(ReLU(), Abs()))
    assert relu.lower.tolist() == [0.0] * WIDTH
    assert relu.upper.tolist() == [1.0] * WIDTH
    assert absolute.lower.tolist() == [-1.0] * WIDTH
    assert absolute.upper.tolist() == [1.0] * WIDTH


def test_infinite_bounds_say_as_much_as_none() -> None:
    network = network_of(ReLU(), GELU())
    end = torch.full((WIDTH,), math.inf)
    for local, everywhere in zip(local_slopes(network, [(-end, end)] * 2), global_slopes(network), strict=True):
        assert torch.equal(local.lower, everywhere.lower)
        assert torch.equal(local.upper, everywhere.upper)


def test_anchored_relu_follows_the_rule() -> None:
    network = network_of(ReLU())
    center = torch.tensor([1.0, 2.0, -1.0, -2.0, 0.5, -0.5], dtype=torch.float64)
    lower = torch.tensor([-1.0, 1.0, -3.0, -4.0, -0.5, -1.0], dtype=torch.float64)
    upper = torch.tensor([3.0, 3.0, 3.0, -1.0, 9.0, 0.0], dtype=torch.float64)
    (interval,) = anchored_slopes(network, [center], [(lower, upper)])
    torch.testing.assert_close(interval.lower, torch.tensor([0.5, 1.0, 0.0, 0.0, 0.5, 0.0]).double())
    torch.testing.assert_close(interval.upper, torch.tensor([1.0, 1.0, 0.75, 0.0, 1.0, 0.0]).double())
    assert interval.fixed.tolist() == [False, True, False, True, False, True]


def test_image_shapes_are_flattened_and_channel_weights_broadcast() -> None:
    operations = [("prelu", PReLU(torch.tensor([0.5, 2.0]).reshape(2, 1, 1)))]
    network = sequential((2, 3, 3), operations)
    (everywhere,) = global_slopes(network)
    assert everywhere.lower.tolist() == [0.5] * 9 + [1.0] * 9
    assert everywhere.upper.tolist() == [1.0] * 9 + [2.0] * 9
    ones = torch.ones(5, 2, 3, 3)
    (local,) = local_slopes(network, [(-ones, -ones)])
    assert local.lower.shape == (5, 18)


def test_bounds_that_require_gradients_leave_no_graph() -> None:
    network = network_of(Tanh())
    lower = torch.zeros(WIDTH, requires_grad=True)
    (interval,) = local_slopes(network, [(lower, lower + 1)])
    assert not interval.lower.requires_grad


ZERO, ONE = torch.zeros(WIDTH), torch.ones(WIDTH)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ([], "got 0 entries"),
        ([(ONE, ZERO)], "got lower=1.0, upper=0.0 at index"),
        ([(ZERO, ZERO * math.nan)], "6 NaN entries"),
        ([(ZERO, torch.ones(WIDTH + 1))], r"got shape \(7,\)"),
        ([(ZERO, torch.ones(2, WIDTH))], "allowed are equal shapes"),
        ([(ONE * math.inf, ONE * math.inf)], "got lower=inf"),
        ([(-ONE * math.inf, -ONE * math.inf)], "upper=-inf"),
        ([(0.0, 1.0)], "got float"),
        ([(ZERO,)], "got 1 entries"),
        ([ZERO], "got Tensor"),
        ([3.0], "got float"),
        ([(ZERO.to(torch.complex64), ONE)], "complex64"),
    ],
)
def test_bad_bounds_are_refused_with_place_and_remedy(bounds: list[tuple[Tensor, Tensor]], message: str) -> None:
    network = network_of(ReLU())
    with pytest.raises(SpecificationError, match=message) as caught:
        local_slopes(network, bounds)
    assert "allowed" in str(caught.value)


def test_batches_of_different_size_are_refused() -> None:
    network = network_of(ReLU(), ReLU())
    pair, batch = (ZERO, ONE), (torch.zeros(2, WIDTH), torch.ones(2, WIDTH))
    with pytest.raises(SpecificationError, match=r"different batch sizes \(none, 2\)"):
        local_slopes(network, [pair, batch])


@pytest.mark.parametrize(
    ("center", "message"),
    [
        (ONE * 2, r"got 2.0 outside \[0.0, 1.0\]"),
        (ONE * math.nan, "NaN"),
        (torch.ones(2, WIDTH), "shape of the bounds"),
        (ONE[:2], r"got shape \(2,\)"),
    ],
)
def test_bad_centers_are_refused(center: Tensor, message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        anchored_slopes(network_of(ReLU()), [center], [(ZERO, ONE)])


def test_infinite_centers_are_refused() -> None:
    with pytest.raises(SpecificationError, match="finite values"):
        anchored_slopes(network_of(ReLU()), [ONE * math.inf], [(ZERO, ONE * math.inf)])


def test_missing_centers_are_refused() -> None:
    with pytest.raises(SpecificationError, match="centers: got 0 entries"):
        anchored_slopes(network_of(ReLU()), [], [(ZERO, ONE)])
