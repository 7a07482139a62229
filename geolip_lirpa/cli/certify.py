"""``geolip-lirpa certify`` and ``geolip-lirpa radius``: margins and radii of images.

Place in the data flow: level 12, ``command line -> CertifyRequest -> margins or radii -> table, CSV, JSON``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.cli.certify_request import BOUNDS, LARGEST, METHODS, SOLVERS, CertifyRequest
from geolip_lirpa.cli.options import Debug, FinalNode, Jobs, Json, Logits, Model, Quiet, Threads, choice, norm_option
from geolip_lirpa.cli.paths import require_file, require_folder, require_picture, require_writable
from geolip_lirpa.cli.rows import parse_rows
from geolip_lirpa.cli.threads import use_threads
from geolip_lirpa.errors import SpecificationError

_NORMS = ("inf", "2", "1")
_OUTPUT = "Output"

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="npz file: array images (or X, x), optionally labels (or Y, y).", show_default=False
    ),
]
NormOption = Annotated[
    str, typer.Option("--norm", metavar="inf|2|1", help="Norm of the balls.", autocompletion=lambda: list(_NORMS))
]
Images = Annotated[
    str | None, typer.Option("--images", metavar="LIST", help="Images, like 0,3-5, from 0 on; default: all.")
]
Targets = Annotated[
    str | None, typer.Option("--targets", metavar="LIST", help="Other classes to tell apart; default: all.")
]
Clip = Annotated[
    str | None,
    typer.Option("--clip", metavar="LOW,HIGH", help="Smallest and largest input; the balls are cut there."),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        help="combined: all others, the cheap ones first, until one proves the image. sdp: the pointwise program "
        "(ReLU). geolip, geolip-local, geolip-anchored: a Lipschitz constant, global, of the ball, of increments from "
        "the image. alpha-crown, crown, ibp: bound propagation.",
        autocompletion=lambda: list(METHODS),
    ),
]
Bounds = Annotated[
    str,
    typer.Option(
        "--bounds",
        metavar="|".join(BOUNDS),
        help="How pre-activations are bounded. geolip: by a Lipschitz constant of each neuron, sdp: by the pointwise "
        "program, too; both take far longer and pay on deep networks.",
        autocompletion=lambda: list(BOUNDS),
    ),
]
Solver = Annotated[
    str,
    typer.Option(
        "--solver",
        metavar="NAME",
        help="Who solves the pointwise program: interior-point (dense, accurate), low-rank (no matrix, all classes "
        "together), or auto, by its size.",
        autocompletion=lambda: list(SOLVERS),
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of random starts.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="T",
        help="Seconds for an image, looked at between steps; then what is proven so far is the answer.",
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="FILE",
        help="Keep finished images here; the same command goes on where it was stopped.",
        rich_help_panel=_OUTPUT,
    ),
]
Certificates = Annotated[
    Path | None,
    typer.Option(
        "--certificates",
        metavar="FOLDER",
        help="Write a proof of each image into a folder, which is made.",
        rich_help_panel=_OUTPUT,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="OUT",
        help="Draw proven and attacked radii, .png or .svg.",
        rich_help_panel=_OUTPUT,
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print a CSV table.", rich_help_panel=_OUTPUT)]


def certify_command(
    model: Model,
    data: Data,
    eps: Annotated[float, typer.Option("--eps", metavar="E", help="Radius of the balls, in the images' own unit.")],
    norm: NormOption = "2",
    images: Images = None,
    targets: Targets = None,
    clip: Clip = None,
    method: Method = "combined",
    bounds: Bounds = "crown",
    solver: Solver = "auto",
    logits: Logits = False,
    final_node: FinalNode = None,
    seed: Seed = 0,
    timeout: Timeout = None,
    jobs: Jobs = 1,
    threads: Threads = None,
    resume: Resume = None,
    certificates: Certificates = None,
    csv: Csv = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Prove that the class of images cannot change within balls: certified accuracy.

    An image is proven, attacked (another class was found in its ball), open, or wrong from the start.

    Examples:

    geolip-lirpa certify net.onnx test.npz --norm 2 --eps 0.5

    geolip-lirpa certify net.onnx test.npz --norm inf --eps 0.02 --images 0-99 --clip 0,1 --resume run.jsonl --json
    """
    if not 0 <= eps <= LARGEST:
        raise SpecificationError(f"--eps: got {eps!r}; allowed are numbers from 0 to {LARGEST}. Pass a radius.")
    request = _request(
        model, data, norm, eps, images, targets, clip, method, bounds, solver, 0.0, logits, final_node, resume,
        certificates, seed, timeout, csv, json, quiet, debug,
    )  # fmt: skip
    return _run(request, jobs, threads)


