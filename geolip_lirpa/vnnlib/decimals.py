r"""Decimals of a text as exact numbers, and the doubles on both sides of them.

Place in the data flow: level 3, first step of ``text -> formula -> Specification``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from fractions import Fraction

from geolip_lirpa.vnnlib.source import RefusalError

LARGEST = Fraction(sys.float_info.max)
#: Longest decimal and largest exponent that are read: exact numbers of a short text stay short.
LONGEST_DECIMAL = 1000
LARGEST_EXPONENT = 1000
#: Bits of a numerator or denominator, after sums and products.
LARGEST_BITS = 20_000

_PARTS = re.compile(r"([+-]?)([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?")


def exact(text: str) -> Fraction:
    """The value of a decimal.

    Raises:
        RefusalError: the text is no decimal, or one of too many digits.
    """
    parts = _PARTS.fullmatch(text) if len(text) <= LONGEST_DECIMAL else None
    if parts is None or not (parts[2] or parts[3]):
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise RefusalError(
            f"got {shown!r}; allowed are decimals of at most {LONGEST_DECIMAL} characters, like -1.5e-3. Write one."
        )
    exponent = int(parts[4] or 0) if len(parts[4] or "") < 10 else LARGEST_EXPONENT + 1
    if abs(exponent) > LARGEST_EXPONENT:
        raise RefusalError(
            f"got {text[:40]!r}; allowed are exponents from -{LARGEST_EXPONENT} to {LARGEST_EXPONENT}. Round it."
        )
    exponent -= len(parts[3])
    digits = int(parts[1] + parts[2] + parts[3])
    return Fraction(digits * 10**exponent) if exponent >= 0 else Fraction(digits, 10**-exponent)


def small_enough(value: Fraction) -> Fraction:
    """The value, unless sums and products made it too long to go on with.

    Raises:
        RefusalError: it is longer than `LARGEST_BITS`.
    """
    if value.numerator.bit_length() > LARGEST_BITS or value.denominator.bit_length() > LARGEST_BITS:
        raise RefusalError(
            f"got a constant of more than {LARGEST_BITS} bits; allowed are shorter ones. Round its parts."
        )
    return value


def below(value: Fraction) -> float:
    """The largest double that is at most the value, for magnitudes up to the largest double."""
    nearest = float(value)
    # compared in integers, which is faster than with fractions
    numerator, denominator = nearest.as_integer_ratio()
    too_large = numerator * value.denominator > value.numerator * denominator
    return math.nextafter(nearest, -math.inf) if too_large else nearest


def above(value: Fraction) -> float:
    """The smallest double that is at least the value."""
    # without the sign of a negative zero
    return -below(-value) + 0.0


def exact_row(coefficients: Sequence[Fraction], bound: Fraction) -> tuple[list[float], Fraction] | None:
    r"""The row :math:`a^T y \le b`, multiplied by a positive number so that its coefficients are doubles.

    Rows of doubles stay as they are. Others become :math:`\lambda a` with the smallest :math:`\lambda > 0` that makes
    them integers: if any positive multiple consists of doubles then this one does, since a common divisor only shortens
    the mantissas.

    Returns:
        the coefficients and the exact bound, or None if no multiple consists of doubles or the bound is too large.
    """
    if not all(_is_double(c) for c in coefficients):
        denominator = math.lcm(*(c.denominator for c in coefficients))
        factor = Fraction(denominator, math.gcd(*(int(c * denominator) for c in coefficients)))
        coefficients, bound = [c * factor for c in coefficients], bound * factor
    if abs(bound) > LARGEST or not all(_is_double(c) for c in coefficients):
        return None
    return [float(c) for c in coefficients], bound


def _is_double(value: Fraction) -> bool:
    return abs(value) <= LARGEST and Fraction(float(value)) == value
