"""Run ``geolip-lirpa compare``: read, count, print, and write the page.

Place in the data flow: level 12, ``CompareRequest -> Comparison -> page, table, CSV or JSON``. Imported when the
command runs.
"""

from __future__ import annotations

from geolip_lirpa.cli.compare_request import CompareRequest
from geolip_lirpa.cli.comparison_inputs import load_expectations, load_results
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.line_file import LineFile
from geolip_lirpa.cli.terminal import print_error, print_result, print_text
from geolip_lirpa.cli.versions import package_version
from geolip_lirpa.report.comparison import compare_rows
from geolip_lirpa.report.comparison_tables import comparison_csv, comparison_object, comparison_table
from geolip_lirpa.report.json_text import to_text


def run_compare(request: CompareRequest) -> ExitCode:
    """Carry out a request.

    Raises:
        GeolipError: a file is malformed, or the page cannot be written.
    """
    rows = load_results(request.results)
    expected = load_expectations(request.expected, {row.benchmark for row in rows})
    comparison = compare_rows(rows, expected)
    if request.report is not None:
        # matplotlib takes a second to import: only where it is needed
        from geolip_lirpa.report.comparison_page import comparison_page

        page = comparison_page(comparison, request.title, package_version())
        LineFile("--report", request.report, "pages").rewrite([page])
    if request.format == "json":
        report = None if request.report is None else str(request.report)
        print_text(to_text(comparison_object(comparison) | {"report": report}))
    elif request.format == "csv":
        print_text(comparison_csv(comparison))
    else:
        print_result(comparison_table(comparison))
        if request.report is not None:
            print_text(f"report: {request.report}")
    for contradiction in comparison.contradictions:
        print_error(contradiction.text)
    return ExitCode.CONTRADICTED if comparison.contradictions else ExitCode.OK
