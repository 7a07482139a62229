"""A comparison as one HTML page that needs nothing else, no network either.

Place in the data flow: level 11, ``Comparison -> HTML text``. The page is made from the files in ``templates``; its
table of instances is data, of which the page's own script shows as much as is looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from geolip_lirpa.report.bench_rows import VERDICTS, BenchRow
from geolip_lirpa.report.comparison import Comparison
from geolip_lirpa.report.comparison_plots import Plot, bounds_against, cactus, method_colour, times_against
from geolip_lirpa.report.decimals import round_down

# Names of instances in a list that unfolds; all of them are in the table.
_MOST_NAMES = 60
# Folders that say nothing about their files, here and in comparison.js.
_PLAIN_FOLDERS = ("/", ".", "onnx", "vnnlib")


def comparison_page(comparison: Comparison, title: str, version: str) -> str:
    """The page.

    Args:
        comparison: what is shown.
        title: of the page.
        version: of this package, for the last line.
    """
    environment = Environment(
        loader=PackageLoader("geolip_lirpa.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"seconds": _seconds, "percent": _percent, "short": _short, "count": _count}
    return environment.get_template("comparison.html.j2").render(
        title=title,
        version=version,
        comparison=comparison,
        verdicts=VERDICTS,
        methods=_methods(comparison),
        benchmarks=_benchmarks(comparison),
        duels=_duels(comparison),
        most_names=_MOST_NAMES,
        plots=_plots(comparison),
        limits=_limits(comparison),
        data=Markup(_embedded(_table(comparison))),
    )


def _methods(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {"name": name, "colour": method_colour(name, number), "counts": comparison.counts(name)}
        for number, name in enumerate(comparison.methods)
    ]


def _benchmarks(comparison: Comparison) -> list[dict[str, Any]]:
    """Solved instances of each benchmark by each method."""
    return [
        {
            "name": name,
            "instances": sum(instance[0] == name for instance in comparison.instances),
            "counts": [comparison.counts(method, name) for method in comparison.methods],
        }
        for name in comparison.benchmarks
    ]


def _duels(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "baseline": baseline,
            "duels": [comparison.duel(method, baseline) for method in comparison.methods if method != baseline],
        }
        for baseline in comparison.baselines()
    ]


def _limits(comparison: Comparison) -> list[float]:
    """Powers of ten among the times, four at most and the largest ones, from the first in which something is solved."""
    seconds = [row.seconds for row in comparison.rows if comparison.is_solved(row)]
    top = math.ceil(math.log10(max([*seconds, 0.1])))
    limits = [10.0**power for power in range(top - 3, top + 1)]
    return [limit for limit in limits if limit >= min(seconds, default=1.0)] or limits[-1:]


def _plots(comparison: Comparison) -> dict[str, Sequence[Plot]]:
    baselines = comparison.baselines()
    pairs = [make(comparison, name) for make in (bounds_against, times_against) for name in baselines]
    return {"cactus": [cactus(comparison)], "scatter": [plot for plot in pairs if plot is not None]}


def _table(comparison: Comparison) -> dict[str, Any]:
    """Rows of numbers and of places in a list of strings, since most strings are there many times."""
    strings: dict[str, int] = {}

    def place(text: str) -> int:
        return strings.setdefault(text, len(strings))

    rows = [
        [
            place(row.benchmark),
            place(row.onnx),
            place(row.vnnlib),
            place(row.method),
            place(row.verdict),
            round(row.seconds, 3),
            None if row.bound is None or not math.isfinite(row.bound) else row.bound,
            "" if row.bound is None else round_down(row.bound) if math.isfinite(row.bound) else str(row.bound),
            place(comparison.expected.verdict(row) or ""),
            1 if comparison.is_wrong(row) else 2 if comparison.is_doubtful(row) else 0,
            place(row.detail),
        ]
        for row in comparison.rows
    ]
    return {"strings": list(strings), "rows": rows, "expected": bool(comparison.expected.tables)}


def _embedded(record: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(record, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else _count(round(value))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "0"


def _count(value: int) -> str:
    """With thin spaces between groups of three digits."""
    return f"{value:,}".replace(",", "\u202f")


def _short(row: BenchRow) -> str:
    """An instance in few words."""
    return f"{_name(row.onnx)} · {_name(row.vnnlib)}"


def _name(path: str) -> str:
    """A file's name without suffixes, with its folder where that says more than what kind of files it has."""
    *folders, name = PurePosixPath(path.replace("\\", "/")).parts[-2:]
    plain = name.removesuffix(".gz").removesuffix(".onnx").removesuffix(".vnnlib")
    return "/".join([folder for folder in folders if folder not in _PLAIN_FOLDERS] + [plain])
