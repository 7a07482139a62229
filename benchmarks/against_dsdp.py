"""Time a proven bound against DSDP on the same program, in one run.

    python benchmarks/against_dsdp.py MODEL.onnx [--row 0] [--norm inf] [--forms dual natural]

Ours includes the certificate and its check; DSDP (the Debian package `dsdp`) gets the exported files and proves nothing.
Both use one thread. Prints a CSV table: who, form, value, seconds, ratio to ours.
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
        ["dsdp5", path.name], cwd=folder, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    found = re.search(r"(?:Dual|D\w*) Objective\s*:?\s*([-+0-9.eE]+)|DSDP Objective\D*([-+0-9.eE]+)", done.stdout)
    values = re.findall(r"[-+]?\d\.\d+e[-+]\d+", done.stdout)
    if found is None and not values:
        raise SystemExit(f"dsdp5 printed no objective:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    value = next((g for g in (found.groups() if found else ()) if g), values[-1] if values else "nan")
    return abs(float(value)), seconds


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
    writer.writerow(["who", "form", "value", "seconds", "ratio"])
    ours(arguments.model, arguments.row, arguments.norm)  # the first call pays for imports
    value, own = ours(arguments.model, arguments.row, arguments.norm)
    writer.writerow(["geolip-lirpa", "certificate checked", repr(value), f"{own:.3f}", "1"])
    network = extract_network(bounded_module(load_onnx(arguments.model)))
    rows = torch.eye(network.output_size, dtype=torch.float64)[arguments.row : arguments.row + 1]
    problem = global_problem(network, rows)
    instance = SdpInstance(network, problem.slopes[0], Norm.parse(arguments.norm), problem.input_scale, rows)
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        for form in arguments.forms:
            value, seconds = dsdp(instance, form, Path(folder))
            writer.writerow(["dsdp5", form, repr(value), f"{seconds:.3f}", f"{seconds / own:.1f}"])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
