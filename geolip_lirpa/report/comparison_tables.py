"""A comparison as a table, as JSON and as CSV.

Place in the data flow: level 11, ``Comparison -> rich renderable, dict, text``.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from geolip_lirpa.report.bench_rows import VERDICTS
from geolip_lirpa.report.comparison import Comparison, Counts, Duel
from geolip_lirpa.report.json_text import finite

_COUNTED = ("benchmark", "method", "rows", "solved", *VERDICTS, "wrong", "seconds", "mean_seconds")


def comparison_table(comparison: Comparison) -> RenderableType:
    """A line for each benchmark and method, and how the methods differ."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("benchmark", overflow="fold")
    table.add_column("method", overflow="fold")
    for name in ("solved", *VERDICTS, *(("wrong",) if comparison.expected.tables else ()), "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for benchmark, counts in _lines(comparison):
        cells = [benchmark, counts.method, f"{counts.solved}/{counts.rows}"]
        cells += [str(counts.verdicts[verdict]) for verdict in VERDICTS]
        cells += [str(counts.wrong)] if comparison.expected.tables else []
        table.add_row(*(Text(cell) for cell in [*cells, f"{counts.seconds:.1f}"]))
    notes = [*_duel_lines(comparison), *_contradiction_lines(comparison)]
    return Group(table, *([""] if notes else []), *(Text(note) for note in notes))


def _lines(comparison: Comparison) -> list[tuple[str, Counts]]:
    """Counts by benchmark and method, those of all benchmarks at the end."""
    names: list[tuple[str, str | None]] = [(name, name) for name in comparison.benchmarks]
    names += [("all", None)] if len(names) > 1 else []
    lines = [(label, comparison.counts(method, name)) for label, name in names for method in comparison.methods]
    return [(label, counts) for label, counts in lines if counts.rows]


def _duel_lines(comparison: Comparison) -> list[str]:
    lines = []
    for baseline in comparison.baselines():
        for method in comparison.methods:
            if method != baseline:
                duel = comparison.duel(method, baseline)
                lines.append(
                    f"{method} solves {len(duel.only_method)} that {baseline} does not, and misses "
                    f"{len(duel.only_baseline)} that it does; bounds tighter {duel.tighter}, looser {duel.looser}"
                )
    return lines


def _contradiction_lines(comparison: Comparison) -> list[str]:
    count = len(comparison.contradictions)
    if count:
        return [f"CONTRADICTIONS: {count}"]
    if comparison.expected.tables:
        return [f"no verdict contradicts the {comparison.compared} expected ones it was compared with"]
    return []


def comparison_object(comparison: Comparison) -> dict[str, Any]:
    """The object printed by ``geolip-lirpa compare --json``."""
    return {
        "instances": len(comparison.instances),
        "rows": len(comparison.rows),
        "counts": [_counts_object(benchmark, counts) for benchmark, counts in _lines(comparison)],
        "duels": [
            _duel_object(comparison.duel(method, baseline))
            for baseline in comparison.baselines()
            for method in comparison.methods
            if method != baseline
        ],
        "compared_with_expected": comparison.compared,
        "contradictions": [
            {
                "benchmark": c.row.benchmark,
                "onnx": c.row.onnx,
                "vnnlib": c.row.vnnlib,
                "method": c.row.method,
                "verdict": c.row.verdict,
                "by": c.by,
                "other": c.other,
            }
            for c in comparison.contradictions
        ],
    }


def _counts_object(benchmark: str, counts: Counts) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "method": counts.method,
        "rows": counts.rows,
        "solved": counts.solved,
        **counts.verdicts,
        "wrong": counts.wrong,
        "seconds": round(counts.seconds, 3),
        "mean_seconds": None if (mean := finite(counts.mean_seconds)) is None else round(mean, 3),
    }


def _duel_object(duel: Duel) -> dict[str, Any]:
    return {
        "method": duel.method,
        "baseline": duel.baseline,
        "both": duel.both,
        "neither": duel.neither,
        "only_method": [list(row.instance) for row in duel.only_method],
        "only_baseline": [list(row.instance) for row in duel.only_baseline],
        "tighter": duel.tighter,
        "looser": duel.looser,
    }


def comparison_csv(comparison: Comparison) -> str:
    """A line for each benchmark and method, with a header; without the last line break."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COUNTED, lineterminator="\n")
    writer.writeheader()
    for benchmark, counts in _lines(comparison):
        cells = _counts_object(benchmark, counts)
        writer.writerow({name: "" if cells[name] is None else cells[name] for name in _COUNTED})
    return text.getvalue().rstrip("\n")
