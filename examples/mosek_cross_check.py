"""Cross-check the solver of this package by MOSEK, where that is installed and has a licence.

    python examples/mosek_cross_check.py

Whoever solves the program, the printed bound is what the checker proves from the solver's multipliers: two solvers
that agree show that both came to the end, not that the bound holds. Without MOSEK or its licence the script says what
is missing and compares with Clarabel, which comes with cvxpy. Takes about 5 seconds.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from geolip_lirpa import bounded_module, compute_lipschitz
from geolip_lirpa.errors import SolverUnavailableError


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = bounded_module(nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 2)), (1, 12))
    bounds = {}
    print(f"{'solver':>15} {'f_0':>12} {'f_1':>12} {'seconds':>8}")
    for solver in ("auto", "interior-point", "mosek", "clarabel"):
        if solver == "clarabel" and "mosek" in bounds:
            continue
        begin = time.perf_counter()
        try:
            bounds[solver] = compute_lipschitz(model, norm=2, solver=solver).upper[0]
        except SolverUnavailableError as error:
            print(f"skipped {solver}: {error}")
            continue
        print(f"{solver:>15} {bounds[solver][0]:12.8f} {bounds[solver][1]:12.8f} {time.perf_counter() - begin:8.2f}")
    # proven bounds may differ, by little where both solvers came to the end
    spread = max(float((found / bounds["auto"] - 1).abs().max()) for found in bounds.values())
    print(f"largest relative difference: {spread:.0e}")
    assert spread < 1e-4


if __name__ == "__main__":
    main()