def radius_command(
    model: Model,
    data: Data,
    norm: NormOption = "2",
    images: Images = None,
    targets: Targets = None,
    clip: Clip = None,
    method: Method = "combined",
    bounds: Bounds = "crown",
    solver: Solver = "auto",
    gap: Annotated[
        float, typer.Option("--gap", metavar="G", help="Stop when proven and failed radius differ by this part.")
    ] = 0.02,
    logits: Logits = False,
    final_node: FinalNode = None,
    seed: Seed = 0,
    timeout: Timeout = None,
    jobs: Jobs = 1,
    threads: Threads = None,
    resume: Resume = None,
    certificates: Certificates = None,
    plot: Plot = None,
    csv: Csv = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Find how far around images their class provably cannot change.

    The proven radius is a lower bound of the true one, the attacked radius an upper bound.

    Examples:

    geolip-lirpa radius net.onnx test.npz --norm 2 --images 0-9

    geolip-lirpa radius net.onnx test.npz --norm inf --clip 0,1 --csv

    geolip-lirpa radius net.onnx test.npz --jobs 0 --resume run.jsonl --plot radii.png
    """
    if not 1e-6 <= gap < 1:
        raise SpecificationError(f"--gap: got {gap!r}; allowed are numbers from 1e-6 to below 1. The default is 0.02.")
    request = _request(
        model, data, norm, None, images, targets, clip, method, bounds, solver, gap, logits, final_node, resume,
        certificates, seed, timeout, csv, json, quiet, debug,
    )  # fmt: skip
    require_picture("--plot", plot)
    return _run(replace(request, plot=plot), jobs, threads)


def _request(
    model: Path, data: Path, norm: str, eps: float | None, images: str | None, targets: str | None, clip: str | None,
    method: str, bounds: str, solver: str, gap: float, logits: bool, final_node: str | None, resume: Path | None,
    certificates: Path | None, seed: int, timeout: float | None, csv: bool, json: bool, quiet: bool, debug: bool,
) -> CertifyRequest:  # fmt: skip
    if csv and json:
        raise SpecificationError("--csv, --json: got both; allowed is one of them. Choose one.")
    if not 0 <= seed < 2**63:
        raise SpecificationError(f"--seed: got {seed}; allowed are 0 to 2^63 - 1. The default is 0.")
    if timeout is not None and not timeout > 0:
        raise SpecificationError(
            f"--timeout: got {timeout!r}; allowed are positive seconds. Leave it out for no limit."
        )
    require_file("MODEL", model)
    require_file("DATA", data)
    if resume is not None:
        require_writable("--resume", resume)
    require_folder("--certificates", certificates)
    return CertifyRequest(
        model=model,
        data=data,
        norm=norm_option("--norm", norm),
        eps=eps,
        images=None if images is None else parse_rows(images, "--images"),
        targets=None if targets is None else parse_rows(targets, "--targets"),
        clip=None if clip is None else _clip(clip),
        method=choice("--method", method, METHODS),
        bounds=choice("--bounds", bounds, BOUNDS),
        solver=choice("--solver", solver, SOLVERS),
        gap=gap,
        logits=logits,
        final_node=final_node,
        resume=resume,
        certificates=certificates,
        seed=seed,
        timeout=math.inf if timeout is None else timeout,
        format="csv" if csv else "json" if json else "table",
        quiet=quiet,
        debug=debug,
    )


def _clip(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not -math.inf < low <= high < math.inf:
        raise SpecificationError(
            f"--clip: got {text!r}; expected two finite numbers, like 0,1. Write the smaller first."
        )
    return low, high


def _run(request: CertifyRequest, jobs: int, threads: int | None) -> int:
    if jobs < 0:
        raise SpecificationError(
            f"--jobs: got {jobs}; allowed are 0 (one on each processor) and more. The default is 1."
        )
    # several processes with several threads each would wait for each other
    used = use_threads(1 if threads is None and jobs != 1 else threads)
    # torch, auto_LiRPA and the solvers take seconds to import: only now
    from geolip_lirpa.cli.certify_run import run_certify

    return run_certify(replace(request, jobs=jobs, threads=used))
