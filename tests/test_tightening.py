"""Tightened bounds of pre-activations: they hold, they are tighter, and whoever forges their proofs is refused."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from geolip_lirpa.activations import ReLU, Tanh
from geolip_lirpa.bound_claims import BoundClaim, check_bounds
from geolip_lirpa.certificate_records import digest
from geolip_lirpa.errors import CertificateError
from geolip_lirpa.margin_certificate import MarginCertificate, check_margins
from geolip_lirpa.margin_file import load_margins, save_margins
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import CLAIMED, Situation, class_rows
from geolip_lirpa.margin_types import MarginOptions, MarginProblem
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network
from geolip_lirpa.tightening import TIGHTENINGS, tighten, tightening_cost
from geolip_lirpa.truncation import truncated
from geolip_lirpa.types import Norm
from tests.margin_cases import NORMS, dense_points, random_set
from tests.networks import random_convnet, random_mlp, random_residual

seeds = st.integers(0, 10_000)
norms = st.sampled_from(NORMS)
kinds = st.sampled_from(TIGHTENINGS)


def situation_of(network: Network, margin_set: MarginSet) -> Situation:
    rows = torch.eye(network.output_size, dtype=torch.float64)
    return Situation(network, margin_set, rows, torch.zeros(len(rows), dtype=torch.float64))


def require_sound(network: Network, margin_set: MarginSet, kind: str) -> None:
    """Sampled pre-activations lie within the bounds, which are within alpha-crown's and are proven from the claims."""
    situation = situation_of(network, margin_set)
    claims = tighten(situation, kind)
    points = network.values(dense_points(margin_set, 1500))
    bounds = situation.node_bounds(CLAIMED)
    for i, (low, high), (wide_low, wide_high) in zip(
        range(len(points)), bounds, situation.node_bounds("alpha-crown"), strict=True
    ):
        slack = 1e-9 * (1 + points[i].abs().amax(dim=0))
        assert bool((points[i].amin(dim=0) >= low[0] - slack).all()), i
        assert bool((points[i].amax(dim=0) <= high[0] + slack).all()), i
        assert bool((low >= wide_low).all()) and bool((high <= wide_high).all())
    checked = situation_of(network, margin_set)
    check_bounds(checked, claims[::-1])
    for mine, its in zip(bounds, checked.node_bounds(CLAIMED), strict=True):
        assert torch.equal(mine[0], its[0]) and torch.equal(mine[1], its[1])


@settings(max_examples=25)
@given(seed=seeds, norm=norms, cut=st.booleans(), kind=kinds)
def test_bounds_hold_for_dense_networks(seed: int, norm: Norm, cut: bool, kind: str) -> None:
    require_sound(random_mlp(seed, (3, 6, 5, 4, 2)), random_set(seed, 3, norm, cut), kind)


@settings(max_examples=12)
@given(seed=seeds, norm=norms, kind=kinds, tanh=st.booleans())
def test_bounds_hold_for_residual_networks_and_other_activations(seed: int, norm: Norm, kind: str, tanh: bool) -> None:
    network = random_residual(seed, activation=Tanh() if tanh else ReLU())
    require_sound(network, random_set(seed, network.input_size, norm, cut=False), kind)


