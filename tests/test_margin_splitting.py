"""Margins by branch and bound: what it proves is true, and it proves nearly all that is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.activations import Tanh
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_splitting import MarginSplitter
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


@pytest.mark.parametrize("lower", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_not_proven(lower: float) -> None:
    network = random_mlp(0, (3, 4, 2))
    margin_set = MarginSet(torch.zeros(3, dtype=torch.float64), 0.1, Norm.LINF)
    assert not MarginSplitter(network).search(margin_set, torch.ones(2, dtype=torch.float64), 0.0, lower, 10).proven


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
