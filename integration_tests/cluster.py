"""A Dask cluster of a scheduler and two workers on this machine's loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS = 120.0


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[str]:
    """Start one, wait until all workers are there, yield the scheduler's address, and end it."""
    from distributed import Client

    processes = [_start(folder, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        address = _address(folder / "scheduler.log", processes[0])
        options = ("--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", folder / "space")
        # as they are started by hand: a nanny each, whose worker is a daemonic process
        processes += [_start(folder, f"worker{n}", address, *options) for n in range(workers)]
        with Client(address, timeout=_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=_SECONDS)
        yield address
    finally:
        for process in processes:
            # each leads a group, of which the nanny's worker and what that has started are part
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=60)


def _start(folder: Path, name: str, *arguments: object) -> subprocess.Popen[bytes]:
    module = "distributed.cli.dask_scheduler" if name == "scheduler" else "distributed.cli.dask_worker"
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parent), str(here.parents[1])])
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    (folder / f"{name}.pid").write_text(str(process.pid))
    return process


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"Scheduler at:\s+(tcp://\S+)", log.read_text())
        if found:
            return found[1]
        threading.Event().wait(0.1)
    raise RuntimeError(f"no scheduler: {log.read_text()}")
