"""``geolip-lirpa compare``: what several methods did on the same instances.

Place in the data flow: level 12, ``command line -> CompareRequest -> page, table, CSV or JSON``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.cli.compare_request import CompareRequest
from geolip_lirpa.cli.options import Debug, Json
from geolip_lirpa.cli.paths import require_file, require_writable
from geolip_lirpa.errors import SpecificationError

Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RESULTS...",
        help="CSV files written by `geolip-lirpa bench`, or with the same columns.",
        show_default=False,
    ),
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="PAGE", help="Write an HTML page that needs no network.")
]
Expected = Annotated[
    list[Path] | None,
    typer.Option(
        "--expected",
        metavar="FILE",
        help="CSV file with columns onnx,vnnlib,verdict; repeat it for several benchmarks.",
        show_default=False,
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print the counts as a CSV table.")]
Title = Annotated[str, typer.Option("--title", metavar="TEXT", help="Title of the page.")]


def compare_command(
    results: Results,
    report: Report = None,
    expected: Expected = None,
    title: Title = "Comparison of verification methods",
    csv: Csv = False,
    json: Json = False,
    debug: Debug = False,
) -> int:
    """Compare methods on the instances of benchmark runs: counts, times, bounds, and who solves what.

    Examples:

    geolip-lirpa compare results.csv --report report.html --expected acasxu/expected.csv

    geolip-lirpa compare acasxu.csv mnist.csv --json
    """
    if csv and json:
        raise SpecificationError("--csv, --json: got both; allowed is one of them. Choose one.")
    for path in results:
        require_file("RESULTS", path)
    for path in expected or ():
        require_file("--expected", path)
    if report is not None:
        require_writable("--report", report)
        if any(report.resolve() == path.resolve() for path in (*results, *(expected or ()))):
            raise SpecificationError(f"--report: {report} is one of the files to read. Name another file.")
    request = CompareRequest(
        results=tuple(results),
        report=report,
        expected=tuple(expected or ()),
        title=title,
        format="csv" if csv else "json" if json else "table",
    )
    from geolip_lirpa.cli.compare_run import run_compare

    return run_compare(request)
