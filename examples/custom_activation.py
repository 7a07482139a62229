"""Bound a network whose activation the package does not know: softsign, v / (1 + |v|).

    python examples/custom_activation.py

An activation is one class with its value and where its derivative rises and falls; docs/add-an-activation.md explains
each method, and how to add one to the package so that models of auto_LiRPA may have it. Here the network is put
together by hand, and proven, checked and certified like any other. Takes about 5 seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from geolip_lirpa.activations.monotone import Estimate, MonotonePieces, Piece
from geolip_lirpa.certificate import check
from geolip_lirpa.lipschitz_types import LipschitzOptions
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.network_lipschitz import global_problem, network_lipschitz
from geolip_lirpa.types import Norm


@dataclass(frozen=True)
class Softsign(MonotonePieces):
    r""":math:`v / (1 + |v|)`, slopes in [0, 1].

    Proof: the derivative :math:`(1 + |v|)^{-2}` is even and falls with :math:`|v|`.
    """

    name: ClassVar[str] = "Softsign"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (Piece(-math.inf, 0.0, rising=True), Piece(0.0, math.inf, rising=False))

    @property
    def hull(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def value(self, preactivation: Tensor) -> Tensor:
        return nn.functional.softsign(preactivation)

    def estimate_derivative(self, v: Tensor, piece: int) -> Estimate:
        slope = (1 + v.abs()) ** -2
        # a few roundings of relative size: the error is measured against the slope itself
        return slope, slope

    def estimate_value(self, v: Tensor) -> Estimate:
        value = v / (1 + v.abs())
        return value, value.abs()


def require_sound(activation: Softsign) -> None:
    """Secants between random points stay within the interval; the tests of the package do much more."""
    generator = torch.Generator().manual_seed(1)
    ends = (20 * torch.rand((10_000, 2), generator=generator, dtype=torch.float64) - 10).sort(dim=1).values
    inner = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * torch.rand((10_000, 2), generator=generator).double()
    secants = activation.value(inner).diff(dim=1)[:, 0] / inner.diff(dim=1)[:, 0]
    interval = activation.derivative_range(ends[:, 0], ends[:, 1])
    kept = inner.diff(dim=1)[:, 0].abs() > 1e-3  # closer points round too much to be compared
    assert bool((interval.lower - 1e-12 <= secants)[kept].all() and (secants <= interval.upper + 1e-12)[kept].all())


def network_of(module: nn.Sequential) -> Network:
    """The mathematical network of linear layers and softsigns."""
    operations = []
    for number, layer in enumerate(module):
        operation = linear_operator(layer.weight, layer.bias) if isinstance(layer, nn.Linear) else Softsign()
        operations.append((f"layer {number}", operation))
    return sequential((module[0].in_features,), operations)


def main() -> None:
    torch.set_num_threads(1)
    require_sound(Softsign())
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 24), nn.Softsign(), nn.Linear(24, 24), nn.Softsign(), nn.Linear(24, 3))
    network = network_of(module)
    x = torch.randn((100, 16), dtype=torch.float64)
    assert torch.allclose(network.forward(x), module.double()(x))

    problem = global_problem(network)
    print("|f_i(x) - f_i(x')| <= upper |x - x'|_2 for all inputs")
    for method in ("sdp", "norm-product"):
        result = network_lipschitz(problem, LipschitzOptions(norm=Norm.L2, method=method))
        upper = " ".join(f"{value:.4f}" for value in result.upper[0])
        attained = " ".join(f"{value:.4f}" for value in result.lower[0])
        print(f"{method:>13}: upper {upper}, attained {attained}")
        # the certificate proves the same from the network alone
        assert result.certificate is not None
        assert torch.equal(check(result.certificate, network, problem.slopes), result.upper)
    print("certificates checked")


if __name__ == "__main__":
    main()
