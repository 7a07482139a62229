"""Input sets read from the host, and pre-activation bounds that nothing inside the set leaves."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from geolip_lirpa.activations import ACTIVATIONS, Activation, PReLU, ReLU
from geolip_lirpa.affine import matmul_right
from geolip_lirpa.crown import InputSet, crown_bounds, crown_node_bounds
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.interval import affine_bounds, ball_bounds, interval_bounds, node_bounds
from geolip_lirpa.lirpa import (
    Perturbation,
    bounded_input,
    bounded_module,
    extract_network,
    host_version,
    load_host,
    perturbation_of,
    preactivation_bounds,
)
from geolip_lirpa.lirpa.compat import compute_bounds
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.relaxation import Relaxation
from geolip_lirpa.types import Norm
from tests.host_models import Case, Function, cases
from tests.networks import random_mlp

CASES = cases()
VERSION = tuple(int(part) for part in str(host_version()).split(".")[:2])
NORMS = [Norm.LINF, Norm.L2, Norm.L1]
METHODS = ["ibp", "crown", "alpha-crown"]
SMALL = ["mlp", "conv", "residual", "concat", "gather", "normalised_image", "batch_norm_first", "max_pool", "constants"]


def case_for_this_host(name: str) -> Case:
    if CASES[name].version > VERSION:
        pytest.skip(f"auto_LiRPA {host_version()} cannot read it")
    return CASES[name]


def bounded(x: Tensor, norm: Norm = Norm.LINF, eps: Any = 0.1, **limits: Tensor) -> Any:
    host = load_host()
    with np.errstate(divide="ignore"):
        return host.BoundedTensor(x, host.PerturbationLpNorm(norm=norm.p, eps=eps, **limits))


def samples(center: Tensor, radius: float, norm: Norm, count: int) -> Tensor:
    """Points of the ball, many on its boundary and at its corners: (count, B, *shape)."""
    generator = torch.Generator().manual_seed(3)
    d = torch.randn((count, *center.shape), generator=generator, dtype=torch.float64)
    if norm is Norm.LINF:
        d = torch.where(torch.rand(d.shape, generator=generator) < 0.5, d.sign(), d.clamp(-1, 1))
    else:
        flat = d.reshape(*d.shape[:2], -1)
        sparse = torch.rand(flat.shape, generator=generator) < torch.rand(count, 1, 1, generator=generator)
        flat = torch.where(sparse, flat, 0) + 1e-9 * flat
        d = (flat / flat.norm(norm.p, dim=2, keepdim=True)).reshape(d.shape)
    return center.to(torch.float64) + radius * d


def require_inside(network: Network, bounds: list[tuple[Tensor, Tensor]], points: Tensor) -> None:
    """Every sampled pre-activation lies within its bounds, up to the rounding of the sample itself."""
    values = network.values(points.flatten(0, 1))
    assert len(bounds) == len(network.activations)
    for position, (lower, upper) in zip(network.activations, bounds, strict=True):
        node = network.nodes[network.nodes[position].inputs[0]]
        v = values[network.nodes[position].inputs[0]].reshape(*points.shape[:2], *node.shape)
        assert lower.dtype is torch.float64
        assert lower.shape == upper.shape == v.shape[1:]
        rounding = 1e-13 * (1 + v.abs())
        assert bool((v >= lower - rounding).all())
        assert bool((v <= upper + rounding).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SMALL)
def test_nothing_inside_the_set_leaves_the_bounds(name: str, norm: Norm) -> None:
    case = case_for_this_host(name)
    model = bounded_module(case.module, case.shape)
    network = extract_network(model)
    x = torch.randn((2, *case.shape[1:]), generator=torch.Generator().manual_seed(1))
    found = {method: preactivation_bounds(model, (bounded(x, norm, 0.3),), method) for method in METHODS}
    points = samples(x, 0.3, norm, 400)
    for bounds in found.values():
        require_inside(network, bounds, points)
    for (low, high), (wide_low, wide_high) in zip(found["crown"], found["ibp"], strict=True):
        assert bool((low >= wide_low - 1e-12).all())
        assert bool((high <= wide_high + 1e-12).all())
    # tighter bounds of early layers may change a choice of line later: better on the whole, not for each neuron
    assert total_width(found["alpha-crown"]) <= total_width(found["crown"]) * (1 + 1e-9)


def total_width(bounds: list[tuple[Tensor, Tensor]]) -> float:
    return sum(float((upper - lower).sum()) for lower, upper in bounds)


@pytest.mark.parametrize("name", [n for n in CASES if n not in SMALL])
def test_other_operators_are_bounded_too(name: str) -> None:
    case = case_for_this_host(name)
    model = bounded_module(case.module, case.shape)
    x = torch.randn((2, *case.shape[1:]), generator=torch.Generator().manual_seed(1))
    for norm in (Norm.LINF, Norm.L2):
        bounds = preactivation_bounds(model, (bounded(x, norm, 0.5),), "crown")
        require_inside(extract_network(model), bounds, samples(x, 0.5, norm, 300))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_deep_networks_of_every_activation(kind: str) -> None:
    activation: Activation = PReLU(torch.tensor([0.3, -0.2, 1.5, 0.0])) if kind == "PReLU" else ACTIVATIONS[kind]()
    network = random_mlp(5, (3, 4, 4, 4, 2), activation)
    x = torch.tensor([[0.3, -0.2, 0.5], [1.0, 2.0, -3.0]], dtype=torch.float64)
    for radius in (0.0, 1e-9, 0.05, 2.0):
        inputs = InputSet(x - radius, x + radius)
        points = samples(x, radius, Norm.LINF, 300)
        interval = interval_bounds(network, x - radius, x + radius)
        require_inside(network, interval, points)
        for iterations in (0, 3):
            require_inside(network, crown_bounds(network, inputs, iterations), points)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e-12, 1e-3, 0.7]))
def test_bounds_hold_in_exact_arithmetic(seed: int, radius: float) -> None:
    """With rational arithmetic there is no tolerance: corners of the box and its centre are inside."""
    network = random_mlp(seed, (2, 3, 3, 2))
    x = torch.randn((1, 2), generator=torch.Generator().manual_seed(seed)).double()
    lower, upper = x - radius, x + radius
    for bounds in (
        node_bounds(network, lower, upper),
        crown_node_bounds(network, InputSet(lower, upper)),
        crown_node_bounds(network, InputSet(lower, upper), iterations=2),
    ):
        for point in (lower[0], upper[0], torch.stack([lower[0, 0], upper[0, 1]]), x[0]):
            for (low, high), exact in zip(bounds, exact_values(network, point), strict=True):
                assert all(Fraction(a) <= v for a, v in zip(low[0].tolist(), exact, strict=True))
                assert all(v <= Fraction(b) for b, v in zip(high[0].tolist(), exact, strict=True))


def exact_values(network: Network, point: Tensor) -> list[list[Fraction]]:
    values: list[list[Fraction]] = []
    for node in network.nodes:
        if isinstance(node.operation, AffineOperator):
            (weight,), bias = node.operation.parameters, node.operation.bias
            assert bias is not None
            rows = [[Fraction(w) for w in row] for row in weight.tolist()]
            before = values[node.inputs[0]]
            sums = [sum((w * v for w, v in zip(row, before, strict=True)), Fraction(0)) for row in rows]
            values.append([s + Fraction(b) for s, b in zip(sums, bias.tolist(), strict=True)])
        elif isinstance(node.operation, ReLU):
            values.append([max(v, Fraction(0)) for v in values[node.inputs[0]]])
        else:
            values.append([Fraction(v) for v in point.tolist()])
    return values


@given(st.integers(0, 10_000))
def test_cancelling_sums_are_bounded_in_exact_arithmetic(seed: int) -> None:
    """Large terms that cancel leave nothing but rounding errors."""
    generator = torch.Generator().manual_seed(seed)
    half = 1e8 * torch.randn((6, 3), generator=generator, dtype=torch.float64)
    weight = torch.cat([half, -half * (1 + 1e-15)])
    x = torch.randn((1, 6), generator=generator, dtype=torch.float64).repeat(1, 2)
    low, high = affine_bounds(matmul_right(weight), [(x, x)])
    for j in range(3):
        exact = sum(Fraction(w) * Fraction(v) for w, v in zip(weight[:, j].tolist(), x[0].tolist(), strict=True))
        assert Fraction(float(low[0, j])) <= exact <= Fraction(float(high[0, j]))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_relaxations_enclose_their_activation(kind: str) -> None:
    activation: Activation = PReLU(torch.tensor(0.3)) if kind == "PReLU" else ACTIVATIONS[kind]()
    generator = torch.Generator().manual_seed(0)
    middle = 6 * torch.randn(300, generator=generator, dtype=torch.float64)
    half = 10 ** (6 * torch.rand(300, generator=generator, dtype=torch.float64) - 5)
    lower, upper = (middle - half)[None], (middle + half)[None]
    relaxation = Relaxation(activation, lower, upper)
    any_slope = relaxation.smallest + torch.rand(lower.shape, generator=generator) * (
        relaxation.largest - relaxation.smallest
    )
    for lines in (
        relaxation.default,
        relaxation.lines(any_slope, any_slope),
        relaxation.lines(-any_slope, 2 * any_slope),
    ):
        for weight in torch.linspace(0, 1, 101, dtype=torch.float64):
            v = lower + weight * (upper - lower)
            value = activation.value(v)
            rounding = 1e-15 * (1 + v.abs() + value.abs())
            assert bool((lines.lower_slope * v + lines.lower_intercept <= value + rounding).all())
            assert bool((lines.upper_slope * v + lines.upper_intercept >= value - rounding).all())


def test_relu_relaxation_is_the_triangle() -> None:
    lower, upper = torch.tensor([[-1.0, -3.0, 1.0, -2.0]]).double(), torch.tensor([[3.0, 1.0, 2.0, -1.0]]).double()
    lines = Relaxation(ReLU(), lower, upper).default
    assert lines.upper_slope[0].tolist() == pytest.approx([0.75, 0.25, 1, 0])
    assert lines.upper_intercept[0].tolist() == pytest.approx([0.75, 0.75, 0, 0], abs=1e-12)
    assert lines.lower_slope[0].tolist() == pytest.approx([1, 0, 1, 0])
    assert lines.lower_intercept[0].tolist() == pytest.approx([0, 0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["mlp", "residual", "shared"])
def test_crown_is_as_tight_as_the_hosts(name: str, norm: Norm) -> None:
    """For boxes and plain first layers, where the host is sound; in float32, for neurons that are not stable."""
    model = bounded_module(CASES[name].module, CASES[name].shape)
    x = torch.randn((2, 4), generator=torch.Generator().manual_seed(4))
    bounded_x = bounded(x, norm, 2.0)
    ours = preactivation_bounds(model, (bounded_x,), "crown")
    compute_bounds(model, x=(bounded_x,), method="crown")
    relus = [n for n in model._modules.values() if type(n).__name__ == "BoundRelu"]
    assert len(relus) == len(ours)
    assert sum(int(((lower < 0) & (upper > 0)).sum()) for lower, upper in ours[-1:]) > 0
    for node, (lower, upper) in zip(relus, ours, strict=True):
        unstable = (lower < 0) & (upper > 0)
        assert bool((lower >= node.inputs[0].lower - 1e-5)[unstable].all())
        assert bool((upper <= node.inputs[0].upper + 1e-5)[unstable].all())


@pytest.mark.parametrize("norm", [Norm.L2, Norm.L1])
def test_first_layer_is_exact_for_balls(norm: Norm) -> None:
    network = random_mlp(1, (5, 4, 2))
    x = torch.randn((2, 5), dtype=torch.float64)
    operation = network.nodes[1].operation
    assert isinstance(operation, AffineOperator)
    dual = operation.parameters[0].norm(2, dim=1) if norm is Norm.L2 else operation.parameters[0].abs().amax(dim=1)
    (lower, upper), *_ = ball_bounds(network, x, 0.25, norm)
    value = operation.affine((x,))
    assert torch.allclose(lower, value - 0.25 * dual, rtol=1e-12, atol=1e-12)
    assert torch.allclose(upper, value + 0.25 * dual, rtol=1e-12, atol=1e-12)


def test_balls_reach_through_normalisation_and_reshaping() -> None:
    """A normalised image in an l_2 ball: what the host's own interval steps get wrong."""
    case = CASES["normalised_image"]
    model = bounded_module(case.module, case.shape)
    x = torch.rand(1, 2, 4, 4)
    (lower, upper), *_ = preactivation_bounds(model, (bounded(x, Norm.L2, 0.5),), "crown")
    network = extract_network(model)
    rows = torch.autograd.functional.jacobian(
        lambda z: network.values(z)[network.nodes[network.activations[0]].inputs[0]].reshape(-1), x.double()
    )
    reach = 0.5 * rows.reshape(lower.numel(), -1).norm(dim=1)
    assert torch.allclose((upper - lower).reshape(-1) / 2, reach, rtol=1e-9)


