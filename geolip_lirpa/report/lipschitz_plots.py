"""Lipschitz bounds as a picture: for each output, the interval from what is attained to what is proven.

Place in the data flow: level 11, ``LipschitzOutcome -> bytes of a picture``. Imports matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from geolip_lirpa.lipschitz_types import RowBound
from geolip_lirpa.report.outcome import LipschitzOutcome
from geolip_lirpa.report.plot_style import ATTAINED, FAINT, GUIDE, PROVEN, close_log, picture, plain, styled_axes
from geolip_lirpa.report.tables import lipschitz_statement
from geolip_lirpa.types import OutputNorm, Proof

_WIDTH = 7.0
# Inches for a line, and for everything else; beyond the tallest, lines move together and not all have a number.
_LINE, _AROUND, _SHORTEST, _TALLEST = 0.26, 1.75, 2.5, 11.0
# From this ratio of the largest to the smallest end on, the axis is logarithmic.
_WIDE = 20.0


def lipschitz_picture(outcome: LipschitzOutcome, suffix: str) -> bytes:
    """The bounds of an outcome, drawn.

    Args:
        outcome: finished, or interrupted; then the picture says so.
        suffix: one of `plot_style.FORMATS`.
    """
    rows = outcome.result.rows
    height = min(max(_AROUND + _LINE * len(rows), _SHORTEST), _TALLEST)
    with styled_axes((_WIDTH, height)) as (figure, (axes,)):
        _draw(axes, rows)
        _scale(axes, rows)
        _name_lines(axes, outcome)
        title = lipschitz_statement(outcome)
        axes.set_title("\n".join([*title, *_remarks(outcome)]), loc="left", fontsize=9.5, color=FAINT)
        left = "|f_i(x) - f_i(x')|" if outcome.output is OutputNorm.ROWS else f"|f(x) - f(x')|_{outcome.output.value}"
        axes.set_xlabel(f"{left} / |x - x'|_{outcome.norm.value}")
        _legend(figure, axes)
        return picture(figure, suffix, title=" ".join(title))


def _draw(axes: Axes, rows: Sequence[RowBound]) -> None:
    """Both ends of each line, and what joins them."""
    size = 6.0 if len(rows) <= 60 else 3.0
    lower = [(row.lower, y) for y, row in enumerate(rows) if row.lower > 0]
    both = [(_from(row), row.upper, y) for y, row in enumerate(rows) if math.isfinite(row.upper)]
    for least, most, y in both:
        axes.plot([least, most], [y, y], color=GUIDE, linewidth=size / 2, solid_capstyle="butt", zorder=2)
    ends = [(ATTAINED, ATTAINED, "o", "lower: attained by some input", lower)]
    for proof, face, name in (
        (Proof.RIGOROUS, PROVEN, "upper: proven"),
        (Proof.NUMERICAL, "white", "upper: estimated, not proven"),
    ):
        ends.append((PROVEN, face, "s", name, [(upper, y) for _, upper, y in both if rows[y].proof is proof]))
    for edge, face, marker, name, places in ends:
        if places:
            axes.plot(
                *zip(*places, strict=True), marker, color=edge, markerfacecolor=face, markersize=size,
                label=name, zorder=3,
            )  # fmt: skip


def _scale(axes: Axes, rows: Sequence[RowBound]) -> None:
    """Linear from zero on, or logarithmic where the ends differ too much."""
    ends = [v for row in rows for v in (row.lower, row.upper) if 0 < v < math.inf]
    if ends and max(ends) > _WIDE * min(ends):
        axes.set_xscale("log")
        axes.set_xlim(0.8 * min(ends), 1.25 * max(ends))
        close_log(axes)
    else:
        axes.set_xlim(0, 1.05 * max(ends, default=1.0))
        axes.xaxis.set_major_formatter(FuncFormatter(plain))


def _name_lines(axes: Axes, outcome: LipschitzOutcome) -> None:
    rows = outcome.result.rows
    names = [f"all {len(outcome.outputs)}" if row.row is None else str(outcome.outputs[row.row]) for row in rows]

    def name(place: float, _: Any = None) -> str:
        number = round(place)
        return names[number] if 0 <= number < len(names) and number == place else ""

    axes.yaxis.set_major_formatter(FuncFormatter(name))
    room = int((_TALLEST - _AROUND) / _LINE)
    axes.yaxis.set_major_locator(
        FixedLocator(range(len(rows))) if len(rows) <= room else MaxNLocator(room // 2, integer=True)
    )
    # the first one on top, as in the table
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_ylabel("output")
    axes.grid(visible=False, axis="y")
    for y, row in enumerate(rows):
        if not math.isfinite(row.upper) and len(rows) <= room:
            axes.annotate(
                "nothing proven above", (_from(row), y), (8, 0), textcoords="offset points", va="center",
                color=FAINT, fontsize=8.5,
            )  # fmt: skip


def _from(row: RowBound) -> float:
    """Where the interval of a row begins: zero where nothing is attained."""
    return row.lower if row.lower > 0 else 0.0


def _remarks(outcome: LipschitzOutcome) -> list[str]:
    return ["interrupted: bounds that were not finished are weaker than they could be"] if outcome.interrupted else []


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
