"""Benchmark runs that were stopped go on, and files of other runs are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bench_fake
import bench_workers
import pytest
from bench_runs import calls, rows_of, verdicts, write_instances, write_specification
from command_line import Command, require_error

from geolip_lirpa.cli import bench_backends, bench_request
from geolip_lirpa.cli.exit_codes import ExitCode

# bench_fake takes the place of what verifies, as in the other tests, in a program of its own
PROGRAM = """
import sys
from geolip_lirpa.cli import bench_request, main
if __name__ == "__main__":
    bench_request.VERIFY = "bench_fake:verify"
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_request, "VERIFY", bench_fake.FUNCTION)


def started(tmp_path: Path, *arguments: object) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_lines(path: Path, count: int) -> None:
    end = time.monotonic() + 120
    while (not path.exists() or path.read_text().count("\n") < count) and time.monotonic() < end:
        time.sleep(0.02)


def test_killed_runs_go_on(run: Command, tmp_path: Path) -> None:
    jobs = 2
    instances = write_instances(tmp_path, ["* sleep 0.2"] * 14)
    out = tmp_path / "r.csv"
    arguments = ("bench", instances, "--out", out, "--methods", "crown", "--jobs", jobs)
    with started(tmp_path, *arguments) as process:
        wait_for_lines(out, 4)
        process.kill()
        # the pipes end when the workers do
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.5)
    begun = calls(instances)
    whole = [line for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert 4 <= len(whole) < 15
    out.write_text("".join(whole) + "onnx/net.onnx,vnnlib/p1")  # a line that was cut
    assert run(*arguments).code == ExitCode.OK
    assert verdicts(out) == [(f"p{n}", "crown", "unsat") for n in range(14)]
    # what was finished before is there as it was, and only what was at work has been begun twice
    assert set(whole) <= set(out.read_text().splitlines(keepends=True))
    assert len(calls(instances)) <= 14 + jobs and len(calls(instances)) - len(begun) == 14 - (len(whole) - 1)


def test_interrupted_runs_leave_their_rows(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, [*["* unsat 1"] * 3, *["* hang"] * 3])
    out = tmp_path / "r.csv"
    arguments = ("bench", instances, "--out", out, "--methods", "crown", "--jobs", 2)
    with started(tmp_path, *arguments, "--json") as process:
        wait_for_lines(out, 4)
        # as a terminal does: to all processes of the command
        os.killpg(process.pid, signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED and errors == "interrupted\n"
    assert '"interrupted": true' in text
    assert verdicts(out) == [(f"p{n}", "crown", "unsat") for n in range(3)]
    for n in range(3, 6):
        # the files are part of what identifies a row: only those that are not finished may change
        write_specification(tmp_path / "vnnlib" / f"p{n}.vnnlib", "* sat 1")
    assert run(*arguments).code == ExitCode.OK
    assert [v for _, _, v in verdicts(out)] == ["unsat"] * 3 + ["sat"] * 3


def test_finished_rows_are_not_done_again_and_methods_can_be_added(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, ["* unsat 1", "* segfault"])
    out = tmp_path / "r.csv"
    for methods, expected in (("crown", 2), ("crown", 2), ("sdp,crown", 4), ("crown", 4)):
        assert run("bench", instances, "--out", out, "--methods", methods).code == ExitCode.OK
        # a segfault is a finished row as well
        assert len(calls(instances)) == expected and len(rows_of(out)) == expected
    assert sorted(verdicts(out)) == [
        (f"p{n}", m, v) for n, v in enumerate(["unsat", "error"]) for m in ("crown", "sdp")
    ]


def test_files_of_other_runs_are_refused_and_kept(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path / "a", ["* unsat 1", "* sat 1"])
    out = tmp_path / "r.csv"
    same = ("bench", instances, "--out", out)
    assert run(*same).code == ExitCode.OK
    content = out.read_bytes()
    fewer = instances.with_name("fewer.csv")
    fewer.write_text(instances.read_text().splitlines()[0])
    elsewhere = write_instances(tmp_path / "b", ["* unsat 1", "* sat 1"])
    for arguments, words in (
        ((*same, "--timeout", 3), "another timeout"),
        ((*same, "--seed", 1), "--seed"),
        (("bench", fewer, "--out", out), "p1.vnnlib"),
        (("bench", elsewhere, "--out", out), "benchmark"),
    ):
        require_error(run(*arguments), ExitCode.BAD_INPUT, "--out", words, "Name another file")
        assert out.read_bytes() == content
    write_specification(tmp_path / "a" / "vnnlib" / "p0.vnnlib", "* unsat 2")
    require_error(run(*same), ExitCode.BAD_INPUT, "--out", "other files", "p0.vnnlib")
    assert out.read_bytes() == content and len(calls(instances)) == 2


def test_killed_workers_are_replaced(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_backends, "_named", bench_workers.die_once)
    instances = write_instances(tmp_path, ["* unsat 1"] * 4)
    assert run("bench", instances, "--out", tmp_path / "r.csv", "--jobs", 2).code == ExitCode.OK
    assert [v for _, _, v in verdicts(tmp_path / "r.csv")] == ["error"] * 4
    assert {row.detail for row in rows_of(tmp_path / "r.csv")} == {"as it should"}


def test_workers_that_always_die_end_the_run(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_backends, "_named", bench_workers.die_always)
    instances = write_instances(tmp_path, ["* unsat 1"] * 2)
    result = run("bench", instances, "--out", tmp_path / "r.csv", "--jobs", 2)
    require_error(result, ExitCode.NOT_PROVEN, "--jobs", "finished rows are kept")
    assert rows_of(tmp_path / "r.csv") == []


def test_full_disk_is_one_line_and_finished_rows_are_kept(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = write_instances(tmp_path, ["* unsat 1"] * 3)
    out = tmp_path / "r.csv"
    sync, written = os.fsync, []

    def full(number: int) -> None:
        written.append(number)
        if len(written) == 3:  # the header and one row are there
            raise OSError(28, os.strerror(28))
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    require_error(run("bench", instances, "--out", out), ExitCode.BAD_INPUT, "--out", os.strerror(28), "are kept")
    monkeypatch.setattr(os, "fsync", sync)
    assert verdicts(out)[0] == ("p0", "combined", "unsat")
    assert run("bench", instances, "--out", out).code == ExitCode.OK and len(rows_of(out)) == 3
