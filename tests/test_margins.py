"""Margins: every method is below the exact minimum, certificates are proven again, forged ones are not."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from geolip_lirpa import margin_work as margins
from geolip_lirpa.activations import Tanh
from geolip_lirpa.errors import CertificateError, SpecificationError
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem, LipschitzResult
from geolip_lirpa.margin_certificate import MarginCertificate, check_margins
from geolip_lirpa.margin_file import is_margin_certificate, load_margins, save_margins
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import class_rows
from geolip_lirpa.margin_types import METHODS, MarginOptions, MarginProblem
from geolip_lirpa.margin_work import NetworkMemory
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network
from geolip_lirpa.radius import RadiusOptions, network_radii
from geolip_lirpa.types import Norm
from tests.margin_cases import NORMS, dense_points, random_set
from tests.networks import random_convnet, random_mlp, random_residual

seeds = st.integers(0, 10_000)
norms = st.sampled_from(NORMS)


def problem_of(network: Network, margin_set: MarginSet, rows: Tensor | None = None) -> MarginProblem:
    rows = torch.eye(network.output_size, dtype=torch.float64) if rows is None else rows
    return MarginProblem(network, (margin_set,), rows[None], torch.zeros((1, len(rows)), dtype=torch.float64))


def sampled_minimum(network: Network, margin_set: MarginSet, rows: Tensor) -> Tensor:
    outputs = network.forward(dense_points(margin_set, 4000)).flatten(1)
    return (outputs @ rows.T).amin(dim=0)


def exact_minimum(network: Network, margin_set: MarginSet) -> float:
    """Of output 0 of an MLP with one hidden layer over a box, by a linear program for each activation pattern."""
    first, _, last = (node.operation for node in network.nodes[1:])
    weight, bias = first.parameters[0].numpy(), first.bias.numpy()  # type: ignore[union-attr]
    out, shift = last.parameters[0].numpy()[0], float(last.bias[0])  # type: ignore[union-attr,index]
    inputs = margin_set.input_set()
    box = list(zip(inputs.lower[0].tolist(), inputs.upper[0].tolist(), strict=True))
    best = math.inf
    for pattern in itertools.product((0.0, 1.0), repeat=len(bias)):
        on = np.array(pattern)
        sign = 1 - 2 * on
        found = linprog((out * on) @ weight, A_ub=sign[:, None] * weight, b_ub=-sign * bias, bounds=box)
        if found.status == 0:
            best = min(best, found.fun + float((out * on) @ bias) + shift)
    return best


@settings(max_examples=25)
@given(seed=seeds, norm=norms, cut=st.booleans(), method=st.sampled_from(METHODS), residual=st.booleans())
def test_every_method_is_below_the_minimum(seed: int, norm: Norm, cut: bool, method: str, residual: bool) -> None:
    network = random_residual(seed) if residual else random_mlp(seed, (3, 5, 4, 2))
    margin_set = random_set(seed, network.input_size, norm, cut)
    result = network_margins(problem_of(network, margin_set), MarginOptions(method, enough=None))
    least = sampled_minimum(network, margin_set, torch.eye(2, dtype=torch.float64))
    assert bool((result.lower[0] <= least + 1e-9 * (1 + least.abs())).all())
    assert bool((result.lower <= result.attacked).all()) and bool(torch.isfinite(result.lower).all())
    assert torch.equal(check_margins(result.certificate, network), result.lower)


@settings(max_examples=15)
@given(seed=seeds, method=st.sampled_from(METHODS))
def test_exact_minima_of_boxes_lie_between_proof_and_attack(seed: int, method: str) -> None:
    network = random_mlp(seed, (3, 5, 1))
    margin_set = random_set(seed, 3, Norm.LINF, cut=False)
    result = network_margins(problem_of(network, margin_set), MarginOptions(method, enough=None))
    exact = exact_minimum(network, margin_set)
    slack = 1e-7 * (1 + abs(exact))
    assert float(result.lower) - slack <= exact <= float(result.attacked) + slack


@settings(max_examples=8)
@given(seed=seeds, norm=norms)
def test_combined_is_never_below_its_parts(seed: int, norm: Norm) -> None:
    """Up to the solver's tolerance: its pointwise program has tighter bounds of pre-activations than that of "sdp"."""
    network = random_mlp(seed, (4, 8, 8, 2))
    problem = problem_of(network, random_set(seed, 4, norm, cut=False))
    lowers = {m: network_margins(problem, MarginOptions(m, enough=None, attack=False)).lower for m in METHODS}
    for method, lower in lowers.items():
        assert bool((lowers["combined"] >= lower - 1e-6 * (1 + lower.abs())).all()), method


