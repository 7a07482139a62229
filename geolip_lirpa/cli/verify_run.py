"""Run ``geolip-lirpa verify``: the work in a child process with a hard limit, the output here.

Place in the data flow: level 12, ``VerifyRequest -> VerifyAnswer -> standard output``. Imports nothing heavy: the time
that torch takes to load is spent once, in the child.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.paths import made_folder, write_file
from geolip_lirpa.cli.terminal import print_error, print_note, print_text, waiting
from geolip_lirpa.cli.verify_request import VerifyAnswer, VerifyRequest
from geolip_lirpa.cli.verify_work import verified
from geolip_lirpa.cli.versions import package_version
from geolip_lirpa.hard_limit import LimitedOutcome, run_limited

_TIMEOUT = VerifyAnswer("timeout")
_INTERRUPTED = VerifyAnswer("unknown", reason="interrupted before there was a verdict")


def run_verify(request: VerifyRequest, begin: float) -> ExitCode:
    """Carry out a request.

    Args:
        begin: when the limit of time began to run, by `time.monotonic`.

    Raises:
        GeolipError: bad input, or something that is needed is missing.
    """
    deadline = begin + request.timeout
    left = max(1e-3, deadline - time.monotonic())
    arguments = (request, deadline)
    try:
        with waiting("verifying", left):
            outcome = run_limited(verified, arguments, left, threads=request.threads, show_output=request.debug)
    except KeyboardInterrupt:
        _deliver(request, _INTERRUPTED, time.monotonic() - begin)
        return ExitCode.INTERRUPTED
    answer = _answer(outcome, deadline)
    if answer is None:
        return ExitCode.INTERNAL
    _deliver(request, answer, time.monotonic() - begin)
    return ExitCode.OK


def _answer(outcome: LimitedOutcome, deadline: float) -> VerifyAnswer | None:
    """What the child answered, or what became of it; None after a failure, which is printed.

    Raises:
        GeolipError: the child's own.
    """
    if outcome.error is not None:
        known = outcome.error.geolip_error()
        if known is not None:
            raise known
        advice = "Run again with --debug to see what the libraries print."
        print_error(f"internal error, please report: {outcome.error.type}: {outcome.error.message}. {advice}")
        return None
    # the child's alarm ends it at the deadline, before this process looks
    if outcome.timed_out or (outcome.crashed is not None and time.monotonic() >= deadline):
        return _TIMEOUT
    if outcome.crashed is not None:
        print_error(f"the process that verifies ended without an answer: {outcome.crashed}. Give it more memory.")
        return None
    found: VerifyAnswer = outcome.value
    return found


def _deliver(request: VerifyRequest, answer: VerifyAnswer, seconds: float) -> None:
    """Files first: who reads the verdict finds them."""
    if answer.witness and request.witness is not None:
        write_file("--witness", request.witness, answer.witness.encode())
    if answer.tensors and request.assignments is not None:
        _write_tensors(request.assignments, answer.tensors)
    for note in answer.notes:
        print_note(note, request.json)
    if request.json:
        print_text(json.dumps(_object(request, answer, seconds), indent=2, allow_nan=False))
        return
    shown = "" if request.assignments is not None else answer.witness
    print_text(f"{answer.verdict}\n{shown}".rstrip("\n"))
    if answer.reason:
        print_note(answer.reason, quiet=False)


def _write_tensors(folder: Path, tensors: tuple[tuple[str, bytes], ...]) -> None:
    made_folder("--serialise-assignments", folder)
    for name, content in tensors:
        write_file("--serialise-assignments", folder / name, content)


def _object(request: VerifyRequest, answer: VerifyAnswer, seconds: float) -> dict[str, Any]:
    """The answer for programs; docs/cli.md explains it."""
    numbers = {"inputs": list(answer.inputs), "outputs": list(answer.outputs)}
    return {
        "verdict": answer.verdict,
        "witness": numbers if answer.witness else None,
        "bound": _finite(answer.bound),
        "proved_by": list(answer.proved_by),
        "boxes": answer.boxes,
        "reason": answer.reason,
        "specification": str(request.specification),
        "model": str(request.model),
        "vnnlib_version": answer.version or None,
        "method": request.method,
        "timeout": _finite(request.timeout),
        "seed": request.seed,
        "seconds": seconds,
        "version": package_version(),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
