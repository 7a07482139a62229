"""VNN-LIB 2.0: one network with one input and one output tensor, read with the package `vnnlib`.

Place in the data flow: level 3, ``Source -> Query``.

The package parses and checks names, shapes and indices. It gets a text of the same lines that `_Writer` has gone over:

* Comments are left out and nesting is limited, so that no text can overflow its stack.
* Numbers are written with digits and a point alone. Its grammar has no exponents, and its type checker tells integers
  from decimals; their values come from the text, not from its doubles.
* Element types are written as float64. Its type checker knows none for Real, and then refuses constants that stand
  before the first variable of a comparison. What was declared is checked here.

Formulas are taken from its syntax tree. Its own conversion to disjunctive normal form multiplies everything out.
"""

from __future__ import annotations

import json
import math
import re
import sys
from decimal import Decimal
from typing import Any as AnyType

import numpy as np
import vnnlib

from geolip_lirpa.errors import VnnlibError
from geolip_lirpa.specification import Tensor
from geolip_lirpa.vnnlib.decimals import exact
from geolip_lirpa.vnnlib.expressions import DEEPEST, too_deep
from geolip_lirpa.vnnlib.formula import All, Any, Formula, compare
from geolip_lirpa.vnnlib.linear import Linear, combine, constant, variable
from geolip_lirpa.vnnlib.query import Query
from geolip_lirpa.vnnlib.source import RefusalError, Source

#: Real numbers, and doubles and floats as some of them.
ELEMENT_TYPES = ("Real", "real", "float32", "float64")
#: Elements of a tensor.
LARGEST_TENSOR = 10**8