def test_alpha_crown_improves_on_crown() -> None:
    network = random_mlp(3, (4, 12, 12, 12, 3))
    x = torch.zeros((1, 4), dtype=torch.float64)
    inputs = InputSet(x - 0.5, x + 0.5)
    plain = crown_node_bounds(network, inputs)[-1]
    better = crown_node_bounds(network, inputs, iterations=20)[-1]
    assert float((better[1] - better[0]).sum()) < 0.97 * float((plain[1] - plain[0]).sum())


@pytest.mark.parametrize("method", ["IBP", "Crown", "alpha-CROWN", " crown "])
def test_methods_are_read_in_any_case(method: str) -> None:
    model = bounded_module(CASES["mlp"].module, (1, 4))
    x = (bounded(torch.zeros(1, 4)),)
    wanted = preactivation_bounds(model, x, method.strip().lower())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(preactivation_bounds(model, x, method), wanted, strict=True))


@pytest.mark.parametrize("method", ["", "backward", "beta-crown", None, 3])
def test_unknown_methods_are_refused(method: Any) -> None:
    model = bounded_module(CASES["mlp"].module, (1, 4))
    with pytest.raises(SpecificationError, match="ibp, crown, alpha-crown"):
        preactivation_bounds(model, (bounded(torch.zeros(1, 4)),), method)


