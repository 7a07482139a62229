"""``geolip-lirpa lipschitz``: bounds of Lipschitz constants of an ONNX model.

Place in the data flow: level 12, ``command line -> LipschitzRequest -> bounds -> table, JSON, certificate``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geolip_lirpa.cli.lipschitz_request import METHODS, SOLVERS, LipschitzRequest, RegionRequest
from geolip_lirpa.cli.options import (
    Debug,
    FinalNode,
    Json,
    Logits,
    Model,
    Quiet,
    Threads,
    Tie,
    choice,
    norm_option,
    output_option,
    ties,
)
from geolip_lirpa.cli.paths import require_picture, require_writable
from geolip_lirpa.cli.rows import parse_rows
from geolip_lirpa.cli.threads import use_threads
from geolip_lirpa.errors import SpecificationError

_NORMS = ("inf", "2", "1")
_BOUNDS = ("ibp", "crown", "alpha-crown")
_FORMS = ("auto", "dual", "natural")
_REGION = "Local bounds"
_SOLVING = "Method"
_OUTPUT = "Output"


def lipschitz_command(
    model: Model,
    norm: Annotated[
        str,
        typer.Option("--norm", metavar="inf|2|1", help="Norm of the input.", autocompletion=lambda: list(_NORMS)),
    ] = "inf",
    output: Annotated[
        str,
        typer.Option(
            "--output",
            metavar="rows|inf|2|1",
            help="One bound for each output, or one for the whole output vector in a norm.",
            autocompletion=lambda: ["rows", *_NORMS],
        ),
    ] = "rows",
    rows: Annotated[
        str | None, typer.Option("--rows", metavar="LIST", help="Outputs to bound, like 0,3-5; default: all.")
    ] = None,
    logits: Logits = False,
    final_node: FinalNode = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE.npz",
            help="Images (array 'images' or X, x; optionally 'labels' or Y, y); bounds hold near one of them.",
            rich_help_panel=_REGION,
        ),
    ] = None,
    index: Annotated[
        int | None, typer.Option("--index", metavar="I", help="Which image, from 0 on.", rich_help_panel=_REGION)
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option("--eps", metavar="E", help="Radius around the image, in its own unit.", rich_help_panel=_REGION),
    ] = None,
    region_norm: Annotated[
        str | None,
        typer.Option(
            "--region-norm",
            metavar="inf|2|1",
            help="Norm of the ball around the image; default: the one of --norm.",
            autocompletion=lambda: list(_NORMS),
            rich_help_panel=_REGION,
        ),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(
            "--bounds",
            metavar="|".join(_BOUNDS),
            help="How pre-activations are bounded near the image; default: crown.",
            autocompletion=lambda: list(_BOUNDS),
            rich_help_panel=_REGION,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            help="sdp: tightest proven bound. compositional: proven, block by block, for large networks. "
            "norm-product, entrywise: proven, quick, loose. "
            "brute-force: exact up to rounding, few neurons, not proven. sampled: a lower bound only.",
            autocompletion=lambda: list(METHODS),
            rich_help_panel=_SOLVING,
        ),
    ] = "sdp",
    solver: Annotated[
        str,
        typer.Option(
            "--solver",
            metavar="NAME",
            help="auto, low-rank, interior-point, clarabel, scs, or mosek (needs a licence; auto never does).",
            autocompletion=lambda: list(SOLVERS),
            rich_help_panel=_SOLVING,
        ),
    ] = "auto",
    form: Annotated[
        str,
        typer.Option(
            "--form",
            metavar="|".join(_FORMS),
            help="Form of the program given to clarabel, scs or mosek.",
            autocompletion=lambda: list(_FORMS),
            rich_help_panel=_SOLVING,
        ),
    ] = "auto",
    tie: Tie = None,
    gap: Annotated[
        float,
        typer.Option("--gap", metavar="G", help="Relative gap that is good enough.", rich_help_panel=_SOLVING),
    ] = 1e-6,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Seed of random starts.", rich_help_panel=_SOLVING)
    ] = 0,
    threads: Threads = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="OUT", help="Write the proofs to a file.", rich_help_panel=_OUTPUT),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="OUT", help="Draw attained and proven bounds, .png or .svg.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Bound the Lipschitz constants of MODEL: |f_i(x) - f_i(x')| <= upper * |x - x'|.

    Without --data the bound holds for all inputs, with it for all inputs near one image.

    Examples:

    geolip-lirpa lipschitz net.onnx

    geolip-lirpa lipschitz net.onnx --norm 2 --rows 0,3-5 --certificate net.json

    geolip-lirpa lipschitz net.onnx --output 2 --norm 2 --json

    geolip-lirpa lipschitz net.onnx --plot bounds.png

    geolip-lirpa lipschitz net.onnx --data test.npz --index 7 --eps 0.01 --bounds alpha-crown
    """
    request = LipschitzRequest(
        model=model,
        norm=norm_option("--norm", norm),
        output=output_option("--output", output),
        rows=None if rows is None else parse_rows(rows),
        logits=logits,
        final_node=final_node,
        region=_region(data, index, eps, norm, region_norm, bounds),
        method=choice("--method", method, METHODS),
        solver=solver,
        form=choice("--form", form, _FORMS),
        tie=ties(tie),
        gap=_gap(gap),
        seed=_seed(seed),
        certificate=certificate,
        plot=plot,
        json=json,
        quiet=quiet,
        debug=debug,
    )
    _require_certifiable(request)
    require_picture("--plot", plot)
    use_threads(threads)
    # torch, auto_LiRPA and the solvers take seconds to import: only now
    from geolip_lirpa.cli.lipschitz_run import run_lipschitz

    return run_lipschitz(request)


def _region(
    data: Path | None, index: int | None, eps: float | None, norm: str, region_norm: str | None, bounds: str | None
) -> RegionRequest | None:
    if data is None:
        given = {"--index": index, "--eps": eps, "--region-norm": region_norm, "--bounds": bounds}
        for option, value in given.items():
            if value is not None:
                raise SpecificationError(f"{option}: belongs to a local bound. Name its images with --data FILE.npz.")
        return None
    if index is None or eps is None:
        missing = "--index" if index is None else "--eps"
        raise SpecificationError(f"{missing}: missing. A local bound needs --data FILE.npz, --index I and --eps E.")
    # the comparison is false for NaN
    if not 0 <= eps < float("inf"):
        raise SpecificationError(f"--eps: got {eps!r}; allowed are finite numbers from 0 on. Pass a radius.")
    ball = norm_option("--region-norm", region_norm or norm)
    return RegionRequest(data, index, eps, ball, choice("--bounds", bounds or "crown", _BOUNDS))


def _gap(gap: float) -> float:
    if not 0 < gap < 1:
        raise SpecificationError(f"--gap: got {gap!r}; allowed are numbers between 0 and 1. The default is 1e-6.")
    return gap


def _seed(seed: int) -> int:
    if not 0 <= seed < 2**63:
        raise SpecificationError(f"--seed: got {seed}; allowed are 0 to 2^63 - 1. The default is 0.")
    return seed


def _require_certifiable(request: LipschitzRequest) -> None:
    if request.certificate is None:
        return
    if request.method not in ("sdp", "compositional", "norm-product", "entrywise"):
        raise SpecificationError(
            f"--certificate: the method {request.method} proves nothing. "
            "Use --method sdp, compositional, norm-product or entrywise."
        )
    require_writable("--certificate", request.certificate)
