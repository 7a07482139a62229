"""Shown numbers never claim more than was proven."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geolip_lirpa.report.decimals import DIGITS, round_down, round_up

_finite = st.floats(allow_nan=False, allow_infinity=False)


@given(value=_finite, digits=st.integers(1, 17))
@example(value=0.1, digits=1)
@example(value=9.9999999, digits=6)
@example(value=5e-324, digits=3)
@example(value=-1.7976931348623157e308, digits=2)
def test_shown_numbers_enclose_the_value(value: float, digits: int) -> None:
    low, high = Decimal(round_down(value, digits)), Decimal(round_up(value, digits))
    assert low <= Decimal(value) <= high
    # one unit of the last shown digit at most
    assert high - low <= abs(Decimal(value)) * Decimal(10) ** (1 - digits)


@given(value=_finite)
def test_negation_turns_up_into_down(value: float) -> None:
    assert Decimal(round_up(-value)) == -Decimal(round_down(value))


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [
        (400.7219712, "400.721", "400.722"),
        (2.0, "2.00000", "2.00000"),
        (999999.9, "999999", "1000000"),
        (12345678.0, "1.23456E+7", "1.23457E+7"),
        (0.00012345, "0.000123449", "0.000123450"),
        (-3.14159265, "-3.14160", "-3.14159"),
        (0.0, "0", "0"),
        (math.inf, "inf", "inf"),
    ],
)
def test_examples(value: float, down: str, up: str) -> None:
    assert (round_down(value, DIGITS), round_up(value, DIGITS)) == (down, up)


def test_nothing_known_is_the_weakest_bound() -> None:
    assert (round_down(math.nan), round_up(math.nan)) == ("-inf", "inf")
