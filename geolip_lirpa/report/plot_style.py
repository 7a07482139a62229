"""How all plots look, and their pictures as bytes.

Place in the data flow: level 11, used by the modules that draw. Imports matplotlib, and never its `pyplot`: a figure
needs no display and no state of the process.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow that is too faint on white.
# Markers and dashes differ as well: nothing is told by colour alone.
COLOURS = ("#000000", "#E69F00", "#D55E00", "#56B4E9", "#CC79A7", "#8C564B", "#009E73", "#0072B2")
MARKERS = ("x", "o", "^", "v", "P", "D", "s", "*")
DASHES = ("dotted", "dashed", "dashdot", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), "solid")
#: What is proven, what is attained by some input, and lines that only guide the eye.
PROVEN, ATTAINED, GUIDE = "#0072B2", "#D55E00", "#9ca3af"
#: Text beside the data.
FAINT = "#4b5563"
#: Suffixes of files that `picture` can fill.
FORMATS = (".png", ".svg")

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#6b7280",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    # the page's own font, and text that can be searched and read aloud
    "svg.fonttype": "none",
    # a name of a file may hold a dollar sign, which is no formula
    "text.parse_math": False,
}
_DOTS_PER_INCH = 160


@contextmanager
def styled_axes(size: tuple[float, float], columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with axes side by side; everything drawn inside the context has the common look.

    Args:
        size: width and height in inches.
        columns: number of axes.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.08))
        yield figure, list(figure.subplots(1, columns, squeeze=False)[0])


def plain_log(axes: Axes) -> None:
    """Plain numbers on logarithmic axes, and a whole power of ten in sight on each."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(FuncFormatter(plain))
            axis.set_minor_formatter(NullFormatter())
            low, high = (math.log10(end) for end in sorted(axis.get_view_interval()))
            if math.floor(high) <= math.ceil(low):
                # one power of ten at most is in sight, which gives no scale
                axis.set_view_interval(10 ** math.floor(low), 10 ** math.ceil(high), ignore=True)


def close_log(axes: Axes) -> None:
    """Plain numbers on logarithmic axes that end near the data: 1, 2, 5 are labelled where powers of ten are few."""
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = (math.log10(end) for end in sorted(axis.get_view_interval()))
            if high - low < 2:
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(plain))
            axis.set_minor_formatter(NullFormatter())


def plain(value: float, _: object = None) -> str:
    """A number of an axis, 0.01 rather than a power where that is short."""
    return f"{value:g}".replace("-", "\u2212") if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.0e}"


def picture(figure: Figure, suffix: str, title: str) -> bytes:
    """The file of a figure, the same bytes for the same figure.

    Args:
        figure: drawn in `styled_axes`, still inside the context.
        suffix: one of `FORMATS`.
        title: for those who do not see it.
    """
    content = io.BytesIO()
    # letters are drawn in files: the fonts of who looks at them are not known
    with matplotlib.rc_context({"svg.hashsalt": "geolip-lirpa", "svg.fonttype": "path"}):
        stamp = {"Date": None} if suffix == ".svg" else {}
        figure.savefig(
            content, format=suffix[1:], dpi=_DOTS_PER_INCH, facecolor="white", metadata={"Title": title, **stamp}
        )
    return content.getvalue()
