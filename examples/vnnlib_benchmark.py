"""Verify VNN-LIB specifications by several methods, and compare these.

    python examples/vnnlib_benchmark.py [--out build/examples]

Shows `verify_files`, one verdict with its witness, and the commands `bench` and `compare`, which run a list of
instances as VNN-COMP does and write a page. The instances are a part of those in `vnnlib_specs/`. Writes
`results.csv` and `report.html`. Takes about 20 seconds.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
import onnxruntime

from geolip_lirpa import VerifyOptions, verify_files
from geolip_lirpa.cli import main as geolip_lirpa

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
CHOSEN = ("pendulum_limit", "pendulum_turns_back", "cart_pole_follows", "digits_32-32_2_0.05", "digits_conv_1_0.05")


def copy_instances(folder: Path) -> None:
    """A benchmark of its own: some networks and specifications, and their list."""
    lines = [line for line in (FOLDER / "instances.csv").read_text().splitlines() if "1.0/" in line]
    lines = [line for line in lines if Path(line.split(",")[1]).stem in CHOSEN]
    for line in lines:
        for name in line.split(",")[:2]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(FOLDER / name, folder / name)
    (folder / "instances.csv").write_text("\n".join(lines) + "\n")


def show_witness() -> None:
    """One specification that is violated, with an input that onnxruntime confirms."""
    network, specification = FOLDER / "pendulum.onnx", FOLDER / "1.0" / "pendulum_limit_exceeded.vnnlib"
    result = verify_files(network, specification, VerifyOptions(timeout=20.0))
    print(f"{specification.name}: {result.verdict}")
    if result.witness is not None:
        session = onnxruntime.InferenceSession(network)
        state = result.witness.inputs.astype(np.float32)[None]
        (outputs,) = session.run(None, {session.get_inputs()[0].name: state})
        print(f"  at the state {state[0]} the network answers {outputs[0]}")


def run(*arguments: str) -> None:
    """What the command line does, in this process; exit code 5 is a verdict that contradicts a known one."""
    print(f"\n$ geolip-lirpa {' '.join(arguments)}", flush=True)
    code = geolip_lirpa(arguments)
    if code != 0:
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/examples"))
    out = parser.parse_args().out
    show_witness()

    folder = out / "benchmark"
    copy_instances(folder)
    results, page = folder / "results.csv", folder / "report.html"
    results.unlink(missing_ok=True)  # else the run would go on where it ended
    expected = ["--expected", str(FOLDER / "expected.csv")]
    options = ["--out", str(results), "--methods", "crown,combined", "--timeout", "20", *expected]
    run("bench", str(folder / "instances.csv"), *options)
    run("compare", str(results), "--report", str(page), *expected)
    print()
    with results.open(newline="") as file:
        for row in csv.DictReader(file):
            print(
                f"{Path(row['vnnlib']).stem:>22} {row['method']:>9}: {row['verdict']:7} {float(row['seconds']):.2f} s"
            )
    print(f"page: {page}")


if __name__ == "__main__":
    main()
