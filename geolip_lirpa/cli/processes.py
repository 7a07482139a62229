"""Share work on numbered images between processes that may die.

Place in the data flow: level 12, used by `certify_run`. Results arrive as they are finished. When a process dies, most
often for want of memory, the images in work at that moment are done again, one at a time; an image whose process dies
once more is left out, the others go on, and a `WorkerError` names it at the end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed, parallel_config

from geolip_lirpa.errors import WorkerError

Result = TypeVar("Result")


def process_count(jobs: int, work: int) -> int:
    """How many processes to use: as asked for (0: one on each processor we may use), no more than there is work."""
    return max(1, min(jobs or cpu_count(), work))


def in_processes(
    task: Callable[[int], Result], numbers: Sequence[int], jobs: int, threads: int
) -> Iterator[tuple[int, Result]]:
    """Results with their numbers, in the order in which they are finished.

    Args:
        task: called in another process; it and its results can be pickled.
        numbers: each once.
        jobs: processes, at least 1.
        threads: that numerical libraries may use in each.

    Raises:
        WorkerError: after all others are finished, when a process died twice with the same number.
        Exception: of a task, as it was raised there; the work ends with it.
    """
    waiting, suspects, lost = list(numbers), list[int](), list[int]()
    while waiting or suspects:
        source = suspects or waiting
        # which image took its process down is known only of one that was alone
        batch, at_once = (suspects[:1], 1) if suspects else (list(waiting), jobs)
        begun: list[int] = []
        try:
            for number, result in _results(task, batch, begun, at_once, threads):
                source.remove(number)
                yield number, result
        except BrokenExecutor:
            died = [number for number in begun if number in source]
            source[:] = [number for number in source if number not in died]
            if source is suspects:
                lost += died
            else:
                suspects += died
                # the same crowd would run out of memory again
                jobs = max(1, jobs // 2)
    if lost:
        raise WorkerError(
            f"images {', '.join(map(str, lost))}: the process that worked on them was killed, twice (out of memory?); "
            "all others are finished. Make more memory free, or leave these out by --images."
        )


def _results(
    task: Callable[[int], Result], numbers: Sequence[int], begun: list[int], jobs: int, threads: int
) -> Iterator[tuple[int, Result]]:
    """As `in_processes`, until a process dies; `begun` gets every number that is handed out."""

    def handed_out() -> Iterator[Callable[[], tuple[int, Result]]]:
        for number in numbers:
            begun.append(number)
            yield delayed(_numbered)(task, number, os.getpid())

    with parallel_config("loky", inner_max_num_threads=threads):
        # one process would be this one, which has to survive: there are two, and one of them waits
        pool = Parallel(max(2, jobs), return_as="generator_unordered", batch_size=1, pre_dispatch=jobs, max_nbytes=None)
        with without_interrupts():
            results = pool(handed_out())
    with contextlib.closing(results):
        yield from results


def _numbered(task: Callable[[int], Result], number: int, parent: int) -> tuple[int, Result]:
    end_with(parent)
    return number, task(number)


@functools.lru_cache(maxsize=1)
def end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed without a chance to say so.

    loky's workers would wait for minutes for work that never comes. Where `parent` is this process nothing is watched.
    """
    if parent == os.getpid():
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes that are started here do not hear of Ctrl-C, which is for the one that ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
