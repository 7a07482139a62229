"""Results as tables for the terminal.

Place in the data flow: level 11, ``LipschitzOutcome, CheckOutcome -> rich renderables``. Upper bounds are shown
rounded up and lower bounds rounded down, and no number is ever cut.
"""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from geolip_lirpa.certificate import rests_on
from geolip_lirpa.lipschitz_types import RowBound
from geolip_lirpa.report.decimals import round_down, round_up
from geolip_lirpa.report.outcome import CheckOutcome, LipschitzOutcome
from geolip_lirpa.report.statement import bound_labels, statement_lines
from geolip_lirpa.types import OutputNorm, Proof


def lipschitz_table(outcome: LipschitzOutcome) -> RenderableType:
    """Title, one line for each bound, and notes."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("output", no_wrap=True, overflow="fold")
    for name in ("lower", "upper", "gap"):
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    table.add_column("proof", no_wrap=True)
    table.add_column("solver", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for row in outcome.result.rows:
        table.add_row(*(Text(cell) for cell in _cells(row, outcome)))
    return Group(*map(Text, lipschitz_statement(outcome)), "", table, *map(Text, _notes(outcome)))


def lipschitz_statement(outcome: LipschitzOutcome) -> list[str]:
    """The function and the inequality that its bounds are about, two lines."""
    left = "|f_i(x) - f_i(x')|" if outcome.output is OutputNorm.ROWS else f"|f(x) - f(x')|_{outcome.output.value}"
    inequality = f"{left} <= upper * |x - x'|_{outcome.norm.value} for {_inputs(outcome)}"
    return [f"f: {outcome.subject.description}", inequality]


def _inputs(outcome: LipschitzOutcome) -> str:
    region = outcome.region
    if region is None:
        return "all inputs x, x'"
    label = "" if region.label is None else f" (label {region.label})"
    return f"x, x' within {region.eps!r} (l_{region.norm.value}) of image {region.index}{label}"


def _cells(row: RowBound, outcome: LipschitzOutcome) -> tuple[str, ...]:
    name = f"all {len(outcome.outputs)}" if row.row is None else str(outcome.outputs[row.row])
    gap = "-" if row.relative_gap is None or not math.isfinite(row.relative_gap) else round_up(row.relative_gap, 2)
    upper = "-" if math.isinf(row.upper) or math.isnan(row.upper) else round_up(row.upper)
    return name, round_down(row.lower), upper, gap, row.proof.value, row.solver, f"{row.seconds:.2f}"


def _notes(outcome: LipschitzOutcome) -> list[str]:
    rows = outcome.result.rows
    notes = []
    if any(row.proof is Proof.NUMERICAL for row in rows):
        notes.append("numerical: not proven; rounding errors are not accounted for")
    certificate = outcome.result.certificate
    if certificate is not None and certificate.local is not None:
        notes.append(f"rests on {'; '.join(rests_on(certificate.local))}")
    if outcome.interrupted:
        notes.append("interrupted: bounds that were not finished are weaker than they could be")
    if outcome.certificate is not None:
        notes.append(f"certificate: {outcome.certificate}")
    if outcome.plot is not None:
        notes.append(f"plot: {outcome.plot}")
    return ["", *notes] if notes else []


def check_text(outcome: CheckOutcome) -> RenderableType:
    """The statement that was proven again and its bounds."""
    if outcome.certificate is None or outcome.bounds is None:
        return Text(f"refused: {outcome.reason}")
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("C", overflow="fold")
    table.add_column("bound", justify="right", no_wrap=True, overflow="fold")
    for names, values in zip(bound_labels(outcome.certificate), outcome.bounds, strict=True):
        for name, value in zip(names, values, strict=True):
            table.add_row(Text(name), Text(round_up(value)))
    lines = ["proven again:", *statement_lines(outcome.certificate, outcome.subject), ""]
    return Group(*(Text(line) for line in lines), table)
