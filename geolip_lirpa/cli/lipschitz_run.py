"""Run ``geolip-lirpa lipschitz``: load, bound, write the certificate, print.

Place in the data flow: level 12, ``LipschitzRequest -> LipschitzOutcome -> table or JSON``. Imported when the command
runs.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.bounding import Progress
from geolip_lirpa.certificate_file import save_certificate
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.images import Image, read_image
from geolip_lirpa.cli.lipschitz_request import LipschitzRequest, RegionRequest
from geolip_lirpa.cli.models import LoadedModel, load_model
from geolip_lirpa.cli.paths import write_file
from geolip_lirpa.cli.rows import select_rows
from geolip_lirpa.cli.subjects import subject_metadata
from geolip_lirpa.cli.terminal import only_results_on_stdout, print_error, print_result, print_text, progress_bar
from geolip_lirpa.cli.versions import versions
from geolip_lirpa.errors import CertificateError, SpecificationError
from geolip_lirpa.lipschitz import compute_lipschitz
from geolip_lirpa.lipschitz_types import PROVEN_METHODS, LipschitzResult
from geolip_lirpa.lirpa import Perturbation, bounded_input, extract_network, host_version
from geolip_lirpa.network_lipschitz import LipschitzInterrupted
from geolip_lirpa.report.json_objects import lipschitz_object, to_text
from geolip_lirpa.report.outcome import BallAroundImage, LipschitzOutcome, Subject
from geolip_lirpa.report.tables import lipschitz_table
from geolip_lirpa.solvers.auto import canonical_solver_name
from geolip_lirpa.types import Norm


def run_lipschitz(request: LipschitzRequest) -> ExitCode:
    """Carry out a request.

    Raises:
        GeolipError: bad input, or something that is needed is missing.
    """
    begin = time.perf_counter()
    failure = None
    with only_results_on_stdout(request.debug):
        outcome = _outcome(request)
        if request.certificate is not None:
            outcome, failure = _with_certificate(outcome, str(request.certificate))
        if request.plot is not None:
            outcome, unwritten = _with_plot(outcome, request.plot)
            failure = failure or unwritten
    outcome = replace(outcome, seconds=time.perf_counter() - begin)
    if request.json:
        print_text(to_text(lipschitz_object(outcome)))
    else:
        print_result(lipschitz_table(outcome))
    return _report(outcome, request, failure)


def _report(outcome: LipschitzOutcome, request: LipschitzRequest, failure: str | None) -> ExitCode:
    """The exit code, with a line on standard error unless all went well."""
    if outcome.interrupted:
        return ExitCode.INTERRUPTED
    if failure is not None:
        print_error(failure)
        return ExitCode.BAD_INPUT
    if request.method in PROVEN_METHODS and not _all_finite(outcome.result):
        print_error("no finite bound could be proven for some outputs. Try another --solver or --method.")
        return ExitCode.NOT_PROVEN
    return ExitCode.OK


def _all_finite(result: LipschitzResult) -> bool:
    return bool(torch.isfinite(result.upper).all())


def _outcome(request: LipschitzRequest) -> LipschitzOutcome:
    canonical_solver_name(request.solver)
    model = load_model(request.model, request.logits)
    count = extract_network(model.bounded, request.final_node).output_size
    outputs = tuple(range(count) if request.rows is None else select_rows(request.rows, count))
    image = None if request.region is None else read_image(request.region.data, request.region.index, model.input_shape)
    result, interrupted = _compute(request, model, _unit_rows(outputs, count), image)
    return LipschitzOutcome(
        subject=Subject(str(request.model), model.sha256, request.logits, request.final_node),
        norm=request.norm,
        output=request.output,
        method=request.method,
        outputs=outputs,
        region=_shown_region(request.region, image),
        result=result,
        versions=versions(host_version()),
        seconds=0.0,
        interrupted=interrupted,
    )


def _unit_rows(outputs: tuple[int, ...], count: int) -> Tensor:
    """C with one unit vector for each selected output, (1, m, n_out)."""
    return torch.eye(count, dtype=torch.float64)[list(outputs)][None]


def _shown_region(region: RegionRequest | None, image: Image | None) -> BallAroundImage | None:
    if region is None or image is None:
        return None
    return BallAroundImage(str(region.data), region.index, image.label, region.norm, region.eps, region.bound_method)


def _bounded_input(region: RegionRequest | None, image: Image | None) -> Any:
    """The region as the tuple with a `BoundedTensor` that the library takes; None for a global bound."""
    if region is None or image is None:
        return None
    ball = Perturbation(region.norm, image.values, None, None, region.eps)
    if region.norm is Norm.LINF:
        lower, upper = ball.box()
        ball = replace(ball, lower=lower, upper=upper)
    return (bounded_input(ball),)


def _compute(
    request: LipschitzRequest, model: LoadedModel, rows: Tensor, image: Image | None
) -> tuple[LipschitzResult, bool]:
    """The result, and whether Ctrl-C cut the work short; then it holds what was proven until then."""
    x = _bounded_input(request.region, image)
    try:
        with progress_bar("programs", shown=not request.quiet) as progress:
            return _bound(request, model, rows, x, progress), False
    except LipschitzInterrupted as stop:
        return stop.result, True


def _bound(
    request: LipschitzRequest, model: LoadedModel, rows: Tensor, x: Any, progress: Progress | None
) -> LipschitzResult:
    return compute_lipschitz(
        model.bounded,
        x,
        rows,
        request.norm,
        output=request.output,
        scope="global" if request.region is None else "local",
        method=request.method,
        solver=request.solver,
        form=request.form,
        bound_method="crown" if request.region is None else request.region.bound_method,
        tie=request.tie,
        relative_gap=request.gap,
        final_node_name=request.final_node,
        seed=request.seed,
        progress=progress,
    )


def _with_certificate(outcome: LipschitzOutcome, path: str) -> tuple[LipschitzOutcome, str | None]:
    """Write the certificate; the reason when that fails, since the bounds are worth showing all the same."""
    certificate = outcome.result.certificate
    if certificate is None or not _all_finite(outcome.result):
        return outcome, None
    metadata = subject_metadata(outcome.subject) | {"versions": dict(outcome.versions)}
    try:
        save_certificate(replace(certificate, metadata=metadata), path)
    except CertificateError as error:
        return outcome, str(error)
    return replace(outcome, certificate=path), None


def _with_plot(outcome: LipschitzOutcome, path: Path) -> tuple[LipschitzOutcome, str | None]:
    """Draw the bounds; the reason when the file cannot be written, as for a certificate."""
    from geolip_lirpa.report.lipschitz_plots import lipschitz_picture

    try:
        write_file("--plot", path, lipschitz_picture(outcome, path.suffix))
    except SpecificationError as error:
        return outcome, str(error)
    return replace(outcome, plot=str(path)), None