def test_tighter_methods_prove_more() -> None:
    """A ball in which every neuron is unstable: methods differ by far more than the tolerances."""
    network = random_mlp(3, (10, 30, 30, 2))
    margin_set = MarginSet(torch.zeros(10, dtype=torch.float64) + 0.3, 1.0, Norm.L2)
    rows = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    found = {m: network_margins(problem_of(network, margin_set, rows), MarginOptions(m, enough=None)) for m in METHODS}
    lower = {m: float(f.lower) for m, f in found.items()}
    assert lower["ibp"] < lower["crown"] < lower["alpha-crown"] < lower["sdp"]
    assert (
        lower["geolip"] <= lower["geolip-local"] < lower["geolip-anchored"] < lower["sdp"] <= lower["combined"] + 1e-6
    )


def test_activations_without_a_program_are_served_by_the_others() -> None:
    network = random_mlp(1, (3, 6, 2), activation=Tanh())
    margin_set = random_set(1, 3, Norm.L2, cut=False)
    with pytest.raises(SpecificationError, match="Tanh"):
        network_margins(problem_of(network, margin_set), MarginOptions("sdp"))
    result = network_margins(problem_of(network, margin_set), MarginOptions("combined", enough=None))
    assert bool((result.lower[0] <= sampled_minimum(network, margin_set, torch.eye(2, dtype=torch.float64))).all())


def test_images_and_linear_networks() -> None:
    convnet = random_convnet(2, size=6)
    margin_set = MarginSet(torch.rand((1, 6, 6), dtype=torch.float64), 0.1, Norm.L2)
    result = network_margins(problem_of(convnet, margin_set), MarginOptions("sdp", enough=None))
    assert bool((result.lower <= result.attacked).all()) and bool(torch.isfinite(result.lower).all())
    linear = random_mlp(4, (3, 2))
    for norm in NORMS:
        inputs = MarginSet(torch.ones(3, dtype=torch.float64), 0.5, norm)
        bounds = network_margins(problem_of(linear, inputs), MarginOptions("combined", enough=None))
        assert float((bounds.attacked - bounds.lower).abs().max()) < 1e-6


def test_a_ball_of_radius_zero_has_the_value_as_its_margin() -> None:
    network = random_mlp(6, (3, 5, 2))
    for method in METHODS:
        margin_set = MarginSet(torch.ones(3, dtype=torch.float64), 0.0, Norm.L2)
        result = network_margins(problem_of(network, margin_set), MarginOptions(method, enough=None))
        value = network.forward(torch.ones((1, 3), dtype=torch.float64))[0]
        np.testing.assert_allclose(result.lower[0], value, rtol=1e-6, atol=1e-6, err_msg=method)


# --- certificates -----------------------------------------------------------------------------------------------------


def certificates() -> tuple[Network, dict[str, MarginCertificate]]:
    network = random_mlp(8, (4, 7, 6, 3))
    sets = tuple(random_set(seed, 4, Norm.L2, cut=False, eps=0.3) for seed in (1, 2))
    rows = torch.stack([class_rows(label, 3) for label in (0, 2)])
    problem = MarginProblem(network, sets, rows, torch.zeros((2, 2), dtype=torch.float64))
    return network, {m: network_margins(problem, MarginOptions(m, enough=None)).certificate for m in METHODS}


def test_files_keep_certificates(tmp_path: Path) -> None:
    network, found = certificates()
    for method, certificate in found.items():
        path = tmp_path / f"{method}.json"
        save_margins(certificate, path)
        assert is_margin_certificate(path)
        again = load_margins(path)
        assert torch.equal(check_margins(again, network), certificate.lower())
        assert len(again.claims) == 4
        path.write_text(path.read_text().replace('"sample": 0', '"sample": 1', 1))
        with pytest.raises(CertificateError, match="digest"):
            load_margins(path)


