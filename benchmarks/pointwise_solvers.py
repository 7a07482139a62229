"""Compare the solvers of the pointwise program: proven margin against seconds, row by row.

    python benchmarks/pointwise_solvers.py MODEL.onnx IMAGES.npz --norm 2 --eps 1.0 --images 0 1 4 --targets 2 9 8
    python benchmarks/pointwise_solvers.py --random 8 16 --eps 0.25 --solvers low-rank

IMAGES.npz holds the arrays 'images' and 'labels'. Of each image one row is taken: label against target, by default the
class with the smallest margin at the image. Margins of other methods stand beside. With --random, a network of two
convolutions with so many channels and random weights takes the place of a model: it has more variables than a dense
solver takes on. Prints CSV: image, target, variables, method, proven margin, seconds of processor time; solvers start
from what geolip-local has found. One thread.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from geolip_lirpa import bounded_module, extract_network, load_onnx
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem
from geolip_lirpa.margin_bounds import BOUND_METHODS
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import Situation, class_rows
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import network_lipschitz
from geolip_lirpa.pointwise_bounding import SOLVERS, ProgramOptions, program_variables, prove_programs
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.types import Norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--random", type=int, nargs=2, metavar="CHANNELS")
    parser.add_argument("--norm", default="2", choices=["inf", "2"])
    parser.add_argument("--eps", type=float, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[0])
    parser.add_argument("--targets", type=int, nargs="+")
    parser.add_argument("--bounds", nargs="+", default=["crown", "alpha-crown"], choices=BOUND_METHODS)
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS[1:]), choices=SOLVERS[1:])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if (arguments.random is None) == (arguments.data is None):
        parser.error("give MODEL and IMAGES, or --random")
    if arguments.random is not None:
        network, images, labels = random_problem(*arguments.random)
    else:
        network = extract_network(bounded_module(load_onnx(arguments.model)))
        data = np.load(arguments.data)
        images = torch.from_numpy(np.asarray(data["images"], dtype=np.float64))
        labels = [int(v) for v in data["labels"]]
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "target", "variables", "method", "proven", "seconds"])
    targets = arguments.targets or [None] * len(arguments.images)
    for image, target in zip(arguments.images, targets, strict=True):
        margin_set = MarginSet(images[image].reshape(network.input_shape), arguments.eps, Norm.parse(arguments.norm))
        for line in lines(network, margin_set, labels[image], target, arguments.bounds, arguments.solvers):
            writer.writerow([image, *line])
            sys.stdout.flush()


def random_problem(first: int, second: int) -> tuple[Network, Tensor, list[int]]:
    """Convolutions with random weights on an image of 28 x 28 pixels, and the class that the network gives it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, first, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(first, second, 4, stride=2, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(second * 49, 50), nn.ReLU(), nn.Linear(50, 10),
    ).eval()  # fmt: skip
    image = torch.rand((1, 1, 28, 28), dtype=torch.float64)
    network = extract_network(bounded_module(model, (1, 1, 28, 28)))
    return network, image, [int(network.forward(image).argmax())]


def lines(
    network: Network, margin_set: MarginSet, label: int, target: int | None, bounds: list[str], solvers: list[str]
) -> Iterator[list[object]]:
    """Target, variables, method, proven margin and seconds; cheap methods first."""
    rows = class_rows(label, network.output_size)
    others = [k for k in range(network.output_size) if k != label]
    center = network.forward(margin_set.center[None])[0]
    target = min(others, key=lambda k: float(center[label] - center[k])) if target is None else target
    chosen = rows[others.index(target)][None]
    situation = Situation(network, margin_set, chosen, torch.zeros(1, dtype=torch.float64))
    instance = situation.instance("crown", 0)
    size = program_variables(instance)
    yield [target, size, "center", f"{float(situation.clean[0]):.4f}", ""]
    for method in bounds:
        begin = time.process_time()
        found = float(situation.margins(method)[0])
        yield [target, size, method, f"{found:.4f}", f"{time.process_time() - begin:.1f}"]
    start: Multipliers | None = None
    for method in ("geolip-anchored", "geolip-local"):
        begin = time.process_time()
        constant, start = lipschitz(situation, method)
        proven = situation.lipschitz_margin(0, constant)
        yield [target, size, method, f"{proven:.4f}", f"{time.process_time() - begin:.1f}"]
    for solver in solvers:
        begin = time.process_time()
        for _, margin, _ in prove_programs([instance], [start], ProgramOptions(solver)):
            text = "" if margin is None else f"{margin.lower:.4f}"
            yield [target, size, solver, text, f"{time.process_time() - begin:.1f}"]


def lipschitz(situation: Situation, method: str) -> tuple[float, Multipliers | None]:
    """The constant of the first row, and its multipliers."""
    slopes, scale = situation.slopes(method, "crown"), torch.ones(situation.network.input_size).double()
    problem = LipschitzProblem(situation.network, situation.rows[None], (slopes,), scale)
    options = LipschitzOptions(norm=situation.set.norm, relative_gap=1e-4, lower_bounds=False)
    result = network_lipschitz(problem, options)
    claims = () if result.certificate is None else result.certificate.claims
    return float(result.upper[0, 0]), claims[0].multipliers if len(claims) == 1 else None


if __name__ == "__main__":
    main()
