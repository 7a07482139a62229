"""Run a function in a process of its own, with a limit of wall-clock time that holds whatever it does.

Place in the data flow: level 1, knows `errors` only. Used by `verify` and by benchmark runs, in which native code may
hang, crash or eat all memory, and the rest has to go on.

A child starts in about a tenth of a second, since it is forked from a server that has imported the package already;
where there is none (Windows) it starts anew. It leads a process group, which is killed as a whole, and it ends by
itself when the process that asked for it dies.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from geolip_lirpa import errors
from geolip_lirpa.errors import GeolipError

# Imported by the server once; the server skips what cannot be imported. The last two are loaded by torch's exporter and
# the readers of models when they are first used, which takes seconds. Not onnxruntime: it starts a thread, and what has
# threads is not to be forked.
_PRELOADED = (
    *(f"geolip_lirpa.{name}" for name in ("verify_onnx", "margins", "verify_types", "onnx_model")),
    "onnx",
    "torch._dynamo",
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# For importing torch and auto_LiRPA on a slow, busy machine; not part of the limit.
_LONGEST_START = 600.0
# Longer waits overflow in poll().
_LONGEST_WAIT = 86400.0
_STARTED, _VALUE, _ERROR = "started", "value", "error"


@dataclass(frozen=True)
class RemoteError:
    """An exception in the child.

    Args:
        type: name of its class.
        message: its text.
    """

    type: str
    message: str

    def geolip_error(self) -> GeolipError | None:
        """The same error of this package; None if it was of another kind, which is a defect."""
        found = getattr(errors, self.type, None)
        return found(self.message) if isinstance(found, type) and issubclass(found, GeolipError) else None


@dataclass(frozen=True)
class LimitedOutcome:
    """What became of the function: exactly one of the four.

    Args:
        value: what it returned (None too, if neither of the others is set).
        error: the exception it raised.
        timed_out: it was killed when its time was over.
        crashed: how its process ended without an answer, e.g. ``"killed by SIGSEGV"``; None if it did not.
        seconds: wall time from the function's begin to its end, without the start of the process.
    """

    value: Any = None
    error: RemoteError | None = None
    timed_out: bool = False
    crashed: str | None = None
    seconds: float = 0.0


def run_limited(
    function: Callable[..., Any],
    arguments: Sequence[Any] = (),
    seconds: float = math.inf,
    *,
    threads: int = 1,
    show_output: bool = False,
) -> LimitedOutcome:
    """Call ``function(*arguments)`` in a child process for at most some seconds; no child is left behind.

    Any thread of any process may ask, daemonic ones (workers of Dask) too. KeyboardInterrupt in the caller kills the
    child.

    Args:
        function: picklable by its name, that is, a function of an importable module.
        arguments: picklable.
        seconds: of wall time, positive; the import of the package is not counted.
        threads: of torch in the child. Those of numpy's BLAS are set once, for the first child of a process.
        show_output: let what the child prints through to standard error; by default it is dropped.

    Returns:
        The outcome; an exception of the function is part of it and never raised here.
    """
    child, reader, alive = _started(function, arguments, threads, show_output)
    try:
        return _outcome(child, reader, seconds)
    finally:
        _kill(child)
        for end in (reader, alive):
            end.close()
        child.close()


def _started(
    function: Callable[..., Any], arguments: Sequence[Any], threads: int, show_output: bool
) -> tuple[Any, Connection, Connection]:
    """A child with the end of a pipe to read its answers from, and one whose closing it notices."""
    methods = multiprocessing.get_all_start_methods()
    forked = "forkserver" in methods
    context: Any = multiprocessing.get_context("forkserver" if forked else "spawn")
    # A child takes over its parent's way of starting others. That of loky's workers is known to loky alone.
    if multiprocessing.get_start_method(allow_none=True) not in (None, *methods):
        multiprocessing.set_start_method("forkserver" if forked else "spawn", force=True)
    if forked:
        context.set_forkserver_preload(list(_PRELOADED))
    # Dask's workers are daemonic, and such a process may not have children that outlive it. Ours do not.
    multiprocessing.current_process().daemon = False
    reader, writer = context.Pipe(duplex=False)
    watched, alive = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(function, tuple(arguments), writer, watched, threads, show_output))
    try:
        with _environment(threads):
            child.start()
    except BaseException:
        reader.close()
        alive.close()
        raise
    finally:
        # the child has its own; only then does the end of the child end the pipe
        writer.close()
        watched.close()
    return child, reader, alive


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Numerical libraries read it when the server (or a fresh child) loads them."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _outcome(child: Any, reader: Connection, seconds: float) -> LimitedOutcome:
    begin = time.monotonic()
    started = _received(reader, begin + _LONGEST_START)
    if started is None:
        return LimitedOutcome(crashed=f"no start within {_LONGEST_START:.0f} seconds")
    begin = time.monotonic()
    answer = _received(reader, begin + seconds) if started else ()
    spent = time.monotonic() - begin
    if answer is None:
        return LimitedOutcome(timed_out=True, seconds=spent)
    if not answer:
        child.join(5)
        return LimitedOutcome(crashed=_ending(child.exitcode), seconds=spent)
    kind, content = answer
    if kind == _VALUE:
        return LimitedOutcome(value=content, seconds=spent)
    return LimitedOutcome(error=RemoteError(*content), seconds=spent)


def _received(reader: Connection, end: float) -> tuple[Any, ...] | None:
    """The next message; () when the child has gone, None when the time is over."""
    while True:
        left = end - time.monotonic()
        if wait([reader], max(0.0, min(left, _LONGEST_WAIT))):
            try:
                return tuple(reader.recv())
            except (EOFError, OSError):
                return ()
        if left <= 0:
            return None


def _ending(code: int | None) -> str:
    """How a process ended."""
    if code is None:
        return "ended without an answer"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = ", perhaps for lack of memory" if name == "SIGKILL" else ""
    return f"killed by {name}{memory}"


def _kill(child: Any) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()


def _serve(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    writer: Connection,
    watched: Connection,
    threads: int,
    show_output: bool,
) -> None:
    """What the child does: lead a group, work, answer, end with all its own children."""
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    _redirect(show_output)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    writer.send((_STARTED, None))
    answer: tuple[str, Any]
    try:
        answer = (_VALUE, function(*arguments))
    except BaseException as error:
        answer = _error(error)
    try:
        writer.send(answer)
    except Exception as error:
        # a value that cannot be pickled
        writer.send(_error(error))
    writer.close()
    _end()


def _error(error: BaseException) -> tuple[str, tuple[str, str]]:
    return _ERROR, (type(error).__name__, str(error))


def _end_with_parent(watched: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        watched.recv()
    _end()


def _end() -> None:
    """End this process and those it has started, at once."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _redirect(show_output: bool) -> None:
    """Keep standard output free: it belongs to the caller's results."""
    target = os.dup(2) if show_output else os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, 1)
    if not show_output:
        os.dup2(target, 2)
    os.close(target)
