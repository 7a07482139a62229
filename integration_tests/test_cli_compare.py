"""``geolip-lirpa compare``: tables, JSON, CSV and the page from results of several files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from command_line import Command, require_error
from result_files import METHODS, write_expected, write_results

from geolip_lirpa.cli.exit_codes import ExitCode


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "r.csv", 12)


def test_table_json_and_csv_agree(run: Command, results: Path) -> None:
    table = run("compare", results)
    assert table.code == ExitCode.OK and table.err == ""
    record = run("compare", results, "--json").json
    assert record["instances"] == 12 and record["rows"] == 12 * len(METHODS) and record["report"] is None
    lines = list(csv.DictReader(io.StringIO(run("compare", results, "--csv").out)))
    assert [(c["benchmark"], c["method"], c["solved"]) for c in record["counts"]] == [
        (line["benchmark"], line["method"], int(line["solved"])) for line in lines
    ]
    assert {line["benchmark"] for line in lines} == {"even", "odd", "all"}
    for line in lines:
        shown = [
            row for row in table.out.splitlines() if row.startswith(line["benchmark"]) and f" {line['method']} " in row
        ]
        assert len(shown) == 1 and f"{line['solved']}/{line['rows']}" in shown[0]
    assert len(record["duels"]) == 2 * (len(METHODS) - 1)


def test_known_answers(run: Command, results: Path, tmp_path: Path) -> None:
    right = write_expected(tmp_path / "right.csv", 12)
    result = run("compare", results, "--expected", right)
    assert result.code == ExitCode.OK and "no verdict contradicts" in result.out
    wrong = write_expected(tmp_path / "wrong.csv", 12, wrong=(3,))
    result = run("compare", results, "--expected", wrong, "--report", tmp_path / "r.html", "--json")
    assert result.code == ExitCode.CONTRADICTED and "error: " in result.err and "p3.vnnlib" in result.err
    assert {c["vnnlib"] for c in result.json["contradictions"]} == {"vnnlib/p3.vnnlib"}
    assert "the expected one" in (tmp_path / "r.html").read_text()


def test_two_runs_of_one_method_are_told_apart(run: Command, results: Path, tmp_path: Path) -> None:
    other = tmp_path / "later.csv"
    other.write_bytes(results.read_bytes())
    methods = {c["method"] for c in run("compare", results, other, "--json").json["counts"]}
    assert methods == {f"{name} ({label})" for name in METHODS for label in ("r", "later")}


def test_pages_replace_older_ones_and_results_are_safe(run: Command, results: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    page.write_text("old")
    result = run("compare", results, "--report", page, "--title", "Ours & <theirs>")
    assert result.code == ExitCode.OK and f"report: {page}" in result.out.replace("\n", "")
    assert "<h1>Ours &amp; &lt;theirs&gt;</h1>" in page.read_text()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    content = results.read_bytes()
    require_error(run("compare", results, "--report", results), ExitCode.BAD_INPUT, "--report", "Name another file")
    assert results.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no column"),
        ("onnx,vnnlib,method,verdict,seconds\n", "no rows"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,what,1\n", "bad.csv:2"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,sat,1\na,b,crown,sat,1\n", "is there twice"),
    ],
)
def test_malformed_results(run: Command, tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    require_error(run("compare", path, "--report", tmp_path / "r.html"), ExitCode.BAD_INPUT, words)
    assert not (tmp_path / "r.html").exists()


def test_wrong_options(run: Command, results: Path, tmp_path: Path) -> None:
    require_error(run("compare", tmp_path / "nothing.csv"), ExitCode.BAD_INPUT, "no such file")
    require_error(run("compare"), ExitCode.BAD_INPUT, "RESULTS")
    require_error(run("compare", results, "--json", "--csv"), ExitCode.BAD_INPUT, "--csv, --json")
    require_error(run("compare", results, results), ExitCode.BAD_INPUT, "named twice")
    require_error(run("compare", results, "--expected", tmp_path / "x"), ExitCode.BAD_INPUT, "--expected")
    require_error(run("compare", results, "--report", tmp_path / "x" / "y"), ExitCode.BAD_INPUT, "--report")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\x00")
    require_error(run("compare", binary), ExitCode.BAD_INPUT, "UTF-8")
