"""Time a proven bound against DSDP on the same program, in one run.

    python benchmarks/against_dsdp.py MODEL.onnx [--row 0] [--norm inf] [--forms dual natural]

Ours includes the certificate and its check; DSDP (Debian package `dsdp`) gets the exported files and proves nothing.
Both use one thread. Prints a CSV table: who, form, value, seconds, ratio of the seconds to ours, and the relative
difference of the value to our bound.

The natural form is for networks with one layer of activations; name `--forms dual` for others.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from geolip_lirpa import bounded_module, check_certificate, compute_lipschitz, extract_network, load_onnx
from geolip_lirpa.export import export_instance
from geolip_lirpa.network_lipschitz import global_problem
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm


def ours(path: Path, row: int, norm: str) -> tuple[float, float]:
    """Proven bound and seconds, from the loaded model to the checked certificate."""
    model = bounded_module(load_onnx(path))
    outputs = extract_network(model).output_size
    rows = torch.eye(outputs)[None, row : row + 1]
    begin = time.perf_counter()
    result = compute_lipschitz(model, C=rows, norm=norm, lower_bounds=False)
    if result.certificate is None:
        raise SystemExit("no certificate")
    proven = float(check_certificate(result.certificate, model)[0, 0])
    return proven, time.perf_counter() - begin


def dsdp(instance: SdpInstance, form: str, folder: Path) -> tuple[float, float]:
    """DSDP's objective and seconds on the exported file (its own reading included)."""
    path = folder / f"{form[0]}.dat-s"
    export_instance(instance, path, "sdpa", form=form)
    begin = time.perf_counter()
    done = subprocess.run(
        ["dsdp5", path.name], cwd=folder, capture_output=True, text=True, check=False, preexec_fn=unlimited_stack
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    # "DSDP Solution:" is the negative of min c'x, the side of the multipliers
    found = re.search(r"^DSDP Solution:\s*(\S+)", done.stdout, re.MULTILINE)
    if "DSDP Converged" not in done.stdout or found is None:
        raise SystemExit(f"dsdp5 found no optimum:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return -float(found[1]), seconds


def unlimited_stack() -> None:
    """DSDP keeps arrays on the stack."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--norm", default="inf", choices=["inf", "2"])
    parser.add_argument("--forms", nargs="*", default=["dual", "natural"], choices=["dual", "natural"])
    arguments = parser.parse_args()
    if shutil.which("dsdp5") is None:
        raise SystemExit("dsdp5 is missing; install the Debian package dsdp")
    torch.set_num_threads(1)
    writer = csv.writer(sys.stdout)
    writer.writerow(["who", "form", "value", "seconds", "ratio", "difference"])
    ours(arguments.model, arguments.row, arguments.norm)  # the first call pays for imports
    bound, own = ours(arguments.model, arguments.row, arguments.norm)
    writer.writerow(["geolip-lirpa", "certificate checked", repr(bound), f"{own:.3f}", "1", "0"])
    network = extract_network(bounded_module(load_onnx(arguments.model)))
    rows = torch.eye(network.output_size, dtype=torch.float64)[arguments.row : arguments.row + 1]
    problem = global_problem(network, rows)
    instance = SdpInstance(network, problem.slopes[0], Norm.parse(arguments.norm), problem.input_scale, rows)
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        for form in arguments.forms:
            value, seconds = dsdp(instance, form, Path(folder))
            difference = f"{value / bound - 1:.1e}"
            writer.writerow(["dsdp5", form, repr(value), f"{seconds:.3f}", f"{seconds / own:.1f}", difference])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