def test_wrong_input_shapes_are_refused() -> None:
    model = bounded_module(CASES["mlp"].module, (1, 4))
    with pytest.raises(SpecificationError, match=r"got shape \(1, 5\).*\(4,\)"):
        preactivation_bounds(model, (bounded(torch.zeros(1, 5)),))
    network = random_mlp(0, (2, 3, 1))
    with pytest.raises(SpecificationError, match="lower exceeds upper"):
        interval_bounds(network, torch.ones(1, 2), torch.zeros(1, 2))
    with pytest.raises(SpecificationError, match="NaN"):
        interval_bounds(network, torch.full((1, 2), math.nan), torch.zeros(1, 2))
    with pytest.raises(SpecificationError, match="radius"):
        ball_bounds(network, torch.zeros(1, 2), -1.0, Norm.L2)


def test_cut_networks_have_bounds_of_their_own() -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(dim=1))
    model = bounded_module(module, (1, 4))
    x = (bounded(torch.zeros(1, 4)),)
    assert len(preactivation_bounds(model, x, logits=True)) == 1
    assert preactivation_bounds(model, x, final_node_name=model.root_names[0] if VERSION > (0, 3) else "/0") == []


def test_overflow_says_nothing_instead_of_something_wrong() -> None:
    network = random_mlp(0, (2, 3, 3, 1))
    huge = torch.full((1, 2), 1e308, dtype=torch.float64)
    for bounds in (interval_bounds(network, -huge, huge), crown_bounds(network, InputSet(-huge, huge))):
        for lower, upper in bounds:
            assert not bool(lower.isnan().any() | upper.isnan().any())
            assert bool((lower <= upper).all())


