"""Where output goes: results to standard output, everything else to standard error.

Place in the data flow: level 12, used by the commands.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from geolip_lirpa.cli.exit_codes import ExitCode

# Between two lines about progress in a file.
_LINE_SECONDS = 30.0


def allow_any_text() -> None:
    """Write what the terminal's encoding does not have (a letter of a file name) as an escape instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_error(message: str) -> None:
    """One line ``error: ...`` on standard error."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def print_note(message: str, quiet: bool) -> None:
    """One line ``note: ...`` on standard error, unless quiet."""
    if not quiet:
        print(f"note: {message}", file=sys.stderr)


def print_result(renderable: Any) -> None:
    """A table or text on standard output; as wide as the terminal, 100 columns where there is none."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 100)
    console.print(renderable)
    # a reader that has gone is noticed here, where it can be dealt with, and not when the interpreter ends
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Text on standard output as it is."""
    print(text, flush=True)


@contextlib.contextmanager
def only_results_on_stdout(debug: bool) -> Iterator[None]:
    """Send what libraries print to standard error, and drop their warnings unless debugging."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def progress_bar(label: str, shown: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A callback for ``(finished, all)`` that moves a bar on standard error; None where nothing is to be shown.

    Where standard error is no terminal, a file of a long run for example, it gets a line now and then.
    """
    if not shown:
        yield None
        return
    if not sys.stderr.isatty():
        yield _line_now_and_then(label)
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn(),
    )  # fmt: skip
    # the time left is told from the whole run: single pieces of work differ too much
    with bars.Progress(
        *columns, console=Console(stderr=True), transient=True, speed_estimate_period=math.inf
    ) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _line_now_and_then(label: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            print(f"{label} {done}/{total}", file=sys.stderr)

    return report


@contextlib.contextmanager
def waiting(label: str, limit: float = math.inf, shown: bool = True) -> Iterator[None]:
    """A bar on standard error that moves by itself until a limit of time; only pulses where there is none.

    Args:
        label: what is waited for.
        limit: seconds from now on, may be infinite.
        shown: False for none.
    """
    if not shown or not sys.stderr.isatty():
        yield
        return
    from rich import progress as bars
    from rich.console import Console

    end = time.monotonic() + limit

    class Elapsed(bars.BarColumn):
        """Moves with the clock: nobody reports from the process that works."""

        def render(self, task: Any) -> Any:
            if math.isfinite(limit):
                task.completed = min(limit, limit - (end - time.monotonic()))
            return super().render(task)

    class Left(bars.ProgressColumn):
        def render(self, task: Any) -> Any:
            return "" if math.isinf(limit) else f"at most {max(0, math.ceil(end - time.monotonic()))} s left"

    columns = (bars.TextColumn("{task.description}", markup=False), Elapsed(), bars.TimeElapsedColumn(), Left())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(label, total=limit if math.isfinite(limit) else None)
        yield


def interrupted() -> ExitCode:
    """Say that Ctrl-C ended the command."""
    print("interrupted", file=sys.stderr)
    return ExitCode.INTERRUPTED
