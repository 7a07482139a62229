"""Witnesses of a violated specification as text, and back.

Place in the data flow: level 3, ``inputs and outputs -> text`` of the formats that checkers read.

Version 1.0 is the format of the competitions, one expression of pairs::

    ((X_0 0.5)
    (X_1 -1.0)
    (Y_0 0.25))

Version 2.0 is the command-line format of the VNN-LIB 2.0 standard, section "Output of the verify command": for the
input and then the output a line with name, element type and shape, and a line for each element in C order::

    X Real [1,2]
    0.5
    -1.0
    Y Real [1]
    0.25

Numbers are the shortest decimals that give the same doubles, in 2.0 without exponents, which its grammar does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.rounding import Array
from geolip_lirpa.specification import Specification, Tensor
from geolip_lirpa.vnnlib.expressions import Group, commands
from geolip_lirpa.vnnlib.source import Source

_HEADER = re.compile(r"([A-Za-z][A-Za-z0-9_]*) ([A-Za-z0-9]+) \[((?:[0-9]+(?:,[0-9]+)*)?)\]")


def witness_text(specification: Specification, inputs: Array, outputs: Array) -> str:
    """A witness in the format of the specification's version, with a newline at the end.

    Args:
        specification: what is violated.
        inputs: (n_in,) float64.
        outputs: (n_out,) float64.

    Raises:
        SpecificationError: shapes do not fit, or a number is not finite.
    """
    shapes = (specification.inputs,), (specification.outputs,)
    if (inputs.shape, outputs.shape) != shapes or not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
        raise SpecificationError(
            f"witness: got {inputs.shape} inputs and {outputs.shape} outputs, or numbers that are not finite; allowed "
            f"are finite vectors {shapes[0]} and {shapes[1]}. Flatten them."
        )
    if specification.tensors is not None:
        return "".join(_tensor_lines(specification.tensors, (inputs, outputs)))
    pairs = [(f"X_{i}", value) for i, value in enumerate(inputs)] + [
        (f"Y_{j}", value) for j, value in enumerate(outputs)
    ]
    return "(" + "\n".join(f"({name} {float(value)!r})" for name, value in pairs) + ")\n"


def read_witness(text: str, specification: Specification, name: str = "witness") -> tuple[Array, Array]:
    """Inputs and outputs, (n_in,) and (n_out,) float64, of a witness in the format of the specification's version.

    A first line "sat" is skipped.

    Args:
        text: of one witness.
        specification: what it violates.
        name: of the text, for errors.

    Raises:
        VnnlibError: the text is none, or values are missing; starts with name and line.
    """
    source = Source(name, re.sub(r"\A\s*sat[ \t]*(?=\n)", lambda match: "\n" * match[0].count("\n"), text))
    if specification.tensors is not None:
        return _read_tensors(source, specification.tensors)
    return _read_pairs(source, specification)


def _tensor_lines(tensors: tuple[Tensor, Tensor], values: tuple[Array, Array]) -> Iterator[str]:
    for tensor, numbers in zip(tensors, values, strict=True):
        yield f"{tensor.name} {tensor.element_type} [{','.join(str(n) for n in tensor.shape)}]\n"
        for number in numbers:
            yield np.format_float_positional(number, unique=True, trim="0") + "\n"


def _read_pairs(source: Source, specification: Specification) -> tuple[Array, Array]:
    inputs, outputs = np.full(specification.inputs, np.nan), np.full(specification.outputs, np.nan)
    places = {f"X_{i}": (inputs, i) for i in range(len(inputs))} | {f"Y_{j}": (outputs, j) for j in range(len(outputs))}
    found = list(commands(source))
    pairs = found[0].items if len(found) == 1 else []
    for pair in pairs:
        words = pair.items if isinstance(pair, Group) else []
        word, value = words if len(words) == 2 else ("", "")
        if not isinstance(word, str) or not isinstance(value, str) or word not in places:
            position = pair.position if isinstance(pair, Group) else 0
            raise source.error(position, f"got {str(pair)[:60]}; allowed are (NAME NUMBER). Correct it.")
        array, index = places[word]
        array[index] = _number(source, pair.position if isinstance(pair, Group) else 0, value)
    for word, (array, index) in places.items():
        if np.isnan(array[index]):
            raise source.error(0, f"got no value of {word}; allowed are values of all variables. Add ({word} NUMBER).")
    return inputs, outputs


def _read_tensors(source: Source, tensors: tuple[Tensor, Tensor]) -> tuple[Array, Array]:
    lines = [(match.start(), match[0].strip()) for match in re.finditer(r"[^\n]+", source.text) if match[0].strip()]
    arrays = []
    for tensor in tensors:
        position, line = lines[0] if lines else (len(source.text), "")
        header = _HEADER.fullmatch(line)
        if header is None or header[1] != tensor.name or header[3] != ",".join(str(n) for n in tensor.shape):
            raise source.error(
                position,
                f"got {line[:60]!r}; allowed is the header of {tensor.name} {list(tensor.shape)}. Add it.",
            )
        values = lines[1 : tensor.size + 1]
        if len(values) < tensor.size:
            raise source.error(position, f"got {len(values)} values; allowed are {tensor.size}. Add the others.")
        arrays.append(np.array([_number(source, place, value) for place, value in values]))
        lines = lines[tensor.size + 1 :]
    if lines:
        raise source.error(lines[0][0], f"got {lines[0][1][:60]!r}; allowed is nothing after the output. Remove it.")
    return arrays[0], arrays[1]


def _number(source: Source, position: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise source.error(position, f"got {text[:40]!r}; allowed are finite numbers. Correct it.")
    return value
