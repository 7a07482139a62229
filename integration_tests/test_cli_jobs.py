"""``certify`` and ``radius`` in several processes: the same answers, and nothing is lost when they are stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certify_runs import CERTIFY, DATA, MODEL, RADIUS, answers, require_consistent
from command_line import Command, require_error

from geolip_lirpa.cli import certify_run
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.errors import WorkerError

_MANY = (*CERTIFY, "--images", "0-29", "--jobs", "2", "--json")


def finished_in(journal: Path) -> list[int]:
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    return [json.loads(line)["image"] for line in lines[1:] if line.endswith("\n")]


@contextmanager
def stopped_after(images: int, journal: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A run in a session of its own, once it has finished some images."""
    command = [sys.executable, "-m", "geolip_lirpa", *map(str, (*arguments, "--resume", journal))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            end = time.monotonic() + 200
            while len(finished_in(journal)) < images and time.monotonic() < end:
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def others_in_session(session: int) -> list[int]:
    """Processes of a session that are not only waiting to be forgotten."""
    shown = subprocess.run(["ps", "-s", str(session), "-o", "pid=,stat="], capture_output=True, text=True, check=False)
    return [int(pid) for pid, state in map(str.split, shown.stdout.splitlines()) if not state.startswith("Z")]


@pytest.mark.parametrize("command", [("certify", "--eps", "0.3"), ("radius", "--gap", "0.1")])
def test_answers_and_certificates_are_those_of_one_process(
    run: Command, tmp_path: Path, command: tuple[str, ...]
) -> None:
    name, *options = command
    found = []
    for jobs in ("1", "2"):
        folder = tmp_path / "proofs"
        folder.mkdir()
        arguments = (name, MODEL, DATA, *options, "--images", "0-7", "--certificates", folder, "--jobs", jobs)
        rows = answers(run(*arguments, "--json"))
        found.append((rows, {path.name: path.read_bytes() for path in folder.iterdir()}))
        shutil.rmtree(folder)
    assert found[0] == found[1]
    assert len(found[0][1]) >= 4 and "geolip" in {part for row in found[0][0] for part in row["method"].split("+")}


def test_killed_run_goes_on_and_leaves_no_processes(run: Command, tmp_path: Path) -> None:
    journal = tmp_path / "run.jsonl"
    with stopped_after(4, journal, *_MANY) as process:
        assert len(others_in_session(process.pid)) >= 3
        process.kill()
        process.wait(timeout=60)
        before = finished_in(journal)
        assert 4 <= len(before) < 30
        end = time.monotonic() + 60
        while others_in_session(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert others_in_session(process.pid) == []
    resumed = run(*_MANY, "--resume", journal)
    assert finished_in(journal)[: len(before)] == before and sorted(finished_in(journal)) == list(range(30))
    assert [row["index"] for row in resumed.json["rows"]] == list(range(30))


def test_ctrl_c_leaves_a_journal_and_prints_what_is_finished(tmp_path: Path) -> None:
    journal = tmp_path / "run.jsonl"
    with stopped_after(3, journal, *_MANY) as process:
        # as a terminal does: to all processes at once
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED and err == "interrupted\n"
    found = json.loads(out)
    assert found["interrupted"] is True
    assert sorted(finished_in(journal)) == [row["index"] for row in found["rows"]]
    require_consistent(found)


def test_killed_process_is_replaced(run: Command, tmp_path: Path) -> None:
    journal = tmp_path / "run.jsonl"
    with stopped_after(2, journal, *CERTIFY, "--images", "0-9", "--jobs", "2", "--json") as process:
        # one of those that work, which take the most time of all but the first
        shown = subprocess.run(
            ["ps", "--sort=-cputimes", "-s", str(process.pid), "-o", "pid=,cputimes="],
            capture_output=True, text=True, check=True,
        ).stdout.split()[::2]  # fmt: skip
        os.kill(next(pid for pid in map(int, shown) if pid != process.pid), signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (ExitCode.OK, "")
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in json.loads(out)["rows"]]
    assert rows == answers(run(*CERTIFY, "--images", "0-9", "--json"))
    assert len(finished_in(journal)) == 10


def test_lost_images_are_named_and_the_others_printed(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def loses(task: Any, numbers: Any, *_: object) -> Iterator[tuple[int, Any]]:
        yield from ((number, task(number)) for number in numbers[1:])
        raise WorkerError(f"images {numbers[0]}: killed")

    monkeypatch.setattr(certify_run, "in_processes", loses)
    result = run(*CERTIFY, "--images", "2-4", "--jobs", "2", "--json")
    assert result.code == ExitCode.NOT_PROVEN and result.err == "error: images 2: killed\n"
    assert [row["index"] for row in result.json["rows"]] == [3, 4] and result.json["interrupted"] is True


def test_errors_of_other_processes_are_one_line(run: Command, tmp_path: Path) -> None:
    folder = tmp_path / "proofs"
    (folder / "image-00003.json").mkdir(parents=True)
    arguments = (*CERTIFY, "--images", "3,8", "--method", "crown", "--jobs", "2", "--certificates", folder)
    require_error(run(*arguments), ExitCode.BAD_INPUT, "image-00003.json")


def test_files_that_change_meanwhile_are_refused(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "net.onnx"
    shutil.copy(MODEL, model)
    share = certify_run.in_processes

    def replaced(*arguments: Any) -> Any:
        shutil.copy(MODEL.with_name("digits_residual.onnx"), model)
        return share(*arguments)

    monkeypatch.setattr(certify_run, "in_processes", replaced)
    result = run("certify", model, DATA, "--eps", "0.01", "--images", "3,8", "--method", "crown", "--jobs", "2")
    require_error(result, ExitCode.BAD_INPUT, "net.onnx", "changed")


def test_number_of_processes_must_make_sense(run: Command) -> None:
    require_error(run(*CERTIFY, "--jobs", "-1"), ExitCode.BAD_INPUT, "--jobs", "-1", "0")
    require_error(run(*CERTIFY, "--jobs", "two"), ExitCode.BAD_INPUT, "--jobs", "integer")
    assert len(answers(run(*RADIUS, "--images", "3", "--jobs", "0", "--json"))) == 1
