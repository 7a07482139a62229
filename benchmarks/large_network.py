"""Bounds of a residual network for CIFAR images with more than 100,000 neurons and random weights, method by method.

    python benchmarks/large_network.py [--width 16] [--blocks 2] [--row 0] [--norms 2 inf] [--whole] [--seed 0]

Three stages of 3x3 convolutions on 32x32, 16x16 and 8x8 pixels with width, 2 width and 4 width channels, global mean,
ten outputs; Kaiming initialisation. For one output and each norm it prints the product of norms, the bound by blocks,
with --whole the bound by a proof in one piece (twenty minutes and more), and the value of the semidefinite program at a
feasible point, below which no proof of it can go; with seconds and the largest memory of the process so far. One
thread.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from geolip_lirpa import bounded_module, extract_network, proof_cost
from geolip_lirpa.block_bounding import relaxation_values
from geolip_lirpa.lipschitz_types import LipschitzOptions
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import global_problem, network_lipschitz
from geolip_lirpa.programs import make_parts
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm

CLASSES = 10
PIXELS = 32


class ResidualBlock(nn.Module):
    """``relu(W relu(V x) + skip(x))``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.skip(x))


class ResidualNetwork(nn.Module):
    """A stem, three stages of residual blocks, the mean over all pixels, a linear layer."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1), nn.ReLU()]
        channels = width
        for stage in range(3):
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                layers.append(ResidualBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--norms", nargs="+", default=["2", "inf"])
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.whole:
        proof_cost.PROOF_OPERATIONS = math.inf
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    model = ResidualNetwork(arguments.width, arguments.blocks)
    network = extract_network(bounded_module(model, (1, 3, PIXELS, PIXELS)))
    print(f"# {network.hidden_size} neurons, {network.input_size} inputs, output {arguments.row}")
    print("norm,method,bound,seconds,GiB")
    methods = ["norm-product", "compositional"] + (["sdp"] if arguments.whole else [])
    for norm in map(Norm.parse, arguments.norms):
        for method in methods:
            report(norm, method, lambda norm=norm, method=method: bound(network, arguments.row, norm, method))
        report(norm, "value of the program", lambda norm=norm: value(network, arguments.row, norm))


def report(norm: Norm, method: str, compute: Callable[[], tuple[float, str]]) -> None:
    begin = time.perf_counter()
    number, name = compute()
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    shown = method if name in ("", method) else f"{method} ({name})"
    print(f"{norm.value},{shown},{number:.6g},{seconds:.0f},{peak:.1f}", flush=True)


def bound(network: Network, row: int, norm: Norm, method: str) -> tuple[float, str]:
    """The proven bound of one output, and whose proof it is."""
    problem = global_problem(network, torch.eye(CLASSES, dtype=torch.float64)[row : row + 1])
    result = network_lipschitz(problem, LipschitzOptions(norm=norm, method=method, lower_bounds=False))
    return result.rows[0].upper, result.rows[0].solver


def value(network: Network, row: int, norm: Norm) -> tuple[float, str]:
    """The program's value at a feasible point."""
    problem = global_problem(network, torch.eye(CLASSES, dtype=torch.float64)[row : row + 1])
    part = make_parts(problem, LipschitzOptions(norm=norm))[0]
    found = relaxation_values([part.instance], LowRankSolver())[0][0]
    return (math.nan if found is None else found), ""


if __name__ == "__main__":
    main()
