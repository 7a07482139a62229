"""Norms and small value types that every level shares.

Place in the data flow: level 0, imports only `errors`.
"""

from __future__ import annotations

import enum
import math

from geolip_lirpa.errors import SpecificationError


class Norm(enum.Enum):
    r"""A vector norm :math:`\ell_p` with p in {1, 2, inf}."""

    L1 = "1"
    L2 = "2"
    LINF = "inf"

    @property
    def p(self) -> float:
        return float(self.value)

    @classmethod
    def parse(cls, value: Norm | float | str) -> Norm:
        """Read a norm from `Norm`, a number (1, 2, math.inf) or a string ('1', '2', 'inf').

        Raises:
            SpecificationError: the value names no supported norm.
        """
        if isinstance(value, cls):
            return value
        text = str(value).strip().lower()
        text = text.removeprefix("l_").removeprefix("l")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        for norm in cls:
            if norm.p == number:
                return norm
        raise SpecificationError(
            f"norm: got {value!r}; allowed are 1, 2 and inf (as numbers or strings). "
            "Pass one of these, or set it on PerturbationLpNorm(norm=...)."
        )


class OutputNorm(enum.Enum):
    """How the rows of ``C f`` are measured together.

    `ROWS` bounds every row on its own; the others bound the vector ``C f`` in that norm.
    """

    ROWS = "rows"
    L1 = "1"
    L2 = "2"
    LINF = "inf"

    @classmethod
    def parse(cls, value: OutputNorm | Norm | float | str) -> OutputNorm:
        """Read an output measure: 'rows', or anything `Norm.parse` accepts."""
        if isinstance(value, cls):
            return value
        if str(value).strip().lower() == "rows":
            return cls.ROWS
        try:
            return cls(Norm.parse(str(value.value) if isinstance(value, enum.Enum) else value).value)
        except SpecificationError:
            raise SpecificationError(
                f"output: got {value!r}; allowed are rows, 1, 2 and inf. Use 'rows' for one bound per output."
            ) from None


class Proof(enum.Enum):
    """How much a bound can be trusted.

    `RIGOROUS`: proven in floating point with every rounding error accounted for.
    `NUMERICAL`: an estimate that was not proven; never call it a certificate.
    """

    RIGOROUS = "rigorous"
    NUMERICAL = "numerical"
