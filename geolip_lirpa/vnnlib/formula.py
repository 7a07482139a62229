r"""Formulas: conjunctions and disjunctions of bounds of inputs and rows of outputs, with exact numbers.

Place in the data flow: level 3, ``text -> Formula -> cases``. Both versions of VNN-LIB are read into these.

A comparison of linear forms becomes :math:`\sum_k a_k v_k \le b` (or <). With one input alone it is a `Bound`,
:math:`x_i \le b / a_i` or :math:`x_i \ge b / a_i`, with outputs alone a `Row`; what mixes them is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from geolip_lirpa.vnnlib.decimals import LARGEST, exact_row
from geolip_lirpa.vnnlib.linear import Coefficients, Linear, combine
from geolip_lirpa.vnnlib.source import RefusalError


class Bound(NamedTuple):
    """One end of an input: ``x <= value`` if `upper`, else ``x >= value``; `strict` for < and >; where it stands."""

    variable: int
    upper: bool
    value: Fraction
    strict: bool
    position: int


@dataclass(frozen=True, slots=True)
class Row:
    """``sum coefficient * y <= bound`` over (output, coefficient); `strict` for <. The coefficients are exact."""

    terms: tuple[tuple[int, float], ...]
    bound: Fraction
    strict: bool
    # rows are looked up for each disjunct that has them, and hashes of fractions are slow
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.terms, self.bound, self.strict)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class All:
    """A conjunction; of nothing, it is true."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """A disjunction; of nothing, it is false."""

    parts: tuple[Formula, ...]


Formula = Bound | Row | All | Any
#: For isinstance, which is faster with it than with a union.
ATOM = (Bound, Row)
TRUE = All(())
FALSE = Any(())
COMPARISONS = ("<=", ">=", "<", ">", "=", "==", "!=")


def compare(operator: str, left: Linear, right: Linear, position: int) -> Formula:
    """The formula ``left operator right``, one of `COMPARISONS`.

    Raises:
        RefusalError: it is neither a bound of one input nor a row of outputs, or its numbers leave the doubles.
    """
    if operator in ("<=", "<"):
        return _at_most(left, right, operator == "<", position)
    if operator in (">=", ">"):
        return _at_most(right, left, operator == ">", position)
    if operator == "!=":
        return Any((_at_most(left, right, True, position), _at_most(right, left, True, position)))
    return All((_at_most(left, right, False, position), _at_most(right, left, False, position)))


def _at_most(left: Linear, right: Linear, strict: bool, position: int) -> Formula:
    difference = combine("-", (left, right))
    coefficients = {variable: value for variable, value in difference.coefficients.items() if value}
    bound = -difference.constant
    inputs = [variable for variable in coefficients if variable >= 0]
    if not coefficients:
        return TRUE if bound > 0 or (bound == 0 and not strict) else FALSE
    if not inputs:
        return _row(coefficients, bound, strict)
    if len(inputs) < len(coefficients):
        raise RefusalError(
            "got a comparison of inputs with outputs, which is not supported; allowed are bounds of one input and "
            "linear rows of outputs. Add what depends on inputs to the network's outputs."
        )
    if len(inputs) > 1:
        raise RefusalError(
            f"got a comparison of {len(inputs)} inputs, which is not supported; allowed are bounds of one input each. "
            "Give a box that contains these inputs."
        )
    coefficient = coefficients[inputs[0]]
    value = bound if coefficient == 1 else bound / coefficient
    if abs(value) > LARGEST:
        raise RefusalError(
            "got an end of an input beyond the doubles; allowed are magnitudes up to 1.797e308. Give a smaller one."
        )
    return Bound(inputs[0], coefficient > 0, value, strict, position)


def _row(coefficients: Coefficients, bound: Fraction, strict: bool) -> Row:
    outputs = sorted(~variable for variable in coefficients)
    scaled = exact_row([coefficients[~output] for output in outputs], bound)
    if scaled is None:
        raise RefusalError(
            "got a row of outputs no multiple of which has doubles as coefficients; allowed are numbers that fit. "
            "Round the coefficients to 15 digits, in the safe direction."
        )
    return Row(tuple(zip(outputs, scaled[0], strict=True)), scaled[1], strict)
