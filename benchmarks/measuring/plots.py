"""Plots of measurements, readable without colours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from measuring.fits import Power
from measuring.rows import write_atomically

# Okabe and Ito's colours, which the usual kinds of colour blindness keep apart; markers and lines differ, too
_STYLES = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#000000", "D", ":"))

Series = tuple[Sequence[float], Sequence[float], Power | None]


def log_plot(path: Path, series: Mapping[str, Series], title: str, x_label: str, y_label: str) -> None:
    """Write an SVG file with both axes logarithmic; fitted powers are thin lines, named in the legend.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("plots need matplotlib: pip install matplotlib") from None
    # the same numbers give the same file
    with mpl.rc_context({"svg.hashsalt": "geolip", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(6.0, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for (name, (x, y, power)), (colour, marker, line) in zip(series.items(), _STYLES, strict=False):
            text = name if power is None else f"{name} (exponent {power.exponent:.2f})"
            axes.loglog(x, y, color=colour, marker=marker, linestyle="none", markersize=5, label=text)
            if power is not None:
                ends = [power.first, power.last]
                axes.loglog(ends, [power.at(end) for end in ends], color=colour, linestyle=line, linewidth=1)
        sizes = sorted({size for x, _, _ in series.values() for size in x})
        axes.set_xticks(sizes, labels=[f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.3)
        axes.legend()
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    write_atomically(path, content.getvalue())
