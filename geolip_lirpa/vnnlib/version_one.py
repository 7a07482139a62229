"""VNN-LIB 1.0: variables X_i and Y_j of type Real, assertions in prefix notation.

Place in the data flow: level 3, ``Source -> Query``.

The language is the subset of SMT-LIB that the competitions of neural network verification have used since 2021:
``declare-const`` and ``assert`` with ``and``, ``or``, ``<=``, ``>=``, ``<``, ``>``, ``=``, ``+``, ``-``, ``*``.

All assertions hold at once, whatever their form: ``(or A B)`` followed by C is (A or B) and C.
"""

from __future__ import annotations

import re

from geolip_lirpa.vnnlib.expressions import Group, commands
from geolip_lirpa.vnnlib.formula import COMPARISONS, All, Any, Formula, compare
from geolip_lirpa.vnnlib.linear import ARITHMETIC, Linear, combine, constant, variable
from geolip_lirpa.vnnlib.query import Query
from geolip_lirpa.vnnlib.source import RefusalError, Source

_VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})")
#: Commands of SMT-LIB that do not change what is asserted.
_IGNORED = frozenset({"check-sat", "exit", "get-model", "set-info", "set-logic", "set-option"})


def read(source: Source) -> Query:
    """Read a text of version 1.0.

    Raises:
        VnnlibError: with the line.
    """
    reader = _Reader(source)
    for command in commands(source):
        reader.command(command)
    return reader.query()


class _Reader:
    """Collects declarations and formulas of one text."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.declared: dict[str, dict[int, int]] = {"X": {}, "Y": {}}  # number of a variable to its position
        self.numbers: dict[str, Linear] = {}
        self.formulas: list[Formula] = []

    def command(self, command: Group) -> None:
        if command.head == "declare-const":
            self._declare(command)
        elif command.head == "assert":
            if len(command.items) != 2:
                raise self._error(command, f"got {command}; allowed is one formula. Join them with `and`.")
            self.formulas.append(self._formula(command.items[1], command))
        elif command.head not in _IGNORED:
            raise self._error(
                command,
                f"got {command}; allowed are (declare-const NAME Real) and (assert FORMULA). Write it so; a text "
                "of version 2.0 begins with (vnnlib-version <2.0>).",
            )

    def query(self) -> Query:
        """Everything that was read."""
        for letter, positions in self.declared.items():
            missing = next(i for i in range(len(positions) + 1) if i not in positions)
            if not positions or missing < len(positions):
                place = max(positions.values(), default=0)
                raise self.source.error(
                    place,
                    f"got {len(positions)} variables {letter}_i, without {letter}_{missing}; allowed are {letter}_0 to "
                    f"{letter}_n without gaps. Declare (declare-const {letter}_{missing} Real).",
                )
        inputs = self.declared["X"]
        return Query(
            self.source, len(inputs), len(self.declared["Y"]), lambda i: f"X_{i}", inputs.__getitem__,
            tuple(self.formulas), "1.0",
        )  # fmt: skip

    def _error(self, place: Group, message: str) -> Exception:
        return self.source.error(place.position, message)

    def _declare(self, command: Group) -> None:
        _, *rest = command.items
        name = rest[0] if rest and isinstance(rest[0], str) else ""
        match = _VARIABLE.fullmatch(name)
        if match is None or rest[1:] != ["Real"]:
            raise self._error(
                command,
                f"got {command}; allowed is (declare-const NAME Real) with X_0, X_1, ... for inputs and Y_0, Y_1, ... "
                "for outputs. Rename the variable.",
            )
        letter, number = match[1], int(match[2])
        if number in self.declared[letter]:
            raise self._error(command, f"got {name} twice; allowed is one declaration. Remove the second one.")
        self.declared[letter][number] = command.position
        self.numbers[name] = variable(number if letter == "X" else ~number)

    def _formula(self, item: str | Group, place: Group) -> Formula:
        if isinstance(item, str) or not (item.head in COMPARISONS[:5] or item.head in ("and", "or")):
            raise self._error(
                place if isinstance(item, str) else item,
                f"got {str(item)[:60]}; allowed are formulas with and, or, {', '.join(COMPARISONS[:5])}. Rewrite it.",
            )
        arguments = item.items[1:]
        if item.head in ("and", "or"):
            parts = tuple(self._formula(argument, item) for argument in arguments)
            return All(parts) if item.head == "and" else Any(parts)
        if len(arguments) != 2:
            raise self._error(item, f"got {item}; allowed are comparisons of two terms. Split it.")
        left, right = (self._term(argument, item) for argument in arguments)
        try:
            return compare(item.head, left, right, item.position)
        except RefusalError as refusal:
            raise self._error(item, str(refusal)) from None

    def _term(self, item: str | Group, place: Group) -> Linear:
        try:
            if isinstance(item, str):
                return self.numbers[item] if item in self.numbers else self._word(item, place)
            if item.head not in ARITHMETIC or len(item.items) < 2:
                raise self._error(
                    item,
                    f"got {item}; allowed are numbers, variables and {', '.join(ARITHMETIC)} of them. Rewrite it.",
                )
            return combine(item.head, [self._term(argument, item) for argument in item.items[1:]])
        except RefusalError as refusal:
            raise self._error(place if isinstance(item, str) else item, str(refusal)) from None

    def _word(self, word: str, place: Group) -> Linear:
        if word[0] in "+-.0123456789":
            return constant(word)
        raise self._error(
            place,
            f"got {word[:40]!r}, which is not declared; allowed are numbers, the {len(self.declared['X'])} inputs X_i "
            f"and the {len(self.declared['Y'])} outputs Y_j declared before. Declare it.",
        )
