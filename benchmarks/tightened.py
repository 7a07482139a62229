"""Radii and margins with and without tightened bounds of pre-activations: what they gain and what they cost.

    python benchmarks/tightened.py MODEL.onnx IMAGES.npz --norm 2 [--images 0,3] [--eps 0.3] [--scale 255]

IMAGES.npz holds the arrays 'images' and 'labels' (or X and Y). Prints CSV, one line for each image and way: image, way
(combined without tightening; combined; combined from bounds by Lipschitz constants; by the pointwise program as well),
proven and attacked radius (or margin, with --eps), claims on neurons, seconds, seconds for the check. One thread.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa import bounded_module, extract_network, load_onnx
from geolip_lirpa.margin_certificate import MarginCertificate, check_margins
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import class_rows
from geolip_lirpa.margin_types import MarginOptions, MarginProblem
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network
from geolip_lirpa.radius import RadiusOptions, network_radii
from geolip_lirpa.types import Norm

#: Name, bounds of pre-activations, whether the cascade may tighten.
WAYS = (("without", "crown", False), ("combined", "crown", True), ("geolip", "geolip", True), ("sdp", "sdp", True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--norm", default="2", choices=["inf", "2", "1"])
    parser.add_argument("--eps", type=float, help="bound margins in balls of this radius; default: look for radii")
    parser.add_argument("--images", default="0,1,2,3,4")
    parser.add_argument("--scale", type=float, default=1.0, help="images are divided by it")
    parser.add_argument("--ways", nargs="+", default=["without", "combined"], choices=[name for name, *_ in WAYS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = extract_network(bounded_module(load_onnx(arguments.model)))
    data = np.load(arguments.data)
    images, labels = (data[a] if a in data else data[b] for a, b in (("images", "X"), ("labels", "Y")))
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "way", "proven", "attacked", "claims", "seconds", "check_seconds"])
    for number in map(int, arguments.images.split(",")):
        center = torch.from_numpy(images[number].astype(np.float64)).reshape(network.input_shape) / arguments.scale
        margin_set = MarginSet(center, arguments.eps or 0.0, Norm.parse(arguments.norm))
        for name, bounds, tightens in WAYS:
            if name in arguments.ways:
                found = line(network, margin_set, int(labels[number]), bounds, tightens)
                writer.writerow([number, name, *found])
                sys.stdout.flush()


def line(network: Network, margin_set: MarginSet, label: int, bounds: str, tightens: bool) -> list[str | int]:
    """The numbers of one line."""
    rows, begin = class_rows(label, network.output_size), time.perf_counter()
    options = MarginOptions("combined", bounds, whole=True)
    certificate: MarginCertificate | None
    with patch("geolip_lirpa.margins.TIGHTENING_OPERATIONS", 3e11 if tightens else 0.0):
        if margin_set.eps > 0:
            problem = MarginProblem(network, (margin_set,), rows[None], torch.zeros((1, len(rows))).double())
            result = network_margins(problem, options)
            proven, attacked, certificate = least(result.lower), least(result.attacked), result.certificate
        else:
            found = network_radii(network, [margin_set], [rows], RadiusOptions(options)).inputs[0]
            proven, attacked, certificate = found.lower, found.upper, found.certificate
    seconds, begin = time.perf_counter() - begin, time.perf_counter()
    if certificate is not None:
        check_margins(certificate, network)
    if margin_set.eps == 0 and proven > attacked:
        raise SystemExit(f"proven beyond an attack: {proven} > {attacked}")
    claims = 0 if certificate is None else len(certificate.bounds)
    return [f"{proven:.5g}", f"{attacked:.5g}", claims, f"{seconds:.1f}", f"{time.perf_counter() - begin:.1f}"]


def least(values: Tensor) -> float:
    """The smallest one."""
    return float(values.min())


if __name__ == "__main__":
    main()
