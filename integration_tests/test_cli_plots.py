"""``--plot`` of ``lipschitz`` and ``radius``: refused early, written whole, also of an interrupted run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from certify_runs import RADIUS
from command_line import Command, require_error

from geolip_lirpa.cli import certify_run, lipschitz_run
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.solvers.low_rank import LowRankSolver

TWO = (*RADIUS, "--images", "0,3")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plots_beside_all_other_output(run: Command, networks: Path, tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    found = run("lipschitz", networks / "small.onnx", "--plot", first)
    assert found.code == ExitCode.OK and f"plot: {first}" in found.out
    assert run(*TWO, "--plot", second, "--json").json["plot"] == str(second)
    start = b"\x89PNG" if suffix == ".png" else b"<?xml"
    assert first.read_bytes().startswith(start) and second.read_bytes().startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_without_the_option_there_is_no_key(run: Command, networks: Path) -> None:
    assert "plot" not in run("lipschitz", networks / "linear.onnx", "--json").json


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.pdf", [".pdf", ".png and .svg"]),
        ("a", ["no suffix", ".png and .svg"]),
        ("none/a.png", ["none", "not a folder"]),
        ("folder.png", ["is a directory"]),
    ],
)
def test_bad_names_are_refused_before_any_work(
    run: Command, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: list[str]
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("work began")

    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(lipschitz_run, "load_model", never)
    monkeypatch.setattr(certify_run, "load_model", never)
    for arguments in (("lipschitz", networks / "small.onnx"), TWO):
        require_error(run(*arguments, "--plot", tmp_path / name), ExitCode.BAD_INPUT, "--plot", *words)


def test_interrupted_runs_are_drawn(
    run: Command, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    radii, calls = certify_run.network_radii, []

    def stop_later(*given: object, **named: object) -> object:
        calls.append(given)
        return stop() if len(calls) == 2 else radii(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(LowRankSolver, "solve", stop)
    monkeypatch.setattr(certify_run, "network_radii", stop_later)
    for arguments in (("lipschitz", networks / "small.onnx"), TWO):
        path = tmp_path / f"{arguments[0]}.svg"
        result = run(*arguments, "--plot", path)
        assert result.code == ExitCode.INTERRUPTED and result.err == "interrupted\n"
        assert "<!-- interrupted: " in path.read_text() and f"plot: {path}" in result.out
    assert "of 1 images" in path.read_text()


def test_numbers_are_shown_when_the_picture_cannot_be_written(
    run: Command, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, path = os.replace, tmp_path / "full.png"
    path.write_text("old")

    def full(source: object, target: object) -> None:
        if target == path:
            raise OSError(28, "No space left on device")
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    for arguments in (("lipschitz", networks / "small.onnx"), TWO):
        result = run(*arguments, "--plot", path)
        assert result.code == ExitCode.BAD_INPUT and "No space left" in result.err
        assert "seconds" in result.out and "plot:" not in result.out and path.read_text() == "old"
