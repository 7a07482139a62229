"""Certified radii as a picture: accuracy that is proven over the radius, and proven against attacked radii.

Place in the data flow: level 11, ``CertificationOutcome -> bytes of a picture``. Imports matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from geolip_lirpa.report.certification import CertificationOutcome, ImageRecord, certification_title
from geolip_lirpa.report.plot_style import ATTAINED, FAINT, GUIDE, PROVEN, close_log, picture, plain, styled_axes

_SIZE = (10.5, 4.6)
# Beyond the largest radius, and below the smallest one, on a logarithmic axis.
_ROOM = 1.25


def radius_picture(outcome: CertificationOutcome, suffix: str) -> bytes:
    """The radii of an outcome, drawn.

    Args:
        outcome: of `radius`, finished or interrupted; then the picture says so.
        suffix: one of `plot_style.FORMATS`.
    """
    with styled_axes(_SIZE, columns=2) as (figure, (curves, points)):
        title = certification_title(outcome)
        remarks = ["interrupted: finished images alone"] if outcome.interrupted else []
        figure.suptitle("\n".join([*title, *remarks]), x=0.01, ha="left", fontsize=9.5, color=FAINT)
        norm = outcome.question["norm"]
        draw_accuracy(curves, outcome.images, f"radius (l_{norm})")
        draw_radii(points, outcome.images)
        return picture(figure, suffix, title=" ".join(title))


def draw_accuracy(axes: Axes, images: Sequence[ImageRecord], label: str) -> None:
    """For each radius, the part of the images proven up to it, and the part that no attack refutes within it.

    The true robust accuracy lies between both curves. Images that are predicted wrong have the radius zero.
    """
    proven = [image.lower or 0.0 for image in images]
    attacked = [_attacked(image) for image in images]
    ends = [radius for radius in (*proven, *attacked) if math.isfinite(radius)]
    right = 1.05 * (max(ends, default=0.0) or 1.0)
    grid = np.unique([0.0, *ends, right])
    lower, upper = (_surviving(radii, grid) for radii in (proven, attacked))
    axes.fill_between(grid, lower, upper, step="pre", color=GUIDE, alpha=0.3, linewidth=0, label="open")
    axes.step(grid, upper, where="pre", color=ATTAINED, linestyle="dashed", linewidth=1.6, label="not attacked")
    axes.step(grid, lower, where="pre", color=PROVEN, linewidth=2.0, label="proven")
    axes.set_xlim(0, right)
    axes.set_ylim(0, 103)
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_xlabel(label)
    axes.set_ylabel(f"share of {len(images)} images")
    axes.legend(loc="upper right")


def draw_radii(axes: Axes, images: Sequence[ImageRecord]) -> None:
    """The proven over the attacked radius of each image; what one of them lacks stands at an edge."""
    rows = [image for image in images if image.status != "wrong"]
    known = [r for image in rows for r in (image.lower, image.attacked) if r is not None and 0 < r < math.inf]
    if not known:
        axes.text(0.5, 0.5, "no radius is known", transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_axis_off()
        return
    low, high = min(known) / _ROOM, max(known) * _ROOM
    bottom, right = low / _ROOM, high * _ROOM
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot([low, high], [low, high], color=GUIDE, linewidth=1.0, zorder=1, label="proven = attacked")
    tight = [(image.attacked, image.lower) for image in rows if image.lower and image.attacked]
    loose = [(image.attacked or right, image.lower or bottom) for image in rows if not (image.lower and image.attacked)]
    for pairs, face, name in ((tight, PROVEN, "an image"), (loose, "white", "proven or attacked only")):
        if pairs:
            x, y = np.array(pairs, dtype=float).T
            axes.scatter(x, y, s=24, facecolor=face, edgecolor=PROVEN, alpha=0.75, zorder=3, label=name)
    axes.set_xlim(low / _ROOM, right * 1.1)
    axes.set_ylim(bottom / 1.1, high * _ROOM)
    if any(not image.attacked for image in rows):
        axes.axvline(right, color=GUIDE, linewidth=0.8, linestyle="dashed")
    if any(not image.lower for image in rows):
        axes.axhline(bottom, color=GUIDE, linewidth=0.8, linestyle="dashed")
    close_log(axes)
    axes.set_xlabel("attacked radius")
    axes.set_ylabel("proven radius")
    axes.legend(loc="upper left")


def _attacked(image: ImageRecord) -> float:
    """The radius at which the class is known to change."""
    if image.status == "wrong":
        return 0.0
    return math.inf if image.attacked is None else image.attacked


def _surviving(radii: Sequence[float], grid: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[float]:
    """Per cent of the images whose radius is at least that of the grid; zero counts as none."""
    return [100.0 * sum(r >= g and r > 0 for r in radii) / max(len(radii), 1) for g in grid]
