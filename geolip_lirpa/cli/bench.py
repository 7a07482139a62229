"""``geolip-lirpa bench``: verify all instances of a benchmark by several methods.

Place in the data flow: level 12, ``command line -> BenchRequest -> results file, summary``.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.cli import bench_request
from geolip_lirpa.cli.bench_request import METHODS, BenchRequest
from geolip_lirpa.cli.options import Debug, Json, Quiet, choice
from geolip_lirpa.cli.paths import require_file, require_folder, require_writable
from geolip_lirpa.errors import SpecificationError

BACKENDS = ("loky", "dask")
_WHERE = "Where it runs"
_ADDRESS = re.compile(r"(?:(?:tcp|tls|ws|wss)://)?(?:[^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}", re.ASCII)

Instances = Annotated[
    Path,
    typer.Argument(
        metavar="INSTANCES",
        help="CSV file with lines onnx,vnnlib,timeout as in VNN-COMP; paths are relative to its folder.",
        show_default=False,
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", metavar="RESULTS", help="CSV file of results; the same command goes on where it ends."),
]


def _completed_methods(incomplete: str) -> list[str]:
    """The list so far with each method that may follow its last comma."""
    before = incomplete[: incomplete.rfind(",") + 1]
    return [before + name for name in METHODS if name not in before.split(",")]


Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        metavar="LIST",
        help=f"Methods, separated by commas: {', '.join(METHODS)}.",
        autocompletion=_completed_methods,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="T", help="Seconds for an instance, where the file allows more or says nothing."),
]
Expected = Annotated[
    Path | None,
    typer.Option("--expected", metavar="FILE", help="CSV file with columns onnx,vnnlib,verdict to compare with."),
]
Witnesses = Annotated[
    Path | None, typer.Option("--witnesses", metavar="FOLDER", help="Write the input of every sat into a folder.")
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", help="Processes on this machine.", rich_help_panel=_WHERE)]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="|".join(BACKENDS),
        help="Processes of this machine, or a Dask cluster.",
        autocompletion=lambda: list(BACKENDS),
        rich_help_panel=_WHERE,
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", metavar="ADDRESS", help="Of the cluster, like tcp://host:8786.", rich_help_panel=_WHERE
    ),
]


def bench_command(
    instances: Instances,
    out: Out,
    methods: Methods = "combined",
    timeout: Timeout = None,
    expected: Expected = None,
    witnesses: Witnesses = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of random starts.")] = 0,
    jobs: Jobs = 1,
    backend: Backend = "loky",
    scheduler: Scheduler = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Verify all instances of a benchmark by several methods.

    Every instance runs in a process of its own, which is stopped when its time is over: a crash costs one row.

    Examples:

    geolip-lirpa bench acasxu/instances.csv --out results.csv --methods crown,alpha-crown,combined --jobs 4

    geolip-lirpa bench acasxu/instances.csv --out results.csv --backend dask --scheduler tcp://10.0.0.1:8786
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise SpecificationError(
            f"--timeout: got {timeout!r}; allowed are positive seconds. Leave it out for the file's."
        )
    if not 1 <= jobs <= 1024:
        raise SpecificationError(f"--jobs: got {jobs}; allowed are 1 to 1024. The default is 1.")
    if not 0 <= seed < 2**63:
        raise SpecificationError(f"--seed: got {seed}; allowed are 0 to 2^63 - 1. The default is 0.")
    require_file("INSTANCES", instances)
    require_writable("--out", out)
    if expected is not None:
        require_file("--expected", expected)
    require_folder("--witnesses", witnesses)
    request = BenchRequest(
        instances=instances,
        out=out,
        methods=_methods(methods),
        timeout=timeout,
        backend=_backend(backend, scheduler, jobs),
        jobs=jobs,
        scheduler=scheduler,
        seed=seed,
        expected=expected,
        witnesses=witnesses,
        json=json,
        quiet=quiet,
        debug=debug,
        function=bench_request.VERIFY,
    )
    from geolip_lirpa.cli.bench_run import run_bench

    return run_bench(request)


def _methods(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(choice("--methods", name, METHODS) for name in text.split(",")))


def _backend(name: str, scheduler: str | None, jobs: int) -> str:
    backend = choice("--backend", name, BACKENDS)
    if backend == "dask" and not scheduler:
        raise SpecificationError(
            "--backend dask: needs --scheduler ADDRESS, like tcp://host:8786. Start one by `dask scheduler`."
        )
    if scheduler is not None and _ADDRESS.fullmatch(scheduler) is None:
        raise SpecificationError(
            f"--scheduler: got {scheduler!r}; expected an address like tcp://host:8786. Copy the one that "
            "`dask scheduler` prints."
        )
    if backend == "dask" and jobs != 1:
        raise SpecificationError(f"--jobs: got {jobs} with --backend dask, whose workers set the number. Leave it out.")
    if backend != "dask" and scheduler:
        raise SpecificationError("--scheduler: is for --backend dask alone. Add that, or leave it out.")
    return backend
