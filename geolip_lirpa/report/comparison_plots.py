"""Plots of a comparison as SVG text for an HTML page.

Place in the data flow: level 11, ``Comparison -> Plot``, used by `comparison_page`. Imports matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from geolip_lirpa.report.bench_rows import BenchRow
from geolip_lirpa.report.comparison import ORDER, Comparison
from geolip_lirpa.report.plot_style import COLOURS, DASHES, MARKERS, plain, plain_log, styled_axes

_SIZE = (5.4, 4.3)
# Times below say more about the machine's clock than about methods, and a logarithm needs a positive end.
_SHORTEST = 1e-3
# More markers are drawn as one picture, which stays small.
_MOST_MARKERS = 1200
# Between two labelled ticks, as a part of the axis.
_LEAST_GAP = 0.09


@dataclass(frozen=True)
class Plot:
    """A picture with its words.

    Args:
        name: for the anchor.
        title: above it.
        note: below it: how to read it.
        alt: what it shows, for those who do not see it.
        svg: the element.
    """

    name: str
    title: str
    note: str
    alt: str
    svg: str


def cactus(comparison: Comparison) -> Plot:
    """How many instances each method solves within how many seconds."""
    shown = []
    with styled_axes(_SIZE) as (figure, (axes,)):
        for number, method in enumerate(comparison.methods):
            times = sorted(max(row.seconds, _SHORTEST) for row in comparison.of(method) if comparison.is_solved(row))
            shown.append(f"{method} {len(times)}")
            look = _look(method, number)
            steps = np.arange(len(times) + 1)
            axes.step(
                [times[0] if times else _SHORTEST, *times], steps, where="post", label=f"{method} ({len(times)})",
                color=look.colour, linestyle=look.dash, linewidth=1.8,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        plain_log(axes)
        axes.set_xlabel("seconds for an instance")
        axes.set_ylabel("instances solved")
        _legend(figure, axes)
        svg = _svg(figure, "cactus")
    return Plot(
        "cactus",
        "Solved within a time limit",
        "Each curve counts the instances that a method solves in at most so many seconds: higher and further left is "
        "better.",
        f"Curves of solved instances over seconds on a logarithmic scale. Solved in all: {', '.join(shown)}.",
        svg,
    )


def bounds_against(comparison: Comparison, baseline: str) -> Plot | None:
    """Bounds of all other methods over those of a baseline; None where there are none to compare."""
    series = _series(comparison, baseline, lambda mine, its: (_bound(its), _bound(mine)))
    if not series:
        return None
    values = np.array([v for _, points in series for point in points for v in point])
    sizes = np.abs(values[values != 0])
    linear = float(np.quantile(sizes, 0.1)) if len(sizes) else 1.0
    tighter = [f"{name} {sum(y > x for x, y in points)} of {len(points)}" for name, points in series]
    with styled_axes(_SIZE) as (figure, (axes,)):
        axes.set_xscale("symlog", linthresh=linear)
        axes.set_yscale("symlog", linthresh=linear)
        low, high = float(values.min()), float(values.max())
        _diagonal(axes, low, high)
        for line in (axes.axhline, axes.axvline):
            line(0, color="#9ca3af", linewidth=0.8, zorder=1)
        _scatter(comparison, axes, series)
        _few_ticks(axes)
        axes.set_xlabel(f"bound of {baseline}")
        axes.set_ylabel("bound of the method")
        _legend(figure, axes)
        svg = _svg(figure, f"bounds-{baseline}")
    return Plot(
        f"bounds-{baseline}",
        f"Bounds against {baseline}",
        "Above the diagonal the method's bound is tighter. A positive bound proves unsat alone; that of combined is "
        "what it had before it split. Both axes are linear near zero and logarithmic beyond.",
        f"Scatter plot of bounds of each method over those of {baseline}. Tighter: {', '.join(tighter)}.",
        svg,
    )


def times_against(comparison: Comparison, baseline: str) -> Plot | None:
    """Seconds of all other methods over those of a baseline; what one did not solve stands at the edge."""
    edge = 2 * max([_SHORTEST, *(row.timeout or 0.0 for row in comparison.rows), *(r.seconds for r in comparison.rows)])

    def point(mine: BenchRow, its: BenchRow) -> tuple[float | None, float | None]:
        solved = [comparison.is_solved(row) for row in (its, mine)]
        if not any(solved):
            return None, None
        times = [max(row.seconds, _SHORTEST) if s else edge for row, s in zip((its, mine), solved, strict=True)]
        return times[0], times[1]

    series = _series(comparison, baseline, point)
    if not series:
        return None
    faster = [f"{name} {sum(y < x for x, y in points)} of {len(points)}" for name, points in series]
    with styled_axes(_SIZE) as (figure, (axes,)):
        axes.set_xscale("log")
        axes.set_yscale("log")
        low = min(v for _, points in series for point in points for v in point)
        _diagonal(axes, low, edge)
        for line in (axes.axhline, axes.axvline):
            line(edge, color="#6b7280", linewidth=0.8, linestyle="dashed", zorder=1)
        axes.annotate(
            "not solved", (0.02, edge), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            color="#4b5563", fontsize=9,
        )  # fmt: skip
        _scatter(comparison, axes, series)
        plain_log(axes)
        axes.set_xlabel(f"seconds of {baseline}")
        axes.set_ylabel("seconds of the method")
        _legend(figure, axes)
        svg = _svg(figure, f"times-{baseline}")
    return Plot(
        f"times-{baseline}",
        f"Times against {baseline}",
        "Below the diagonal the method is faster. Instances that only one of the two solves stand on a dashed line.",
        f"Scatter plot of seconds of each method over those of {baseline}. Faster: {', '.join(faster)}.",
        svg,
    )


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    dash: Any


def method_colour(method: str, number: int) -> str:
    """Colour of a method, the same on every page for those of this package.

    Args:
        method: its name.
        number: its place on this page, which decides for other names.
    """
    return _look(method, number).colour


def _look(method: str, number: int) -> _Look:
    place = ORDER.index(method) if method in ORDER else number % len(COLOURS)
    return _Look(COLOURS[place], MARKERS[place], DASHES[place])


def _series(comparison: Comparison, baseline: str, point: Any) -> list[tuple[str, list[tuple[float, float]]]]:
    """Methods with their points, without those that have none."""
    found = []
    for method in comparison.methods:
        if method != baseline:
            points = [point(mine, its) for mine, its in comparison.pairs(method, baseline)]
            kept = [(x, y) for x, y in points if x is not None and y is not None]
            if kept:
                found.append((method, kept))
    return found


def _bound(row: BenchRow) -> float | None:
    return row.bound if row.bound is not None and np.isfinite(row.bound) else None


def _scatter(comparison: Comparison, axes: Axes, series: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> None:
    many = sum(len(points) for _, points in series) > _MOST_MARKERS
    for method, points in series:
        look = _look(method, comparison.methods.index(method))
        x, y = np.array(points).T
        axes.scatter(
            x, y, s=22, marker=look.marker, color=look.colour, alpha=0.65, linewidths=1.0 if look.marker == "x" else 0,
            label=method, rasterized=many, zorder=3,
        )  # fmt: skip


def _diagonal(axes: Axes, low: float, high: float) -> None:
    axes.plot([low, high], [low, high], color="#9ca3af", linewidth=1.0, zorder=1)


def _few_ticks(axes: Axes) -> None:
    """Powers on both sides of zero would run into each other: from zero outward, those with room between them."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        inside = sorted((float(t) for t in axis.get_majorticklocs() if low <= t <= high), key=abs)
        places = axis.get_transform().transform(np.array([low, high, *inside]))
        kept: dict[float, float] = {}
        for tick, place in zip(inside, (places[2:] - places[0]) / (places[1] - places[0]), strict=True):
            if all(abs(place - other) > _LEAST_GAP for other in kept.values()):
                kept[tick] = float(place)
        axis.set_ticks(sorted(kept))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(plain))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=0) > 12 else 3
    figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, max(len(labels), 1)))


def _svg(figure: Figure, name: str) -> str:
    """The element alone, with names of its own, as large as the page lets it be."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", dpi=160, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # fonts as the page has them
    svg = re.sub(r"\bfont-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'(\bid="|\burl\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true" focusable="false"', svg, count=1)
