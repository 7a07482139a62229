"""Comparisons of methods: counts against a count by hand, contradictions, and the page."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_types import METHODS
from geolip_lirpa.report.bench_rows import VERDICTS, BenchRow
from geolip_lirpa.report.comparison import ORDER, Comparison, compare_rows, joined
from geolip_lirpa.report.comparison_page import comparison_page
from geolip_lirpa.report.comparison_tables import comparison_csv, comparison_object
from geolip_lirpa.report.expectations import Expectations, read_expectations

CROWN, ALPHA, OTHER = "crown", "alpha-crown", "zeta"


def row(number: int, method: str, verdict: str, bound: float | None = None, **fields: object) -> BenchRow:
    return BenchRow(f"onnx/{number}.onnx", "p.vnnlib", method, verdict, 1.0 + number, bound, "b", 60.0, **fields)  # type: ignore[arg-type]


ANSWERS = st.dictionaries(
    st.tuples(st.integers(0, 4), st.sampled_from([CROWN, ALPHA, OTHER])),
    st.tuples(st.sampled_from(VERDICTS), st.none() | st.floats(-5, 5)),
    min_size=1,
)
TRUTHS = st.dictionaries(st.integers(0, 4), st.sampled_from(["sat", "unsat"]))


def compared(answers: dict[tuple[int, str], tuple[str, float | None]], truths: dict[int, str]) -> Comparison:
    table = {(f"onnx/{n}.onnx", "p.vnnlib"): verdict for n, verdict in truths.items()}
    rows = [row(n, method, verdict, bound) for (n, method), (verdict, bound) in answers.items()]
    return compare_rows(rows, Expectations({"": table} if table else {}))


@given(ANSWERS, TRUTHS)
def test_counts_are_those_by_hand(
    answers: dict[tuple[int, str], tuple[str, float | None]], truths: dict[int, str]
) -> None:
    comparison = compared(answers, truths)

    def right(n: int, method: str) -> bool:
        verdict = answers[n, method][0]
        return verdict in ("sat", "unsat") and truths.get(n, verdict) == verdict

    for method in comparison.methods:
        mine = {n: verdict for (n, name), (verdict, _) in answers.items() if name == method}
        counts = comparison.counts(method)
        assert counts.verdicts == {v: Counter(mine.values())[v] for v in VERDICTS}
        assert counts.solved == sum(right(n, method) for n in mine)
        assert counts.wrong == sum(v in ("sat", "unsat") and truths.get(n, v) != v for n, v in mine.items())
        for baseline in (CROWN, ALPHA):
            both = [n for n in mine if (n, baseline) in answers]
            duel = comparison.duel(method, baseline)
            assert [r.onnx for r in duel.only_method] == [
                f"onnx/{n}.onnx" for n in both if right(n, method) and not right(n, baseline)
            ]
            assert duel.both + duel.neither + len(duel.only_method) + len(duel.only_baseline) == len(both)
            bounds = [(answers[n, method][1], answers[n, baseline][1]) for n in both]
            assert duel.tighter == sum(a is not None and b is not None and a > b for a, b in bounds)
            assert duel.looser == sum(a is not None and b is not None and a < b for a, b in bounds)


@given(ANSWERS, TRUTHS)
def test_contradictions_are_all_and_only_those(
    answers: dict[tuple[int, str], tuple[str, float | None]], truths: dict[int, str]
) -> None:
    comparison = compared(answers, truths)
    expected = set()
    for (n, method), (verdict, _) in answers.items():
        if verdict in ("sat", "unsat"):
            others = {v for (m, _), (v, _) in answers.items() if m == n and v in ("sat", "unsat")}
            if truths.get(n, verdict) != verdict or (n not in truths and len(others) == 2):
                expected.add((f"onnx/{n}.onnx", method))
    assert {(c.row.onnx, c.row.method) for c in comparison.contradictions} == expected
    assert len(comparison.contradictions) == len(expected)
    for c in comparison.contradictions:
        assert {c.row.verdict, c.other} == {"sat", "unsat"} and c.row.verdict in c.text and c.other in c.text


def test_order_has_the_librarys_methods() -> None:
    assert set(ORDER) == set(METHODS)


def test_methods_stand_in_order() -> None:
    rows = [row(0, name, "unknown") for name in ("zeta", "combined", "abc", "crown", "ibp")]
    assert compare_rows(rows, Expectations()).methods == ("ibp", "crown", "combined", "abc", "zeta")


def test_the_same_method_of_two_files_is_named_after_its_file() -> None:
    first, second = [row(0, CROWN, "sat"), row(0, ALPHA, "sat")], [row(0, CROWN, "unsat")]
    names = [r.method for r in joined([("old", first), ("new", second)])]
    assert names == ["crown (old)", "alpha-crown", "crown (new)"]
    with pytest.raises(SpecificationError, match="is there twice"):
        joined([("old", [row(0, CROWN, "sat"), row(0, CROWN, "unsat")])])


def test_files_about_other_instances_are_put_together() -> None:
    assert [r.method for r in joined([("a", [row(0, CROWN, "sat")]), ("b", [row(1, CROWN, "sat")])])] == [CROWN] * 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("onnx,vnnlib\n", "no column verdict"),
        ("onnx,vnnlib,verdict\na,,sat\n", "e.csv:2"),
        ("onnx,vnnlib,verdict\na,b,sat\na,b,unsat\n", "e.csv:3: a, b has two verdicts"),
        (f"onnx,vnnlib,verdict,{'x' * 200_000}\na,b,sat\n", "e.csv:"),
    ],
)
def test_malformed_tables_of_answers_name_the_line(text: str, words: str) -> None:
    with pytest.raises(SpecificationError) as caught:
        read_expectations(text, "e.csv", "", [])
    assert words in str(caught.value)


def test_answers_are_found_by_plain_paths_and_benchmark() -> None:
    text = "onnx,vnnlib,verdict\n./onnx/0.onnx.gz,p.vnnlib,sat\nonnx/1.onnx,p.vnnlib,unknown\n"
    known = read_expectations(text, "e.csv", "b", ["b", "c"])
    assert known.verdict(row(0, CROWN, "unsat")) == "sat" and known.verdict(row(1, CROWN, "unsat")) is None
    elsewhere = BenchRow("onnx/0.onnx", "p.vnnlib", CROWN, "unsat", 1.0, benchmark="c")
    assert known.verdict(elsewhere) is None
    assert read_expectations(text, "e.csv", "other", ["b"]).verdict(elsewhere) == "sat"
    with pytest.raises(SpecificationError, match="both"):
        known.joined(read_expectations(text.replace(",sat", ",unsat"), "f.csv", "b", ["b"]))


ROWS = [
    row(0, CROWN, "unknown", -1.25, detail="</script><script>alert(1)</script> & <b>"),
    row(0, ALPHA, "unsat", 0.123456789),
    row(0, "combined", "unsat", 0.5),
    row(1, CROWN, "sat"),
    row(1, ALPHA, "unsat", 2.0),
    row(2, CROWN, "timeout", float("-inf")),
    row(2, "combined", "error", detail="crashed"),
]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.elements: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                self.links.append(value or "")


def page(comparison: Comparison) -> tuple[str, _Reader]:
    text = comparison_page(comparison, "A <title>", "1.0")
    reader = _Reader()
    reader.feed(text)
    return text, reader


def test_page_needs_nothing_else() -> None:
    text, reader = page(compare_rows(ROWS, Expectations()))
    assert all(link.startswith(("#", "data:")) for link in reader.links), reader.links
    assert not re.search(r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|WebSocket|import\(", text)
    assert "default-src 'none'" in text and reader.elements["link"] == 1
    inner = {link[1:] for link in reader.links if link.startswith("#")} - {""}
    assert len(reader.ids) == len(set(reader.ids)) and inner <= set(reader.ids)


def test_page_shows_text_as_text() -> None:
    text, reader = page(compare_rows(ROWS, Expectations()))
    assert reader.elements["script"] == 2 and "alert(1)</script>" not in text
    assert "<title>A &lt;title&gt;</title>" in text


def test_page_has_the_rows_and_never_rounds_bounds_up() -> None:
    text, _ = page(compare_rows(ROWS, Expectations({"": {("onnx/1.onnx", "p.vnnlib"): "sat"}})))
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert len(data["rows"]) == len(ROWS)
    for cells, given_row in zip(data["rows"], ROWS, strict=True):
        assert data["strings"][cells[1]] == given_row.onnx and data["strings"][cells[4]] == given_row.verdict
        if given_row.bound is not None:
            assert float(cells[7]) <= given_row.bound
    assert data["strings"][data["rows"][0][10]] == ROWS[0].detail
    assert [cells[9] for cells in data["rows"]] == [0, 0, 0, 0, 1, 0, 0]
    assert re.search(r"1\s+verdict contradicts\s+the expected ones", text)


def test_plots_have_words_for_those_who_do_not_see_them() -> None:
    text, _ = page(compare_rows(ROWS, Expectations()))
    alts = re.findall(r'role="img" aria-label="([^"]*)"', text)
    assert len(alts) == 5 and all(alt.endswith(".") for alt in alts)
    assert "Solved in all: crown 1, alpha-crown 2, combined 1." in alts[0]
    assert "Tighter: alpha-crown 1 of 1, combined 1 of 1." in alts[1]


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, "other", "unknown")],
        [row(0, CROWN, "error")],
        [row(0, CROWN, "unsat", 0.0), row(0, ALPHA, "unsat", 0.0)],
        [row(0, CROWN, "unsat", 1e300), row(0, ALPHA, "unsat", -1e300), row(1, CROWN, "unsat", 1e-300)],
        [BenchRow("a.onnx", "p.vnnlib", name, "sat", 0.0, benchmark="") for name in (CROWN, ALPHA)],
        [row(0, f"method {k}", "unsat", float(k)) for k in range(20)] + [row(0, CROWN, "unsat", 1.0)],
    ],
)
def test_pages_of_odd_results(rows: list[BenchRow]) -> None:
    text, reader = page(compare_rows(rows, Expectations()))
    assert text.rstrip().endswith("</html>") and len(reader.ids) == len(set(reader.ids))


def test_large_pages_stay_small() -> None:
    rows = [
        BenchRow(
            f"onnx/net_{n % 45}.onnx", f"vnnlib/property_{n}_with_a_long_name.vnnlib", method, VERDICTS[n % 5],
            n / 7, (n % 31) - 15.3, f"benchmark_{n % 6}", 120.0, "no proof within the budget",
        )
        for n in range(500)
        for method in METHODS
    ]  # fmt: skip
    text, _ = page(compare_rows(rows, Expectations()))
    assert len(rows) == 4000 and len(text.encode()) < 3_000_000


def test_counts_as_csv_and_json_agree() -> None:
    comparison = compare_rows(ROWS, Expectations())
    record = comparison_object(comparison)
    json.dumps(record, allow_nan=False)
    lines = [line.split(",") for line in comparison_csv(comparison).splitlines()]
    assert lines[0] == ["benchmark", "method", "rows", "solved", *VERDICTS, "wrong", "seconds", "mean_seconds"]
    assert [[str("" if c[k] is None else c[k]) for k in lines[0]] for c in record["counts"]] == lines[1:]
    assert record["contradictions"][0] == {
        "benchmark": "b", "onnx": "onnx/1.onnx", "vnnlib": "p.vnnlib", "method": CROWN, "verdict": "sat",
        "by": ALPHA, "other": "unsat",
    }  # fmt: skip
