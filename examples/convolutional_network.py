"""Train a convolutional network on digits and prove how robust it is.

    python examples/convolutional_network.py

Shows that a torch module with convolutions, batch normalisation and pooling is taken as it is: `bounded_module` reads
it, `compute_lipschitz` bounds it, `compute_margins` certifies images. The network is trained twice, the second time
with noise, which makes it flatter. Needs scikit-learn for the images. Takes about 15 seconds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from geolip_lirpa import bounded_module, compute_lipschitz, compute_margins

# auto_LiRPA's own import works once geolip_lirpa is there
from auto_LiRPA import BoundedTensor, PerturbationLpNorm  # isort: skip

SEED = 0
STEPS = 150
TEST = 300
SHOWN = 20
EPS = 0.2


def load_images() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) with values in [0, 1], shuffled, and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("This example needs scikit-learn: pip install scikit-learn") from None
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = torch.from_numpy(digits.images[order] / 16.0).float()[:, None]
    return images, torch.from_numpy(digits.target[order])


def make_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def trained(images: Tensor, labels: Tensor, noise: float) -> nn.Sequential:
    """A network in eval mode, trained on images with Gaussian noise of this deviation."""
    torch.manual_seed(SEED)
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (128,))
        seen = images[chosen] + noise * torch.randn_like(images[chosen])
        loss = nn.functional.cross_entropy(network(seen), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def proven_images(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many images keep their class within `EPS` (l_2): all margins over the ball are proven positive."""
    model = bounded_module(network, (1, 1, 8, 8))
    ball = BoundedTensor(images, PerturbationLpNorm(norm=2, eps=EPS))
    # f_label - f_k for all k, the label itself left out
    rows = torch.eye(10)[labels][:, None] - torch.eye(10)
    rows = rows[torch.arange(10) != labels[:, None]].reshape(-1, 9, 10)
    # linear relaxations alone: quick
    found = compute_margins(model, (ball,), rows, method="crown", attack=False)
    return int((found.lower > 0).all(dim=1).sum())


def main() -> None:
    torch.set_num_threads(1)
    images, labels = load_images()
    margin = torch.zeros((1, 1, 10))
    margin[0, 0, 3], margin[0, 0, 8] = 1.0, -1.0  # f_3 - f_8: threes against eights
    print(f"Lipschitz constant (l_2) of f_3 - f_8, and images of {SHOWN} that are proven within {EPS} (l_2)")
    print(f"{'noise':>6} {'accuracy':>9} {'constant at least':>18} {'at most':>8} {'proven':>7}")
    for noise in (0.0, 0.3):
        network = trained(images[TEST:], labels[TEST:], noise)
        with torch.no_grad():
            accuracy = float((network(images[:TEST]).argmax(1) == labels[:TEST]).float().mean())
        steep = compute_lipschitz(bounded_module(network, (1, 1, 8, 8)), C=margin, norm=2)
        proven = proven_images(network, images[:SHOWN], labels[:SHOWN])
        print(f"{noise:6} {accuracy:9.1%} {float(steep.lower):18.2f} {float(steep.upper):8.2f} {proven:7}")


if __name__ == "__main__":
    main()
