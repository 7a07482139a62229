"""Attacks: their points are members, their values are true, and they find what a dense search finds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.activations import ACTIVATIONS, Activation, PReLU
from geolip_lirpa.attacks import AttackOptions, attack
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lirpa import bounded_module, extract_network
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.onnx_model import load_onnx
from geolip_lirpa.types import Norm
from tests.margin_cases import NORMS, dense_points, random_set
from tests.networks import random_convnet, random_mlp, random_residual

EVERYTHING = AttackOptions(goal=-math.inf)


@given(st.integers(0, 10_000), st.sampled_from(NORMS), st.booleans())
@settings(max_examples=20)
def test_points_are_members_and_values_are_margins_there(seed: int, norm: Norm, cut: bool) -> None:
    network = random_mlp(seed, (4, 8, 8, 3))
    sets = [random_set(seed + b, 4, norm, cut) for b in range(3)]
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((3, 2, 3), generator=generator, dtype=torch.float64)
    offsets = torch.randn((3, 2), generator=generator, dtype=torch.float64)
    for options in (AttackOptions(steps=12, restarts=1), AttackOptions(steps=12, restarts=1, goal=-math.inf)):
        found = attack(network, sets, rows, offsets, options)
        assert found.values.shape == (3, 2)
        assert found.points.shape == (3, 2, 4)
        for b, margin_set in enumerate(sets):
            assert bool(margin_set.region().contains(found.points[b]).all())
            true = (network.forward(found.points[b]) * rows[b]).sum(1) + offsets[b]
            assert torch.allclose(true, found.values[b], rtol=1e-12, atol=1e-12)
            center = (network.forward(margin_set.center[None]) * rows[b]).sum(1) + offsets[b]
            assert bool((found.values[b] <= center + 1e-12).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("cut", [False, True])
def test_attack_reaches_what_a_dense_search_finds(norm: Norm, cut: bool) -> None:
    thorough = AttackOptions(restarts=12, goal=-math.inf)
    for seed in range(3):
        network = random_mlp(seed, (3, 12, 12, 2))
        margin_set = random_set(seed, 3, norm, cut, eps=1.0)
        rows = torch.tensor([[[1.0, 0.0], [0.0, -1.0], [1.0, -1.0]]], dtype=torch.float64)
        found = attack(network, [margin_set], rows, torch.zeros((1, 3)), thorough).values[0]
        values = network.forward(dense_points(margin_set, 20_000)) @ rows[0].T
        best, spread = values.amin(0), values.amax(0) - values.amin(0)
        assert bool((found <= best + 0.02 * spread + 1e-12).all())


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_is_attacked(kind: str) -> None:
    activation: Activation = PReLU(torch.tensor(0.3)) if kind == "PReLU" else ACTIVATIONS[kind]()
    network = random_residual(3, activation=activation)
    margin_set = random_set(5, 5, Norm.L2, cut=False, eps=0.5)
    rows = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    found = attack(network, [margin_set], rows, torch.zeros((1, 1)), EVERYTHING).values[0, 0]
    assert float(found) < float((network.forward(margin_set.center[None]) * rows[0]).sum())


def test_images_and_single_points() -> None:
    network = random_convnet()
    center = torch.rand((1, 12, 12), dtype=torch.float64)
    rows = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    point, ball = MarginSet(center, 0.0, Norm.L2), MarginSet(center, 0.5, Norm.L2, torch.zeros(()), torch.ones(()))
    fixed = attack(network, [point], rows, torch.zeros((1, 1)), EVERYTHING)
    moved = attack(network, [ball], rows, torch.zeros((1, 1)), EVERYTHING)
    assert torch.equal(fixed.points[0, 0], center)
    assert float(moved.values) < float(fixed.values)
    assert bool(((moved.points >= 0) & (moved.points <= 1)).all())


def test_same_seed_same_answer_and_settled_rows_stop() -> None:
    network = random_mlp(1, (4, 8, 2))
    margin_set = random_set(2, 4, Norm.LINF, cut=False, eps=1.0)
    rows = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
    first, second = (attack(network, [margin_set], rows, torch.zeros((1, 2)), EVERYTHING) for _ in range(2))
    assert torch.equal(first.values, second.values)
    stopped = attack(network, [margin_set], rows, torch.zeros((1, 2)))
    assert bool(((stopped.values < 0) == (first.values < 0)).all())
    assert bool((stopped.values >= first.values).all())
    assert float(stopped.values.sum()) > float(first.values.sum())


def test_wrong_arguments_are_refused() -> None:
    network = random_mlp(0, (2, 3, 2))
    plain = MarginSet(torch.zeros(2), 1.0, Norm.L2)
    rows, offsets = torch.zeros((1, 1, 2)), torch.zeros((1, 1))
    with pytest.raises(SpecificationError, match="rows"):
        attack(network, [plain, plain], rows, offsets)
    with pytest.raises(SpecificationError, match="centre of shape"):
        attack(network, [MarginSet(torch.zeros(3), 1.0, Norm.L2)], rows, offsets)
    with pytest.raises(SpecificationError, match="norms"):
        attack(network, [plain, MarginSet(torch.zeros(2), 1.0, Norm.L1)], rows.expand(2, 1, 2), offsets.expand(2, 1))
    with pytest.raises(SpecificationError, match="steps"):
        AttackOptions(steps=-1)
    with pytest.raises(SpecificationError, match="goal"):
        AttackOptions(goal=math.nan)


@pytest.mark.parametrize(
    ("model", "images", "clean", "survivors"),
    [("mnist_mlp", "mnist", 80, 53), ("cifar10_cnn_c", "cifar10", 47, 47)],
)
def test_published_images(reference_data: Path, model: str, images: str, clean: int, survivors: int) -> None:
    """As many images survive as under the published attack."""
    onnx = load_onnx(reference_data / "sdp_l2" / f"{model}.onnx")
    network = extract_network(bounded_module(onnx.module, onnx.input_shape))
    data = np.load(reference_data / "sdp_l2" / f"{images}_first100.npz")
    x, labels = torch.from_numpy(data["images"]).double().reshape(-1, *network.input_shape), data["labels"]
    right = network.forward(x).argmax(1).numpy() == labels
    assert right.sum() == clean
    sets = [MarginSet(image, float(data["radius"]), Norm.L2) for image in x[right]]
    units = torch.eye(10, dtype=torch.float64)
    rows = torch.stack([units[y] - units[torch.arange(10) != y] for y in labels[right]])
    found = attack(network, sets, rows, torch.zeros(rows.shape[:2]), AttackOptions(steps=20, restarts=1))
    assert int((found.values.amin(1) >= 0).sum()) == survivors
