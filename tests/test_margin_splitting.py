"""Margins by branch and bound: what it proves is true, and it proves nearly all that is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.activations import Tanh
from geolip_lirpa.errors import CertificateError
from geolip_lirpa.margin_certificate import check_margins
from geolip_lirpa.margin_file import load_margins, save_margins
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_splitting import MarginSplitter
from geolip_lirpa.margin_types import MarginOptions, MarginProblem, MarginResult
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network
from geolip_lirpa.specification import Case, InputBox, Polytope, Specification
from geolip_lirpa.types import Norm
from tests.networks import random_mlp, random_residual
from tests.specification_cases import chain_of, depth

SEEDS = st.integers(0, 10_000)
EXACT = 1e-6
NEAR = 0.02


@pytest.mark.parametrize("inputs", [3, 12])
@given(SEEDS)
def test_it_proves_what_is_true_and_nothing_else(inputs: int, seed: int) -> None:
    """Three inputs are halved, with twelve the signs of neurons are split."""
    network = random_mlp(seed, (inputs, 4, 2))
    rng = np.random.default_rng(seed)
    center, eps = torch.from_numpy(rng.normal(size=inputs)), float(rng.uniform(0.05, 0.8))
    margin_set = MarginSet(center, eps, Norm.LINF, center - 0.7 * eps)
    row, offset = torch.from_numpy(rng.normal(size=2)), float(rng.normal())
    box = InputBox.of((center - 0.7 * eps).numpy(), (center + eps).numpy())
    polytope = Polytope.of(row.numpy()[None], np.array([-offset]))
    true = depth(chain_of(network), Specification(inputs, 2, (Case(box, (polytope,)),)))
    splitter = MarginSplitter(network)
    assert splitter.serves(margin_set)
    assert splitter.search(margin_set, row, offset, true - NEAR, 5000).proven
    for beyond in (EXACT, NEAR, 1.0):
        assert not splitter.search(margin_set, row, offset, true + beyond, 500).proven


def test_budgets_end_the_search() -> None:
    network = random_mlp(1, (12, 30, 30, 2))
    margin_set = MarginSet(torch.zeros(12, dtype=torch.float64), 1.0, Norm.LINF)
    splitter = MarginSplitter(network)
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    sampled = float((network.forward(2 * torch.rand((20_000, 12), dtype=torch.float64) - 1) @ row).min())
    # hard to prove: just below what is seen
    assert not splitter.search(margin_set, row, 0.0, sampled - 0.05, 1).proven


@pytest.mark.parametrize("lower", [math.nan, math.inf, -math.inf, 1.7976931348623157e308])
def test_numbers_that_are_none_are_not_proven(lower: float) -> None:
    network = random_mlp(0, (3, 4, 2))
    margin_set = MarginSet(torch.zeros(3, dtype=torch.float64), 0.1, Norm.LINF)
    assert not MarginSplitter(network).search(margin_set, torch.ones(2, dtype=torch.float64), 0.0, lower, 10).proven


def test_boxes_beyond_doubles_are_not_proven() -> None:
    margin_set = MarginSet(torch.full((3,), 1.7e308, dtype=torch.float64), 1e308, Norm.LINF)
    row = torch.ones(2, dtype=torch.float64)
    assert not MarginSplitter(random_mlp(0, (3, 4, 2))).search(margin_set, row, 0.0, -1.0, 10).proven


def test_other_sets_and_networks_are_not_served() -> None:
    zero = torch.zeros(5, dtype=torch.float64)
    ball, box = MarginSet(zero, 0.1, Norm.L2), MarginSet(zero, 0.1, Norm.LINF)
    row = torch.ones(2, dtype=torch.float64)
    for network, margin_set in (
        (random_mlp(0, (5, 4, 2)), ball),
        (random_residual(0), box),
        (random_mlp(0, (5, 4, 2), Tanh()), box),
    ):
        splitter = MarginSplitter(network)
        assert not splitter.serves(margin_set)
        assert not splitter.search(margin_set, row, 0.0, -1e6, 100).proven


def split_problem() -> tuple[Network, MarginResult]:
    """A margin between zero and what relaxations prove, bounded by the cascade."""
    network = random_mlp(0, (12, 10, 10, 2))
    center = torch.zeros(12, dtype=torch.float64)
    row = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    problem = MarginProblem(
        network, (MarginSet(center, 0.3, Norm.LINF),), row[None], torch.zeros((1, 1), dtype=torch.float64)
    )
    attacked = network_margins(problem, MarginOptions("ibp")).attacked
    # the offset leaves less than any single bound loses
    problem = replace(problem, offsets=0.02 - attacked)
    return network, network_margins(problem, MarginOptions("combined", enough=0.0))


def test_claims_by_splitting_are_checked_by_splitting(tmp_path: Path) -> None:
    network, result = split_problem()
    (claim,) = result.certificate.claims
    assert claim.method == "splitting" and float(result.lower[0, 0]) > 0
    path = tmp_path / "certificate.json"
    save_margins(result.certificate, path)
    assert torch.equal(check_margins(load_margins(path), network), result.lower)


def test_forged_claims_by_splitting_are_refused() -> None:
    network, result = split_problem()
    certificate = result.certificate
    (claim,) = certificate.claims
    for forged in (
        replace(claim, lower=100.0),
        replace(claim, lower=math.nan),
        replace(claim, method="alpha-crown"),
        replace(claim, lower=float(result.attacked[0, 0]) + 1e-6),
    ):
        with pytest.raises(CertificateError):
            check_margins(replace(certificate, claims=(forged,)), network)
    shifted = replace(certificate, offsets=certificate.offsets - 1.0)
    with pytest.raises(CertificateError):
        check_margins(shifted, network)


def test_splitting_leaves_rows_that_points_refute() -> None:
    """Neither slower methods nor tightening follow where a point of the box is below the target."""
    network = random_mlp(5, (12, 10, 10, 2))
    row = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    box = MarginSet(torch.zeros(12, dtype=torch.float64), 1.0, Norm.LINF)
    at_center = float(network.forward(torch.zeros((1, 12), dtype=torch.float64))[0] @ row[0, 0])
    problem = MarginProblem(network, (box,), row, torch.tensor([[0.01 - at_center]], dtype=torch.float64))
    result = network_margins(problem, MarginOptions("combined", enough=0.0, attack=False, whole=True))
    assert not float(result.lower[0, 0]) > 0
    assert result.rows[0].seconds < 60
