"""``geolip-lirpa verify``: the verdict on one specification.

Place in the data flow: level 12, ``command line -> VerifyRequest -> child process -> verdict, witness``.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.cli.certify_request import METHODS
from geolip_lirpa.cli.options import Debug, Threads, choice
from geolip_lirpa.cli.paths import require_file, require_folder, require_writable
from geolip_lirpa.cli.threads import thread_count
from geolip_lirpa.cli.verify_request import VerifyRequest, parse_network
from geolip_lirpa.errors import SpecificationError

_OUTPUT = "Output"


def verify_command(
    specification: Annotated[
        Path, typer.Argument(metavar="SPEC", help="VNN-LIB file, version 1.0 or 2.0, .gz too.", show_default=False)
    ],
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="[NAME=]MODEL",
            help="The .onnx or .onnx.gz file, with the name that SPEC declares; the file alone will do.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Give up after this time; default: never.")
    ] = math.inf,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="combined: attack, all bounds, splitting. The name of one bound (see certify): the attack and this "
            "bound, without splitting.",
            autocompletion=lambda: list(METHODS),
        ),
    ] = "combined",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of random starts.")] = 0,
    threads: Threads = None,
    witness: Annotated[
        Path | None,
        typer.Option(
            "--witness", metavar="FILE", help="Write the witness of sat into a file too.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    assignments: Annotated[
        Path | None,
        typer.Option(
            "--serialise-assignments",
            metavar="FOLDER",
            help="Write the witness of sat as ONNX tensors FOLDER/X.pb, FOLDER/Y.pb instead of printing it; 2.0 only.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object instead of verdict and witness.", rich_help_panel=_OUTPUT),
    ] = False,
    debug: Debug = False,
) -> int:
    """Decide whether a network violates a VNN-LIB specification.

    The first line of the output is sat (violated, the witness follows), unsat (proven to hold), unknown or timeout.

    Examples:

    geolip-lirpa verify prop.vnnlib --network N=net.onnx --timeout 60

    geolip-lirpa verify prop_1.0.vnnlib --network net.onnx --witness counterexample.txt
    """
    begin = time.monotonic()
    require_file("SPEC", specification)
    name, model = parse_network(network or [])
    if not timeout > 0:
        raise SpecificationError(
            f"--timeout: got {timeout!r}; allowed are positive seconds. Leave it out for no limit."
        )
    if not 0 <= seed < 2**63:
        raise SpecificationError(f"--seed: got {seed}; allowed are 0 to 2^63 - 1. The default is 0.")
    if witness is not None:
        require_writable("--witness", witness)
    if assignments is not None:
        require_folder("--serialise-assignments", assignments)
    request = VerifyRequest(
        specification=specification,
        model=model,
        name=name,
        method=choice("--method", method, METHODS),
        timeout=timeout,
        seed=seed,
        threads=thread_count(threads),
        json=json,
        witness=witness,
        assignments=assignments,
        debug=debug,
    )
    from geolip_lirpa.cli.verify_run import run_verify

    return run_verify(request, begin)
