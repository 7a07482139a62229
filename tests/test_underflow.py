"""Bounds of numbers whose squares or products leave the range of float64 stay on their side of the truth."""

from __future__ import annotations

from decimal import Decimal, localcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import Activation
from geolip_lirpa.baselines import entrywise_bound, norm_product
from geolip_lirpa.baselines.norm_product import _row_lengths, _vector_norm
from geolip_lirpa.crown import InputSet, crown_node_bounds
from geolip_lirpa.enclosures import Enclosure, _smallest_norm
from geolip_lirpa.forms import Forms
from geolip_lirpa.network import AffineOperator, Network, linear_operator, sequential
from geolip_lirpa.positive_definite import sharp_spectral_norm_bound, spectral_norm_bound
from geolip_lirpa.rounding import lengths
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp

scales = st.integers(-1074, 1000)


def layer(*rows: list[float], bias: float | None = None) -> AffineOperator:
    weight = torch.tensor(rows, dtype=torch.float64)
    return linear_operator(weight, None if bias is None else torch.full((len(rows),), bias, dtype=torch.float64))


def network(size: int, *operations: AffineOperator | Activation) -> Network:
    return sequential((size,), [(str(i), operation) for i, operation in enumerate(operations)])


def length(values: list[float]) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return sum((Decimal(v) ** 2 for v in values), Decimal(0)).sqrt()


@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=5), scales)
def test_euclidean_norms_are_rounded_up_at_every_scale(values: list[float], exponent: int) -> None:
    row = np.ldexp(np.array([values]), exponent)
    truth = length(row[0].tolist())
    bounds = [_row_lengths(row, np.zeros_like(row))[0], _row_lengths(np.zeros_like(row), row)[0]]
    bounds += [_vector_norm(row[0], OutputNorm.L2), spectral_norm_bound(row), sharp_spectral_norm_bound(row)]
    bounds.append(spectral_norm_bound(np.zeros_like(row), row))
    assert all(Decimal(float(b)) >= truth for b in bounds)
    close = truth * (1 + Decimal("1e-9")) + Decimal("3e-290")
    assert all(Decimal(float(b)) <= close for b in bounds[:3])
    assert bounds[4] <= bounds[3]


@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=5), scales)
def test_tensor_norms_do_not_depend_on_the_scale(values: list[float], exponent: int) -> None:
    row = torch.from_numpy(np.ldexp(np.array([values]), exponent))
    truth, found = length(row[0].tolist()), Decimal(lengths(row).item())
    assert abs(found - truth) <= truth * Decimal("1e-14") + Decimal("1e-323")


def test_norms_of_zero_are_zero() -> None:
    zero = np.zeros((2, 3))
    assert spectral_norm_bound(zero, zero) == sharp_spectral_norm_bound(zero, zero) == 0.0
    assert _row_lengths(zero, zero).tolist() == [0.0, 0.0]
    assert lengths(torch.zeros(2, 3)).tolist() == [0.0, 0.0]


@given(st.integers(-1060, 300))
def test_smallest_norm_never_exceeds_the_norm(exponent: int) -> None:
    instance = lipschitz_instance(random_mlp(1, (2, 3, 2)), output=OutputNorm.L2)
    value = torch.from_numpy(np.ldexp(np.array([[0.75, 0.625]]), exponent))
    found = _smallest_norm(instance, Enclosure(value, torch.zeros_like(value))).item()
    truth = length((value @ instance.rows.T)[0].tolist())
    assert Decimal(found) <= truth
    assert Decimal(found) >= truth * (1 - Decimal("1e-13")) - Decimal("1e-249")


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e-100])
@pytest.mark.parametrize("kappa", [1.0, 0.75])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_products_of_norms_keep_what_tiny_layers_pass_on(norm: Norm, kappa: float, size: float) -> None:
    # down, down, up, up, then both outputs
    weights = [size, size, 1 / size, 1 / size]
    one = np.zeros(1, dtype=np.int64)
    hidden = {(l, l - 1): np.array([[w]]) for l, w in enumerate(weights, start=1)}
    slopes = (np.zeros(1),) * 4, (np.full(1, kappa),) * 4
    forms = Forms((one,) * 5, hidden, {}, {4: np.ones((2, 1))}, {}, *slopes, rows=2)
    program = SimpleNamespace(forms=forms, input_norm=norm, output=OutputNorm.L2)
    for bound in (norm_product(program), entrywise_bound(program)):
        assert bound >= 2**0.5 * kappa**4 * (1 - 1e-14)
        assert size < 1e-100 or bound <= 2**0.5 * kappa**4 * (1 + 1e-9)


def assert_holds(net: Network, inputs: InputSet, points: torch.Tensor) -> None:
    values = net.forward(points)
    for iterations in (0, 2):
        lower, upper = crown_node_bounds(net, inputs, iterations)[-1]
        assert bool((lower <= values).all()) and bool((values <= upper).all())


def test_crown_charges_coefficients_that_underflow() -> None:
    weights = [layer([1e150]), layer([1e150]), layer([1e-165]), layer([1e-165], bias=-1e-31)]
    net = network(1, layer([1.0]), ReLU(), *weights, ReLU(), layer([1e30]))
    points = torch.linspace(-1, 1, 41, dtype=torch.float64)[:, None]
    assert net.forward(points).max() > 0
    one = torch.ones((1, 1), dtype=torch.float64)
    assert_holds(net, InputSet(-one, one), points)


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1])
def test_crown_dual_norms_of_tiny_coefficients(norm: Norm) -> None:
    first = layer([1.0, 0.5], [0.5, 1.0], bias=10.0)
    last = layer([1e-170, 1e-170], bias=-3.05e-169)
    net = network(2, first, LeakyReLU(0.5), last, ReLU(), layer([1e170]))
    radius = 11.0
    size = radius / (2**0.5 if norm is Norm.L2 else 2)
    points = torch.linspace(-size, size, 41, dtype=torch.float64)[:, None].expand(-1, 2) * (1 - 1e-12)
    box = torch.full((1, 2), radius, dtype=torch.float64)
    assert net.forward(points).max() > 0
    assert_holds(net, InputSet(-box, box, torch.zeros_like(box), radius, norm), points)


def test_crown_keeps_interval_bounds_near_overflow() -> None:
    net = network(1, layer([1e160]), ReLU(), layer([1e160]), ReLU(), layer([1e-300], bias=1.0))
    one = torch.ones((1, 1), dtype=torch.float64)
    lower, upper = crown_node_bounds(net, InputSet(-one, one))[-1]
    assert not bool(lower.isnan() | upper.isnan())
    assert lower.item() <= 1.0 and upper.item() >= 1e20
