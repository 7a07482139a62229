"""Linear forms with exact coefficients: what stands on the two sides of a comparison.

Place in the data flow: level 3, ``text -> Linear -> Formula``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from geolip_lirpa.vnnlib.decimals import exact, small_enough
from geolip_lirpa.vnnlib.source import RefusalError

#: Input i is the number i, output j is the number ~j = -1 - j.
Coefficients = dict[int, Fraction]
ARITHMETIC = ("+", "-", "*")


class Linear(NamedTuple):
    """A linear form: coefficients of variables, and a constant."""

    coefficients: Coefficients
    constant: Fraction


def constant(text: str) -> Linear:
    """A decimal.

    Raises:
        RefusalError: as `decimals.exact`.
    """
    return Linear({}, exact(text))


def variable(number: int) -> Linear:
    """An input or output by its number."""
    return Linear({number: Fraction(1)}, Fraction(0))


def combine(operator: str, forms: Sequence[Linear]) -> Linear:
    """A sum, a difference or negation, or a product, one of `ARITHMETIC`, of at least one form.

    Raises:
        RefusalError: a product of several variables, or constants that became too long.
    """
    if operator == "*":
        return _product(forms)
    if operator == "-" and len(forms) == 1:
        return _scaled(forms[0], Fraction(-1))
    first, *rest = forms
    total, offset = dict(first.coefficients), first.constant
    sign = -1 if operator == "-" else 1
    for form in rest:
        if form.constant:
            offset = small_enough(offset + sign * form.constant)
        for number, value in form.coefficients.items():
            before = total.get(number)
            total[number] = sign * value if before is None else small_enough(before + sign * value)
    return Linear(total, offset)


def _product(forms: Sequence[Linear]) -> Linear:
    varying = [form for form in forms if form.coefficients]
    if len(varying) > 1:
        raise RefusalError(
            "got a product of variables, which is not supported; allowed are products with constants. Only linear "
            "forms are read."
        )
    factor = Fraction(1)
    for form in forms:
        if not form.coefficients:
            factor = small_enough(factor * form.constant)
    return _scaled(varying[0], factor) if varying else Linear({}, factor)


def _scaled(form: Linear, factor: Fraction) -> Linear:
    coefficients = {number: small_enough(value * factor) for number, value in form.coefficients.items()}
    return Linear(coefficients, small_enough(form.constant * factor))
