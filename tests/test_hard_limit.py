"""Functions in processes of their own: answers, errors, crashes, and a limit of time that holds."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from geolip_lirpa.errors import ModelError, SpecificationError
from geolip_lirpa.hard_limit import LimitedOutcome, RemoteError, run_limited

LONG = 60.0


def divide(a: float, b: float) -> float:
    return a / b


def refuse(message: str) -> None:
    raise ModelError(message)


def threads_of_torch() -> int:
    import torch

    return torch.get_num_threads()


def end_at_once(code: int) -> None:
    os._exit(code)


def read_nowhere() -> None:
    ctypes.string_at(0)


def leave(code: int) -> None:
    sys.exit(code)


def something_unpicklable() -> object:
    return lambda: None


def large(count: int) -> bytes:
    return b"x" * count


def print_and_return() -> int:
    sys.stdout.write("noise")
    os.write(1, b"noise\n")
    os.write(2, b"noise\n")
    return 1


def hold_the_interpreter(path: Path) -> None:
    """Native code that lets no other thread of its process run, with a child that sleeps."""
    child = subprocess.Popen(["sleep", "300"])
    path.write_text(f"{os.getpid()} {child.pid}")
    ctypes.PyDLL(None).sleep(300)


def sleep_with_child(path: Path) -> None:
    child = subprocess.Popen(["sleep", "300"])
    path.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
    os.replace(path.with_suffix(".new"), path)
    time.sleep(300)


def answer_and_leave_child(path: Path) -> str:
    path.write_text(f"{os.getpid()} {subprocess.Popen(['sleep', '300']).pid}")
    return "done"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    # a zombie is over, whoever has not yet asked for its status
    return state not in "ZX"


def require_gone(path: Path) -> None:
    pids = [int(word) for word in path.read_text().split()]
    assert len(pids) == 2
    end = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(alive, pids))


def test_values_come_back() -> None:
    outcome = run_limited(divide, (1.0, 4.0), LONG)
    assert (outcome.value, outcome.error, outcome.timed_out, outcome.crashed) == (0.25, None, False, None)
    assert 0 <= outcome.seconds < LONG
    assert len(run_limited(large, (3_000_000,), LONG).value) == 3_000_000


def test_children_after_the_first_start_at_once() -> None:
    run_limited(divide, (1.0, 1.0), LONG)
    begin = time.monotonic()
    for _ in range(3):
        run_limited(divide, (1.0, 1.0), LONG)
    # importing torch alone takes longer
    assert (time.monotonic() - begin) / 3 < 1.5


def test_exceptions_come_back_without_traceback() -> None:
    outcome = run_limited(divide, (1.0, 0.0), LONG)
    assert outcome.error == RemoteError("ZeroDivisionError", "float division by zero") and outcome.value is None
    assert outcome.error.geolip_error() is None
    known = run_limited(refuse, ("MODEL: not there",), LONG).error
    assert known is not None
    again = known.geolip_error()
    assert type(again) is ModelError and str(again) == "MODEL: not there"
    assert run_limited(leave, (3,), LONG).error == RemoteError("SystemExit", "3")


def test_values_that_cannot_be_sent_are_errors() -> None:
    error = run_limited(something_unpicklable, (), LONG).error
    assert error is not None and "pickle" in error.message


def test_names_that_are_no_errors_of_ours_stay_unknown() -> None:
    assert RemoteError("annotations", "x").geolip_error() is None
    assert isinstance(RemoteError("SpecificationError", "x").geolip_error(), SpecificationError)


def test_crashes_are_outcomes() -> None:
    outcome = run_limited(end_at_once, (7,), LONG)
    assert (outcome.crashed, outcome.timed_out, outcome.error) == ("ended with exit code 7", False, None)
    assert run_limited(end_at_once, (0,), LONG).crashed == "ended with exit code 0"
    assert run_limited(read_nowhere, (), LONG).crashed == "killed by SIGSEGV"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc which processes live")
@pytest.mark.parametrize("function", [hold_the_interpreter, sleep_with_child])
def test_limit_holds_and_leaves_nothing_behind(function: object, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    outcome = run_limited(function, (path,), 0.7)  # type: ignore[arg-type]
    assert outcome.timed_out and outcome.crashed is None and 0.7 <= outcome.seconds < 5
    require_gone(path)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc which processes live")
def test_children_of_a_child_end_with_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "pids"
    assert run_limited(answer_and_leave_child, (path,), LONG).value == "done"
    require_gone(path)


def test_one_thread_unless_asked_for_more(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_limited(threads_of_torch, (), LONG).value == 1
    assert run_limited(threads_of_torch, (), LONG, threads=2).value == 2


def test_output_of_the_child_stays_off_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_limited(print_and_return, (), LONG).value == 1
    assert capfd.readouterr() == ("", "")


def test_many_threads_may_ask() -> None:
    outcomes: list[LimitedOutcome] = []
    askers = [
        threading.Thread(target=lambda n=n: outcomes.append(run_limited(divide, (float(n), 1.0), LONG)))
        for n in range(4)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(outcome.value for outcome in outcomes) == [0.0, 1.0, 2.0, 3.0]


def ask_from_here(queue: multiprocessing.SimpleQueue[LimitedOutcome]) -> None:
    queue.put(run_limited(divide, (6.0, 2.0), LONG))


def test_daemonic_processes_may_ask() -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=ask_from_here, args=(queue,), daemon=True)
    process.start()
    process.join(LONG)
    assert process.exitcode == 0 and queue.get().value == 3.0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc which processes live")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_whoever_asked(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "pids"
    script = f"""
import sys, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_hard_limit import sleep_with_child
from geolip_lirpa.hard_limit import run_limited
if __name__ == "__main__":
    run_limited(sleep_with_child, (pathlib.Path({str(path)!r}),), 300)
"""
    file = tmp_path / "asks.py"
    file.write_text(script)
    with subprocess.Popen([sys.executable, str(file)], stderr=subprocess.PIPE) as process:
        end = time.monotonic() + LONG
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=LONG)
    assert process.returncode == -number
    require_gone(path)
