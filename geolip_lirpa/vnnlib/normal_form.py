r"""Conjunctions of disjunctions, multiplied out only as far as a `Specification` needs it.

Place in the data flow: level 3, ``formulas -> FactoredForm -> Specification``.

A specification is a union of boxes, each with a union of polytopes. The conjuncts of a text fall into four factors,

.. math:: \text{base} \wedge \text{inputs} \wedge \text{mixed} \wedge \text{outputs},

single bounds and rows; disjunctions over inputs alone; over both; and over outputs alone. Each of the last three is
multiplied out by itself. Boxes come from inputs and mixed, and all of them share one list of polytopes of outputs: N
boxes and M polytopes take N + M entries, not N M.

The number of disjuncts and atoms is known before anything is multiplied out, see `extent`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from geolip_lirpa.vnnlib.formula import ATOM, All, Any, Bound, Formula, Row
from geolip_lirpa.vnnlib.source import RefusalError

#: Disjuncts of a factor, and atoms in all of them together.
MOST_DISJUNCTS = 10**6
MOST_ATOMS = 2 * 10**6


class Interval(NamedTuple):
    """Ends of an input: (value, open) below and (value, closed) above, so that max and min intersect; None: no end."""

    low: tuple[Fraction, bool] | None = None
    high: tuple[Fraction, bool] | None = None

    @property
    def empty(self) -> bool:
        """Whether no number lies inside."""
        if self.low is None or self.high is None:
            return False
        return self.low[0] > self.high[0] or (self.low[0] == self.high[0] and (self.low[1] or not self.high[1]))

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return self.low is not None and self.high is not None

    def meet(self, other: Interval) -> Interval:
        """The intersection."""
        low = self.low if other.low is None else other.low if self.low is None else max(self.low, other.low)
        high = self.high if other.high is None else other.high if self.high is None else min(self.high, other.high)
        return Interval(low, high)


Intervals = dict[int, Interval]


class Clause(NamedTuple):
    """One disjunct: ends of some inputs, and rows of outputs in the order of the text."""

    intervals: Intervals
    rows: tuple[Row, ...]


class Extent(NamedTuple):
    """Number of disjuncts, and of atoms in all of them, once multiplied out; both stop a little above their limits."""

    disjuncts: int
    atoms: int


@dataclass(frozen=True)
class FactoredForm:
    """``base and (one of boxes) and (one of outputs)``.

    Args:
        base: what holds in all disjuncts.
        boxes: disjuncts with intervals, each met with those of the base, and rows of the mixed factor. None is empty.
        outputs: rows of each disjunct over outputs alone.
        empty: an input that has no value in any of the disjuncts; None as soon as one disjunct is left.
    """

    base: Clause
    boxes: tuple[Clause, ...]
    outputs: tuple[tuple[Row, ...], ...]
    empty: int | None


def factored(formulas: Iterable[Formula]) -> FactoredForm:
    """The conjunction of formulas.

    Raises:
        RefusalError: more than `MOST_DISJUNCTS` disjuncts or `MOST_ATOMS` atoms.
    """
    atoms: list[Bound | Row] = []
    factors: dict[tuple[bool, bool], list[Formula]] = {}
    for formula in _conjuncts(formulas):
        if isinstance(formula, ATOM):
            atoms.append(formula)
        else:
            factors.setdefault(_kinds(formula), []).append(formula)
    constants = factors.get((False, False), [])
    inputs = All(tuple(constants + factors.get((True, False), [])))
    mixed = All(tuple(factors.get((True, True), [])))
    outputs = All(tuple(factors.get((False, True), [])))
    # rows of mixed disjuncts are joined with each disjunct of outputs
    _check(All((inputs, mixed, outputs)) if mixed.parts else inputs)
    _check(outputs)
    base = _clause(atoms)
    empty = next((i for i, interval in base.intervals.items() if interval.empty), None)
    if empty is not None:
        return FactoredForm(base, (), (), empty)
    boxes, empty = _inside(base, expanded(All((inputs, mixed))))
    return FactoredForm(base, boxes, tuple(clause.rows for clause in expanded(outputs)), None if boxes else empty)


def expanded(formula: Formula) -> list[Clause]:
    """All disjuncts in the order of the text, even those whose intervals are empty."""
    if isinstance(formula, ATOM):
        return [_clause([formula])]
    if isinstance(formula, Any):
        return [clause for part in formula.parts for clause in expanded(part)]
    atoms = [part for part in formula.parts if isinstance(part, ATOM)]
    clauses = [_clause(atoms)]
    for part in formula.parts:
        if not isinstance(part, ATOM):
            clauses = list(itertools.starmap(_join, itertools.product(clauses, expanded(part))))
    return clauses


def extent(formula: Formula) -> Extent:
    """Size of what `expanded` gives."""
    if isinstance(formula, ATOM):
        return Extent(1, 1)
    parts = [extent(part) for part in formula.parts]
    if isinstance(formula, Any):
        return _capped(sum(p.disjuncts for p in parts), sum(p.atoms for p in parts))
    total = Extent(1, 0)
    for part in parts:
        # each of the disjuncts takes the atoms of both sides
        atoms = total.atoms * part.disjuncts + part.atoms * total.disjuncts
        total = _capped(total.disjuncts * part.disjuncts, atoms)
    return total


def _capped(disjuncts: int, atoms: int) -> Extent:
    return Extent(min(disjuncts, MOST_DISJUNCTS + 1), min(atoms, MOST_ATOMS + 1))


def _check(formula: Formula) -> None:
    size = extent(formula)
    if size.disjuncts > MOST_DISJUNCTS or size.atoms > MOST_ATOMS:
        raise RefusalError(
            f"got a formula of more than {MOST_DISJUNCTS} disjuncts or {MOST_ATOMS} bounds and rows in them; allowed "
            "are fewer. Split the specification into several files."
        )


def _conjuncts(formulas: Iterable[Formula]) -> Iterator[Formula]:
    """Conjuncts without nested conjunctions, and without disjunctions of one part."""
    for formula in formulas:
        if isinstance(formula, All) or (isinstance(formula, Any) and len(formula.parts) == 1):
            yield from _conjuncts(formula.parts)
        else:
            yield formula


def _kinds(formula: Formula) -> tuple[bool, bool]:
    """Whether it has bounds of inputs, and rows of outputs."""
    if isinstance(formula, ATOM):
        return isinstance(formula, Bound), isinstance(formula, Row)
    kinds = [_kinds(part) for part in formula.parts]
    return any(inputs for inputs, _ in kinds), any(outputs for _, outputs in kinds)


def _clause(atoms: Iterable[Bound | Row]) -> Clause:
    intervals: Intervals = {}
    rows: dict[Row, None] = {}
    for atom in atoms:
        if isinstance(atom, Row):
            rows[atom] = None
            continue
        end = Interval(None, (atom.value, not atom.strict)) if atom.upper else Interval((atom.value, atom.strict))
        known = intervals.get(atom.variable)
        intervals[atom.variable] = end if known is None else known.meet(end)
    return Clause(intervals, tuple(rows))


def _join(left: Clause, right: Clause) -> Clause:
    intervals = left.intervals or right.intervals
    if left.intervals and right.intervals:
        intervals = {**left.intervals, **_met(right.intervals, left.intervals)}
    rows = left.rows or right.rows
    if left.rows and right.rows:
        rows = tuple(dict.fromkeys(left.rows + right.rows))
    return Clause(intervals, rows)


def _met(intervals: Mapping[int, Interval], with_those: Mapping[int, Interval]) -> Intervals:
    everywhere = Interval()
    return {i: interval.meet(with_those.get(i, everywhere)) for i, interval in intervals.items()}


def _inside(base: Clause, clauses: Iterable[Clause]) -> tuple[tuple[Clause, ...], int | None]:
    """The clauses met with the base, those without a point left out; and an input that empties one of these."""
    inside: list[Clause] = []
    empty = None
    for clause in clauses:
        met = _met(clause.intervals, base.intervals)
        hole = next((i for i, interval in met.items() if interval.empty), None)
        if hole is None:
            inside.append(Clause(met, clause.rows))
        else:
            empty = hole
    return tuple(inside), empty