@settings(max_examples=4)
@given(seed=seeds, norm=st.sampled_from((Norm.LINF, Norm.L2)), kind=kinds)
def test_bounds_hold_for_convolutions(seed: int, norm: Norm, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn((1, 5, 5), generator=generator, dtype=torch.float64)
    require_sound(random_convnet(seed, channels=2, size=5, layers=2), MarginSet(center, 0.3, norm), kind)


def exact_minimum(network: Network, margin_set: MarginSet) -> float:
    """Of output 0 of an MLP with two hidden layers over a box, by a linear program for each activation pattern."""
    maps = [network.nodes[i].operation for i in (1, 3, 5)]
    weights = [m.parameters[0].numpy() for m in maps]  # type: ignore[union-attr]
    biases = [m.bias.numpy() for m in maps]  # type: ignore[union-attr]
    inputs = margin_set.input_set()
    box = list(zip(inputs.lower[0].tolist(), inputs.upper[0].tolist(), strict=True))
    best, sizes = math.inf, [len(b) for b in biases[:2]]
    for pattern in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        first, second = np.array(pattern[: sizes[0]]), np.array(pattern[sizes[0] :])
        a, c = weights[0], biases[0]
        inner, shift = weights[1] @ (first[:, None] * a), weights[1] @ (first * c) + biases[1]
        signs = 1 - 2 * np.concatenate([first, second])
        forms, constants = np.vstack([a, inner]), np.concatenate([c, shift])
        row = weights[2][0] * second
        found = linprog(row @ inner, A_ub=signs[:, None] * forms, b_ub=-signs * constants, bounds=box)
        if found.status == 0:
            best = min(best, found.fun + float(row @ shift) + float(biases[2][0]))
    return best


@settings(max_examples=10)
@given(seed=seeds, kind=kinds, method=st.sampled_from(("crown", "alpha-crown", "geolip-anchored", "sdp", "combined")))
def test_margins_stay_below_the_exact_minimum(seed: int, kind: str, method: str) -> None:
    network, margin_set = random_mlp(seed, (3, 4, 3, 1)), random_set(seed, 3, Norm.LINF, cut=False)
    one = torch.ones((1, 1, 1), dtype=torch.float64)
    problem = MarginProblem(network, (margin_set,), one, 0 * one[0])
    result = network_margins(problem, MarginOptions(method, bound_method=kind, enough=None))
    exact = exact_minimum(network, margin_set)
    assert float(result.lower) <= exact + 1e-7 * (1 + abs(exact)) and math.isfinite(float(result.lower))
    assert torch.equal(check_margins(result.certificate, network), result.lower)


def test_layers_behind_the_first_become_tighter() -> None:
    """A ball in which most neurons are unstable; the pointwise program gains on Lipschitz constants."""
    network, margin_set = random_mlp(3, (10, 12, 12, 12, 2)), MarginSet(torch.zeros(10).double() + 0.3, 1.0, Norm.L2)
    widths = {}
    for kind in ("", *TIGHTENINGS):
        situation = situation_of(network, margin_set)
        if kind:
            assert tightening_cost(situation) > 0
            claims = tighten(situation, kind)
            assert {c.side for c in claims} == ({"both"} if kind == "geolip" else {"lower", "upper", "both"})
        widths[kind] = [float((high - low).sum()) for low, high in situation.bounds(CLAIMED)]
    assert widths[""][0] == widths["geolip"][0]
    for layer in (1, 2):
        assert widths["sdp"][layer] < 0.99 * widths["geolip"][layer] < 0.98 * widths[""][layer]


def test_networks_of_one_layer_have_nothing_to_tighten() -> None:
    network, margin_set = random_mlp(3, (4, 6, 2)), MarginSet(torch.zeros(4).double(), 1.0, Norm.L2)
    situation = situation_of(network, margin_set)
    assert tightening_cost(situation) == 0 and tighten(situation, "sdp") == []


def test_truncated_networks_have_the_values_of_the_whole() -> None:
    network = random_residual(4)
    points = torch.randn((7, network.input_size), dtype=torch.float64)
    for position, value in enumerate(network.values(points)):
        part, kept = truncated(network, position)
        assert torch.equal(part.values(points)[-1], value) and kept[0] == 0 and kept[-1] == position
    assert len(truncated(network, 2)[0].nodes) == 3


# --- the cascade ------------------------------------------------------------------------------------------------------


def deep() -> tuple[Network, MarginProblem]:
    """A margin that is positive on the whole ball, and out of reach without tightened bounds."""
    network = random_mlp(0, (6, 12, 12, 12, 12, 3))
    center = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = int(network.forward(center[None]).argmax())
    rows, zeros = class_rows(label, 3)[None], torch.zeros((1, 2), dtype=torch.float64)
    return network, MarginProblem(network, (MarginSet(center, 1.12, Norm.L2),), rows, zeros)


def test_combined_tightens_where_all_else_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, problem = deep()
    result = network_margins(problem, MarginOptions("combined", whole=True))
    assert bool((result.lower > 0).all()) and result.certificate.bounds
    assert any(c.bound_method == CLAIMED for c in result.certificate.claims)
    assert torch.equal(check_margins(result.certificate, network), result.lower)
    monkeypatch.setattr("geolip_lirpa.margin_work.TIGHTENING_OPERATIONS", 0.0)
    without = network_margins(problem, MarginOptions("combined", whole=True))
    assert not bool((without.lower > 0).all()) and not without.certificate.bounds


# --- certificates -----------------------------------------------------------------------------------------------------


def certificate_of(kind: str) -> tuple[Network, MarginCertificate]:
    network = random_mlp(8, (4, 9, 8, 8, 3))
    sets = tuple(random_set(seed, 4, Norm.L2, cut=False, eps=0.6) for seed in (1, 2))
    rows = torch.stack([class_rows(label, 3) for label in (0, 2)])
    problem = MarginProblem(network, sets, rows, torch.zeros((2, 2), dtype=torch.float64))
    found = network_margins(problem, MarginOptions("sdp", bound_method=kind, enough=None, attack=False)).certificate
    assert {c.node for c in found.bounds} == {3, 5} and {c.sample for c in found.bounds} == {0, 1}
    return network, found


@pytest.fixture(scope="module", params=TIGHTENINGS)
def honest(request: pytest.FixtureRequest) -> tuple[Network, MarginCertificate]:
    return certificate_of(request.param)


def refused(network: Network, certificate: MarginCertificate) -> None:
    with pytest.raises(CertificateError):
        check_margins(certificate, network)


def test_files_keep_the_claims(honest: tuple[Network, MarginCertificate], tmp_path: Path) -> None:
    network, certificate = honest
    save_margins(certificate, tmp_path / "c.json")
    again = load_margins(tmp_path / "c.json")
    assert len(again.bounds) == len(certificate.bounds) > 0
    assert torch.equal(check_margins(again, network), certificate.lower())


def test_the_order_of_claims_does_not_matter(honest: tuple[Network, MarginCertificate]) -> None:
    network, certificate = honest
    turned = replace(certificate, bounds=certificate.bounds[::-1])
    assert torch.equal(check_margins(turned, network), certificate.lower())


def test_files_of_the_former_version_are_read(tmp_path: Path, honest: tuple[Network, MarginCertificate]) -> None:
    network = random_mlp(8, (4, 7, 6, 3))
    rows, zeros = class_rows(0, 3)[None], torch.zeros((1, 2), dtype=torch.float64)
    problem = MarginProblem(network, (random_set(1, 4, Norm.L2, cut=False, eps=0.3),), rows, zeros)
    plain = network_margins(problem, MarginOptions("sdp", enough=None)).certificate
    path = tmp_path / "c.json"

    def former(certificate: MarginCertificate) -> None:
        save_margins(certificate, path)
        record = json.loads(path.read_text())
        record["version"] = 1
        del record["bounds"]
        path.write_text(json.dumps({**record, "digest": digest(record)}))

    former(plain)
    assert torch.equal(check_margins(load_margins(path), network), plain.lower())
    # what rests on bounds that are not there is not proven
    former(honest[1])
    refused(honest[0], load_margins(path))


def _tightened_value(c: BoundClaim) -> BoundClaim:
    by = 1e-4 * (1 + abs(c.value))
    return replace(c, value=c.value + by if c.side == "lower" else c.value - by)


FORGERIES: dict[str, Callable[[BoundClaim], BoundClaim]] = {
    "a tighter value": _tightened_value,
    "a value of zero": lambda c: replace(c, value=0.0),
    "not a number": lambda c: replace(c, value=math.nan),
    "another neuron": lambda c: replace(c, neuron=(c.neuron + 1) % 8, value=0.5 * c.value),
    "no neuron": lambda c: replace(c, neuron=99),
    "a negative neuron": lambda c: replace(c, neuron=-1),
    "a node without activation": lambda c: replace(c, node=c.node + 1),
    "no node": lambda c: replace(c, node=77),
    "the input": lambda c: replace(c, node=0, neuron=0),
    "the output": lambda c: replace(c, node=7, neuron=0),
    "another layer": lambda c: replace(c, node=8 - c.node, value=0.5 * c.value),
    "the first layer": lambda c: replace(c, node=1, value=0.1 * c.value),
    "no such sample": lambda c: replace(c, sample=2),
    "a negative sample": lambda c: replace(c, sample=-1),
    "no such side": lambda c: replace(c, side="left"),
    "both sides of one": lambda c: replace(c, side="lower" if c.side == "both" else "both"),
    "no proof": lambda c: replace(c, lipschitz=(), multipliers=None),
    "no multipliers": lambda c: replace(
        c, multipliers=None, lipschitz=tuple(replace(p, multipliers=None) for p in c.lipschitz)
    ),
    "a claim within of another row": lambda c: replace(
        c, lipschitz=tuple(replace(p, coordinate=0) for p in c.lipschitz), side="both", multipliers=None
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_bounds_are_refused(honest: tuple[Network, MarginCertificate], name: str) -> None:
    network, certificate = honest
    for number in (0, len(certificate.bounds) // 2, len(certificate.bounds) - 1):
        bounds = list(certificate.bounds)
        bounds[number] = FORGERIES[name](bounds[number])
        refused(network, replace(certificate, bounds=tuple(bounds)))


def test_bounds_that_others_rest_on_cannot_be_dropped(honest: tuple[Network, MarginCertificate]) -> None:
    """Claims on the second layer prove nothing of the third any more without those before them, nor margins."""
    network, certificate = honest
    refused(network, replace(certificate, bounds=()))
    for node in (3, 5):
        refused(network, replace(certificate, bounds=tuple(c for c in certificate.bounds if c.node != node)))
    # nor those of one input for another
    refused(network, replace(certificate, bounds=tuple(replace(c, sample=0) for c in certificate.bounds)))
    refused(network, replace(certificate, bounds=tuple(replace(c, sample=1 - c.sample) for c in certificate.bounds)))


def test_bounds_hold_for_their_set_alone(honest: tuple[Network, MarginCertificate]) -> None:
    network, certificate = honest
    refused(network, replace(certificate, sets=tuple(s.with_eps(1.05 * s.eps) for s in certificate.sets)))
    refused(random_mlp(9, (4, 9, 8, 8, 3)), certificate)


@settings(max_examples=30)
@given(number=st.integers(0, 10**6), entry=st.integers(0, 10**6), factor=st.sampled_from((0.0, -1.0, 0.5, 3.0, 1e300)))
def test_other_multipliers_never_prove_a_bound_that_does_not_hold(number: int, entry: int, factor: float) -> None:
    """Whatever multipliers: a claim beyond a sampled pre-activation is refused."""
    network, margin_set = random_mlp(8, (4, 7, 6, 3)), random_set(1, 4, Norm.L2, cut=False, eps=0.6)
    claims = tighten(situation_of(network, margin_set), "geolip")
    claim = claims[number % len(claims)]
    proof = claim.lipschitz[0].multipliers
    assert proof is not None
    hidden = [h.copy() for h in proof.hidden]
    hidden[0][entry % len(hidden[0])] *= factor
    values = network.values(dense_points(margin_set, 500))[claim.node].flatten(1)[:, claim.neuron]
    center = float(network.values(margin_set.center[None])[claim.node].flatten()[claim.neuron])
    attained = float((values - center).abs().max()) / margin_set.eps
    changed = replace(claim.lipschitz[0], multipliers=replace(proof, hidden=tuple(hidden)), upper=0.99 * attained)
    with pytest.raises(CertificateError):
        check_bounds(situation_of(network, margin_set), [replace(claim, value=0.99 * attained, lipschitz=(changed,))])
