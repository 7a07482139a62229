"""A text that has been read: its variables and the formulas that hold at once.

Place in the data flow: level 3, what the readers of both versions hand to `assembly`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geolip_lirpa.specification import Tensor
from geolip_lirpa.vnnlib.formula import Formula
from geolip_lirpa.vnnlib.source import Source


@dataclass(frozen=True)
class Query:
    """A conjunction of formulas over numbered inputs and outputs.

    Args:
        source: the text, for errors.
        inputs: number of inputs.
        outputs: number of outputs.
        input_name: name of an input in the text.
        input_position: offset where an input is declared.
        formulas: one for each assertion.
        version: of VNN-LIB.
        network: its declared name.
        tensors: the declared input and output.
    """

    source: Source
    inputs: int
    outputs: int
    input_name: Callable[[int], str]
    input_position: Callable[[int], int]
    formulas: tuple[Formula, ...]
    version: str
    network: str | None = None
    tensors: tuple[Tensor, Tensor] | None = None
