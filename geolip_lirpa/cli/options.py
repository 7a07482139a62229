"""Options that several commands share.

Place in the data flow: level 12, imported by the command modules; imports typer only, so that help is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.types import Norm, OutputNorm

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Network, an .onnx or .onnx.gz file.", show_default=False)]
Logits = Annotated[bool, typer.Option("--logits", help="Leave out a softmax or log-softmax at the end.")]
FinalNode = Annotated[
    str | None,
    typer.Option("--final-node", metavar="NAME", help="Node to take as the output, by its name in auto_LiRPA's graph."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes on standard error.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", help="Threads; default: OMP_NUM_THREADS, else 1. Only large networks gain from more."
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", metavar="N", help="Processes, each with images of its own; 0 for one on each processor."
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an internal error, and warnings.")]
Tie = Annotated[
    list[str] | None,
    typer.Option(
        "--tie",
        metavar="input|layer",
        help="Share multipliers: one for all inputs, one for each layer, or both (repeat, or write input,layer). "
        "Fewer variables, looser bound.",
        autocompletion=lambda: ["input", "layer"],
        show_default=False,
    ),
]
TIES = ("input", "layer")


def choice(option: str, value: str, allowed: Sequence[str]) -> str:
    """A value in lower case, if it is one of the allowed ones.

    Raises:
        SpecificationError: names the option and what is allowed.
    """
    key = value.strip().lower().replace("_", "-")
    if key not in allowed:
        raise SpecificationError(f"{option}: got {value!r}; allowed are {', '.join(allowed)}. Choose one of these.")
    return key


def ties(values: Sequence[str] | None) -> tuple[str, ...]:
    """The names in ``--tie a --tie b`` or ``--tie a,b``.

    Raises:
        SpecificationError: an unknown name.
    """
    names = [name for value in values or () for name in value.split(",")]
    return tuple(dict.fromkeys(choice("--tie", name, TIES) for name in names))


def norm_option(option: str, value: str) -> Norm:
    """A norm of inputs.

    Raises:
        SpecificationError: names the option and what is allowed.
    """
    try:
        return Norm.parse(value)
    except SpecificationError:
        raise SpecificationError(f"{option}: got {value!r}; allowed are inf, 2 and 1. Choose one of these.") from None


def output_option(option: str, value: str) -> OutputNorm:
    """How outputs are measured.

    Raises:
        SpecificationError: names the option and what is allowed.
    """
    try:
        return OutputNorm.parse(value)
    except SpecificationError:
        raise SpecificationError(
            f"{option}: got {value!r}; allowed are rows, inf, 2 and 1. Choose one of these."
        ) from None
