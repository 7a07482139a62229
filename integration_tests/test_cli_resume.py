"""Runs of ``certify`` and ``radius`` that were stopped go on, and files of other runs are left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from certify_runs import CERTIFY, DATA, FOLDER, MODEL, RADIUS, answers, arrays, require_consistent, write
from command_line import Command, require_error

from geolip_lirpa import radius
from geolip_lirpa.cli import certify_run
from geolip_lirpa.cli.exit_codes import ExitCode


def images_in(journal: Path) -> list[int]:
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [json.loads(line)["image"] for line in lines[1:]]


def test_killed_run_goes_on(run: Command, tmp_path: Path) -> None:
    journal = tmp_path / "run.jsonl"
    arguments = (*CERTIFY, "--images", "0-14", "--resume", journal, "--json")
    command = [sys.executable, "-m", "geolip_lirpa", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 60
            while (not journal.exists() or journal.read_text().count("\n") < 3) and time.monotonic() < end:
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    lines = journal.read_text().splitlines(keepends=True)
    finished = [json.loads(line)["image"] for line in lines[1:] if line.endswith("\n")]
    assert 2 <= len(finished) < 15
    journal.write_text("".join(lines) + '{"image": 14, "ind')  # a line that was cut
    resumed = run(*arguments)
    assert images_in(journal) == list(range(15))
    assert [line for line in lines if line.endswith("\n")] == journal.read_text().splitlines(True)[: len(finished) + 1]
    assert answers(resumed) == answers(run(*arguments[:-3], "--json"))


def test_interrupted_run_goes_on_without_repeating(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*CERTIFY, "--images", "2-7", "--resume", tmp_path / "run.jsonl", "--json")
    bound, calls = certify_run.network_margins, []

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return bound(*given, **named)

    monkeypatch.setattr(certify_run, "network_margins", counted)
    stopped = run(*arguments)
    assert stopped.code == ExitCode.INTERRUPTED and stopped.err == "interrupted\n"
    assert stopped.json["interrupted"] is True and [row["index"] for row in stopped.json["rows"]] == [2, 3]
    require_consistent(stopped.json)
    resumed = run(*arguments)
    assert len(calls) == 3 + 4
    assert resumed.json["rows"][:2] == stopped.json["rows"]
    again = run(*arguments)
    assert len(calls) == 3 + 4 and again.json["rows"] == resumed.json["rows"]
    assert answers(resumed) == answers(run(*CERTIFY, "--images", "2-7", "--json"))


def test_interrupted_table_says_so(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certify_run, "network_radii", stop)
    result = run(*RADIUS)
    assert result.code == ExitCode.INTERRUPTED and "interrupted: the images above" in result.out
    assert run(*RADIUS, "--json").json["seconds_per_image"] is None


def test_an_interrupted_image_keeps_its_best_radius(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown with its certificate, but not taken for finished."""
    bound, calls = radius.network_margins, []

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return bound(*given, **named)

    arguments = (
        "radius", MODEL, DATA, "--method", "crown", "--images", "0-1", "--resume", tmp_path / "run.jsonl",
        "--certificates", tmp_path / "proofs", "--json",
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(radius, "network_margins", counted)
        stopped = run(*arguments)
    assert stopped.code == ExitCode.INTERRUPTED and [row["index"] for row in stopped.json["rows"]] == [0]
    row = stopped.json["rows"][0]
    checked = run("check", row["certificate"], MODEL, "--json")
    assert checked.code == ExitCode.OK and row["status"] == "proven"
    assert images_in(tmp_path / "run.jsonl") == []
    final = run(*arguments).json["rows"]
    assert len(final) == 2 and 0 < row["lower"] <= final[0]["lower"]


def test_certificates_of_another_run_are_not_overwritten(run: Command, tmp_path: Path) -> None:
    arguments = (
        *CERTIFY[:3],
        "--norm",
        "inf",
        "--eps",
        "0.001",
        "--images",
        "1",
        "--certificates",
        tmp_path / "proofs",
    )
    assert run(*arguments).code == ExitCode.OK
    before = {path.name: path.read_bytes() for path in (tmp_path / "proofs").iterdir()}
    again = run(*arguments)
    require_error(again, ExitCode.BAD_INPUT, "--certificates", "image-00001.json", "Name another folder")
    assert {path.name: path.read_bytes() for path in (tmp_path / "proofs").iterdir()} == before != {}


def test_radii_are_resumed(run: Command, tmp_path: Path) -> None:
    arguments = (*RADIUS, "--images", "4,5", "--resume", tmp_path / "run.jsonl", "--json")
    first = run(*arguments)
    path = tmp_path / "run.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert answers(run(*arguments)) == answers(first)


def test_files_of_other_runs_are_refused_and_kept(run: Command, tmp_path: Path) -> None:
    journal = tmp_path / "run.jsonl"
    base = ("--norm", "inf", "--eps", "0.01", "--resume", journal)
    assert run("certify", MODEL, DATA, "--images", "0-1", *base).code == ExitCode.OK
    content = journal.read_text()
    same = ("certify", MODEL, DATA, "--images", "0-1", *base)
    other = write(tmp_path / "other.npz", images=arrays()["images"][5:10])
    for arguments, name in (
        ((*same, "--method", "crown"), "method"),
        ((*same, "--eps", "0.02"), "eps"),
        ((*same, "--clip", "0,1"), "clip"),
        ((*same, "--seed", "1"), "seed"),
        ((*same, "--targets", "1"), "targets"),
        ((*same, "--certificates", tmp_path), "certificates"),
        ((*same, "--images", "1-2"), "images"),
        (("certify", FOLDER / "digits_residual.onnx", DATA, "--images", "0-1", *base), "model"),
        (("certify", MODEL, other, "--images", "0-1", *base), "images"),
        (("radius", MODEL, DATA, "--images", "0-1", "--norm", "inf", "--resume", journal), "command"),
    ):
        require_error(run(*arguments), ExitCode.BAD_INPUT, "--resume", name, "Name another file")
        assert journal.read_text() == content


@pytest.mark.parametrize(
    "content",
    ["notes\nof mine\n", "notes without an end", '{"kind": "geolip-lirpa run"}\n', "[]\n", "{}\n", "\x00\xff\n", "\n"],
)
def test_files_that_are_no_runs_are_refused_and_kept(run: Command, tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content.encode("latin-1"))
    require_error(run(*CERTIFY, "--images", "0", "--resume", path), ExitCode.BAD_INPUT, "--resume", "run.jsonl")
    assert path.read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"lower": ', '"lower": "1", "x": '),
        ('"status": "', '"status": "very '),
        ('"index": 3', '"index": 4'),
        ('"seconds": ', '"seconds": NaN, "y": '),
        ('"label": 0', '"label": null'),
    ],
)
def test_damaged_lines_are_refused(run: Command, tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "run.jsonl"
    arguments = (*CERTIFY, "--images", "3", "--method", "crown", "--resume", path)
    run(*arguments)
    content = path.read_text()
    head, line = content.splitlines(keepends=True)
    assert old in line
    path.write_text(head + line.replace(old, new))
    require_error(run(*arguments), ExitCode.BAD_INPUT, "--resume")


def test_full_disk_is_one_line_and_finished_images_are_kept(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proofs").mkdir()
    journal = tmp_path / "run.jsonl"
    arguments = (*CERTIFY, "--images", "3,8", "--resume", journal, "--certificates", tmp_path / "proofs")
    save, written = certify_run.save_margins, []

    def full(certificate: Any, path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", _no_space)
                save(certificate, path)
        save(certificate, path)

    monkeypatch.setattr(certify_run, "save_margins", full)
    require_error(run(*arguments), ExitCode.BAD_INPUT, "image-00008.json", os.strerror(28))
    assert images_in(journal) == [3]
    assert run(*arguments).code == ExitCode.OK and images_in(journal) == [3, 8]


def _no_space(*_: object) -> None:
    raise OSError(28, os.strerror(28))
