"""Runs of ``certify`` and ``radius`` on the example network, and what every object they print has to satisfy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run

from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.report.certification import STATUSES

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
MODEL, DATA = FOLDER / "digits_32-32.onnx", FOLDER / "digits_test.npz"
CERTIFY = ("certify", MODEL, DATA, "--norm", "2", "--eps", "0.3")
RADIUS = ("radius", MODEL, DATA, "--norm", "2", "--method", "crown", "--gap", "0.1")

ROW = {"index", "label", "predicted", "status", "lower", "attacked", "method", "seconds", "certificate"}


def arrays() -> dict[str, Any]:
    with np.load(DATA) as data:
        return dict(data)


def write(path: Path, **changed: Any) -> Path:
    """The first five test images with other arrays; None leaves one out."""
    found = {name: values[:5] for name, values in arrays().items()} | changed
    np.savez(path, **{name: values for name, values in found.items() if values is not None})
    return path


def answers(result: Run) -> list[dict[str, Any]]:
    """Rows of an object without what differs from run to run."""
    assert result.code in (ExitCode.OK, ExitCode.INTERRUPTED), result.err
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.json["rows"]]


def require_consistent(found: dict[str, Any]) -> None:
    rows = found["rows"]
    assert all(row.keys() == ROW for row in rows)
    counts = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
    assert found["images"] == len(rows) == sum(counts.values())
    assert found["correct"] == len(rows) - counts["wrong"]
    assert all(found[status] == counts[status] for status in STATUSES if status != "wrong")
    assert found["seconds_per_image"] == pytest.approx(sum(row["seconds"] for row in rows) / len(rows))
    for row in rows:
        assert (row["status"] == "wrong") == (row["label"] != row["predicted"])
        if row["status"] == "wrong":
            assert row["method"] == "" and row["lower"] is None and row["attacked"] is None
