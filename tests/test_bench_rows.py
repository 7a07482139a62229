"""Rows of benchmark results: what is written is read back, and what is malformed is named."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.report.bench_rows import (
    COLUMNS,
    VERDICTS,
    BenchRow,
    csv_header,
    csv_line,
    one_line,
    read_rows,
    verdict_of,
)

# paths with everything that CSV has to quote, but without blanks at their ends
PATHS = st.text(string.ascii_letters + string.digits + "/,\"'.-_éλ", min_size=1, max_size=30)
ROWS = st.builds(
    BenchRow,
    onnx=PATHS,
    vnnlib=PATHS,
    method=st.sampled_from(["crown", "combined", "other tool"]),
    verdict=st.sampled_from(VERDICTS),
    seconds=st.integers(0, 10**7).map(lambda n: n / 1000),
    bound=st.none() | st.floats(allow_nan=False),
    benchmark=PATHS,
    timeout=st.none() | st.floats(1e-3, 1e6),
    detail=st.text(max_size=40).map(one_line),
    proved_by=st.sampled_from(["", "crown", "crown+splitting"]),
    boxes=st.integers(0, 10**6),
    run=st.sampled_from(["", "-", "0123456789abcdef"]),
)


@given(st.lists(ROWS, max_size=5))
def test_rows_are_read_back(rows: list[BenchRow]) -> None:
    lines = [csv_line(row) for row in rows]
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines)
    assert read_rows(csv_header() + "".join(lines), "r.csv", "") == rows


def test_header_starts_as_documented() -> None:
    assert csv_header().startswith("onnx,vnnlib,method,verdict,seconds,bound,") and len(COLUMNS) == 12


def test_tables_of_other_tools_are_read() -> None:
    text = "method,verdict,onnx,vnnlib,seconds,extra\nmarabou,violated,./acasxu/onnx/a.onnx,p.vnnlib,1.5,x\n"
    (row,) = read_rows(text, "r.csv", "folder")
    assert row == BenchRow("./acasxu/onnx/a.onnx", "p.vnnlib", "marabou", "sat", 1.5, benchmark="acasxu")


@pytest.mark.parametrize(
    ("onnx", "benchmark"),
    [
        ("onnx/a.onnx", "folder"),
        ("a.onnx", "folder"),
        ("../mnist_fc/onnx/deep/a.onnx", "mnist_fc"),
        ("/data/cifar/a.onnx", "cifar"),
        ("x\\y\\onnx\\a.onnx", "y"),
    ],
)
def test_benchmark_is_the_folder_of_the_networks(onnx: str, benchmark: str) -> None:
    (row,) = read_rows(f"onnx,vnnlib,method,verdict,seconds\n{onnx},p,crown,unsat,1\n", "r.csv", "folder")
    assert row.benchmark == benchmark


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column onnx, vnnlib, method, verdict, seconds"),
        ("onnx,vnnlib,method,verdict\n", "no column seconds"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,maybe,1\n", "r.csv:2: the verdict is 'maybe'"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,sat,1\na,b,crown,sat\n", "r.csv:3"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,sat,1,2\n", "r.csv:2"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,sat,-1\n", "times are positive"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,sat,inf\n", "times are positive"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,sat,1e308\n", "times are positive"),
        ("onnx,vnnlib,method,verdict,seconds\na,b,crown,sat,soon\n", "'soon'"),
        ("onnx,vnnlib,method,verdict,seconds,bound\na,b,crown,unsat,1,nan\n", "bound: got 'nan'"),
        ("onnx,vnnlib,method,verdict,seconds,timeout\na,b,crown,unsat,1,0\n", "times are positive"),
        (f"onnx,vnnlib,method,verdict,seconds\n{'x' * 200_000},b,crown,unsat,1\n", "r.csv:"),
        (f"onnx,vnnlib,method,verdict,seconds,{'x' * 200_000}\na,b,crown,unsat,1\n", "r.csv:"),
    ],
)
def test_malformed_tables_name_the_line(text: str, words: str) -> None:
    with pytest.raises(SpecificationError) as caught:
        read_rows(text, "r.csv", "")
    assert words in str(caught.value)


def test_numbers_of_too_many_digits_are_no_numbers_of_boxes() -> None:
    text = f"onnx,vnnlib,method,verdict,seconds,boxes\na,b,crown,unsat,1,{'9' * 5000}\n"
    assert read_rows(text, "r.csv", "")[0].boxes == 0


def test_infinite_bounds_stay_infinite() -> None:
    row = BenchRow("a", "b", "crown", "unsat", 1.0, math.inf, "x")
    assert read_rows(csv_header() + csv_line(row), "r.csv", "")[0].bound == math.inf


def test_words_of_earlier_competitions() -> None:
    assert [verdict_of(word) for word in ("holds", "Violated", " UNSAT ", "unsolved", "")] == [
        "unsat", "sat", "unsat", None, None,
    ]  # fmt: skip
