"""Run ``geolip-lirpa bench``: send jobs to workers, keep every row, compare with known answers.

Place in the data flow: level 12, ``BenchRequest -> jobs -> results file -> summary``. Imported when the command runs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from geolip_lirpa.cli.bench_backends import finished_jobs
from geolip_lirpa.cli.bench_instances import Instance, InstanceList, read_instances
from geolip_lirpa.cli.bench_job import Finished, Job
from geolip_lirpa.cli.bench_request import BenchRequest
from geolip_lirpa.cli.comparison_inputs import load_expectations
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.paths import made_folder
from geolip_lirpa.cli.results_file import Key, ResultsFile, key
from geolip_lirpa.cli.terminal import print_error, print_note, print_result, print_text, progress_bar
from geolip_lirpa.cli.witness_files import write_witness
from geolip_lirpa.report.bench_rows import BenchRow
from geolip_lirpa.report.comparison import compare_rows
from geolip_lirpa.report.comparison_tables import comparison_object, comparison_table
from geolip_lirpa.report.expectations import Expectations
from geolip_lirpa.report.json_text import to_text


def run_bench(request: BenchRequest) -> ExitCode:
    """Carry out a request.

    Raises:
        GeolipError: bad input, or workers that were lost.
    """
    listed = read_instances(request.instances, request.timeout)
    if listed.repeated:
        print_note(f"{request.instances} lists {listed.repeated} instances again; each is done once", request.quiet)
    expected = load_expectations([request.expected] if request.expected else [], {listed.name})
    jobs = _jobs(request, listed)
    results = ResultsFile(request.out, {k: job.row for k, job in jobs.items()})
    interrupted = _work(request, jobs, results)
    results.rewrite()
    return _report(request, results.rows(), expected, interrupted)


def _jobs(request: BenchRequest, listed: InstanceList) -> dict[Key, Job]:
    """All jobs, instance by instance, so that a run that was stopped has whole instances."""
    jobs: dict[Key, Job] = {}
    known: dict[Path, str] = {}
    for instance in listed.instances:
        digest = instance.digest(request.seed, known)
        for method in request.methods:
            job = _job(request, instance, method, listed.name, digest)
            jobs[key(job.row)] = job
    return jobs


def _job(request: BenchRequest, instance: Instance, method: str, benchmark: str, digest: str) -> Job:
    row = BenchRow(
        instance.onnx, instance.vnnlib, method, "error", 0.0, benchmark=benchmark, timeout=instance.timeout, run=digest
    )
    onnx, vnnlib = instance.files
    wanted = request.witnesses is not None
    return Job(row, onnx, vnnlib, instance.timeout, request.seed, request.function, wanted)


def _work(request: BenchRequest, jobs: dict[Key, Job], results: ResultsFile) -> bool:
    """Do what is not finished; whether Ctrl-C ended it."""
    if request.witnesses is not None:
        made_folder("--witnesses", request.witnesses)
    left = [job for k, job in jobs.items() if k not in results.finished]
    done = finished_jobs(left, request.backend, request.jobs, request.scheduler)
    try:
        with _no_warnings(), progress_bar("instances", not request.quiet) as progress, contextlib.closing(done):
            count = len(jobs) - len(left)
            if progress is not None:
                progress(count, len(jobs))
            for finished in done:
                _keep(finished, results, request.witnesses)
                count += 1
                if progress is not None:
                    progress(count, len(jobs))
    except KeyboardInterrupt:
        return True
    return False


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Without joblib's warning that Ctrl-C has stopped what was in work: that is what Ctrl-C is for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _keep(finished: Finished, results: ResultsFile, witnesses: Path | None) -> None:
    # the witness first: a row on the disk is never done again
    if finished.witness is not None and witnesses is not None:
        write_witness(witnesses, finished)
    results.add(finished.row)


def _report(request: BenchRequest, rows: list[BenchRow], expected: Expectations, interrupted: bool) -> ExitCode:
    comparison = compare_rows(rows, expected)
    if request.json:
        print_text(to_text(comparison_object(comparison) | {"results": str(request.out), "interrupted": interrupted}))
    else:
        print_result(comparison_table(comparison))
        print_text(f"results: {request.out}")
    for contradiction in comparison.contradictions:
        print_error(contradiction.text)
    if interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.CONTRADICTED if comparison.contradictions else ExitCode.OK
