"""Selections of outputs on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.cli.rows import parse_rows, select_rows
from geolip_lirpa.errors import SpecificationError


@given(st.lists(st.integers(0, 60), min_size=1, unique=True))
def test_any_selection_can_be_written(rows: list[int]) -> None:
    text = ",".join(str(row) for row in rows)
    assert select_rows(parse_rows(text), 61) == rows


@given(first=st.integers(0, 50), length=st.integers(0, 50))
def test_both_ends_of_a_range_belong_to_it(first: int, length: int) -> None:
    found = select_rows(parse_rows(f" {first} - {first + length} "), 101)
    assert found == list(range(first, first + length + 1))


@given(st.text(alphabet="0123456789,- x+._", max_size=12))
def test_text_is_read_or_refused(text: str) -> None:
    try:
        ranges = parse_rows(text)
    except SpecificationError as error:
        assert "--rows" in str(error)
        return
    ends = [(part[0], part[-1]) for part in ranges]
    written = [part.split("-") for part in text.split(",")]
    assert ends == [(int(numbers[0]), int(numbers[-1])) for numbers in written]


@pytest.mark.parametrize(("text", "word"), [("5", "5"), ("0-5", "5"), ("0,0", "twice"), ("1-3,2", "twice")])
def test_selection_must_fit_the_network(text: str, word: str) -> None:
    with pytest.raises(SpecificationError, match=word):
        select_rows(parse_rows(text), 5)