def test_forged_certificates_are_refused() -> None:
    """Higher claims, other sets, rows, samples or multipliers: whatever is not proven is refused."""
    network, found = certificates()
    for certificate in found.values():
        for number, claim in enumerate(certificate.claims):
            higher = replace(claim, lower=claim.lower + 1e-6 + 1e-6 * abs(claim.lower))
            claims = (*certificate.claims[:number], higher, *certificate.claims[number + 1 :])
            # a proof may carry a little more than it claims, but not everything
            much = replace(claim, lower=float(certificate.lower()[claim.sample, claim.row]) + 10.0)
            refused(replace(certificate, claims=(much,)), network)
            if claim.method == "sdp":
                refused(replace(certificate, claims=claims), network)
        wider = tuple(s.with_eps(2 * s.eps) for s in certificate.sets)
        refused(replace(certificate, sets=wider), network)
        refused(replace(certificate, rows=certificate.rows * 1.5 - 0.1), network)
        refused(replace(certificate, offsets=certificate.offsets - 0.5), network)
        refused(replace(certificate, signature="other"), network)
        refused(certificate, random_mlp(9, (4, 7, 6, 3)))


def refused(certificate: MarginCertificate, network: Network) -> None:
    with pytest.raises(CertificateError):
        check_margins(certificate, network)


def test_constants_of_one_set_do_not_prove_another() -> None:
    network, found = certificates()
    local = found["geolip-local"]
    first, second = (next(c for c in local.claims if c.sample == b) for b in (0, 1))
    refused(replace(local, claims=(replace(first, lipschitz=second.lipschitz),)), network)
    # nor does a local constant pass for a global one
    relabelled = tuple(replace(p, method="geolip", sample=None) for p in local.lipschitz)
    refused(replace(local, claims=(replace(first, method="geolip"),), lipschitz=relabelled), network)
    norm_one = tuple(MarginSet(s.center, s.eps, Norm.LINF) for s in local.sets)
    refused(replace(local, sets=norm_one), network)


def test_global_constants_are_computed_once() -> None:
    network, _ = certificates()
    memory = NetworkMemory()
    for seed in (1, 2):
        margin_set = random_set(seed, 4, Norm.L2, cut=False, eps=0.3)
        result = network_margins(problem_of(network, margin_set), MarginOptions("geolip", enough=None), memory=memory)
        assert len(memory.known) == 1
        check_margins(result.certificate, network)


