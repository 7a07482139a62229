"""Count what each part of the low-rank solver contributes, on given networks.

    python benchmarks/solver_phases.py MODEL.onnx [MODEL.onnx ..] [--row 0] [--norms inf 2] [--limit 3000]

Variants: L-BFGS alone; after power iterations; with escapes from saddle points as well; the same with float32 first.
Prints CSV: model, norm, variant, L-BFGS iterations, value, proven relative gap, seconds.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from geolip_lirpa import bounded_module, extract_network, load_onnx
from geolip_lirpa.errors import SolverError
from geolip_lirpa.network_lipschitz import global_problem
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm

VARIANTS: dict[str, dict[str, Any]] = {
    "L-BFGS": {"power_iterations": 0, "escapes": 0, "single": False},
    "power + L-BFGS": {"escapes": 0, "single": False},
    "power + L-BFGS + escapes": {"single": False},
    "the same, float32 first": {"single": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--norms", nargs="*", default=["inf", "2"], choices=["inf", "2"])
    parser.add_argument("--limit", type=int, default=3000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    writer = csv.writer(sys.stdout)
    writer.writerow(["model", "norm", "variant", "iterations", "value", "relative_gap", "seconds"])
    for path in arguments.models:
        network = extract_network(bounded_module(load_onnx(path)))
        rows = torch.eye(network.output_size, dtype=torch.float64)[arguments.row : arguments.row + 1]
        problem = global_problem(network, rows)
        for norm in arguments.norms:
            instance = SdpInstance(network, problem.slopes[0], Norm.parse(norm), problem.input_scale, rows)
            for name, settings in VARIANTS.items():
                begin = time.perf_counter()
                result = LowRankSolver(max_iterations=arguments.limit, **settings).solve([instance])[0]
                seconds = time.perf_counter() - begin
                try:
                    gap = f"{prove(instance, result.multipliers).upper / (result.value or 0.0) - 1:.1e}"
                except SolverError:
                    gap = "not proven"
                writer.writerow([path.name, norm, name, result.iterations, repr(result.value), gap, f"{seconds:.2f}"])
                sys.stdout.flush()


if __name__ == "__main__":
    main()
