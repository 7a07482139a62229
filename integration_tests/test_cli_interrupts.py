"""Ctrl-C is answered in a moment, with what is known; long work shows that it goes on."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Command
from specification_files import FOLDER, instance

from geolip_lirpa import bounding, network_lipschitz
from geolip_lirpa.baselines.matrix_free import NodeRadii
from geolip_lirpa.cli import terminal, verify_run
from geolip_lirpa.cli.exit_codes import ExitCode


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def stopped_after(monkeypatch: pytest.MonkeyPatch, proofs: int) -> list[object]:
    """Ctrl-C comes after so many proofs; returns the radii of nodes that are computed from then on."""
    prove, proven, radii = bounding._prove, [], []

    def counted(*given: Any) -> Any:
        proven.append(given)
        return stop() if len(proven) > proofs else prove(*given)  # type: ignore[func-returns-value]

    def watched(*given: Any) -> NodeRadii:
        radii.append(given)
        return NodeRadii(*given)

    monkeypatch.setattr(bounding, "_prove", counted)
    monkeypatch.setattr(network_lipschitz, "NodeRadii", watched)
    return radii


def test_long_runs_say_in_files_how_far_they_are(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("certify", FOLDER / "digits_32-32.onnx", FOLDER / "digits_test.npz", "--eps", "0", "--images", "0-2")
    assert run(*arguments).err == ""
    monkeypatch.setattr(terminal, "_LINE_SECONDS", 0.0)
    assert run(*arguments).err == "".join(f"images {done}/3\n" for done in range(4))
    assert run(*arguments, "--quiet").err == ""


def test_bounds_of_coordinates_need_no_radii(
    run: Command, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = networks / "small.onnx", tmp_path / "certificate.json"
    complete = run("lipschitz", model, "--norm", "1", "--json").json["rows"]
    with monkeypatch.context() as patch:
        radii = stopped_after(patch, 5)
        result = run("lipschitz", model, "--norm", "1", "--certificate", path, "--json")
    assert result.code == ExitCode.INTERRUPTED and radii == []
    for row, final in zip(result.json["rows"], complete, strict=True):
        assert row["proof"] == "rigorous" and final["upper"] <= row["upper"] * (1 + 1e-9)
    checked = run("check", path, model, "--json").json
    assert checked["proven"] and [r["upper"] for r in checked["rows"]] == [r["upper"] for r in result.json["rows"]]


def test_rows_share_the_radii_of_their_region(
    run: Command, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "certificate.json"
    radii = stopped_after(monkeypatch, 1)
    result = run("lipschitz", networks / "small.onnx", "--certificate", path, "--json")
    assert result.code == ExitCode.INTERRUPTED and len(radii) == 1
    assert [row["solver"] for row in result.json["rows"]] == ["low-rank", *["norm-product"] * 3]
    assert run("check", path, networks / "small.onnx").code == ExitCode.OK


def test_progress_is_told_between_proofs(networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geolip_lirpa import bounded_module, compute_lipschitz, load_onnx

    monkeypatch.setattr(bounding, "_TELL", -1.0)
    told: list[tuple[int, int]] = []
    model = bounded_module(load_onnx(networks / "small.onnx"))
    compute_lipschitz(model, progress=lambda done, count: told.append((done, count)))
    assert told[:4] == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_interrupted_verification_is_unknown(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    monkeypatch.setattr(verify_run, "run_limited", stop)
    found, witness = instance("1.0", "pendulum_limit"), tmp_path / "witness.txt"
    result = run("verify", found.specification, "--network", found.network, "--witness", witness, *form)
    assert result.code == ExitCode.INTERRUPTED and result.err.endswith("interrupted\n") and not witness.exists()
    if form:
        assert result.json["verdict"] == "unknown" and result.json["reason"].startswith("interrupted")
    else:
        assert result.out == "unknown\n" and "note: interrupted before" in result.err


@pytest.mark.parametrize(("limit", "words"), [(("--timeout", "100"), b"at most 9"), ((), b"verifying")])
def test_verification_moves_a_bar_on_a_terminal(limit: tuple[str, ...], words: bytes) -> None:
    found = instance("1.0", "pendulum_limit_exceeded")
    command = [sys.executable, "-m", "geolip_lirpa", "verify", found.specification, "--network", found.network, *limit]
    ours, theirs = pty.openpty()
    paths = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"TERM": "xterm", "PYTHONPATH": paths, "COLUMNS": "100"}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    # the other end's closing is an error here
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    out, _ = process.communicate(timeout=100)
    os.close(ours)
    assert process.returncode == 0 and out.startswith(b"sat\n")
    assert words in shown and (b"at most" in shown) == bool(limit)
