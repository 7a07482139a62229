r"""From a factored formula to boxes and polytopes of doubles.

Place in the data flow: level 3, ``Query -> Specification``, last step of reading.

Ends of boxes and bounds of rows are rounded to both sides as `specification` says. Disjuncts with the same box become
one `Case`; a box without any input in it drops out, since nothing can violate it there. If that happens to all boxes
then the ends are in the wrong order, and the text is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from geolip_lirpa.errors import VnnlibError
from geolip_lirpa.specification import Case, InputBox, Polytope, Specification
from geolip_lirpa.vnnlib.decimals import above, below
from geolip_lirpa.vnnlib.formula import Bound, Formula, Row
from geolip_lirpa.vnnlib.normal_form import Clause, FactoredForm, Interval, Intervals, factored
from geolip_lirpa.vnnlib.query import Query
from geolip_lirpa.vnnlib.source import RefusalError

#: Doubles in the boxes, and in the matrices, of one specification.
MOST_NUMBERS = 2**25


def assemble(query: Query) -> Specification:
    """The specification of a text.

    Raises:
        VnnlibError: an input without both ends, ends in the wrong order, or more than fits into memory.
    """
    try:
        form = factored(query.formulas)
        if form.empty is not None:
            raise _wrong_order(query, form.empty)
        cases = _cases(query, form) if form.outputs and form.boxes else ()
    except RefusalError as refusal:
        raise query.source.error(0, str(refusal)) from None
    return Specification(query.inputs, query.outputs, cases, query.version, query.network, query.tensors)


def _cases(query: Query, form: FactoredForm) -> tuple[Case, ...]:
    grouped: dict[tuple[tuple[int, Interval], ...], list[Clause]] = {}
    _require_ends(query, form)
    for clause in form.boxes:
        grouped.setdefault(tuple(sorted(clause.intervals.items())), []).append(clause)
    if len(grouped) * query.inputs > MOST_NUMBERS:
        raise RefusalError(
            f"got {len(grouped)} boxes of {query.inputs} inputs; allowed are {MOST_NUMBERS} numbers. Split the file."
        )
    polytopes = _Polytopes(query.outputs, form)
    boxes = _Boxes(query.inputs, form.base.intervals)
    merged: dict[bytes, tuple[InputBox, list[Clause]]] = {}
    for clauses in grouped.values():
        box = boxes.box(clauses[0].intervals)
        # other decimals may have the same doubles
        key = b"".join(end.tobytes() for end in (box.lower, box.upper, box.inner_lower, box.inner_upper))
        merged.setdefault(key, (box, []))[1].extend(clauses)
    return tuple(Case(box, polytopes.union(clauses)) for box, clauses in merged.values())


def _require_ends(query: Query, form: FactoredForm) -> None:
    """Refuse boxes with an input that has no lower or no upper end."""
    base, everything = form.base.intervals, Interval()
    loose = (i for i in range(query.inputs) if not base.get(i, everything).bounded)
    # of more loose inputs than a clause has, one is missing
    first = list(itertools.islice(loose, max((len(clause.intervals) for clause in form.boxes), default=0) + 1))
    for clause in form.boxes:
        for i in first:
            interval = clause.intervals.get(i) or base.get(i, everything)
            if not interval.bounded:
                side, sign = ("lower", ">=") if interval.low is None else ("upper", "<=")
                raise query.source.error(
                    query.input_position(i),
                    f"input {query.input_name(i)} has no {side} end; allowed are inputs with both ends in each "
                    f"disjunct. Assert {sign} for it.",
                )


def _wrong_order(query: Query, variable: int) -> VnnlibError:
    places = [atom.position for formula in query.formulas for atom in _bounds(formula) if atom.variable == variable]
    return query.source.error(
        max(places),
        f"input {query.input_name(variable)} has no value between its ends, and no other disjunct is left; allowed are "
        "lower ends up to the upper ones. Exchange the ends.",
    )


def _bounds(formula: Formula) -> Iterator[Bound]:
    if isinstance(formula, Bound):
        yield formula
    elif not isinstance(formula, Row):
        for part in formula.parts:
            yield from _bounds(part)


class _Boxes:
    """Boxes that differ from one in few inputs."""

    def __init__(self, size: int, base: Intervals) -> None:
        self.ends = np.zeros((4, size))
        self._set(self.ends, {i: interval for i, interval in base.items() if interval.bounded})

    def box(self, intervals: Intervals) -> InputBox:
        """The base with some inputs replaced."""
        ends = self.ends
        if intervals:
            ends = self.ends.copy()
            self._set(ends, intervals)
        lower, inner_lower, inner_upper, upper = ends
        return InputBox(lower, upper, inner_lower, inner_upper)

    @staticmethod
    def _set(ends: np.ndarray, intervals: Intervals) -> None:
        for i, interval in intervals.items():
            ends[:, i] = _doubles(interval)


def _doubles(interval: Interval) -> tuple[float, float, float, float]:
    """Ends of a bounded interval in ascending order: outer, inner, inner, outer."""
    if interval.low is None or interval.high is None:
        raise RefusalError("got an input without both ends; allowed are intervals. Assert the other end.")
    (low, low_open), (high, high_closed) = interval.low, interval.high
    inner_low, inner_high = above(low), below(high)
    if low_open and Fraction(inner_low) == low:
        inner_low = math.nextafter(inner_low, math.inf)
    if not high_closed and Fraction(inner_high) == high:
        inner_high = math.nextafter(inner_high, -math.inf)
    if inner_low > inner_high:
        # no double is inside: the one next to a number that is
        inside = low if not low_open else high if high_closed else (low + high) / 2
        inner_low = inner_high = float(inside)
    return below(low), inner_low, inner_high, above(high)


class _Polytopes:
    """Polytopes from rows; the same rows give the same object."""

    def __init__(self, outputs: int, form: FactoredForm) -> None:
        self.outputs = outputs
        self.base = form.base.rows
        self.factor = form.outputs
        self.made: dict[tuple[Row, ...], Polytope] = {}
        self.unions: dict[tuple[Row, ...], tuple[Polytope, ...]] = {}
        self.rounded: dict[Row, tuple[float, float]] = {}
        self.numbers = 0

    def union(self, clauses: list[Clause]) -> tuple[Polytope, ...]:
        """The polytopes of all clauses, each joined with the base and each disjunct over outputs alone."""
        if len(clauses) == 1:
            return self._joined(clauses[0].rows)
        found: dict[tuple[Row, ...], None] = dict.fromkeys(clause.rows for clause in clauses)
        # equal polytopes are one object
        return tuple({id(p): p for rows in found for p in self._joined(rows)}.values())

    def _joined(self, rows: tuple[Row, ...]) -> tuple[Polytope, ...]:
        if rows not in self.unions:
            joined = (tuple(dict.fromkeys(self.base + rows + more)) for more in self.factor)
            self.unions[rows] = tuple(self._polytope(one) for one in dict.fromkeys(joined))
        return self.unions[rows]

    def _polytope(self, rows: tuple[Row, ...]) -> Polytope:
        if rows not in self.made:
            self.numbers += len(rows) * self.outputs
            if self.numbers > MOST_NUMBERS:
                raise RefusalError(
                    f"got polytopes over {self.outputs} outputs with more than {MOST_NUMBERS} numbers; allowed are "
                    "fewer. Split the file."
                )
            matrix = np.zeros((len(rows), self.outputs))
            for row, coefficients in zip(rows, matrix, strict=True):
                for output, coefficient in row.terms:
                    coefficients[output] = coefficient
            ends = np.array([self._ends(row) for row in rows]).reshape(-1, 2)
            strict = np.array([row.strict for row in rows], dtype=bool)
            self.made[rows] = Polytope(matrix, ends[:, 1].copy(), ends[:, 0].copy(), strict)
        return self.made[rows]

    def _ends(self, row: Row) -> tuple[float, float]:
        if row not in self.rounded:
            self.rounded[row] = below(row.bound), above(row.bound)
        return self.rounded[row]
