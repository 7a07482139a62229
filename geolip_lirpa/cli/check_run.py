"""Run ``geolip-lirpa check``: read, load, prove again, print.

Place in the data flow: level 12. Imported when the command runs.
"""

from __future__ import annotations

import time
from pathlib import Path

from geolip_lirpa.certificate import Certificate
from geolip_lirpa.certificate_file import load_certificate
from geolip_lirpa.cli.check_margins_run import run_check_margins
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.models import LoadedModel, load_model
from geolip_lirpa.cli.subjects import part_of_model
from geolip_lirpa.cli.terminal import only_results_on_stdout, print_error, print_note, print_result, print_text, waiting
from geolip_lirpa.cli.versions import versions
from geolip_lirpa.errors import CertificateError, ExtractionError, SpecificationError
from geolip_lirpa.lipschitz import check_certificate
from geolip_lirpa.lirpa import host_version
from geolip_lirpa.margin_file import is_margin_certificate
from geolip_lirpa.report.json_objects import check_object, to_text
from geolip_lirpa.report.outcome import CheckOutcome, Subject
from geolip_lirpa.report.tables import check_text

Bounds = tuple[tuple[float, ...], ...]


def run_check(path: Path, model: Path, *, json: bool, quiet: bool, debug: bool) -> ExitCode:
    """Prove a certificate again.

    Args:
        path: of the certificate.
        model: path of the model.
        json: print an object instead of text.
        quiet: no notes.
        debug: show warnings.

    Raises:
        GeolipError: the model cannot be read, a file is missing. A refusal is not raised but reported.
    """
    if is_margin_certificate(path):
        return run_check_margins(path, model, json=json, quiet=quiet, debug=debug)
    begin = time.perf_counter()
    with only_results_on_stdout(debug), waiting("proving again", shown=not quiet):
        outcome = _outcome(path, model)
    outcome = outcome.timed(time.perf_counter() - begin)
    if json:
        print_text(to_text(check_object(outcome)))
    elif outcome.bounds is not None:
        print_result(check_text(outcome))
    if outcome.bounds is None:
        print_error(f"refused: {outcome.reason}")
        return ExitCode.REFUSED
    if outcome.other_file:
        print_note("the certificate was computed for another file; it is proven for this one", quiet)
    return ExitCode.OK


def _outcome(path: Path, model: Path) -> CheckOutcome:
    certificate, bounds, reason = None, None, None
    logits, final_node, loaded = False, None, None
    try:
        certificate = load_certificate(path)
        logits, final_node = part_of_model(certificate.metadata)
    except CertificateError as error:
        reason = str(error)
    if certificate is not None and reason is None:
        loaded = load_model(model, logits)
        bounds, reason = _prove(certificate, loaded, final_node)
    return CheckOutcome(
        subject=Subject(str(model), "" if loaded is None else loaded.sha256, logits, final_node),
        path=str(path),
        certificate=certificate,
        bounds=bounds,
        reason=reason,
        versions=versions(host_version()),
        seconds=0.0,
    )


def _prove(certificate: Certificate, model: LoadedModel, final_node: str | None) -> tuple[Bounds | None, str | None]:
    """The proven bounds, or the reason why there are none."""
    try:
        bounds = check_certificate(certificate, model.bounded, final_node_name=final_node)
    except (CertificateError, SpecificationError) as error:
        # the model has been read without complaint, so that a bad specification can only be the certificate's
        return None, str(error)
    except ExtractionError as error:
        if final_node is None:
            raise
        return None, f"certificate: made for the part of a model up to node {final_node!r}. {error}"
    return tuple(tuple(row) for row in bounds.tolist()), None
