"""Compare the choices a user has on one small network: the tables of docs/how-to-choose.md.

    python benchmarks/choices.py [--model vnnlib_specs/digits_32-32.onnx] [--row 0] [--image 0] [--slow]

Prints Markdown: the choice as arguments of `compute_lipschitz`, the attained lower and the proven upper bound of one
output, and the seconds that the upper bound took. `--slow` adds the general purpose solvers. One thread unless
OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from geolip_lirpa import bounded_module, compute_lipschitz, load_onnx
from geolip_lirpa.lirpa import load_host

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
Choice = dict[str, Any]

METHODS: list[Choice] = [{"method": name} for name in ("sdp", "entrywise", "norm-product")]
SOLVERS: list[Choice] = [{"solver": "low-rank"}, {"solver": "interior-point"}]
SLOW_SOLVERS: list[Choice] = [{"solver": "clarabel"}, {"solver": "scs"}]
TIES: list[Choice] = [{"tie": ()}, {"tie": ("layer",)}, {"tie": ("input",)}, {"tie": ("input", "layer")}]
NORMS: list[Choice] = [{"norm": p} for p in ("inf", "2", "1")]
REGIONS: list[tuple[float, str]] = [
    (0.01, "crown"),
    (0.05, "ibp"),
    (0.05, "crown"),
    (0.05, "alpha-crown"),
    (0.2, "crown"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER / "digits_32-32.onnx")
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--image", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="also Clarabel and SCS: minutes")
    arguments = parser.parse_args()
    for title, choices in tables(arguments):
        print(f"\n{title}\n\n| choice | attained | proven | seconds |\n| --- | --- | --- | --- |", flush=True)
        for choice in choices:
            print(measure(arguments, choice), flush=True)


def tables(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Choice]]]:
    """Headings and the choices below them."""
    yield "Method", METHODS
    yield "Solver", SOLVERS + (SLOW_SOLVERS if arguments.slow else [])
    yield "Tied multipliers", TIES
    yield "Input norm", NORMS
    yield "Scope", [{"scope": "global"}, *({"eps": eps, "bound_method": name} for eps, name in REGIONS)]


def measure(arguments: argparse.Namespace, choice: Choice) -> str:
    """One line of a table."""
    loaded = load_onnx(arguments.model)
    model = bounded_module(loaded)
    options = dict(choice)
    if "eps" in options:
        options.update(scope="local", x=(ball(arguments, loaded.input_shape, options.pop("eps")),))
    result = compute_lipschitz(model, C=selection(arguments.row, model, loaded.input_shape), **options)
    row = result.rows[0]
    shown = ", ".join(f"{name}={value!r}" for name, value in choice.items())
    return f"| `{shown}` | {row.lower:.2f} | {row.upper:.2f} | {row.seconds:.2f} |"


def selection(row: int, model: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """C with one output as its only row."""
    outputs = model(torch.zeros(shape)).shape[1]
    return torch.eye(outputs)[None, row : row + 1]


def ball(arguments: argparse.Namespace, shape: tuple[int, ...], eps: float) -> Any:
    """The box of half width eps around one of the test images."""
    with np.load(FOLDER / "digits_test.npz") as data:
        center = torch.from_numpy(data["images"][arguments.image]).reshape(shape)
    host = load_host()
    return host.BoundedTensor(center, host.PerturbationLpNorm(norm=math.inf, eps=eps))


if __name__ == "__main__":
    main()
