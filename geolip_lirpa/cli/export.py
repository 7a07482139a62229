"""``geolip-lirpa export``: write a semidefinite program to a file for another solver.

Place in the data flow: level 12, ``command line -> SdpInstance -> file``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.cli.export_request import FORMATS, FORMS, ExportRequest
from geolip_lirpa.cli.options import Debug, FinalNode, Logits, Model, Quiet, Threads, Tie, choice, norm_option, ties
from geolip_lirpa.cli.paths import require_writable
from geolip_lirpa.cli.threads import use_threads
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.types import Norm

_NORMS = ("inf", "2")


def export_command(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.", show_default=False)],
    row: Annotated[
        int, typer.Option("--row", metavar="R", help="Output whose program is written, from 0 on.", show_default=False)
    ],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            help="SDPA sparse, Conic Benchmark Format, or MOSEK's task (needs the package, not a licence).",
            autocompletion=lambda: list(FORMATS),
            show_default=False,
        ),
    ],
    norm: Annotated[
        str,
        typer.Option("--norm", metavar="inf|2", help="Norm of the input.", autocompletion=lambda: list(_NORMS)),
    ] = "inf",
    form: Annotated[
        str,
        typer.Option(
            "--form",
            metavar="|".join(FORMS),
            help="dual: the matrix inequality of the multipliers. natural: the Gram matrix, like max-cut; solved "
            "faster, for one layer of activations only. Both have the same value.",
            autocompletion=lambda: list(FORMS),
        ),
    ] = "dual",
    tie: Tie = None,
    logits: Logits = False,
    final_node: FinalNode = None,
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write the program whose value bounds one output of MODEL, for another solver.

    What another solver finds is an estimate: only multipliers that the checker accepts prove a bound.

    Examples:

    geolip-lirpa export net.onnx --row 3 --norm 2 --format sdpa net.dat-s

    geolip-lirpa export net.onnx --row 0 --norm inf --format cbf --form natural net.cbf
    """
    request = ExportRequest(
        model=model,
        out=out,
        row=row,
        norm=_norm(norm),
        file_format=choice("--format", file_format, FORMATS),
        form=choice("--form", form, FORMS),
        tie=ties(tie),
        logits=logits,
        final_node=final_node,
        quiet=quiet,
        debug=debug,
    )
    require_writable("OUT", out)
    use_threads(threads)
    # torch and auto_LiRPA take seconds to import: only now
    from geolip_lirpa.cli.export_run import run_export

    return run_export(request)


def _norm(text: str) -> Norm:
    norm = norm_option("--norm", text)
    if norm is Norm.L1:
        raise SpecificationError(
            "--norm: 1 is a family of programs, one for each input coordinate; allowed are inf and 2. "
            "Bound it with `geolip-lirpa lipschitz --norm 1`."
        )
    return norm
