"""Where jobs run: in this process one by one, on loky's processes, or on a Dask cluster.

Place in the data flow: level 12, ``Jobs -> Finished, in the order in which they end``, used by `bench_run`. Closing the
iterator stops what is still at work.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

from geolip_lirpa.cli.bench_job import Finished, Job, failed, work
from geolip_lirpa.cli.processes import end_with, without_interrupts
from geolip_lirpa.errors import ClusterUnavailableError, SpecificationError, WorkerError

BACKENDS = ("loky", "dask")
_CONNECT = "10s"
# A pool that breaks so often without finishing anything will not recover.
_MOST_RESTARTS = 3


def finished_jobs(
    jobs: Sequence[Job], backend: str, workers: int, scheduler: str | None
) -> Generator[Finished, None, None]:
    """Carry out all jobs.

    Args:
        jobs: each with its own limit of time.
        backend: one of `BACKENDS`.
        workers: number of processes, for loky.
        scheduler: address, for dask.

    Raises:
        ClusterUnavailableError: Dask is not installed.
        SpecificationError: the scheduler cannot be reached.
        WorkerError: its connection was lost, or the pool broke again and again.
    """
    if backend == "dask":
        return _on_dask(jobs, scheduler or "")
    return _on_loky(jobs, workers) if workers > 1 else _here(jobs)


def _here(jobs: Sequence[Job]) -> Generator[Finished, None, None]:
    for job in jobs:
        yield work(job)


def _on_loky(jobs: Sequence[Job], workers: int) -> Generator[Finished, None, None]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left = {_name(job): job for job in jobs}
    restarts = 0
    while left:
        try:
            for name, done in _pool(list(left.values()), workers):
                del left[name]
                restarts = 0
                yield done
        except TerminatedWorkerError as error:
            # a worker, not what it supervises, was killed from outside
            restarts += 1
            if restarts > _MOST_RESTARTS:
                raise WorkerError(
                    f"--jobs: worker processes were killed {restarts} times in a row ({str(error).splitlines()[0]}). "
                    "Pass fewer --jobs, and repeat the command: finished rows are kept."
                ) from None


def _pool(jobs: Sequence[Job], workers: int) -> Iterator[tuple[str, Finished]]:
    import joblib

    # one job at a time for each worker: what was dispatched early would be lost with the pool
    pool = joblib.Parallel(
        n_jobs=workers, backend="loky", return_as="generator_unordered", batch_size=1, pre_dispatch=workers
    )
    with without_interrupts():
        results = pool(joblib.delayed(_named)(job, os.getpid()) for job in jobs)
    with contextlib.closing(results):
        yield from results


def _named(job: Job, parent: int) -> tuple[str, Finished]:
    end_with(parent)
    return _name(job), work(job)


def _name(job: Job) -> str:
    return f"{job.onnx}\n{job.vnnlib}\n{job.row.method}"


def _on_dask(jobs: Sequence[Job], scheduler: str) -> Generator[Finished, None, None]:
    client = _client(scheduler)
    from distributed import as_completed

    futures: dict[Any, Job] = {}
    try:
        # pure would take two runs of the same job for one
        futures = dict(zip(client.map(work, list(jobs), pure=False), jobs, strict=True))
        for future in as_completed(list(futures), loop=client.loop):
            job = futures[future]
            yield _result(future, job, scheduler)
            future.release()
    finally:
        with contextlib.suppress(Exception):
            client.cancel(list(futures), force=True)
        with contextlib.suppress(Exception):
            client.close(timeout=5)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterUnavailableError(
            f"--backend dask: the package distributed is missing ({error}). "
            "Run: pip install 'geolip-lirpa[cluster]', or choose --backend loky."
        ) from None
    # what it logs about a lost connection is said once, by the error below
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        return Client(scheduler, timeout=_CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SpecificationError(
            f"--scheduler: {scheduler!r} cannot be reached ({reason}); expected the address of a running Dask "
            "scheduler, like tcp://host:8786. Start one by `dask scheduler`, or correct the address."
        ) from None


def _result(future: Any, job: Job, scheduler: str) -> Finished:
    if future.status == "finished":
        done: Finished = future.result()
        return done
    if future.status == "error":
        # the worker went down again and again, or has another version of this package
        error = future.exception()
        return failed(job, f"worker: {type(error).__name__}: {error}")
    raise WorkerError(
        f"--scheduler: the connection to {scheduler} was lost. Repeat the command when the scheduler runs again: "
        "finished rows are kept."
    ) from CancelledError()