class TestPerturbation:
    """The input set is read from the host's objects."""

    X = torch.tensor([[0.1, -0.2, 0.3], [1.0, 2.0, 3.0]])

    @pytest.mark.parametrize("norm", NORMS)
    def test_ball(self, norm: Norm) -> None:
        found = perturbation_of((bounded(self.X, norm, 0.1),))
        assert found.norm is norm
        assert found.radius == 0.1
        assert torch.equal(found.center, self.X.double())
        lower, upper = found.box()
        for value, low, high in zip(
            self.X.flatten().tolist(), lower.flatten().tolist(), upper.flatten().tolist(), strict=True
        ):
            assert Fraction(low) <= Fraction(value) - Fraction(0.1)
            assert Fraction(high) >= Fraction(value) + Fraction(0.1)
            assert high - low == pytest.approx(0.2, rel=1e-12)

    def test_box(self) -> None:
        lower, upper = self.X - torch.tensor([0.0, 0.5, 1.0]), self.X + 2
        found = perturbation_of(bounded(self.X, x_L=lower, x_U=upper))
        assert found.norm is Norm.LINF
        assert found.radius is None
        assert found.lower is not None
        assert found.upper is not None
        assert torch.equal(found.lower, lower.double())
        assert torch.equal(found.upper, upper.double())
        assert torch.equal(found.center, self.X.double())

    def test_point_outside_its_box_is_replaced_by_the_middle(self) -> None:
        found = perturbation_of(bounded(self.X + 10, x_L=self.X, x_U=self.X + 1))
        assert torch.allclose(found.center, self.X.double() + 0.5)

    def test_one_side_given(self) -> None:
        found = perturbation_of(bounded(self.X, eps=0.5, x_L=self.X))
        assert found.lower is not None
        assert found.upper is not None
        assert torch.equal(found.lower, self.X.double())
        assert torch.equal(found.upper, self.X.double() + 0.5)
        assert found.radius is None

    def test_radius_for_each_coordinate(self) -> None:
        eps = torch.tensor([[0.5, 0.25, 0.0], [1.0, 1.0, 1.0]])
        found = perturbation_of(bounded(self.X, eps=eps))
        assert found.upper is not None
        assert torch.equal(found.upper, self.X.double() + eps.double())

    def test_read_from_the_model(self) -> None:
        model = bounded_module(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (1, 3))
        compute_bounds(model, x=(bounded(self.X, Norm.L2, 0.25),), method="ibp")
        assert perturbation_of(model).radius == 0.25
        assert perturbation_of(model).norm is Norm.L2

    @pytest.mark.parametrize("norm", NORMS)
    def test_round_trip(self, norm: Norm) -> None:
        before = perturbation_of(bounded(self.X, norm, 0.1))
        after = perturbation_of((bounded_input(before),))
        assert (after.norm, after.radius) == (before.norm, before.radius)
        assert torch.equal(after.center, before.center)
        assert [torch.equal(a, b) for a, b in zip(after.box(), before.box(), strict=True)] == [True, True]

    def test_round_trip_of_a_box(self) -> None:
        box = Perturbation(Norm.LINF, self.X.double(), self.X.double() - 1, self.X.double() + 2, None)
        after = perturbation_of(bounded_input(box))
        assert after.radius is None
        assert torch.equal(after.center, box.center)
        assert after.upper is not None
        assert torch.equal(after.upper, self.X.double() + 2)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda x: x, "0 of 1 inputs are perturbed"),
            (lambda x: (), "0 of 0 inputs"),
            (lambda x: (bounded(x), bounded(x)), "2 of 2 inputs"),
            (lambda x: bounded(x, eps=-0.1), "eps.*at least 0"),
            (lambda x: bounded(x, eps=math.nan), "eps.*finite"),
            (lambda x: bounded(x, Norm.L2, torch.tensor([0.1, 0.2])), "one number"),
            (lambda x: bounded(x * math.nan), "x: holds NaN"),
            (lambda x: bounded(x, x_L=x + 1, x_U=x), "x_L: lies above x_U"),
            (lambda x: bounded(x, x_L=x - math.inf, x_U=x), "NaN or infinity"),
        ],
    )
    def test_bad_sets_are_refused(self, make: Any, message: str) -> None:
        with pytest.raises(SpecificationError, match=message):
            perturbation_of(make(self.X))

    def test_other_norms_and_perturbations_are_refused(self) -> None:
        host = load_host()
        with pytest.raises(SpecificationError, match="allowed are 1, 2 and inf"):
            perturbation_of(host.BoundedTensor(self.X, host.PerturbationLpNorm(norm=3, eps=0.1)))
        other = type("PerturbationL0Norm", (), {"eps": 1})()
        with pytest.raises(SpecificationError, match="PerturbationL0Norm"):
            perturbation_of(host.BoundedTensor(self.X, other))


