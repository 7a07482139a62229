"""VNN-LIB texts: what is joined with what, which boxes and polytopes come out, and what random formulas mean."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.errors import VnnlibError
from geolip_lirpa.specification import violates
from tests.vnnlib_texts import (
    Piece,
    contains_exactly,
    header,
    inequalities,
    normalised,
    pieces,
    read_text,
    specification,
    unit_box,
)

A, B, C = ((1.0, 0.0, 0.0), 1.0, False), ((0.0, 1.0, 0.0), 2.0, False), ((0.0, 0.0, 1.0), 3.0, False)
A_TEXT, B_TEXT, C_TEXT = "(<= Y_0 1)", "(<= Y_1 2)", "(<= Y_2 3)"


@pytest.mark.parametrize(
    ("assertions", "unsafe"),
    [
        # the assertion after a disjunction belongs to all of its parts
        (f"(assert (or {A_TEXT} {B_TEXT}))(assert {C_TEXT})", [{A, C}, {B, C}]),
        (f"(assert {C_TEXT})(assert (or {A_TEXT} {B_TEXT}))", [{A, C}, {B, C}]),
        (f"(assert (or {A_TEXT} (and {B_TEXT} {C_TEXT})))", [{A}, {B, C}]),
        (f"(assert (and (or {A_TEXT} {B_TEXT}) (or {B_TEXT} {C_TEXT})))", [{A, B}, {A, C}, {B}, {B, C}]),
        (f"(assert (or (and (or {A_TEXT} {B_TEXT}) {C_TEXT}) {B_TEXT}))", [{A, C}, {B, C}, {B}]),
        (f"(assert (or {A_TEXT} {A_TEXT} (or (and {A_TEXT} {A_TEXT}))))", [{A}]),
        ("(assert (or (and (<= -1 X_0)) (>= Y_0 -1)))", [set(), {((-1.0, 0.0, 0.0), 1.0, False)}]),
        ("", [set()]),
        ("(assert (and))", [set()]),
        ("(assert (<= 1 2))", [set()]),
        ("(assert (or (<= 2 1) (<= Y_0 1)))", [{A}]),
        ("(assert (= Y_0 1))", [{A, ((-1.0, 0.0, 0.0), -1.0, False)}]),
        ("(assert (> 1 Y_0))", [{((1.0, 0.0, 0.0), 1.0, True)}]),
    ],
)
def test_polytopes_of_one_box(assertions: str, unsafe: list[set[object]]) -> None:
    spec = specification(unit_box(2) + assertions)
    (case,) = spec.cases
    assert [inequalities(p) for p in case.unsafe] == unsafe
    assert (case.box.lower.tolist(), case.box.upper.tolist()) == ([-1, -1], [1, 1])


@pytest.mark.parametrize("body", ["(assert (or))", "(assert (<= 2 1))", "(assert (<= Y_0 (- Y_0 1)))"])
def test_what_is_false_has_no_cases(body: str) -> None:
    assert specification(unit_box(2) + body).cases == ()


def test_boxes_and_polytopes_are_not_multiplied() -> None:
    boxes = " ".join(f"(and (<= {i} X_0) (<= X_0 {i}.5))" for i in range(3000))
    rows = " ".join(f"(<= Y_0 {j})" for j in range(3000))
    spec = specification(f"(assert (or {boxes}))(assert (or {rows}))(assert (<= 0 X_1))(assert (<= X_1 1))")
    assert len(spec.cases) == 3000
    assert len(spec.cases[0].unsafe) == 3000
    assert all(case.unsafe is spec.cases[0].unsafe for case in spec.cases)
    assert [case.box.lower[0] for case in spec.cases] == list(range(3000))


def test_cases_with_the_same_box_are_merged_in_the_order_of_the_text() -> None:
    low, high = "(<= -1 X_0) (<= X_0 0)", "(<= 0 X_0) (<= X_0 1)"
    # the same doubles by another decimal
    again = "(<= -1.0e0 X_0) (<= X_0 0.00)"
    spec = specification(
        f"(assert (<= 0 X_1))(assert (<= X_1 1))(assert (or (and {high} {B_TEXT}) (and {low} {A_TEXT}) "
        f"(and {high} {C_TEXT}) (and {again} {B_TEXT}) (and {low} {A_TEXT})))"
    )
    assert [(c.box.lower[0], [inequalities(p) for p in c.unsafe]) for c in spec.cases] == [
        (0, [{B}, {C}]),
        (-1, [{A}, {B}]),
    ]


def test_empty_disjuncts_drop_out() -> None:
    spec = specification(unit_box(2) + f"(assert (or (and (>= X_0 2) {A_TEXT}) {B_TEXT} (and (< X_1 -1) {C_TEXT})))")
    (case,) = spec.cases
    assert [inequalities(p) for p in case.unsafe] == [{B}]


@pytest.mark.parametrize(
    "body",
    [
        "(assert (>= X_0 2))",
        "(assert (or (>= X_0 2) (<= X_0 -2)))",
        "(assert (or (and (>= X_0 2) (<= Y_0 1)) (and (<= X_0 -2) (<= Y_0 1))))",
        "(assert (> X_0 1))",
        "(assert (or (and (or (<= X_0 0) (<= X_0 0.1)) (or (>= X_0 0.5) (>= X_0 0.6)))))",
    ],
)
def test_ends_in_the_wrong_order_everywhere_are_an_error(body: str) -> None:
    with pytest.raises(VnnlibError, match=r"^spec\.vnnlib:8: input X_0 has no value between its ends"):
        specification(unit_box(2) + body)


def test_strict_ends_of_inputs_exclude_the_end() -> None:
    (case,) = specification("(assert (< 0 X_0))(assert (< X_0 1))(assert (<= 0.1 X_1))(assert (< X_1 0.3))").cases
    assert case.box.lower.tolist() == [0, np.nextafter(0.1, 0)]
    assert case.box.upper.tolist() == [1, np.nextafter(0.3, 1)]
    assert case.box.inner_lower.tolist() == [5e-324, 0.1]
    assert case.box.inner_upper.tolist() == [np.nextafter(1, 0), 0.3]


@pytest.mark.parametrize(("or_count", "read"), [(14, True), (21, False)])
def test_products_of_disjunctions_are_limited(or_count: int, read: bool) -> None:
    body = unit_box(2) + "".join(f"(assert (or (<= Y_0 {i}) (<= Y_1 {i})))" for i in range(or_count))
    if read:
        assert len(specification(body).cases[0].unsafe) == 2**or_count
    else:
        with pytest.raises(VnnlibError, match=r"^spec\.vnnlib:1: got a formula of more than 1000000 disjuncts"):
            specification(body)


@settings(max_examples=300)
@given(st.data())
def test_random_formulas_hold_where_the_specification_says(data: st.DataObject) -> None:
    """Every point of the inner sets satisfies the formula, and every point that satisfies it lies in the outer sets."""
    formulas: list[Piece] = data.draw(st.lists(pieces(2, 2), min_size=1, max_size=3))
    text = "".join(f"(assert {piece.text})" for piece in formulas)
    try:
        spec = specification(unit_box(2) + text, 2, 2)
    except VnnlibError as error:
        assert "no value between its ends" in str(error)
        spec = None
    corners = st.sampled_from([Fraction(v) for v in ("-1", "1", "0", "0.1", "-0.3", "0.5", "0.7", "0.25", "-0.125")])
    for _ in range(20):
        x, y = data.draw(st.tuples(corners, corners)), data.draw(st.tuples(corners, corners))
        truth = all(piece.holds(x, y) for piece in formulas) and all(-1 <= v <= 1 for v in x)
        if spec is None:
            assert not truth
            continue
        inner, outer = contains_exactly(spec, x, y)
        assert outer or not truth
        doubles = all(Fraction(float(v)) == v for v in (*x, *y))
        if doubles:
            point = np.array([float(v) for v in x]), np.array([float(v) for v in y])
            assert violates(spec, *point) == inner
            # where no double is inside, the nearest one stands for it
            fixed = any(
                ((c.box.inner_lower == c.box.inner_upper) & (c.box.lower < c.box.upper)).any() for c in spec.cases
            )
            assert truth or not inner or fixed


@settings(max_examples=100)
@given(st.lists(pieces(2, 2), min_size=1, max_size=3))
def test_both_versions_read_the_same(formulas: list[Piece]) -> None:
    box = "(and (<= -1 X_0) (<= X_0 1) (<= -1 X_1) (<= X_1 1))"
    texts = [
        header(2, 2, version)
        + "".join(f"(assert {piece.written(version)})" for piece in [Piece(box, lambda x, y: True), *formulas])
        for version in ("1.0", "2.0")
    ]
    results = []
    for text in texts:
        try:
            results.append(normalised(read_text(text)))
        except VnnlibError as error:
            results.append(str(error).partition("has no value")[2])
    assert results[0] == results[1]
