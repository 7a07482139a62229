"""The properties of this folder, and their texts in both versions of VNN-LIB.

All numbers are decimals, so that the texts state them exactly and both versions state the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

Box = tuple[tuple[Decimal, Decimal], ...]


@dataclass(frozen=True)
class Row:
    """``Y_output relation right``, where `right` is a number or (an int) another output; relation ``<=`` or ``>=``."""

    output: int
    relation: str
    right: Decimal | int


Polytope = tuple[Row, ...]


@dataclass(frozen=True)
class Case:
    """Inputs of a box, and the outputs that must not be reached from there: a union of conjunctions."""

    box: Box
    unsafe: tuple[Polytope, ...]


@dataclass(frozen=True)
class Property:
    """What one text says.

    Args:
        name: of the files.
        network: file name.
        shape: of one sample.
        outputs: number of outputs.
        element: type that version 2.0 declares.
        cases: joined by "or".
        comment: first line of the texts.
    """

    name: str
    network: str
    shape: tuple[int, ...]
    outputs: int
    element: str
    cases: tuple[Case, ...]
    comment: str


def box(*ends: str) -> Box:
    """A box from texts like ``"-0.5 0.5"``, one for each input."""
    pairs = [tuple(Decimal(number) for number in text.split()) for text in ends]
    return tuple((low, high) for low, high in pairs)


def conjunction(*rows: str) -> Polytope:
    """Rows from texts like ``"0 <= 1.5"`` (a number has a point) and ``"0 >= 3"`` (another output has none)."""
    found = []
    for text in rows:
        left, relation, right = text.split()
        found.append(Row(int(left), relation, Decimal(right) if "." in right else int(right)))
    return tuple(found)


def robustness(
    network: str, shape: tuple[int, ...], image: int, label: int, values: NDArray[np.float32], eps: str
) -> Property:
    """No image within `eps` (l_inf, values in [0, 1]) of this one has an output as large as that of its label."""
    radius, none, one = Decimal(eps), Decimal("0.0"), Decimal("1.0")
    # values are sixteenths, which decimals state exactly
    pixels = [Decimal(float(value)) for value in values]
    ends = tuple((max(none, pixel - radius), min(one, pixel + radius)) for pixel in pixels)
    others = tuple((Row(k, ">=", label),) for k in range(10) if k != label)
    stem = network.removesuffix(".onnx")
    return Property(
        f"{stem}_{image}_{eps}", network, shape, 10, "real", (Case(ends, others),),
        f"test image {image} with label {label}, l_inf distance {eps}",
    )  # fmt: skip


# --- texts ------------------------------------------------------------------------------------------------------------


def version_1(prop: Property) -> str:
    """The text in version 1.0, with variables ``X_i`` and ``Y_j``."""
    inputs = [f"X_{i}" for i in range(int(np.prod(prop.shape)))]
    outputs = [f"Y_{j}" for j in range(prop.outputs)]
    declared = [f"(declare-const {name} Real)" for name in (*inputs, *outputs)]
    return _text(prop, declared, inputs, outputs)


def version_2(prop: Property) -> str:
    """The text in version 2.0, with tensors ``X`` and ``Y`` of the network's own shapes for a batch of one."""
    shape = (1, *prop.shape)
    inputs = [f"X[{','.join(map(str, index))}]" for index in np.ndindex(shape)]
    outputs = [f"Y[0,{j}]" for j in range(prop.outputs)]
    declared = [
        "(vnnlib-version <2.0>)",
        "(declare-network N",
        f"    (declare-input X {prop.element} [{','.join(map(str, shape))}])",
        f"    (declare-output Y {prop.element} [1,{prop.outputs}])",
        ")",
    ]
    return _text(prop, declared, inputs, outputs)


def _text(prop: Property, declared: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]) -> str:
    lines = [f"; {prop.network}: {prop.comment}", *declared, ""]
    boxes = [_bounds(case.box, inputs) for case in prop.cases]
    unsafe = [[_rows(polytope, outputs) for polytope in case.unsafe] for case in prop.cases]
    if len(boxes) == 1:
        lines += [f"(assert {bound})" for bound in boxes[0]]
        lines += _assertions(unsafe[0])
    elif all(polytopes == unsafe[0] for polytopes in unsafe):
        lines += _assertions(boxes)
        lines += _assertions(unsafe[0])
    else:
        pairs = zip(boxes, unsafe, strict=True)
        lines += _assertions([[*bounds, *rows] for bounds, rest in pairs for rows in rest])
    return "\n".join(lines) + "\n"


def _assertions(choices: Sequence[Sequence[str]]) -> list[str]:
    """A disjunction of conjunctions."""
    if len(choices) == 1:
        return [f"(assert {part})" for part in choices[0]]
    return ["(assert (or", *(f"    (and {' '.join(choice)})" for choice in choices), "))"]


def _bounds(ends: Box, names: Sequence[str]) -> list[str]:
    pairs = zip(names, ends, strict=True)
    return list(
        itertools.chain.from_iterable(
            (f"(>= {name} {_number(low)})", f"(<= {name} {_number(high)})") for name, (low, high) in pairs
        )
    )


def _rows(polytope: Polytope, names: Sequence[str]) -> list[str]:
    return [
        f"({row.relation} {names[row.output]} {names[row.right] if isinstance(row.right, int) else _number(row.right)})"
        for row in polytope
    ]


def _number(value: Decimal) -> str:
    """Without an exponent and with a point, as version 2.0 wants it for real numbers."""
    text = f"{value.normalize():f}"
    return text if "." in text else f"{text}.0"
