"""Time against width, depth and rank on random ReLU networks, with plots and fitted exponents.

    python benchmarks/scaling.py [--csv docs/performance/scaling.csv] [--plots docs/performance]
                                 [--markdown docs/performance.md]

One output row, both norms, one thread. Seconds are processor time: that of the solver and that of everything else until
the bound is proven (blocks of the matrix, repair, factorisation). Rows that the CSV file already has are kept; --again
measures all anew.
--only-report writes plots and table from the file. The exponent b of ``seconds = a size^b`` is fitted by least squares
in logarithms over the larger half of the sizes.

The families: 784-w-10 and 64-w-w-10 against the width w; layers of width 64 against their number; the rank k of the
solver on one network, where no further stage may follow.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring.fits import Power, fit_power
from measuring.networks import network_of, random_mlp, row_instance
from measuring.rows import Row, Table, insert, markdown, number

from geolip_lirpa.bounding import bound_programs
from geolip_lirpa.errors import SolverError
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.low_rank import LowRankResult, LowRankSolver

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("family", "size", "norm", "layers", "solve_seconds", "proof_seconds", "value", "upper", "gap")
KEY = ("family", "size", "norm")
NORMS = ("inf", "2")
WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
DEPTHS = (1, 2, 4, 8, 16, 32, 64)
RANKS = (2, 4, 8, 16, 32)
RANK_FAMILY = "rank k on 64-64x4-10"
FAMILIES = ("784-w-10", "64-w-w-10", "64-64xL-10", RANK_FAMILY)


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        family: one of `FAMILIES`.
        size: width, number of layers or rank.
        norm: of the input.
    """

    family: str
    size: int
    norm: str

    @property
    def key(self) -> Row:
        return {"family": self.family, "size": str(self.size), "norm": self.norm}

    @property
    def layers(self) -> list[int]:
        """Sizes of the layers."""
        shapes = {
            "784-w-10": [784, self.size, 10],
            "64-w-w-10": [64, self.size, self.size, 10],
            "64-64xL-10": [64, *[64] * self.size, 10],
            RANK_FAMILY: [64, *[64] * 4, 10],
        }
        return shapes[self.family]


def cases(most: int) -> Iterator[Case]:
    """All measurements, small ones first; no width, number of layers or rank above `most`."""
    sizes = dict(zip(FAMILIES, (WIDTHS, WIDTHS, DEPTHS, RANKS), strict=True))
    for family in FAMILIES:
        for size in sizes[family]:
            if size <= most:
                yield from (Case(family, size, norm) for norm in NORMS)


@dataclass(frozen=True)
class TimedSolver(LowRankSolver):
    """The solver with a list of the seconds that its calls took."""

    spent: list[float] = field(default_factory=list)

    def solve(self, instances: Any, starts: Any = None) -> list[LowRankResult]:
        begin = time.process_time()
        results = super().solve(instances, starts)
        self.spent.append(time.process_time() - begin)
        return results


def measure(case: Case, seed: int) -> Row:
    """Solve and prove one case."""
    network = network_of(random_mlp(case.layers, seed), (1, case.layers[0]))
    instance = row_instance(network, 0, case.norm)
    timed = _one_stage(instance, case.size) if case.family == RANK_FAMILY else _all_stages(instance)
    solve, total, value, upper = timed
    return {
        **case.key,
        "layers": _short(case.layers),
        "solve_seconds": f"{solve:.4g}",
        "proof_seconds": f"{total - solve:.4g}",
        "value": "" if value is None else f"{value:.10g}",
        "upper": "" if upper is None else f"{upper:.10g}",
        "gap": "" if value is None or upper is None else f"{(upper - value) / upper:.2e}",
    }


def _short(layers: list[int]) -> str:
    """Sizes joined by ``-``, repeated ones as ``64x8``."""
    runs = [(size, len(list(run))) for size, run in groupby(layers[1:-1])]
    hidden = [f"{size}x{count}" if count > 2 else "-".join([str(size)] * count) for size, count in runs]
    return "-".join([str(layers[0]), *hidden, str(layers[-1])])


