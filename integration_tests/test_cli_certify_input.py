"""Bad input of ``certify`` and ``radius``: one clear line before the work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certify_runs import CERTIFY, DATA, FOLDER, MODEL, answers, arrays, require_consistent, write
from command_line import Command, require_error

from geolip_lirpa.cli.exit_codes import ExitCode


def test_files_without_labels_and_with_other_names(run: Command, tmp_path: Path) -> None:
    full = arrays()
    images, labels = full["images"][:5], full["labels"][:5]
    expected = answers(run(*CERTIFY, "--images", "0-4", "--json"))
    assert [row["label"] for row in expected] == [row["predicted"] for row in expected]
    files: list[dict[str, Any]] = [
        {"X": images, "Y": labels},
        {"x": images, "y": labels[:, None]},
        {"X": images, "y": labels},
        {"images": images},
    ]
    for number, named in enumerate(files):
        path = tmp_path / f"{number}.npz"
        np.savez(path, **named)
        assert answers(run("certify", MODEL, path, "--norm", "2", "--eps", "0.3", "--json")) == expected


def test_wrong_labels_are_counted(run: Command, tmp_path: Path) -> None:
    labels = (arrays()["labels"][:5] + 1) % 10
    path = write(tmp_path / "wrong.npz", labels=labels)
    for command in (("certify", MODEL, path, "--eps", "0.3"), ("radius", MODEL, path)):
        found = run(*command, "--json").json
        require_consistent(found)
        assert (found["images"], found["correct"], found["proven"]) == (5, 0, 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"images": np.full((5, 64), np.nan)}, ("DATA", "image 0", "NaN")),
        ({"images": np.full((5, 64), np.inf)}, ("DATA", "infinity")),
        ({"images": np.full((5, 64), -1e300)}, ("DATA", "image 0", "-1e+300", "1e+30")),
        ({"images": np.zeros((5, 63))}, ("DATA", "(5, 63)", "(64,)")),
        ({"images": np.zeros(64)}, ("DATA", "(64,)")),
        ({"images": np.zeros((0, 64)), "labels": np.zeros(0, int)}, ("DATA", "0 images")),
        ({"images": None}, ("DATA", "'images', 'X' and 'x'", "labels")),
        ({"X": np.zeros((5, 64))}, ("DATA", "'images' and 'X'")),
        ({"Y": np.zeros(5, int)}, ("DATA", "'labels' and 'Y'")),
        ({"labels": np.zeros(4, int)}, ("DATA", "'labels'", "5 integers")),
        ({"labels": np.zeros(5)}, ("DATA", "'labels'", "float64")),
        ({"labels": np.array([9, 9, 9, 0, 10])}, ("DATA", "image 4", "label 10", "0 to 9")),
        ({"labels": np.array([9, 9, 9, 0, -1])}, ("DATA", "image 4", "label -1")),
    ],
)
def test_bad_data(run: Command, tmp_path: Path, changed: dict[str, Any], words: tuple[str, ...]) -> None:
    path = write(tmp_path / "data.npz", **changed)
    require_error(run("certify", MODEL, path, "--eps", "0.1"), ExitCode.BAD_INPUT, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--eps", "-0.1"), ("--eps", "-0.1", "from 0")),
        (("--eps", "nan"), ("--eps", "nan")),
        (("--eps", "1e300"), ("--eps", "1e+300", "1e+30")),
        (("--eps", "wide"), ("--eps", "number")),
        (("--norm", "3"), ("--norm", "'3'", "inf, 2 and 1")),
        (("--method", "magic"), ("--method", "combined", "sdp")),
        (("--bounds", "magic"), ("--bounds", "alpha-crown", "sdp")),
        (("--images", "100"), ("--images", "100", "0 to 99")),
        (("--images", "0-999999999"), ("--images", "999999999")),
        (("--images", "5-3"), ("--images", "backwards")),
        (("--images", "a"), ("--images", "'a'")),
        (("--targets", "10"), ("--targets", "10", "0 to 9")),
        (("--targets", "0-999999999"), ("--targets", "999999999")),
        (("--targets", "9", "--images", "0"), ("--targets", "image 0")),
        (("--clip", "0"), ("--clip", "'0'", "0,1")),
        (("--clip", "1,0"), ("--clip", "1,0")),
        (("--clip", "nan,1"), ("--clip",)),
        (("--clip", "0,0.5"), ("--clip", "0.0,0.5", "image 0", "from 0.0 to 1.0")),
        (("--seed", "-1"), ("--seed", "-1")),
        (("--threads", "0"), ("--threads",)),
        (("--json", "--csv"), ("--csv", "--json", "both")),
        (("--final-node", "nowhere"), ("nowhere",)),
        (("--resume", "nowhere/run.jsonl"), ("--resume", "nowhere")),
        (("--certificates", "nowhere/at-all"), ("--certificates", "nowhere/at-all", "Name another")),
        (("--gap", "0.1"), ("--gap",)),
    ],
)
def test_bad_options(run: Command, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    require_error(run(*CERTIFY, *options), ExitCode.BAD_INPUT, *words)


@pytest.mark.parametrize("gap", ["0", "-1", "nan", "1", "inf"])
def test_bad_gaps(run: Command, gap: str) -> None:
    require_error(run("radius", MODEL, DATA, "--gap", gap), ExitCode.BAD_INPUT, "--gap", gap)


def test_missing_arguments(run: Command, networks: Path, tmp_path: Path) -> None:
    require_error(run("certify", MODEL, DATA), ExitCode.BAD_INPUT, "--eps")
    require_error(run("radius", MODEL), ExitCode.BAD_INPUT, "DATA")
    require_error(run("radius", MODEL, tmp_path / "none.npz"), ExitCode.BAD_INPUT, "DATA", "no such file")
    require_error(run("radius", tmp_path / "none.onnx", DATA), ExitCode.BAD_INPUT, "MODEL", "no such file")
    require_error(run("radius", MODEL, networks / "small.onnx"), ExitCode.BAD_INPUT, "DATA", "npz")
    require_error(run("radius", networks / "small.onnx", DATA), ExitCode.BAD_INPUT, "(100, 64)", "(3,)")


def test_program_of_other_activations_is_refused(run: Command) -> None:
    result = run("certify", FOLDER / "digits_tanh.onnx", DATA, "--eps", "0.1", "--method", "sdp", "--images", "0")
    require_error(result, ExitCode.BAD_INPUT, "sdp", "Tanh", "combined")


def test_folders_that_cannot_be_written_are_named_before_the_work(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def read_only(path: Any, mode: int) -> bool:
        return access(path, mode) and not (mode & os.W_OK and Path(path) == tmp_path)

    monkeypatch.setattr(os, "access", read_only)
    for option, path in (("--resume", tmp_path / "run.jsonl"), ("--certificates", tmp_path)):
        require_error(run(*CERTIFY, option, path), ExitCode.BAD_INPUT, option, "writable folder")
        assert list(tmp_path.iterdir()) == []


def test_bytes_are_taken_as_they_are_with_a_note(run: Command, tmp_path: Path) -> None:
    values = np.arange(2 * 64).reshape(2, 64).astype(np.uint8)
    path = write(tmp_path / "bytes.npz", images=values, labels=None)
    arguments = ("certify", MODEL, path, "--eps", "0.001", "--method", "crown", "--images", "0", "--json")
    noted = run(*arguments)
    # only what is worked on counts
    assert noted.err.startswith("note: the images are integers up to 63,") and noted.err.count("\n") == 1
    assert "255" in noted.err
    floats = write(tmp_path / "floats.npz", images=values.astype(np.float32), labels=None)
    same = run("certify", MODEL, floats, *arguments[3:])
    assert same.err == "" == run(*arguments, "--quiet").err
    assert answers(same) == answers(noted)
