"""Proven margins: below every sampled member of the set, below every attack, and as tight as they should be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa.activations import ACTIVATIONS, Activation, PReLU
from geolip_lirpa.attacks import AttackOptions, attack
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem
from geolip_lirpa.margin_bounds import (
    crown_margins,
    ibp_margins,
    lipschitz_margins,
    margin_slopes,
    set_bounds,
    with_margins,
)
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import network_lipschitz
from geolip_lirpa.slopes import SlopeIntervals, anchored_slopes, enclosed_anchored_slopes
from geolip_lirpa.types import Norm
from tests.activation_cases import CASES
from tests.margin_cases import NORMS, dense_points, random_set
from tests.networks import random_convnet, random_mlp, random_residual, random_skip

SEEDS = st.integers(0, 10_000)
SCOPES = ("global", "local", "anchored")


def activation_of(kind: str) -> Activation:
    return PReLU(torch.tensor(-0.4)) if kind == "PReLU" else ACTIVATIONS[kind]()


def random_rows(seed: int, network: Network, count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((count, network.output_size), generator=generator, dtype=torch.float64)
    return rows, torch.randn(count, generator=generator, dtype=torch.float64)


def sampled_margins(network: Network, margin_set: MarginSet, rows: Tensor, offsets: Tensor) -> Tensor:
    """Smallest margins among many members, and what an attack finds on top."""
    values = network.forward(dense_points(margin_set)) @ rows.T + offsets
    options = AttackOptions(steps=15, restarts=1, goal=-math.inf)
    attacked = attack(network, [margin_set], rows[None], offsets[None], options).values[0]
    return torch.minimum(values.amin(0), attacked)


def linear_margins(network: Network, margin_set: MarginSet, rows: Tensor, offsets: Tensor) -> dict[str, Tensor]:
    inputs = margin_set.input_set()
    ibp, crown = set_bounds(network, inputs, "ibp"), set_bounds(network, inputs, "crown")
    alpha = set_bounds(network, inputs, "alpha-crown", iterations=4, known=crown)
    return {
        "ibp": ibp_margins(network, ibp, rows, offsets),
        "crown": crown_margins(network, inputs, crown, rows, offsets),
        "loose": crown_margins(network, inputs, ibp, rows, offsets),
        "alpha": crown_margins(network, inputs, alpha, rows, offsets, iterations=4),
    }


def constants_of(network: Network, norm: Norm, rows: Tensor, slopes: SlopeIntervals) -> Tensor:
    scale = torch.ones(network.input_size, dtype=torch.float64)
    options = LipschitzOptions(norm=norm, lower_bounds=False, relative_gap=1e-4)
    return network_lipschitz(LipschitzProblem(network, rows[None], (slopes,), scale), options).upper[0]


def require_below(found: Tensor, sampled: Tensor) -> None:
    # the sampled values carry rounding errors of their own
    assert bool((found <= sampled + 1e-12 * (1 + sampled.abs())).all())


@given(SEEDS, st.sampled_from(NORMS), st.booleans(), st.sampled_from(sorted(ACTIVATIONS)))
def test_linear_bounds_hold(seed: int, norm: Norm, cut: bool, kind: str) -> None:
    network = random_mlp(seed, (3, 5, 5, 2), activation_of(kind))
    margin_set = random_set(seed, 3, norm, cut)
    rows, offsets = random_rows(seed, network)
    sampled = sampled_margins(network, margin_set, rows, offsets)
    for found in linear_margins(network, margin_set, rows, offsets).values():
        assert found.shape == (3,)
        assert bool(found.isfinite().all())
        require_below(found, sampled)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "network", [random_residual(1), random_skip(2, (4, 6, 3)), random_convnet(3, channels=2, size=5)]
)
def test_linear_bounds_hold_on_graphs(network: Network, norm: Norm) -> None:
    for cut in (False, True):
        flat = random_set(4, network.input_size, norm, cut, eps=0.3)
        limits = [None if t is None else t.reshape(network.input_shape) for t in (flat.lower, flat.upper)]
        margin_set = MarginSet(flat.center.reshape(network.input_shape), 0.3, norm, *limits)
        rows, offsets = random_rows(5, network)
        sampled = sampled_margins(network, margin_set, rows, offsets)
        found = linear_margins(network, margin_set, rows, offsets)
        for values in found.values():
            require_below(values, sampled)
        for better in ("loose", "crown", "alpha"):
            assert bool((found[better] >= found["ibp"] - 1e-9).all())


def test_a_domain_tightens_and_known_bounds_are_kept() -> None:
    network = random_mlp(7, (4, 10, 10, 2))
    rows, offsets = random_rows(7, network)
    for norm in NORMS:
        cut = random_set(8, 4, norm, cut=True, eps=0.8)
        whole = MarginSet(cut.center, cut.eps, norm)
        tight, loose = (linear_margins(network, s, rows, offsets)["crown"] for s in (cut, whole))
        assert bool((tight >= loose - 1e-9).all())
        assert float((tight - loose).sum()) > 0.1
        crown = set_bounds(network, cut.input_set(), "crown")
        ibp = set_bounds(network, cut.input_set(), "ibp", known=crown)
        for (low, high), (known_low, known_high) in zip(ibp, crown, strict=True):
            assert bool((low >= known_low).all())
            assert bool((high <= known_high).all())


def test_margins_of_a_linear_network_are_exact() -> None:
    network = Network(random_mlp(3, (4, 3)).nodes)
    rows, offsets = random_rows(3, network)
    for norm in NORMS:
        margin_set = random_set(3, 4, norm, cut=False, eps=0.7)
        inputs = margin_set.input_set()
        found = crown_margins(network, inputs, set_bounds(network, inputs), rows, offsets)
        whole = with_margins(network, rows, offsets)
        jacobian = rows @ network.nodes[1].operation.parameters[0]  # type: ignore[union-attr]
        dual = {Norm.LINF: 1, Norm.L2: 2, Norm.L1: math.inf}[norm]
        exact = whole.forward(margin_set.center[None])[0] - 0.7 * jacobian.norm(p=dual, dim=1)
        assert torch.allclose(found, exact, rtol=1e-12, atol=1e-12)
        assert bool((found <= exact + 1e-14).all())


@given(SEEDS, st.sampled_from(NORMS), st.booleans(), st.sampled_from(sorted(ACTIVATIONS)))
@settings(max_examples=20)
def test_lipschitz_margins_hold(seed: int, norm: Norm, cut: bool, kind: str) -> None:
    network = random_mlp(seed, (3, 4, 4, 2), activation_of(kind))
    margin_set = random_set(seed, 3, norm, cut)
    rows, offsets = random_rows(seed, network, 2)
    sampled = sampled_margins(network, margin_set, rows, offsets)
    found = []
    for scope in SCOPES:
        constants = constants_of(network, norm, rows, margin_slopes(network, margin_set, scope))
        found.append(lipschitz_margins(network, margin_set, rows, offsets, constants))
        assert bool(found[-1].isfinite().all())
        require_below(found[-1], sampled)
    slack = 1e-3 * (1 + found[0].abs())
    assert bool((found[1] >= found[0] - slack).all())
    assert bool((found[2] >= found[1] - slack).all())


def test_single_points_have_their_value_as_margin() -> None:
    network = random_mlp(2, (3, 4, 2))
    point = MarginSet(torch.randn(3, dtype=torch.float64), 0.0, Norm.L2)
    rows, offsets = random_rows(1, network)
    value = network.forward(point.center[None])[0] @ rows.T + offsets
    found = lipschitz_margins(network, point, rows, offsets, torch.full((3,), math.inf))
    assert torch.allclose(found, value, rtol=1e-12)
    for margins in linear_margins(network, point, rows, offsets).values():
        assert torch.allclose(margins, value, rtol=1e-9)


@given(SEEDS, st.sampled_from([0.0, 1e-15, 1e-6, 0.3]), st.sampled_from(sorted(c.label for c in CASES)))
@settings(max_examples=30)
def test_slopes_of_enclosed_anchors_hold_all_secants(seed: int, width: float, label: str) -> None:
    """Secants from any anchor in the enclosure to any point of the bounds, and the slopes of exact anchors."""
    activation = next(c.activation for c in CASES if c.label == label)
    network = random_mlp(0, (2, 40, 1), activation)
    generator = torch.Generator().manual_seed(seed)
    low = 2 * torch.randn(40, generator=generator, dtype=torch.float64)
    low[:4] = 0.0
    high = low + width * torch.rand(40, generator=generator, dtype=torch.float64)
    reach = 3 * torch.rand((2, 40), generator=generator, dtype=torch.float64)
    reach = reach * (torch.rand((2, 40), generator=generator) < 0.8)
    bounds = [(low - reach[0], high + reach[1])]
    (slopes,) = enclosed_anchored_slopes(network, [(low, high)], bounds)
    weights = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]
    v = bounds[0][0] * (1 - weights) + bounds[0][1] * weights
    for weight in (0.0, 0.3, 1.0):
        anchor = torch.minimum(low + weight * (high - low), high)
        step = v - anchor
        secant = (activation.value(v) - activation.value(anchor)) / step
        far = step.abs() > 1e-3
        assert bool(((secant >= slopes.lower - 1e-11) | ~far).all())
        assert bool(((secant <= slopes.upper + 1e-11) | ~far).all())
        (exact,) = anchored_slopes(network, [anchor], bounds)
        assert width > 1e-9 or bool((slopes.lower >= exact.lower - 1e-6)[exact.lower < exact.upper].all())
        assert width > 1e-9 or bool((slopes.upper <= exact.upper + 1e-6)[exact.lower < exact.upper].all())


def test_unknown_choices_are_refused() -> None:
    network = random_mlp(0, (2, 3, 2))
    margin_set = MarginSet(torch.zeros(2), 1.0, Norm.L2)
    with pytest.raises(SpecificationError, match="allowed are ibp"):
        set_bounds(network, margin_set.input_set(), "magic")
    with pytest.raises(SpecificationError, match="allowed are global"):
        margin_slopes(network, margin_set, "everywhere")
    bounds = set_bounds(network, margin_set.input_set())
    with pytest.raises(SpecificationError, match="rows"):
        crown_margins(network, margin_set.input_set(), bounds, torch.zeros((1, 3)), torch.zeros(1))
    outside = [(torch.full((3,), 5.0), torch.full((3,), 6.0))]
    with pytest.raises(SpecificationError, match="outside"):
        enclosed_anchored_slopes(network, outside, [(torch.zeros(3), torch.ones(3))])
