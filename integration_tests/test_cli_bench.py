"""``geolip-lirpa bench``: every instance gets its row, whatever happens to it."""

from __future__ import annotations

from pathlib import Path

import bench_fake
import pytest
from bench_runs import LONG, calls, rows_of, verdicts, write_instances
from command_line import Command, require_error

from geolip_lirpa.cli import bench_request
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.witness_files import witness_name
from geolip_lirpa.report.bench_rows import csv_header


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_request, "VERIFY", bench_fake.FUNCTION)


GOOD = ["* unsat 0.5", "* sat 0.25", "* unknown -3", "crown unknown -1\nalpha-crown unsat 0.1"]
BAD = ["* segfault", "* exit", "* refuse", "* defect"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_instance_gets_its_rows(run: Command, tmp_path: Path, jobs: int) -> None:
    instances = write_instances(tmp_path / "acas", [*GOOD, *BAD])
    out = tmp_path / "r.csv"
    result = run("bench", instances, "--out", out, "--methods", "crown,alpha-crown", "--jobs", jobs, "--json")
    assert result.code == ExitCode.OK, result.err
    expected = [[v, v] for v in ("unsat", "sat", "unknown")] + [["unknown", "unsat"]] + [["error", "error"]] * 4
    assert verdicts(out) == [
        (f"p{n}", method, verdict)
        for n, pair in enumerate(expected)
        for method, verdict in zip(("crown", "alpha-crown"), pair, strict=True)
    ]
    rows = rows_of(out)
    assert [rows[k].bound for k in (0, 2, 4, 7)] == [0.5, None, -3.0, 0.1]
    assert all(row.benchmark == "acas" and row.timeout == LONG and len(row.run) == 16 for row in rows)
    assert rows[0].proved_by == "crown+splitting" and rows[0].boxes == 3 and rows[4].detail == "nothing was found"
    segfault, exited, refused, defect = (row.detail for row in rows[8::2])
    assert segfault == "crashed: killed by SIGSEGV" and exited == "crashed: ended with exit code 5"
    assert refused.endswith("p6.vnnlib:1: something is wrong. Correct it.") and defect == "RuntimeError: unexpected"
    assert sorted(calls(instances)) == sorted((f"p{n}", m) for n in range(8) for m in ("crown", "alpha-crown"))
    record = result.json
    assert record["results"] == str(out) and record["interrupted"] is False and record["instances"] == 8
    assert [(c["method"], c["solved"], c["error"]) for c in record["counts"]] == [
        ("crown", 2, 4),
        ("alpha-crown", 3, 4),
    ]


def test_time_limits_hold_inside_and_outside(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, ["* hang", "* late 1.3", "* timeout -0.5"], timeout=1)
    out = tmp_path / "r.csv"
    assert run("bench", instances, "--out", out, "--methods", "crown").code == ExitCode.OK
    hung, late, given_up = rows_of(out)
    assert {row.verdict for row in (hung, late, given_up)} == {"timeout"}
    assert hung.detail == "stopped from outside" and hung.bound is None and 1 < hung.seconds < 10
    assert late.detail == "unsat came after the timeout" and given_up.bound == -0.5 and given_up.detail == ""


@pytest.mark.parametrize(("cap", "expected"), [(None, [40.0, 90.0]), (60, [40.0, 60.0]), (7, [7.0, 7.0])])
def test_timeouts_are_capped(run: Command, tmp_path: Path, cap: int | None, expected: list[float]) -> None:
    instances = write_instances(tmp_path, ["* unsat 1"] * 2)
    head, tail = (line.rpartition(",")[0] for line in instances.read_text().splitlines())
    instances.write_text(
        f"onnx,vnnlib,timeout\n\n{head},40\n  \n{tail} , 90\n{head},40"  # a header, blank lines, no end
    )
    option = () if cap is None else ("--timeout", cap)
    result = run("bench", instances, "--out", tmp_path / "r.csv", *option)
    assert result.code == ExitCode.OK and "lists 1 instances again" in result.err
    assert [row.timeout for row in rows_of(tmp_path / "r.csv")] == expected
    lines = (instances.parent / "vnnlib" / "calls").read_text().split()
    assert [float(word) for word in lines[2::3]] == expected


def test_missing_timeouts_are_asked_for(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, ["* unsat 1"])
    instances.write_text(instances.read_text().rpartition(",")[0])
    arguments = ("bench", instances, "--out", tmp_path / "r.csv")
    require_error(run(*arguments), ExitCode.BAD_INPUT, "instances.csv:1", "--timeout SECONDS")
    assert run(*arguments, "--timeout", 9).code == ExitCode.OK
    assert rows_of(tmp_path / "r.csv")[0].timeout == 9


def test_missing_files_are_rows_and_done_when_they_are_there(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, ["* unsat 1", "* sat 1"])
    second = tmp_path / "vnnlib" / "p1.vnnlib"
    second.rename(tmp_path / "elsewhere")
    arguments = ("bench", instances, "--out", tmp_path / "r.csv")
    assert run(*arguments).code == ExitCode.OK
    assert [v for _, _, v in verdicts(tmp_path / "r.csv")] == ["unsat", "error"]
    assert "p1.vnnlib" in rows_of(tmp_path / "r.csv")[1].detail
    (tmp_path / "elsewhere").rename(second)
    assert run(*arguments).code == ExitCode.OK
    assert [v for _, _, v in verdicts(tmp_path / "r.csv")] == ["unsat", "sat"]
    assert calls(instances) == [("p0", "combined"), ("p1", "combined")]


def test_compressed_files_are_found(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, ["* unsat 1"])
    for name in ("onnx/net.onnx", "vnnlib/p0.vnnlib"):
        (tmp_path / name).rename(tmp_path / f"{name}.gz")
    assert run("bench", instances, "--out", tmp_path / "r.csv").code == ExitCode.OK
    (row,) = rows_of(tmp_path / "r.csv")
    assert (row.vnnlib, row.verdict) == ("vnnlib/p0.vnnlib", "unsat")


def test_names_of_witnesses_are_different() -> None:
    long = "x" * 300
    keys = [
        (f"{long}.onnx", f"{long}.vnnlib", "crown"), (f"{long}.onnx", f"{long}.vnnlib", "combined"),
        (f"{long}y.onnx", f"{long}.vnnlib", "crown"), ("a b", "c", "crown"), ("a", "b c", "crown"),
    ]  # fmt: skip
    names = {witness_name(*key) for key in keys}
    assert len(names) == len(keys) and all(len(name) < 200 for name in names)


def test_witnesses_are_written(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path / "x", [*GOOD[:3], "* sat 7"])
    arguments = (
        "bench",
        instances,
        "--out",
        tmp_path / "r.csv",
        "--methods",
        "crown,sdp",
        "--witnesses",
        tmp_path / "w",
    )
    assert run(*arguments).code == ExitCode.OK
    found = {path.name.rpartition("-")[0]: path.read_text() for path in (tmp_path / "w").iterdir()}
    assert found.keys() == {f"net-p{n}-{method}" for n in (1, 3) for method in ("crown", "sdp")}
    assert all(path.suffix == ".counterexample" for path in (tmp_path / "w").iterdir())
    assert found["net-p1-sdp"] == "((X_0 0.125)\n(X_1 0.25)\n(Y_0 -1.0))\n" and "(X_1 7.0)" in found["net-p3-crown"]


def test_contradicted_verdicts_end_with_their_own_code(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, ["* unsat 1", "* sat 1", "* unknown 0", "* unsat 2"])
    table = tmp_path / "expected.csv"
    table.write_text(
        "onnx,vnnlib,verdict\n"
        + "".join(f"onnx/net.onnx,vnnlib/p{n}.vnnlib,{v}\n" for n, v in enumerate(["unsat", "sat", "sat", "unknown"]))
    )
    arguments = ("bench", instances, "--out", tmp_path / "r.csv", "--expected", table)
    result = run(*arguments)
    assert result.code == ExitCode.OK and "no verdict contradicts the 2 expected ones" in result.out
    table.write_text(table.read_text().replace("p0.vnnlib,unsat", "p0.vnnlib,sat"))
    result = run(*arguments)
    assert result.code == ExitCode.CONTRADICTED == 5 and "CONTRADICTIONS: 1" in result.out
    assert result.err == "error: onnx/net.onnx, vnnlib/p0.vnnlib: combined says unsat, expected is sat\n"
    assert len(calls(instances)) == 4


def test_methods_that_contradict_each_other_end_with_that_code(run: Command, tmp_path: Path) -> None:
    instances = write_instances(tmp_path, ["crown sat 1\nsdp unsat 1"])
    result = run("bench", instances, "--out", tmp_path / "r.csv", "--methods", "crown,sdp")
    assert result.code == ExitCode.CONTRADICTED
    assert "crown says sat, sdp says unsat" in result.err and "sdp says unsat, crown says sat" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--methods", "crown,magic"), ("--methods", "'magic'", "alpha-crown")),
        (("--methods", ""), ("--methods",)),
        (("--timeout", 0), ("--timeout", "positive")),
        (("--timeout", "nan"), ("--timeout", "positive")),
        (("--jobs", 0), ("--jobs", "1 to 1024")),
        (("--seed", -1), ("--seed",)),
        (("--backend", "ray"), ("--backend", "loky, dask")),
        (("--backend", "dask"), ("--scheduler",)),
        (("--scheduler", "tcp://x:1"), ("--scheduler", "--backend dask")),
        (("--backend", "dask", "--scheduler", "nowhere"), ("--scheduler", "'nowhere'", "tcp://host:8786")),
        (("--backend", "dask", "--scheduler", "a:1", "--jobs", 2), ("--jobs",)),
        (("--expected", "nothing.csv"), ("--expected", "nothing.csv")),
        (("--witnesses", "nowhere/at-all"), ("--witnesses", "nowhere/at-all")),
    ],
)
def test_wrong_options(run: Command, tmp_path: Path, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    instances = write_instances(tmp_path, ["* unsat 1"])
    require_error(run("bench", instances, "--out", tmp_path / "r.csv", *options), ExitCode.BAD_INPUT, *words)
    assert not (tmp_path / "r.csv").exists() and not calls(instances)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists nothing"),
        ("onnx,vnnlib,timeout\n", "lists nothing"),
        ("a.onnx\n", "instances.csv:1"),
        ("a.onnx,b.vnnlib,3,4\n", "instances.csv:1"),
        ("\na.onnx,b.vnnlib,soon\n", "instances.csv:2"),
        ("a.onnx,b.vnnlib,-3\n", "'-3'"),
        ("a.onnx,,3\n", "instances.csv:1"),
        ("a.onnx,b.vnnlib,3\na.onnx,b.vnnlib,4\n", "instances.csv:2"),
        ('a.onnx,"b\nc.vnnlib",3\n', "line breaks"),
    ],
)
def test_malformed_lists_name_the_line(run: Command, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "instances.csv"
    path.write_text(text)
    require_error(run("bench", path, "--out", tmp_path / "r.csv"), ExitCode.BAD_INPUT, "INSTANCES", words)


def test_unreadable_lists(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "instances.csv"
    path.write_bytes(b"\xff\xfe\x00")
    require_error(run("bench", path, "--out", tmp_path / "r.csv"), ExitCode.BAD_INPUT, "INSTANCES", "UTF-8")
    require_error(run("bench", tmp_path, "--out", tmp_path / "r.csv"), ExitCode.BAD_INPUT, "directory")
    require_error(run("bench", tmp_path / "x", "--out", tmp_path / "r.csv"), ExitCode.BAD_INPUT, "no such file")


@pytest.mark.parametrize("content", ["notes\n", "notes", "a,b\n1,2\n", "\n", "\x00"])
def test_files_that_are_no_results_are_refused_and_kept(run: Command, tmp_path: Path, content: str) -> None:
    instances = write_instances(tmp_path, ["* unsat 1"])
    out = tmp_path / "r.csv"
    out.write_text(content)
    require_error(run("bench", instances, "--out", out), ExitCode.BAD_INPUT, "--out", "r.csv", "Name another file")
    assert out.read_text() == content
    out.write_text(csv_header() + "onnx/net.onnx,vnnlib/p0.vnnlib,combined,perhaps,1,,x,1.0,,,0,\n")
    require_error(run("bench", instances, "--out", out), ExitCode.BAD_INPUT, "r.csv:2", "'perhaps'")