def test_bounds_of_shared_and_repeated_inputs() -> None:
    """The same value on several paths: coefficients add up before they meet the input set."""
    module = Function(lambda x, a: torch.relu(a(x) - a(x) + x - x) + torch.relu(2 * x - x), nn.Linear(3, 3))
    model = bounded_module(module, (1, 3))
    bounds = preactivation_bounds(model, (bounded(torch.ones(1, 3), eps=0.5),), "crown")
    widths = sorted(float((upper - lower).max()) for lower, upper in bounds)
    assert widths[0] < 1e-9
    assert widths[1] == pytest.approx(1.0)


def test_balls_are_exact_where_the_dense_derivative_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_mlp(1, (5, 4, 2))
    x = torch.zeros((1, 5), dtype=torch.float64)
    inputs = InputSet(x - 0.25, x + 0.25, center=x, radius=0.25, norm=Norm.L2)
    wanted = crown_bounds(network, inputs)[0]
    monkeypatch.setattr("geolip_lirpa.interval._DENSE_LIMIT", 0)
    found = crown_bounds(network, inputs)[0]
    unstable = (wanted[0] < 0) & (wanted[1] > 0)
    assert bool(unstable.any())
    assert torch.allclose(found[0][unstable], wanted[0][unstable], rtol=1e-12)
    assert torch.allclose(found[1][unstable], wanted[1][unstable], rtol=1e-12)


def test_nodes_that_cost_too_much_keep_interval_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_mlp(3, (4, 12, 12, 3))
    x = torch.zeros((1, 4), dtype=torch.float64)
    monkeypatch.setattr("geolip_lirpa.crown._WORK", 0)
    for found, wanted in zip(
        crown_bounds(network, InputSet(x - 1, x + 1)), interval_bounds(network, x - 1, x + 1), strict=True
    ):
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])
