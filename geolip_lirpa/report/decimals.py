"""Decimal text of bounds that never claims more than was proven.

Place in the data flow: level 11, used by `tables` and `statement`. A binary64 number is a finite
decimal, so that rounding it to the shown digits in a chosen direction is exact.
"""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

#: Significant digits of a bound in tables.
DIGITS = 6
_PLAIN = range(-4, 7)  # decimal exponents written without E


def round_up(value: float, digits: int = DIGITS) -> str:
    """The smallest decimal number of that many significant digits that is not below `value`, as text.

    Args:
        value: an upper bound; infinity becomes ``"inf"``, NaN (nothing known) as well.
        digits: significant digits, at least 1.
    """
    return "inf" if math.isnan(value) else _rounded(value, digits, ROUND_CEILING)


def round_down(value: float, digits: int = DIGITS) -> str:
    """The largest decimal number of that many significant digits that is not above `value`, as text.

    Args:
        value: a lower bound; minus infinity becomes ``"-inf"``, NaN (nothing known) as well.
        digits: significant digits, at least 1.
    """
    return "-inf" if math.isnan(value) else _rounded(value, digits, ROUND_FLOOR)


def _rounded(value: float, digits: int, rounding: str) -> str:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    number = Context(prec=digits, rounding=rounding).plus(Decimal(value))
    exponent = number.adjusted()
    # Trailing zeros change nothing and keep columns aligned.
    number = number.quantize(Decimal(1).scaleb(exponent - digits + 1), context=Context(prec=digits + 1))
    return f"{number:f}" if exponent in _PLAIN else f"{number:.{digits - 1}E}"
