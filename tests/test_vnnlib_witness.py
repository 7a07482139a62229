"""Witnesses: the text of both formats, reading them back, and membership of points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.errors import SpecificationError, VnnlibError
from geolip_lirpa.specification import Case, InputBox, Polytope, Specification, Tensor, violates
from geolip_lirpa.vnnlib import read_witness, witness_text
from tests.vnnlib_texts import read_text, specification, unit_box

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TENSORS = Tensor("image", "float32", (1, 2)), Tensor("logits", "Real", ())


def box_only(inputs: int, outputs: int, **more: Any) -> Specification:
    return Specification(inputs, outputs, (), **more)


def test_text_of_version_one() -> None:
    text = witness_text(box_only(2, 1), np.array([0.1, -1e-7]), np.array([3.0]))
    assert text == "((X_0 0.1)\n(X_1 -1e-07)\n(Y_0 3.0))\n"


def test_text_of_version_two() -> None:
    spec = box_only(2, 1, version="2.0", tensors=TENSORS)
    text = witness_text(spec, np.array([0.1, -1e-7]), np.array([3.0]))
    assert text == "image float32 [1,2]\n0.1\n-0.0000001\nlogits Real []\n3.0\n"


@given(NUMBERS, NUMBERS, NUMBERS, st.booleans(), st.booleans())
def test_witnesses_round_trip(a: float, b: float, y: float, two: bool, verdict: bool) -> None:
    spec = box_only(2, 1, version="2.0", tensors=TENSORS) if two else box_only(2, 1)
    text = witness_text(spec, np.array([a, b]), np.array([y]))
    inputs, outputs = read_witness("sat\n" * verdict + text, spec)
    assert [v.hex() for v in (*inputs.tolist(), *outputs.tolist())] == [v.hex() for v in (a, b, y)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: got no value of X_0"),
        ("((X_0 1)\n(Y_0 2))", "1: got no value of X_1"),
        ("((X_0 1)\n(X_1 1)\n(Y_1 2))", "3: got (Y_1 2)"),
        ("((X_0 1)\n(X_1 nan)\n(Y_0 2))", "2: got 'nan'"),
        ("((X_0 1)\n(X_1 1 2)\n(Y_0 2))", "2: got (X_1 1 2)"),
        ("((X_0 1) X_1", "1: got '(' that is never closed"),
    ],
)
def test_broken_witnesses_of_version_one(text: str, message: str) -> None:
    with pytest.raises(VnnlibError) as caught:
        read_witness(text, box_only(2, 1), "found.txt")
    assert str(caught.value).startswith(f"found.txt:{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: got ''; allowed is the header of image"),
        ("image float32 [2,1]\n1\n2\n", "1: got 'image float32 [2,1]'"),
        ("image float32 [1,2]\n1\n", "1: got 1 values"),
        ("image float32 [1,2]\n1\n2\nlogits Real []\n1\n2\n", "6: got '2'; allowed is nothing"),
        ("image float32 [1,2]\n1\ntwo\nlogits Real []\n1\n", "3: got 'two'"),
    ],
)
def test_broken_witnesses_of_version_two(text: str, message: str) -> None:
    with pytest.raises(VnnlibError) as caught:
        read_witness(text, box_only(2, 1, version="2.0", tensors=TENSORS), "found.txt")
    assert str(caught.value).startswith(f"found.txt:{message}")


def test_witnesses_that_are_none_are_refused() -> None:
    with pytest.raises(SpecificationError, match="witness: got"):
        witness_text(box_only(2, 1), np.zeros(3), np.zeros(1))
    with pytest.raises(SpecificationError, match="witness: got"):
        witness_text(box_only(2, 1), np.array([0.0, np.inf]), np.zeros(1))


def test_names_and_shapes_of_version_two() -> None:
    spec = read_text(
        "(vnnlib-version <2.0>)\n(declare-network net (declare-input image float32 [2,3])\n"
        "(declare-output y float64 []))\n"
        "(assert (and "
        + " ".join(f"(>= image[{i},{j}] {3 * i + j}) (<= image[{i},{j}] 9)" for i in range(2) for j in range(3))
        + "))(assert (<= y 0))"
    )
    assert spec.network == "net"
    assert spec.tensors == (Tensor("image", "float32", (2, 3)), Tensor("y", "float64", ()))
    assert spec.cases[0].box.lower.tolist() == [0, 1, 2, 3, 4, 5]
    assert spec.tensors[0].element_name(4) == "image[1,1]"
    assert spec.cases[0].unsafe[0].matrix.tolist() == [[1]]


def test_membership_respects_inner_ends_and_strictness() -> None:
    spec = specification(
        "(assert (<= 0.1 X_0))(assert (<= X_0 0.3))(assert (<= 0 X_1))(assert (< X_1 1))(assert (< Y_0 Y_1))"
    )
    inside, low = np.array([0.2, 0.0]), np.array([0.0, 1.0, 0.0])
    assert violates(spec, inside, low)
    assert not violates(spec, inside, np.zeros(3))
    assert not violates(spec, np.array([0.2, 1.0]), low)
    assert violates(spec, np.array([np.nextafter(0.1, 1), 0.0]), low)
    # the double below the decimal 0.3 is inside, the one above 0.1 is the decimal's own neighbour
    assert violates(spec, np.array([0.3, 0.0]), low) == (spec.cases[0].box.inner_upper[0] == 0.3)
    assert not violates(spec, np.array([np.nextafter(0.3, 1), 0.0]), low)
    assert not violates(spec, np.array([np.nan, 0.0]), low)
    assert not violates(spec, inside, np.array([-np.inf, 1.0, 0.0]))
    with pytest.raises(SpecificationError, match="point: got"):
        violates(spec, np.zeros(3), low)


def test_rows_are_compared_without_rounding() -> None:
    # in doubles 1e16 + 1 - 1e16 is 0
    polytope = Polytope.of(np.ones((1, 3)), np.array([0.5]))
    spec = Specification(1, 3, (Case(InputBox.of(np.zeros(1), np.ones(1)), (polytope,)),))
    assert not violates(spec, np.zeros(1), np.array([1e16, 1.0, -1e16]))
    assert violates(spec, np.zeros(1), np.array([1e16, 0.5, -1e16]))
    huge = Polytope.of(np.array([[1.0, 1.0, 1.0]]), np.array([0.0]))
    spec = Specification(1, 3, (Case(InputBox.of(np.zeros(1), np.ones(1)), (huge,)),))
    assert not violates(spec, np.zeros(1), np.array([1.7e308, 1.7e308, -1.7e308]))
    assert violates(spec, np.zeros(1), np.array([-1.7e308, -1.7e308, 1.7e308]))


def test_a_polytope_without_rows_is_always_reached() -> None:
    spec = specification(unit_box(2))
    assert violates(spec, np.zeros(2), np.full(3, 1e300))


def test_tensors_have_to_fit() -> None:
    with pytest.raises(SpecificationError, match="got tensors of the shapes"):
        box_only(3, 1, tensors=TENSORS)
