"""One instance, one method, one process with a limit of time: what runs on a worker.

Place in the data flow: level 12, ``Job -> BenchRow and witness``. A worker imports nothing heavy; torch and auto_LiRPA
are imported in the child that verifies, so a crash or a leak there costs one row.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geolip_lirpa.hard_limit import LimitedOutcome, run_limited
from geolip_lirpa.report.bench_rows import BenchRow, one_line

_LONGEST_DETAIL = 500


@dataclass(frozen=True)
class Job:
    """What a worker is asked for.

    Args:
        row: the row to complete; its verdict and seconds mean nothing yet.
        onnx, vnnlib: absolute paths.
        timeout: seconds.
        seed: of random starts.
        function: ``"module:name"`` of what verifies, see `verify_onnx.verify_files`.
        witness: whether the witness of ``sat`` is wanted.
    """

    row: BenchRow
    onnx: Path
    vnnlib: Path
    timeout: float
    seed: int
    function: str
    witness: bool = False


@dataclass(frozen=True)
class Finished:
    """A completed row, with the witness of ``sat`` in the format of its specification if that is wanted."""

    row: BenchRow
    witness: str | None = None


def work(job: Job) -> Finished:
    """Carry out a job; whatever happens in it is a row."""
    outcome = run_limited(_answer, (job,), job.timeout + grace(job.timeout))
    row = replace(job.row, seconds=outcome.seconds)
    answer = outcome.value
    if answer is None:
        return Finished(_without_answer(row, outcome))
    fields, witness = answer
    row = replace(row, **fields)
    if row.solved and outcome.seconds > job.timeout:
        # the verdict may be right, but it came too late to count
        return Finished(replace(row, verdict="timeout", detail=f"{row.verdict} came after the timeout"))
    return Finished(row, witness)


def grace(timeout: float) -> float:
    """Seconds after the timeout in which a search that has noticed it may still report its bounds."""
    return min(10.0, 1.0 + timeout / 10)


def failed(job: Job, message: str) -> Finished:
    """The row of a job that never ran."""
    return Finished(replace(job.row, verdict="error", detail=_shortened(message)))


def _without_answer(row: BenchRow, outcome: LimitedOutcome) -> BenchRow:
    if outcome.timed_out:
        return replace(row, verdict="timeout", detail="stopped from outside")
    if outcome.crashed is not None:
        return replace(row, verdict="error", detail=f"crashed: {outcome.crashed}")
    error = outcome.error
    if error is None:
        return replace(row, verdict="error", detail="no answer")
    known = error.geolip_error() is not None
    return replace(
        row, verdict="error", detail=_shortened(error.message if known else f"{error.type}: {error.message}")
    )


def _answer(job: Job) -> tuple[dict[str, Any], str | None]:
    """Runs in the child; returns plain values, so that workers need not import what made them."""
    module, _, name = job.function.partition(":")
    verify = getattr(importlib.import_module(module), name)
    from geolip_lirpa.verify_types import VerifyOptions

    result = verify(job.onnx, job.vnnlib, VerifyOptions(job.row.method, job.timeout, job.seed))
    fields = {
        "verdict": str(result.verdict),
        "bound": None if result.bound is None or result.bound != result.bound else float(result.bound),
        "proved_by": "+".join(result.proved_by),
        "boxes": int(result.boxes),
        "detail": _shortened(result.reason),
    }
    if result.witness is None or not job.witness:
        return fields, None
    from geolip_lirpa.vnnlib import read_specification, witness_text

    return fields, witness_text(read_specification(job.vnnlib), result.witness.inputs, result.witness.outputs)


def _shortened(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LONGEST_DETAIL else f"{line[: _LONGEST_DETAIL - 3]}..."
