"""``geolip-lirpa bench --backend dask`` with a real scheduler and two workers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bench_fake
import pytest
from bench_runs import calls, rows_of, verdicts, write_instances
from cluster import cluster
from command_line import Command, require_error

from geolip_lirpa.cli import bench_backends, bench_request
from geolip_lirpa.cli.exit_codes import ExitCode


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_request, "VERIFY", bench_fake.FUNCTION)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    with cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


def test_rows_are_those_of_this_machine(run: Command, tmp_path: Path, scheduler: str) -> None:
    instructions = ["* unsat 0.5", "* sat 1", "* segfault", "* exit", "* refuse", "crown unknown -1\nsdp unsat 2"]
    instances = write_instances(tmp_path / "x", instructions)
    (tmp_path / "w").mkdir()
    arguments = ("bench", instances, "--methods", "crown,sdp", "--witnesses", tmp_path / "w")
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    assert run(*arguments, "--out", here).code == ExitCode.OK
    (tmp_path / "x" / "vnnlib" / "calls").unlink()
    result = run(*arguments, "--out", there, "--backend", "dask", "--scheduler", scheduler)
    assert result.code == ExitCode.OK, result.err

    def answers(path: Path) -> list[tuple[object, ...]]:
        return [(r.onnx, r.vnnlib, r.method, r.verdict, r.bound, r.detail, r.run) for r in rows_of(path)]

    assert answers(there) == answers(here) and len(answers(here)) == 12
    assert sorted(calls(instances)) == sorted((f"p{n}", m) for n in range(6) for m in ("crown", "sdp"))
    assert len(list((tmp_path / "w").iterdir())) == 2


def test_limits_of_time_hold_on_workers_and_runs_go_on(run: Command, tmp_path: Path, scheduler: str) -> None:
    instances = write_instances(tmp_path, ["* hang", "* unsat 1"], timeout=1)
    arguments = ("bench", instances, "--out", tmp_path / "r.csv", "--backend", "dask", "--scheduler", scheduler)
    assert run(*arguments).code == ExitCode.OK
    assert verdicts(tmp_path / "r.csv")[0] == ("p0", "combined", "timeout")
    assert rows_of(tmp_path / "r.csv")[0].seconds < 20
    count = len(calls(instances))
    assert run(*arguments).code == ExitCode.OK and len(calls(instances)) == count


def test_schedulers_that_are_not_there(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_backends, "_CONNECT", "1s")
    pytest.importorskip("distributed", reason="needs the extra cluster")
    instances = write_instances(tmp_path, ["* unsat 1"])
    with socket.socket() as taken:
        # bound but not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = run("bench", instances, "--out", tmp_path / "r.csv", "--backend", "dask", "--scheduler", address)
    require_error(result, ExitCode.BAD_INPUT, "--scheduler", address, "cannot be reached", "dask scheduler")


def test_the_missing_package_is_named(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    instances = write_instances(tmp_path, ["* unsat 1"])
    arguments = ("bench", instances, "--out", tmp_path / "r.csv", "--backend", "dask", "--scheduler", "tcp://a:1")
    require_error(run(*arguments), ExitCode.UNAVAILABLE, "distributed", "geolip-lirpa[cluster]")


def test_schedulers_that_go_away_end_the_run(run: Command, tmp_path: Path) -> None:
    dask = pytest.importorskip("dask", reason="needs the extra cluster")
    instances = write_instances(tmp_path, ["* unsat 1", "* hang"])
    out = tmp_path / "r.csv"
    (tmp_path / "cluster").mkdir()
    with dask.config.set({"distributed.comm.timeouts.connect": "2s"}), cluster(tmp_path / "cluster", 1) as address:
        log = (tmp_path / "cluster" / "scheduler.pid").read_text()

        def end() -> None:
            while len(calls(instances)) < 2:
                time.sleep(0.05)
            os.kill(int(log), signal.SIGKILL)

        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        result = run("bench", instances, "--out", out, "--backend", "dask", "--scheduler", address)
        ending.join(60)
    require_error(result, ExitCode.NOT_PROVEN, "--scheduler", "was lost", "finished rows are kept")
    assert verdicts(out) == [("p0", "combined", "unsat")]
