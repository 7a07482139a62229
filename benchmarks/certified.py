"""Count the images whose class is proven not to change within balls, method by method.

    python benchmarks/certified.py MODEL.onnx IMAGES.npz --norm 2 --eps 1.0 [--images 100] [--methods crown sdp ..]

IMAGES.npz holds the arrays 'images' and 'labels'; the first of them are taken. Prints CSV: method, images, correct,
attacked, proven, open, seconds for an image (attack included), seconds for the check of an image's certificate. Every
proof is checked again, and no image may be both proven and attacked. One thread.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa import bounded_module, extract_network, load_onnx
from geolip_lirpa.margin_certificate import check_margins
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import class_rows
from geolip_lirpa.margin_types import METHODS, MarginOptions, MarginProblem
from geolip_lirpa.margin_work import NetworkMemory
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network
from geolip_lirpa.types import Norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--norm", default="2", choices=["inf", "2", "1"])
    parser.add_argument("--eps", type=float, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = extract_network(bounded_module(load_onnx(arguments.model)))
    data = np.load(arguments.data)
    images = torch.from_numpy(np.asarray(data["images"][: arguments.images], dtype=np.float64))
    labels = [int(v) for v in data["labels"][: arguments.images]]
    writer = csv.writer(sys.stdout)
    writer.writerow(["method", "images", "correct", "attacked", "proven", "open", "seconds", "check_seconds"])
    for method in arguments.methods:
        writer.writerow([method, *count(network, images, labels, Norm.parse(arguments.norm), arguments.eps, method)])
        sys.stdout.flush()


def count(network: Network, images: Tensor, labels: list[int], norm: Norm, eps: float, method: str) -> list[int | str]:
    """One line of the table, without the method."""
    memory = NetworkMemory()
    correct = attacked = proven = 0
    spent = checking = 0.0
    for image, label in zip(images, labels, strict=True):
        center = image.reshape(network.input_shape)
        if int(network.forward(center[None]).argmax()) != label:
            continue
        correct += 1
        rows = class_rows(label, network.output_size)
        problem = MarginProblem(
            network, (MarginSet(center, eps, norm),), rows[None], torch.zeros((1, len(rows))).double()
        )
        begin = time.perf_counter()
        result = network_margins(problem, MarginOptions(method, whole=True), memory=memory)
        spent += time.perf_counter() - begin
        begin = time.perf_counter()
        check_margins(result.certificate, network)
        checking += time.perf_counter() - begin
        is_proven, is_attacked = bool((result.lower > 0).all()), bool((result.attacked <= 0).any())
        if is_proven and is_attacked:
            raise SystemExit(f"proven and attacked: {method}, label {label}, image {correct}")
        attacked += is_attacked
        proven += is_proven
    total = len(labels)
    numbers = [total, correct, attacked, proven, correct - attacked - proven]
    return [*numbers, f"{spent / total:.2f}", f"{checking / total:.2f}"]


if __name__ == "__main__":
    main()
