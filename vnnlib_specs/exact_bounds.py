r"""Bounds of the small networks of this folder in rational arithmetic, and proofs of their properties by these alone.

The network is a chain of affine maps with one activation in between. A lower bound of :math:`c f(x)` over a box is
found by substituting backwards. Let a neuron :math:`z \in [l, u]` with :math:`l < 0 < u`. For ReLU,

.. math:: \max(z, 0) \ge \alpha z \;(\alpha \in \{0, 1\}), \qquad \max(z, 0) \le s (z - l) \;(s \ge u / (u - l)),

the second since the right side is convex, 0 at :math:`z = l` and :math:`s (u - l) \ge u` at :math:`z = u`. So
:math:`c \max(z, 0)` is bounded below by the first line where :math:`c \ge 0` and by the second where :math:`c < 0`. For
tanh only its values at both ends are used (it is monotone). Every number is a `Fraction`, hence nothing is rounded
except on purpose: :math:`s` up, boxes outward, tanh outward by far more than the error of the C library.

Boxes with few inputs are bisected until they are proven: then the proof is exhaustive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from properties import Box, Polytope, Property

Rationals = NDArray[np.object_]
_GRID = 2**40
_TANH_ERROR = Fraction(1, 2**45)
_MOST_BOXES = 1000
_FEW_INPUTS = 4


@dataclass(frozen=True)
class Chain:
    """Affine maps ``(W, b)`` of float64 with `activation` ("relu" or "tanh") after each but the last."""

    maps: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    activation: str


@dataclass(frozen=True)
class Intervals:
    """Ends of a vector of numbers, `Fraction`."""

    lower: Rationals
    upper: Rationals


def holds(chain: Chain, prop: Property) -> bool:
    """Whether the property is proven: no input of its boxes leads into one of its polytopes.

    Returns:
        False if it is not proven; it may hold nevertheless.
    """
    maps = [(_rational(matrix), _rational(offset)) for matrix, offset in chain.maps]
    return all(_excluded(maps, chain.activation, case.box, case.unsafe) for case in prop.cases)


def _excluded(maps: list[Any], activation: str, ends: Box, unsafe: tuple[Polytope, ...]) -> bool:
    waiting = [Intervals(*(_outward([pair[side] for pair in ends], side) for side in (0, 1)))]
    for _ in range(_MOST_BOXES if len(ends) <= _FEW_INPUTS else 1):
        if not waiting:
            break
        part = waiting.pop()
        if not _unreachable(maps, activation, part, unsafe):
            waiting.extend(_halves(part))
    return not waiting


def _halves(part: Intervals) -> tuple[Intervals, Intervals]:
    """Both halves along the longest side, which share its middle."""
    side = int(np.argmax(part.upper - part.lower))
    left, right = part.upper.copy(), part.lower.copy()
    left[side] = right[side] = (part.lower[side] + part.upper[side]) / 2
    return Intervals(part.lower, left), Intervals(right, part.upper)


def _unreachable(maps: list[Any], activation: str, inputs: Intervals, unsafe: tuple[Polytope, ...]) -> bool:
    """Whether each polytope has a row that no input of the box meets."""
    hidden: list[Intervals] = []
    for matrix, _ in maps[:-1]:
        unit = _rational(np.eye(len(matrix)))
        depth = len(hidden)
        low = _lower(maps[: depth + 1], activation, inputs, hidden, unit)
        high = -_lower(maps[: depth + 1], activation, inputs, hidden, -unit)
        hidden.append(Intervals(low, high))
    rows = [row for polytope in unsafe for row in polytope]
    matrix, bound = rows_of(tuple(rows), len(maps[-1][1]))
    margins = _lower(maps, activation, inputs, hidden, matrix) - bound
    ends = np.cumsum([len(polytope) for polytope in unsafe])
    return all(bool((part > 0).any()) for part in np.split(margins, ends[:-1]))


def rows_of(polytope: Polytope, outputs: int) -> tuple[Rationals, Rationals]:
    """The polytope as ``A y <= b``."""
    matrix = _rational(np.zeros((len(polytope), outputs)))
    bound = _rational(np.zeros(len(polytope)))
    for number, row in enumerate(polytope):
        sign = 1 if row.relation == "<=" else -1
        matrix[number, row.output] += sign
        if isinstance(row.right, int):
            matrix[number, row.right] -= sign
        else:
            bound[number] = sign * Fraction(row.right)
    return matrix, bound


def _lower(
    maps: list[Any], activation: str, inputs: Intervals, hidden: list[Intervals], matrix: Rationals
) -> Rationals:
    """Lower bounds of ``matrix @ z`` for the result z of the last of `maps`, given the intervals of the hidden ones."""
    total = matrix @ maps[-1][1]
    matrix = matrix @ maps[-1][0]
    for (weight, offset), between in zip(reversed(maps[:-1]), reversed(hidden), strict=True):
        if activation == "tanh":
            return total + _smallest(matrix, _tanh(between))
        matrix, constant = _through_relu(matrix, between)
        total = total + constant + matrix @ offset
        matrix = matrix @ weight
    return total + _smallest(matrix, inputs)


def _smallest(matrix: Rationals, part: Intervals) -> Rationals:
    """The smallest value of each row over a box."""
    return np.where(matrix > 0, matrix, 0) @ part.lower + np.where(matrix < 0, matrix, 0) @ part.upper


def _through_relu(matrix: Rationals, between: Intervals) -> tuple[Rationals, Rationals]:
    """Coefficients of z, and constants, below ``matrix @ max(z, 0)``; see the module's docstring."""
    below, above, shift = (_rational(np.zeros(len(between.lower))) for _ in range(3))
    for i, (low, high) in enumerate(zip(between.lower, between.upper, strict=True)):
        if high <= 0:
            continue
        if low >= 0:
            below[i] = above[i] = Fraction(1)
            continue
        below[i] = Fraction(int(high >= -low))
        above[i] = Fraction(math.ceil(high / (high - low) * _GRID), _GRID)
        shift[i] = -above[i] * low
    positive, negative = np.where(matrix > 0, matrix, 0), np.where(matrix < 0, matrix, 0)
    return positive * below + negative * above, negative @ shift


def _tanh(between: Intervals) -> Intervals:
    low = [Fraction(math.tanh(_float(value, -1))) - _TANH_ERROR for value in between.lower]
    high = [Fraction(math.tanh(_float(value, 1))) + _TANH_ERROR for value in between.upper]
    return Intervals(np.array(low, dtype=object), np.array(high, dtype=object))


def _float(value: Fraction, direction: int) -> float:
    """A double on the given side of a rational number."""
    found = float(value)
    return math.nextafter(found, direction * math.inf)


def _outward(values: list[Any], side: int) -> Rationals:
    """Decimals as binary fractions, which stay short: rounded down for side 0, up for side 1."""
    to_integer = (math.floor, math.ceil)[side]
    return np.array([Fraction(to_integer(Fraction(value) * _GRID), _GRID) for value in values], dtype=object)


def _rational(array: NDArray[np.float64]) -> Rationals:
    """The same numbers as `Fraction`."""
    flat = [Fraction(float(value)) for value in array.ravel()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)