def _all_stages(instance: SdpInstance) -> tuple[float, float, float | None, float | None]:
    """What a user gets: ranks are raised until the gap is small. Seconds of the solver and in all, value, bound."""
    solver = TimedSolver()
    begin = time.process_time()
    bound = bound_programs([instance], [0], solver)[0]
    total = time.process_time() - begin
    return sum(solver.spent), total, bound.value, bound.upper


def _one_stage(instance: SdpInstance, rank: int) -> tuple[float, float, float | None, float | None]:
    """A single call of the solver with a fixed rank."""
    begin = time.process_time()
    result = LowRankSolver(rank=rank).solve([instance])[0]
    solve = time.process_time() - begin
    try:
        upper = prove(instance, result.multipliers).upper
    except SolverError:
        upper = None
    return solve, time.process_time() - begin, result.value, upper


def warm_up() -> None:
    """Let a first call pay for imports."""
    for norm in NORMS:
        _all_stages(row_instance(network_of(random_mlp((4, 4, 1), 0), (1, 4)), 0, norm))


# --- report ----------------------------------------------------------------------------------------------------------


def curves(rows: list[Row], family: str) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Sizes and seconds by norm and part."""
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for row in rows:
        if row["family"] == family:
            for part in ("solve", "proof"):
                sizes, seconds = found.setdefault((row["norm"], part), ([], []))
                sizes.append(float(row["size"]))
                seconds.append(max(float(row[f"{part}_seconds"]), 1e-4))
    return found


def report(table: Table) -> str:
    """All rows and the fitted exponents as Markdown."""
    titles = ("layers", "norm", "solve s", "proof s", "value", "proven", "relative gap")
    text = ""
    for family in FAMILIES:
        rows = [row for row in table.rows() if row["family"] == family]
        named = family == RANK_FAMILY
        cells = [
            (
                f"k = {row['size']}" if named else row["layers"], f"l_{row['norm']}", number(row["solve_seconds"], 3),
                number(row["proof_seconds"], 3), number(row["value"]), number(row["upper"]) or "nothing", row["gap"],
            )
            for row in rows
        ]  # fmt: skip
        if rows:
            text += f"\n{family}:\n\n" + markdown(("rank" if named else titles[0], *titles[1:]), cells)
            text += "\nFitted exponents: " + "; ".join(exponents(rows, family)) + ".\n"
    return text + "\n"


def exponents(rows: list[Row], family: str) -> list[str]:
    """The fitted exponents of a family in words."""
    return [
        f"{part} l_{norm} {power.exponent:.2f}"
        for (norm, part), (sizes, seconds) in curves(rows, family).items()
        if (power := fit_power(sizes, seconds)) is not None
    ]


def draw(table: Table, folder: Path) -> None:
    """One plot for each family."""
    from measuring.plots import log_plot

    names = {"784-w-10": "width_one_layer", "64-w-w-10": "width_two_layers", "64-64xL-10": "depth", RANK_FAMILY: "rank"}
    axes = ("width w", "width w", "layers L of width 64", "rank k")
    for family, axis in zip(FAMILIES, axes, strict=True):
        series: dict[str, tuple[list[float], list[float], Power | None]] = {
            f"{part}, l_{norm}": (sizes, seconds, fit_power(sizes, seconds))
            for (norm, part), (sizes, seconds) in curves(table.rows(), family).items()
        }
        if series:
            log_plot(folder / f"scaling_{names[family]}.svg", series, family, axis, "processor seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=ROOT / "docs" / "performance" / "scaling.csv")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    parser.add_argument("--markdown", type=Path, help="document whose table is to be written")
    parser.add_argument("--most", type=int, default=max(WIDTHS), help="largest size to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="measure rows that exist, too")
    parser.add_argument("--only-report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(arguments.csv, COLUMNS, KEY)
    if not arguments.only_report:
        warm_up()
        for case in cases(arguments.most):
            if arguments.again or table.find(case.key) is None:
                row = measure(case, arguments.seed)
                table.put(row)
                print(*(row[name] for name in COLUMNS), sep="  ", flush=True)
    for family in FAMILIES:
        print(family, *exponents(table.rows(), family), sep="  ")
    if arguments.plots:
        draw(table, arguments.plots)
    if arguments.markdown:
        insert(arguments.markdown, "scaling", report(table))


if __name__ == "__main__":
    main()
