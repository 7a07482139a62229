"""Run ``geolip-lirpa check`` on a certificate of margins.

Place in the data flow: level 12. Imported when the command runs.
"""

from __future__ import annotations

import time
from pathlib import Path

from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.models import load_model
from geolip_lirpa.cli.subjects import part_of_model
from geolip_lirpa.cli.terminal import only_results_on_stdout, print_error, print_note, print_result, print_text, waiting
from geolip_lirpa.cli.versions import versions
from geolip_lirpa.errors import CertificateError, ExtractionError, SpecificationError
from geolip_lirpa.lirpa import host_version
from geolip_lirpa.margin_file import load_margins
from geolip_lirpa.margin_queries import check_margin_certificate
from geolip_lirpa.report.certification import CheckedMargins, checked_margins_object, checked_margins_table
from geolip_lirpa.report.json_objects import to_text
from geolip_lirpa.report.outcome import Subject


def run_check_margins(path: Path, model: Path, *, json: bool, quiet: bool, debug: bool) -> ExitCode:
    """Prove a margin certificate again; the arguments are those of `check_run.run_check`.

    Raises:
        GeolipError: the model cannot be read. A refusal is not raised but reported.
    """
    begin = time.perf_counter()
    with only_results_on_stdout(debug), waiting("proving again", shown=not quiet):
        checked = _checked(path, model)
    checked = checked.timed(time.perf_counter() - begin)
    if json:
        print_text(to_text(checked_margins_object(checked)))
    elif checked.lower is not None:
        print_result(checked_margins_table(checked))
    if checked.lower is None:
        print_error(f"refused: {checked.reason}")
        return ExitCode.REFUSED
    if checked.other_file:
        print_note("the certificate was computed for another file; it is proven for this one", quiet)
    return ExitCode.OK


def _checked(path: Path, model: Path) -> CheckedMargins:
    subject = Subject(str(model), "")
    try:
        certificate = load_margins(path)
        logits, final_node = part_of_model(certificate.metadata)
    except (CertificateError, SpecificationError) as error:
        return CheckedMargins(subject, str(path), None, None, str(error), versions(host_version()), 0.0)
    loaded = load_model(model, logits)
    subject = Subject(str(model), loaded.sha256, logits, final_node)
    try:
        lower, reason = check_margin_certificate(certificate, loaded.bounded, final_node_name=final_node), None
    except (CertificateError, SpecificationError) as error:
        lower, reason = None, str(error)
    except ExtractionError as error:
        if final_node is None:
            raise
        lower, reason = None, f"certificate: made for the part of a model up to node {final_node!r}. {error}"
    return CheckedMargins(subject, str(path), certificate, lower, reason, versions(host_version()), 0.0)
