"""Train small networks on images, normally or adversarially, reproducibly, and keep them in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from measuring.networks import mlp, write_onnx

_BATCH = 100
_RATE = 1e-3


@dataclass(frozen=True)
class Images:
    """Flat images with values in [0, 1], float32, and their labels, in training and test part."""

    training_images: Tensor
    training_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Attack:
    r"""Projected gradient ascent of the loss within :math:`|\delta|_\infty \le` `radius`.

    Args:
        radius: 0 for none.
        steps: of the ascent.
        rate: length of a step, relative to the radius.
    """

    radius: float = 0.1
    steps: int = 10
    rate: float = 0.25

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Images within the radius and within [0, 1] on which the loss is large."""
        noise = 2 * torch.rand(images.shape, generator=generator) - 1
        moved = (images + self.radius * noise).clamp(0, 1)
        for _ in range(self.steps):
            moved.requires_grad_(True)
            loss = nn.functional.cross_entropy(network(moved), labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, moved)
            moved = moved.detach() + self.rate * self.radius * slope.sign()
            moved = moved.clamp(images - self.radius, images + self.radius).clamp(0, 1)
        return moved.detach()


def load_images(path: Path, test: int, seed: int) -> Images:
    """Images from an ``.npz`` file with X, (n, pixels) uint8, and Y, (n,).

    Args:
        path: the file.
        test: how many, chosen at random, are held out.
        seed: of that choice.

    Raises:
        SystemExit: the file holds something else, or too few images.
    """
    with np.load(path) as data:
        if not {"X", "Y"} <= set(data.files):
            raise SystemExit(f"{path}: holds {', '.join(data.files)}; expected X, (n, pixels) uint8, and Y, (n,).")
        values, labels = data["X"], data["Y"]
    if values.ndim != 2 or values.dtype != np.uint8 or labels.shape != (len(values),) or len(values) < 2 * test:
        raise SystemExit(
            f"{path}: X has shape {values.shape} and type {values.dtype}, Y has shape {labels.shape}; expected "
            f"(n, pixels) uint8 and (n,) with n of at least {2 * test}."
        )
    order = np.random.default_rng(seed).permutation(len(values))
    images = torch.from_numpy(values[order].astype(np.float32) / 255.0)
    numbers = torch.from_numpy(labels[order].astype(np.int64))
    return Images(images[test:], numbers[test:], images[:test], numbers[:test])


def train(sizes: Sequence[int], images: Images, attack: Attack | None, epochs: int, seed: int) -> nn.Sequential:
    """Adam on the cross entropy; with an attack, on attacked images only.

    The attack's radius grows over the first half of the epochs: small networks stay constant functions otherwise.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = mlp(sizes)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
    for epoch in range(epochs):
        now = attack and replace(attack, radius=attack.radius * min(1.0, 2 * (epoch + 1) / epochs))
        for chosen in torch.randperm(len(images.training_images), generator=generator).split(_BATCH):
            batch, labels = images.training_images[chosen], images.training_labels[chosen]
            if now is not None:
                batch = now.run(network, batch, labels, generator)
            loss = nn.functional.cross_entropy(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def trained(
    folder: Path, sizes: Sequence[int], images: Images, attack: Attack | None, epochs: int, seed: int
) -> Path:  # fmt: skip
    """The ONNX file of a trained network, from the folder if it is there."""
    kind = "normal" if attack is None else f"pgd{attack.radius:g}x{attack.steps}"
    path = folder / f"{'-'.join(map(str, sizes))}_{kind}_{epochs}epochs_seed{seed}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_onnx(train(sizes, images, attack, epochs, seed), path)
    return path


def accuracy(network: nn.Module, images: Images, attack: Attack | None = None, seed: int = 0) -> float:
    """Fraction of the test images, attacked or not, whose largest output is their label."""
    values, labels = images.test_images, images.test_labels
    if attack is not None:
        values = attack.run(network, values, labels, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float((network(values).argmax(dim=1) == labels).double().mean())
