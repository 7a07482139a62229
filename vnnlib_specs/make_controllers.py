"""Train two small controllers by imitation of linear-quadratic regulators and write them as ONNX files.

Run ``python vnnlib_specs/make_controllers.py`` from the repository's root; it takes some seconds and overwrites the
files. Training runs in float64 on one thread from a fixed seed, like that of `make_networks`.

* ``pendulum.onnx`` keeps an inverted pendulum upright. From the angle (rad) and its rate (rad/s) it computes the torque
  (N m), a linear feedback cut off at `TORQUE`, and the angular acceleration (rad/s^2) that follows.
* ``cart_pole.onnx`` balances a pole on a cart. From the position (m) and speed (m/s) of the cart, the angle and its
  rate it computes the force on the cart (N), cut off at `FORCE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from make_networks import SEED, to_onnx
from numpy.typing import NDArray
from scipy.linalg import solve_continuous_are
from torch import Tensor, nn

GRAVITY = 9.81  # m/s^2
TORQUE = 10.0  # N m; the pendulum has mass 1 kg and length 1 m
FORCE = 10.0  # N; the cart has 1 kg, the pole 0.1 kg and half-length 0.5 m
_STEPS = 1500
_BATCH = 256


@dataclass(frozen=True)
class Controller:
    """One network and what it learns.

    Args:
        widths: of all layers, input and output included.
        ranges: largest absolute value of each input in training.
        target: (n, inputs) -> (n, outputs).
    """

    widths: tuple[int, ...]
    ranges: tuple[float, ...]
    target: Callable[[Tensor], Tensor]


def feedback(dynamics: NDArray[np.float64], action: NDArray[np.float64], cost: list[float]) -> Tensor:
    """Gains K of the regulator u = -K x of x' = A x + B u with a diagonal cost of the state and cost 0.1 of u."""
    weight = np.array([[0.1]])
    solution = solve_continuous_are(dynamics, action, np.diag(cost), weight)
    return torch.from_numpy(np.linalg.solve(weight, action.T @ solution)[0])


def pendulum() -> Controller:
    """theta'' = g sin(theta) + u for mass and length one."""
    gains = feedback(np.array([[0.0, 1.0], [GRAVITY, 0.0]]), np.array([[0.0], [1.0]]), [10.0, 1.0])

    def target(state: Tensor) -> Tensor:
        torque = (-state @ gains).clamp(-TORQUE, TORQUE)
        return torch.stack([torque, GRAVITY * state[:, 0].sin() + torque], dim=1)

    return Controller((2, 16, 16, 2), (0.6, 1.5), target)


def cart_pole() -> Controller:
    """The usual model, linearised at the upright position."""
    cart, pole, length = 1.0, 0.1, 0.5
    inertia = length * (4 / 3 - pole / (cart + pole))
    turn, push = GRAVITY / inertia, -1 / ((cart + pole) * inertia)
    lever = pole * length / (cart + pole)
    dynamics = np.array([[0, 1, 0, 0], [0, 0, -lever * turn, 0], [0, 0, 0, 1], [0, 0, turn, 0]], dtype=np.float64)
    action = np.array([[0], [1 / (cart + pole) - lever * push], [0], [push]])
    gains = feedback(dynamics, action, [1.0, 1.0, 10.0, 1.0])

    def target(state: Tensor) -> Tensor:
        return (-state @ gains).clamp(-FORCE, FORCE)[:, None]

    return Controller((4, 16, 8, 1), (2.0, 2.0, 0.3, 1.0), target)


CONTROLLERS: dict[str, Callable[[], Controller]] = {"pendulum.onnx": pendulum, "cart_pole.onnx": cart_pole}


def make_controller(name: str) -> onnx.ModelProto:
    """Train one of `CONTROLLERS`; it does not depend on the other."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    controller = CONTROLLERS[name]()
    layers: list[nn.Module] = []
    for inputs, outputs in zip(controller.widths, controller.widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs).double(), nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    ranges = torch.tensor(controller.ranges, dtype=torch.float64)
    for _ in range(_STEPS):
        states = (2 * torch.rand(_BATCH, len(ranges), generator=generator, dtype=torch.float64) - 1) * ranges
        loss = nn.functional.mse_loss(network(states), controller.target(states))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return to_onnx(network, name.removesuffix(".onnx"), "state", "make_controllers.py")


def write_all(folder: Path) -> None:
    """Train both controllers and write them into `folder`."""
    for name in CONTROLLERS:
        (folder / name).write_bytes(make_controller(name).SerializeToString())
        print(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train and write the controllers.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where to write (default: here)")
    torch.set_num_threads(1)
    write_all(parser.parse_args().folder)
