"""Run a command in a process of its own, with limits on time and memory, and report what it took."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Wall seconds that a processor second may take, on a machine with other things to do, before a process is given up.
WALL = 6.0


@dataclass(frozen=True)
class Finished:
    """How a command ended.

    Args:
        code: exit status, negative for a signal.
        timed_out: whether it was stopped because its time was up.
        output: what it printed.
        errors: what it printed on its error stream.
        seconds: processor time of all its threads, and of its children that have ended. Unlike wall time it does not
            depend on what else the machine does.
        peak_mib: largest resident memory seen, in MiB; 0 where the system does not tell.
    """

    code: int
    timed_out: bool
    output: str
    errors: str
    seconds: float
    peak_mib: float


def run_limited(
    command: Sequence[str],
    timeout: float,
    *,
    processor_limit: float | None = None,
    folder: Path | None = None,
    memory_mib: int | None = None,
    unlimited_stack: bool = False,
    own_group: bool = False,
) -> Finished:
    """Run a command to its end or to the limit.

    Args:
        command: program and arguments.
        timeout: seconds of wall time after which it is killed.
        processor_limit: seconds of processor time after which it is killed; full seconds.
        folder: where it runs.
        memory_mib: limit of its address space.
        unlimited_stack: for programs that keep arrays on the stack.
        own_group: kill its children with it.
    """
    limits = _limits(memory_mib, unlimited_stack, processor_limit)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begin = _children_seconds()
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, preexec_fn=limits,
            start_new_session=own_group,
        )  # fmt: skip
        watch = _Watch(process.pid, timeout, own_group)
        watch.start()
        try:
            code = process.wait()
        finally:
            # also when this process is interrupted
            watch.stop(kill=process.poll() is None)
            process.wait()
        seconds = _children_seconds() - begin
        late = watch.timed_out or code == -signal.SIGXCPU
        output.seek(0), errors.seek(0)
        return Finished(code, late, output.read(), errors.read(), seconds, watch.peak_mib)


def _children_seconds() -> float:
    """Processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _limits(memory_mib: int | None, unlimited_stack: bool, processor_limit: float | None) -> Callable[[], None]:
    def set_limits() -> None:
        if processor_limit is not None:
            # the soft limit sends SIGXCPU
            soft = math.ceil(processor_limit)
            resource.setrlimit(resource.RLIMIT_CPU, (soft, soft + 5))
        if unlimited_stack:
            hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
            resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
        if memory_mib is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))

    return set_limits


class _Watch(threading.Thread):
    """Reads a process's memory now and then, and kills it at the end of its time.

    The system's own account of a child's peak begins with the memory of the process that started it, so it is no use
    here.
    """

    def __init__(self, pid: int, timeout: float, group: bool) -> None:
        super().__init__(daemon=True)
        self.pid, self.group = pid, group
        self.deadline = time.monotonic() + timeout
        self.peak_mib = peak_memory_mib(pid)
        self.timed_out = False
        self._done = threading.Event()

    def run(self) -> None:
        pause = 0.001
        while not self._done.wait(pause):
            self.peak_mib = max(self.peak_mib, peak_memory_mib(self.pid))
            if time.monotonic() > self.deadline:
                self.timed_out = True
                self._kill()
                return
            pause = min(2 * pause, 0.05)

    def stop(self, kill: bool) -> None:
        """End the watch, and the process if it must."""
        self._done.set()
        self.join()
        if kill:
            self._kill()

    def _kill(self) -> None:
        # it may just have ended by itself
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if self.group else os.kill)(self.pid, signal.SIGKILL)


def peak_memory_mib(pid: int | str = "self") -> float:
    """Largest resident memory of a running process until now; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
