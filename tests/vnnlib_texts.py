"""VNN-LIB texts for tests: headers, random formulas in both versions with their value at a point, a common form."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from geolip_lirpa.specification import Polytope, Specification
from geolip_lirpa.vnnlib.reading import specification_of
from geolip_lirpa.vnnlib.source import Source

Point = Sequence[Fraction]
Evaluation = Callable[[Point, Point], bool]


def read_text(text: str) -> Specification:
    return specification_of(Source("spec.vnnlib", text))


def header(inputs: int, outputs: int, version: str = "1.0") -> str:
    """Declarations."""
    if version == "2.0":
        return (
            f"(vnnlib-version <2.0>)\n(declare-network net\n (declare-input X Real [{inputs}])\n"
            f" (declare-output Y Real [{outputs}]))\n"
        )
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{j}" for j in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def unit_box(inputs: int) -> str:
    return "".join(f"(assert (<= -1 X_{i}))(assert (<= X_{i} 1))\n" for i in range(inputs))


def specification(body: str, inputs: int = 2, outputs: int = 3) -> Specification:
    """A text of version 1.0 with its declarations."""
    return read_text(header(inputs, outputs) + body)


def inequalities(polytope: Polytope) -> set[tuple[tuple[float, ...], float, bool]]:
    """Rows as plain numbers; the two bounds have to agree."""
    assert (polytope.bound == polytope.inner_bound).all()
    return {
        (tuple(row.tolist()), float(bound), bool(strict))
        for row, bound, strict in zip(polytope.matrix, polytope.bound, polytope.strict, strict=True)
    }


def normalised(spec: Specification) -> object:
    """What a specification says, whatever its order, names and version."""
    return (
        spec.inputs,
        spec.outputs,
        frozenset(
            (
                *(
                    end.tobytes()
                    for end in (case.box.lower, case.box.inner_lower, case.box.inner_upper, case.box.upper)
                ),
                frozenset(
                    frozenset(
                        zip(
                            map(tuple, p.matrix),
                            p.bound.tolist(),
                            p.inner_bound.tolist(),
                            p.strict.tolist(),
                            strict=True,
                        )
                    )
                    for p in case.unsafe
                ),
            )
            for case in spec.cases
        ),
    )


@dataclass(frozen=True)
class Piece:
    """A formula: its text with X_i and Y_j, and its value at a point."""

    text: str
    holds: Evaluation

    def written(self, version: str) -> str:
        if version == "1.0":
            return self.text
        text = self.text.replace("(= ", "(== ")
        for letter in "XY":
            for index in range(9):
                text = text.replace(f"{letter}_{index}", f"{letter}[{index}]")
        return text


RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "=": operator.eq}
#: Decimals, most of which are no doubles.
DECIMALS = st.sampled_from(["0", "1", "-1", "0.5", "-0.25", "0.1", "-0.3", "0.7", "2.0", "-1.75", "0.1000000001"])


@st.composite
def input_pieces(draw: st.DrawFn, inputs: int) -> Piece:
    """A bound of one input, plain, scaled or shifted, on either side."""
    i, relation, value = draw(st.integers(0, inputs - 1)), draw(st.sampled_from(sorted(RELATIONS))), draw(DECIMALS)
    factor, shift = draw(st.sampled_from(["1", "2", "-1", "-0.5", "3"])), draw(st.sampled_from(["0", "0.25", "-1.5"]))
    side = f"(+ {shift} (* {factor} X_{i}))" if draw(st.booleans()) else f"(- (* X_{i} {factor}) (- {shift}))"
    compare = RELATIONS[relation]

    def left(x: Point) -> Fraction:
        return Fraction(shift) + Fraction(factor) * x[i]

    if draw(st.booleans()):
        return Piece(f"({relation} {side} {value})", lambda x, y: compare(left(x), Fraction(value)))
    return Piece(f"({relation} {value} {side})", lambda x, y: compare(Fraction(value), left(x)))


@st.composite
def output_pieces(draw: st.DrawFn, outputs: int) -> Piece:
    """A linear row over all outputs, with terms on both sides."""
    relation = draw(st.sampled_from(sorted(RELATIONS)))
    left, right = (draw(st.lists(DECIMALS, min_size=outputs, max_size=outputs)) for _ in range(2))
    shift, value = draw(DECIMALS), draw(DECIMALS)
    compare = RELATIONS[relation]

    def term(coefficients: Sequence[str], constant: str) -> str:
        return f"(+ {' '.join(f'(* {c} Y_{j})' for j, c in enumerate(coefficients))} {constant})"

    def at(coefficients: Sequence[str], constant: str, y: Point) -> Fraction:
        return sum((Fraction(c) * v for c, v in zip(coefficients, y, strict=True)), Fraction(constant))

    return Piece(
        f"({relation} {term(left, shift)} {term(right, value)})",
        lambda x, y: compare(at(left, shift, y), at(right, value, y)),
    )


def _joined(name: str, parts: list[Piece]) -> Piece:
    quantifier = all if name == "and" else any
    return Piece(f"({name} {' '.join(p.text for p in parts)})", lambda x, y: quantifier(p.holds(x, y) for p in parts))


def pieces(inputs: int, outputs: int) -> st.SearchStrategy[Piece]:
    """Formulas of any nesting."""
    atoms = st.one_of(input_pieces(inputs), output_pieces(outputs))
    return st.recursive(
        atoms,
        lambda inner: st.builds(_joined, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)),
        max_leaves=8,
    )


def contains_exactly(spec: Specification, x: Point, y: Point) -> tuple[bool, bool]:
    """Whether a rational point lies in the specification by its inner and by its outer numbers."""
    return tuple(  # type: ignore[return-value]
        any(
            all(lo <= v <= hi for lo, v, hi in zip(_exact(ends[0]), x, _exact(ends[1]), strict=True))
            and any(_in_polytope(p, y, inner) for p in case.unsafe)
            for case in spec.cases
            for ends in [
                (case.box.inner_lower, case.box.inner_upper) if inner else (case.box.lower, case.box.upper),
            ]
        )
        for inner in (True, False)
    )


def _in_polytope(polytope: Polytope, y: Point, inner: bool) -> bool:
    bounds = _exact(polytope.inner_bound if inner else polytope.bound)
    for row, bound, strict in zip(polytope.matrix, bounds, polytope.strict, strict=True):
        value = sum((c * v for c, v in zip(_exact(row), y, strict=True)), Fraction(0))
        if value > bound or (inner and strict and value == bound):
            return False
    return True


def _exact(numbers: np.ndarray) -> list[Fraction]:
    return [Fraction(float(v)) for v in numbers]


def vnnlib_files(data: Path, folder: str) -> list[Path]:
    return sorted(data.joinpath("vnncomp").glob(f"[!_]*/{folder}/**/*.vnnlib"))