_TOKEN = re.compile(
    r"""(?P<comment>;[^\n]*) | (?P<space>[\ \t\r\n]+) | (?P<open>\() | (?P<close>\)) | (?P<string>"[^"\\\n]*")
    | (?P<version><[0-9]+\.[0-9]+>) | (?P<indices>\[[0-9,\ \t\r\n]*\]) | (?P<word>[A-Za-z][A-Za-z0-9_]*(?:-[a-z]+)*)
    | (?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.])) | (?P<operator>[<>=!]=|[<>+*-])
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_DECLARATIONS = ("declare-input", "declare-hidden", "declare-output")
_COMMANDS = ("vnnlib-version", "declare-network", *_DECLARATIONS, "equal-to", "isomorphic-to", "assert")
_COMPARISONS = {
    vnnlib.LessEqual: "<=", vnnlib.GreaterEqual: ">=", vnnlib.LessThan: "<", vnnlib.GreaterThan: ">",
    vnnlib.Equal: "==", vnnlib.NotEqual: "!=",
}  # fmt: skip


def read(source: Source) -> Query:
    """Read a text of version 2.0.

    Raises:
        VnnlibError: with the line.
    """
    writer = _Writer(source)
    text = writer.written()
    parsed = _parsed(source, text)
    (network,) = _one(source, parsed.networks, "networks", writer.position("declare-network"))
    if network.hidden:
        raise source.error(
            writer.position("declare-hidden"),
            f"got the hidden node {network.hidden[0].name}, which is not supported; allowed are formulas of inputs and "
            "outputs. Make it an output of the network.",
        )
    (declared_input,) = _one(source, network.inputs, "inputs", writer.position("declare-input"))
    (declared_output,) = _one(source, network.outputs, "outputs", writer.position("declare-output"))
    tensors = writer.tensor(declared_input), writer.tensor(declared_output)
    tree = _Tree(source, tensors)
    formulas = tuple(tree.formula(assertion.expr) for assertion in parsed.assertions)
    place = writer.position("declare-input")
    return Query(
        source, tensors[0].size, tensors[1].size, tensors[0].element_name, lambda _: place, formulas,
        "2.0", network.name, tensors,
    )  # fmt: skip


class _Writer:
    """Goes over the tokens of a text and writes those that the package can take, on the same lines."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.depth = 0
        self.first: dict[str, int] = {}  # position of the first time that a word occurs
        self.types: dict[str, str] = {}  # element type that was declared for a name
        self.recent = ("", "")  # the last two words or symbols

    def written(self) -> str:
        return "".join(self._token(match) for match in _TOKEN.finditer(self.source.text))

    def position(self, word: str) -> int:
        """Where a word occurs first."""
        return self.first.get(word, 0)

    def tensor(self, declared: AnyType) -> Tensor:
        """A declared input or output, with a shape that can be served."""
        shape = tuple(declared.shape)
        if math.prod(shape) > LARGEST_TENSOR or not all(shape):
            raise self.source.error(
                self.position(declared.name),
                f"{declared.name} has the shape {list(shape)}; allowed are 1 to {LARGEST_TENSOR} elements. Correct it.",
            )
        return Tensor(declared.name, self.types[declared.name], shape)

    def _token(self, match: re.Match[str]) -> str:
        kind, token = match.lastgroup, match[0]
        if kind == "space":
            return token
        if kind == "comment":
            return ""
        if kind == "open":
            self.depth += 1
            if self.depth > DEEPEST:
                raise too_deep(self.source, match.start())
        elif kind == "close":
            self.depth -= 1
        elif kind == "number":
            self.recent = (self.recent[1], token)
            return self._number(match)
        elif kind == "word" and self.recent[0] in _DECLARATIONS:
            self._element_type(match)
            token = "float64"
        elif kind == "word" and "-" in token and token not in _COMMANDS:
            raise self._error(match, f"got {token}; allowed are {', '.join(_COMMANDS)}. Write it with these.")
        elif kind == "indices" and self.recent[1] == "float64" and re.search(r"\b0+\b", token):
            raise self._error(match, f"got the shape {token}; allowed are positive sizes. Correct it.")
        elif kind == "other" or (kind == "indices" and re.search("[0-9]{10}", token)):
            advice = "Write == for equality." if token == "=" else "Remove it."
            raise self._error(match, f"got {token[:40]!r}; allowed are the symbols of VNN-LIB 2.0. {advice}")
        elif kind == "version" and token != "<2.0>":
            raise self._error(match, f"got version {token}; allowed is (vnnlib-version <2.0>). Convert the file.")
        if kind == "word":
            self.first.setdefault(token, match.start())
        self.recent = (self.recent[1], token)
        return token

    def _element_type(self, match: re.Match[str]) -> None:
        if match[0] not in ELEMENT_TYPES:
            raise self._error(
                match,
                f"{self.recent[1]} has elements of type {match[0]}; allowed are {', '.join(ELEMENT_TYPES)}. Declare "
                "one of these if real numbers are meant.",
            )
        self.types[self.recent[1]] = match[0]

    def _number(self, match: re.Match[str]) -> str:
        token = match[0]
        try:
            value = exact(token)
        except RefusalError as refusal:
            raise self._error(match, str(refusal)) from None
        # the package looks up the nearest double of a number, even where nobody asks for it
        if value and not sys.float_info.min <= abs(value) <= sys.float_info.max:
            raise self._error(
                match, f"got {token[:40]}; allowed are 0 and magnitudes from 2.2251e-308 to 1.7976e308. Round it."
            )
        digits = format(Decimal(token), "f")
        return digits if "." in digits else f"{digits}.0"

    def _error(self, match: re.Match[str], message: str) -> VnnlibError:
        return self.source.error(match.start(), message)


def _one(source: Source, found: tuple[AnyType, ...], what: str, position: int) -> tuple[AnyType, ...]:
    if len(found) != 1:
        names = ", ".join(item.name for item in found[:5])
        raise source.error(position, f"got {len(found)} {what} ({names}); allowed is one. Split the specification.")
    return found


def _parsed(source: Source, text: str) -> AnyType:
    try:
        return vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise _package_error(source, str(error)) from None
    except Exception as error:
        # what the package did not expect itself, such as numbers that it cannot convert
        raise source.error(0, f"the package vnnlib fails: {error}; allowed is VNN-LIB 2.0. Check the text.") from error


def _package_error(source: Source, message: str) -> VnnlibError:
    syntax = re.search(r"line (\d+), column \d+: '(.*)'", message, re.DOTALL)
    if syntax is not None:
        got = repr(syntax[2][:40]) if syntax[2] else "the end of the file"
        return source.error_at_line(
            int(syntax[1]), f"got {got}; allowed is the grammar of VNN-LIB 2.0. Correct what stands there or before it."
        )
    try:
        first = json.loads(message)["errors"][0]
        return source.error_at_line(
            int(first["line"]), f"got {first['offendingSymbol']}: {first['message']}; {first['hint']} Correct it."
        )
    except (ValueError, LookupError, TypeError):
        shown = " ".join(message.split())[:200]
        return source.error(0, f"the package vnnlib refuses it: {shown}; allowed is VNN-LIB 2.0. Correct the text.")


class _Tree:
    """Formulas from the syntax tree of the package."""

    def __init__(self, source: Source, tensors: tuple[Tensor, Tensor]) -> None:
        self.source = source
        self.tensors = tensors
        self.lines = [0, *(match.end() for match in re.finditer("\n", source.text))]  # where they start

    def formula(self, node: AnyType) -> Formula:
        if isinstance(node, vnnlib.And):
            return All(tuple(self.formula(part) for part in node.args))
        if isinstance(node, vnnlib.Or):
            return Any(tuple(self.formula(part) for part in node.args))
        position = self.lines[_line(node) - 1]
        try:
            return compare(_COMPARISONS[type(node)], self.term(node.lhs), self.term(node.rhs), position)
        except RefusalError as refusal:
            raise self.source.error(position, str(refusal)) from None

    def term(self, node: AnyType) -> Linear:
        if isinstance(node, vnnlib.Var):
            is_output = node.kind == vnnlib.SymbolKind.Output
            index = int(np.ravel_multi_index(tuple(node.indices), self.tensors[is_output].shape)) if node.indices else 0
            return variable(~index if is_output else index)
        if isinstance(node, vnnlib.Literal):
            return constant(node.lexeme)
        if isinstance(node, vnnlib.Negate):
            return combine("-", [self.term(node.expr)])
        if isinstance(node, vnnlib.Minus):
            return combine("-", [self.term(node.head), *(self.term(part) for part in node.rest)])
        operator = "+" if isinstance(node, vnnlib.Plus) else "*"
        return combine(operator, [self.term(part) for part in node.args])


def _line(node: AnyType) -> int:
    """Line of the first variable or number of a comparison or term."""
    while not isinstance(node, vnnlib.Var | vnnlib.Literal):
        node = node.children()[0]
    return int(node.line)
