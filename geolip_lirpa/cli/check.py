"""``geolip-lirpa check``: prove a certificate again from the model alone.

Place in the data flow: level 12, ``command line -> Certificate, model -> statement``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.cli.options import Debug, Json, Model, Quiet, Threads
from geolip_lirpa.cli.paths import require_file
from geolip_lirpa.cli.threads import use_threads


def check_command(
    certificate: Annotated[
        Path, typer.Argument(metavar="CERTIFICATE", help="File written by --certificate.", show_default=False)
    ],
    model: Model,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Prove every claim of CERTIFICATE again for MODEL, believing nothing the file says.

    Prints what was proven and ends with code 0, or says why not and ends with code 3.

    Examples:

    geolip-lirpa check net.json net.onnx

    geolip-lirpa check net.json net.onnx --json
    """
    require_file("CERTIFICATE", certificate)
    require_file("MODEL", model)
    use_threads(threads)
    # torch and auto_LiRPA take seconds to import: only now
    from geolip_lirpa.cli.check_run import run_check

    return run_check(certificate, model, json=json, quiet=quiet, debug=debug)
