"""Local bounds near test images against the global bound and against gradients sampled near the same images.

    python benchmarks/local_bounds.py MODEL.onnx IMAGES.npz [--count 10] [--eps 0.01 0.05 0.1] [--row 0] [--norms inf 2]

IMAGES.npz holds `images` or `X`, floats or bytes (then divided by 255), of any shape with the model's number of inputs.
Prints CSV: norm, eps, image, the largest dual norm of 1,000 gradients sampled in the ball, what the proven bound's own
search attains, the proven local bound, the proven global bound, and seconds. Exits with an error if any local bound is
above the global one or below a gradient. One thread unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa import bounded_module, compute_lipschitz, load_onnx
from geolip_lirpa.lirpa import load_host

SAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--eps", type=float, nargs="*", default=[0.01, 0.05, 0.1])
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--norms", nargs="*", default=["inf", "2"], choices=["inf", "2"])
    parser.add_argument("--bounds", default="crown", choices=["ibp", "crown", "alpha-crown"])
    arguments = parser.parse_args()
    loaded = load_onnx(arguments.model)
    module, shape = loaded.module, loaded.input_shape
    images = read_images(arguments.images, arguments.count).reshape(-1, *shape[1:])
    writer = csv.writer(sys.stdout)
    writer.writerow(("norm", "eps", "image", "sampled", "attained", "local", "global", "seconds"))
    failures = 0
    for norm in arguments.norms:
        for row in rows(module, loaded, images, norm, arguments):
            writer.writerow(row)
            sys.stdout.flush()
            failures += not row[3] <= row[5] <= row[6]
    if failures:
        raise SystemExit(f"{failures} bounds are out of order")


def rows(module: torch.nn.Module, loaded: Any, images: Tensor, norm: str, arguments: argparse.Namespace) -> Any:
    """One row for each radius and image."""
    host = load_host()
    model = bounded_module(loaded)
    precise = copy.deepcopy(module).double()
    with torch.no_grad():
        outputs = module(images[:1]).shape[1]
    c = torch.eye(outputs)[None, arguments.row : arguments.row + 1]
    whole = float(compute_lipschitz(model, C=c, norm=norm, lower_bounds=False).upper[0, 0])
    for eps in arguments.eps:
        for index, image in enumerate(images):
            ball = host.BoundedTensor(image[None], host.PerturbationLpNorm(norm=float(norm), eps=eps))
            begin = time.perf_counter()
            found = compute_lipschitz(model, x=(ball,), C=c, scope="local", bound_method=arguments.bounds)
            seconds = time.perf_counter() - begin
            steepest = sampled(precise, image.double(), eps, norm, arguments.row)
            yield (
                norm, eps, index, steepest, float(found.lower[0, 0]), float(found.upper[0, 0]), whole,
                round(seconds, 2),
            )  # fmt: skip


def sampled(module: torch.nn.Module, image: Tensor, eps: float, norm: str, row: int) -> float:
    """Largest dual norm of the row's gradient at random points of the ball and at the centre."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn((SAMPLES, image.numel()), generator=generator, dtype=torch.float64)
    box = flat.sign() * torch.rand(flat.shape, generator=generator, dtype=torch.float64)
    step = box if norm == "inf" else flat / flat.norm(dim=1)[:, None]
    step[0] = 0
    points = (image + eps * step.reshape(SAMPLES, *image.shape)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(module(points)[:, row].sum(), points)
    dual = gradient.flatten(1).norm(p=1 if norm == "inf" else 2, dim=1)
    return float(dual.max())


def read_images(path: Path, count: int) -> Tensor:
    """The first images of a file, flat, as float32."""
    with np.load(path) as data:
        name = "images" if "images" in data else "X"
        array = data[name][:count]
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    return torch.from_numpy(array.astype(np.float32) / scale).reshape(len(array), -1)


if __name__ == "__main__":
    main()
