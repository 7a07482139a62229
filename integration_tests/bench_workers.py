"""Workers that are killed from outside; imports nothing heavy, so that they start at once."""

from __future__ import annotations

import os
import signal

from geolip_lirpa.cli.bench_job import Finished, Job, failed


def die_once(job: Job, _: int) -> tuple[str, Finished]:
    """The first job of a list kills its worker, the others end at once."""
    mark = job.vnnlib.with_name("died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{job.onnx}\n{job.vnnlib}\n{job.row.method}", failed(job, "as it should")


def die_always(job: Job, _: int) -> tuple[str, Finished]:
    """Every job kills its worker."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(job)