def test_rows_of_global_constants_always_have_the_same_company(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_mlp(0, [6, 10, 20])
    bound, asked = margins.network_lipschitz, []

    def recorded(problem: LipschitzProblem, options: LipschitzOptions) -> LipschitzResult:
        asked.append(problem.rows[0])
        return bound(problem, options)

    monkeypatch.setattr(margins, "network_lipschitz", recorded)
    problem = problem_of(network, random_set(0, 6, Norm.L2, cut=False, eps=0.05))
    result = network_margins(problem, MarginOptions("geolip"))
    lost = (result.attacked[0] <= 0).sum()
    # those that an attack refuted need no constant, but the last digits of the others must not depend on it
    assert 2 <= lost <= 18 and [len(rows) for rows in asked] == [12, 8]
    assert torch.equal(torch.cat(asked), problem.rows[0])
    assert int((result.lower[0] > 0).sum()) == 20 - lost


# --- radii ------------------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(seed=seeds, norm=norms)
def test_radii_are_proven_and_below_attacked_ones(seed: int, norm: Norm) -> None:
    network = random_mlp(seed, (3, 6, 5, 3))
    center = random_set(seed, 3, norm, cut=False).center
    label = int(network.forward(center[None]).argmax())
    found = network_radii(
        network, [MarginSet(center, 0.0, norm)], [class_rows(label, 3)], RadiusOptions(relative_gap=0.1)
    ).inputs[0]
    assert found.correct and 0 < found.lower <= found.upper
    assert found.certificate is not None
    assert found.certificate.sets[0].eps == found.lower
    assert bool((check_margins(found.certificate, network) > 0).all())
    points = dense_points(MarginSet(center, found.lower, norm), 3000)
    assert bool((network.forward(points).argmax(dim=1) == label).all())


def test_results_are_shown_without_their_proofs() -> None:
    network = random_mlp(0, [6, 10, 5])
    margin_set = random_set(0, 6, Norm.L2, cut=False, eps=0.01)
    found = network_margins(problem_of(network, margin_set), MarginOptions("crown"))
    radii = network_radii(network, [margin_set], [class_rows(0, 5)], RadiusOptions(MarginOptions("crown")))
    for result in (found, radii):
        assert "lower=tensor" in repr(result) and "Certificate" not in repr(result) and len(repr(result)) < 600


def test_l1_wastes_no_constants_on_the_pointwise_program(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_mlp(0, [6, 10, 5])
    problem = problem_of(network, random_set(0, 6, Norm.L1, cut=False, eps=0.1))
    expected = network_margins(problem, MarginOptions("sdp", enough=None))
    assert bool(expected.lower.isfinite().all())
    monkeypatch.setattr(margins, "network_lipschitz", None)
    again = network_margins(problem, MarginOptions("sdp", enough=None))
    assert torch.equal(again.lower, expected.lower)


def test_wrong_labels_have_no_radius() -> None:
    network = random_mlp(2, (3, 6, 3))
    center = torch.ones(3, dtype=torch.float64)
    label = int(network.forward(center[None]).argmin())
    found = network_radii(network, [MarginSet(center, 0.0, Norm.L2)], [class_rows(label, 3)], RadiusOptions()).inputs[0]
    assert not found.correct and found.lower == 0.0 and found.certificate is None


def test_wrong_arguments_are_refused() -> None:
    network = random_mlp(2, (3, 6, 3))
    margin_set = MarginSet(torch.ones(3, dtype=torch.float64), 0.1, Norm.L2)
    with pytest.raises(SpecificationError, match="method"):
        MarginOptions("magic")
    with pytest.raises(SpecificationError, match="C: got shape"):
        MarginProblem(network, (margin_set,), torch.zeros((1, 2, 5)).double(), torch.zeros((1, 2)).double())
    with pytest.raises(SpecificationError, match="offsets"):
        MarginProblem(network, (margin_set,), torch.zeros((1, 2, 3)).double(), torch.zeros((1, 3)).double())
    with pytest.raises(SpecificationError, match="relative_gap"):
        RadiusOptions(relative_gap=-1.0)


def test_a_limit_of_time_leaves_the_best_radius() -> None:
    network = random_mlp(3, (4, 6, 3))
    center = torch.zeros(4, dtype=torch.float64)
    label = int(network.forward(center[None])[0].argmax())
    sets, rows = [MarginSet(center, 0.0, Norm.L2)], [class_rows(label, 3)]
    proven: list[float] = []
    whole = network_radii(network, sets, rows, RadiusOptions(), better=lambda r: proven.append(r.lower)).inputs[0]
    assert len(proven) >= 2 and proven == sorted(proven) and proven[-1] == whole.lower
    short = network_radii(network, sets, rows, RadiusOptions(timeout=1e-9)).inputs[0]
    assert short.proofs == 1 and short.lower <= whole.lower
    with pytest.raises(SpecificationError, match="timeout"):
        RadiusOptions(timeout=math.nan)


def test_attacks_go_on_below_the_smallest_attacked_radius() -> None:
    """A weak method leaves a wide gap; the attack alone narrows it to what a strong method leaves."""
    network = random_mlp(3, (4, 6, 3))
    center = torch.zeros(4, dtype=torch.float64)
    label = int(network.forward(center[None])[0].argmax())
    sets, rows = [MarginSet(center, 0.0, Norm.L2)], [class_rows(label, 3)]
    weak, strong = (
        network_radii(network, sets, rows, RadiusOptions(MarginOptions(method, whole=True))).inputs[0]
        for method in ("ibp", "combined")
    )
    assert weak.lower < 0.9 * strong.lower
    assert strong.lower <= min(weak.upper, strong.upper) and weak.upper <= 1.03 * strong.upper
