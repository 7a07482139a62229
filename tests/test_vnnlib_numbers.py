"""Decimals of VNN-LIB texts: exact values, doubles on both sides, rows with exact coefficients."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.errors import VnnlibError
from geolip_lirpa.vnnlib.decimals import above, below, exact, exact_row
from tests.vnnlib_texts import header, read_text, specification, unit_box

FRACTIONS = st.fractions() | st.builds(Fraction, st.floats(allow_nan=False, allow_infinity=False))
SIGNS = st.sampled_from(["", "-", "+"])
DIGITS = st.text("0123456789", min_size=1, max_size=25)
EXPONENTS = st.none() | st.integers(-330, 280)
VERSIONS = ["1.0", "2.0"]


@given(FRACTIONS)
def test_neighbours_enclose_the_value(value: Fraction) -> None:
    low, high = below(value), above(value)
    assert Fraction(low) <= value <= Fraction(high)
    assert high in (low, math.nextafter(low, math.inf))
    assert (low == high) == (Fraction(float(value)) == value)
    assert value or math.copysign(1, high) == math.copysign(1, low) == 1


@given(SIGNS, DIGITS, DIGITS, EXPONENTS)
def test_decimals_have_their_exact_value(sign: str, whole: str, part: str, exponent: int | None) -> None:
    text = f"{sign}{whole}.{part}" + ("" if exponent is None else f"e{exponent}")
    assert exact(text) == Fraction(text)


@given(st.lists(st.decimals(-100, 100, places=6).map(Fraction), min_size=1, max_size=4), FRACTIONS)
def test_rows_are_positive_multiples(coefficients: list[Fraction], bound: Fraction) -> None:
    row = exact_row(coefficients, bound / 10**6)
    if all(c == 0 for c in coefficients):
        return
    assert row is not None
    index = next(i for i, c in enumerate(coefficients) if c)
    factor = Fraction(row[0][index]) / coefficients[index]
    assert factor > 0
    assert [Fraction(c) for c in row[0]] == [factor * c for c in coefficients]
    assert row[1] == factor * bound / 10**6


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("text", ["0.1", "-0.3", "0.10000000000000000001", "1e-5", "2.5E+2", "-1.0", "3", "1.5e-300"])
def test_ends_of_boxes_enclose_the_decimal(version: str, text: str) -> None:
    name = "X_0" if version == "1.0" else "X[0]"
    spec = read_text(header(1, 1, version) + f"(assert (>= {name} {text}))(assert (<= {name} 1000))")
    box = spec.cases[0].box
    assert Fraction(float(box.lower[0])) <= Fraction(text) <= Fraction(float(box.inner_lower[0]))
    assert box.inner_lower[0] <= np.nextafter(box.lower[0], np.inf)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_input_fixed_at_a_decimal(version: str) -> None:
    name = "X_0" if version == "1.0" else "X[0]"
    box = read_text(header(1, 1, version) + f"(assert (>= {name} 0.1))(assert (<= {name} 0.1))").cases[0].box
    assert box.lower[0] < box.upper[0]
    assert box.inner_lower[0] == box.inner_upper[0] == 0.1


@pytest.mark.parametrize(
    ("text", "lower", "upper"),
    [
        ("(<= (* 2 X_0) 1)", -1.0, 0.5),
        ("(<= (* -2 X_0) 1)", -0.5, 1.0),
        ("(<= 0 (+ X_0 0.5 0.25))", -0.75, 1.0),
        ("(>= 0.25 (- X_0 0.25))", -1.0, 0.5),
        ("(<= (- X_0) 0.5)", -0.5, 1.0),
        ("(<= (+ X_0 X_0 (* 2 X_0) (* 3 (- X_0 1) 2)) (* 2 (+ 1 1)))", -1.0, 1.0),
        ("(<= X_0 (- (* 2 X_0) (- 1 1.5)))", -0.5, 1.0),
        ("(= (* 4 X_0) 1)", 0.25, 0.25),
    ],
)
def test_bounds_of_one_input_in_any_form(text: str, lower: float, upper: float) -> None:
    box = specification(unit_box(2) + f"(assert {text})").cases[0].box
    assert (box.lower[0], box.upper[0]) == (lower, upper)


@pytest.mark.parametrize(
    ("text", "matrix", "bound"),
    [
        ("(<= Y_1 Y_0)", [-1, 1, 0], 0),
        ("(>= (- Y_1 Y_0 2) 1)", [1, -1, 0], -3),
        ("(<= (+ (* 0.1 Y_0) (* -0.3 Y_2)) 0.7)", [1, 0, -3], 7),
        ("(<= (* 0.1 Y_0) 0.05)", [1, 0, 0], 0.5),
        ("(<= (* 0.5 Y_0) 1)", [0.5, 0, 0], 1),
        ("(<= (* 0.12345678901234567891 (- Y_0 Y_1)) 0)", [1, -1, 0], 0),
    ],
)
def test_rows_of_outputs(text: str, matrix: list[float], bound: float) -> None:
    (polytope,) = specification(unit_box(2) + f"(assert {text})").cases[0].unsafe
    assert polytope.matrix.tolist() == [matrix]
    assert polytope.bound.tolist() == polytope.inner_bound.tolist() == [bound]


def test_bounds_of_rows_are_rounded_to_both_sides() -> None:
    (polytope,) = specification(unit_box(2) + "(assert (<= Y_0 0.1))").cases[0].unsafe
    assert polytope.bound[0] == 0.1
    assert polytope.inner_bound[0] == np.nextafter(0.1, 0)


@pytest.mark.parametrize("term", ["0.123456789012345678", "1" + "0" * 400, "1e400", "1e-400"])
def test_rows_without_doubles_are_refused_or_exact(term: str) -> None:
    text = unit_box(2) + f"(assert (<= (+ (* {term} Y_0) Y_1) 0))"
    with pytest.raises(VnnlibError, match=r"^spec\.vnnlib:8: got a row of outputs no multiple of which"):
        specification(text)
