"""``geolip-lirpa certify`` and ``radius``: from images to counts and certificates."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certify_runs import CERTIFY, DATA, FOLDER, MODEL, RADIUS, ROW, arrays, require_consistent
from command_line import Command, require_error
from forgery import forge, require_refusal

from geolip_lirpa.cli.certify_request import BOUNDS, METHODS, SOLVERS
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.margin_file import is_margin_certificate
from geolip_lirpa.margin_types import BOUNDS as LIBRARY_BOUNDS
from geolip_lirpa.margin_types import METHODS as LIBRARY_METHODS
from geolip_lirpa.pointwise_bounding import SOLVERS as LIBRARY_SOLVERS

_OBJECT = {
    "model", "model_sha256", "logits", "final_node", "data", "norm", "method", "bounds", "solver", "targets", "clip",
    "seed", "timeout", "images",
    "correct", "attacked", "proven", "open", "seconds_per_image", "rows", "interrupted", "seconds",
    "versions",
}  # fmt: skip
_VERSIONS = {"geolip_lirpa", "auto_LiRPA", "torch", "numpy", "scipy", "cvxpy", "onnx", "python"}


def table_rows(text: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.split("│")] for line in text.splitlines()]
    return [cells for cells in lines if cells[0].isdigit()]


# --- output -----------------------------------------------------------------------------------------------------------


def test_certify_prints_one_object_with_counts(run: Command) -> None:
    result = run(*CERTIFY, "--images", "0-9", "--json")
    assert (result.code, result.err) == (ExitCode.OK, "")
    found = result.json
    assert found.keys() == _OBJECT | {"eps"} and found["versions"].keys() == _VERSIONS
    assert (found["eps"], found["norm"], found["images"], found["interrupted"]) == (0.3, "2", 10, False)
    assert [row["index"] for row in found["rows"]] == list(range(10))
    labels = arrays()["labels"][:10].tolist()
    assert [row["label"] for row in found["rows"]] == labels
    for row in found["rows"]:
        if row["status"] == "proven":
            assert 0 < row["lower"] <= row["attacked"] and row["method"]
        elif row["status"] == "attacked":
            assert row["attacked"] <= 0
    assert found["proven"] > 0 and found["attacked"] > 0
    require_consistent(found)


def test_radius_prints_one_object_with_counts(run: Command) -> None:
    found = run(*RADIUS, "--images", "3,0", "--json").json
    assert found.keys() == _OBJECT | {"relative_gap"} and found["relative_gap"] == 0.1
    assert [row["index"] for row in found["rows"]] == [3, 0]
    require_consistent(found)
    for row in found["rows"]:
        assert row["status"] == "proven" and 0 < row["lower"] <= row["attacked"]
    within = run("certify", MODEL, DATA, "--images", "0", "--eps", found["rows"][1]["lower"], "--json").json
    assert within["proven"] == 1
    beyond = run("certify", MODEL, DATA, "--images", "0", "--eps", found["rows"][1]["attacked"], "--json").json
    assert beyond["proven"] == 0


def test_table_and_csv_say_the_same_as_the_object(run: Command) -> None:
    arguments = (*CERTIFY, "--images", "0-4")
    found = run(*arguments, "--json").json
    table = run(*arguments)
    assert table.code == ExitCode.OK and "l_2 balls" in table.out and "radius 0.3" in table.out
    assert f"images 5, correct {found['correct']}, proven {found['proven']}" in table.out
    shown = table_rows(table.out)
    read = list(csv.DictReader(io.StringIO(run(*arguments, "--csv").out)))
    for row, cells, line in zip(found["rows"], shown, read, strict=True):
        assert cells[:4] == [str(row[name]) for name in ("index", "label", "predicted", "status")]
        assert cells[4] == "-" if row["lower"] is None else Decimal(cells[4]) <= Decimal(row["lower"])
        assert Decimal(cells[5]) >= Decimal(row["attacked"])
        assert line.keys() == ROW
        assert line["status"] == row["status"] and line["certificate"] == ""
        assert line["lower"] == ("" if row["lower"] is None else repr(row["lower"]))


def test_long_names_of_methods_are_not_torn(run: Command) -> None:
    out = run("certify", MODEL, DATA, "--eps", "0.3", "--images", "2,9").out
    assert "geolip-local" in out


def test_names_in_the_help_are_those_of_the_library(run: Command) -> None:
    assert set(METHODS) == set(LIBRARY_METHODS) and len(METHODS) == len(LIBRARY_METHODS)
    assert BOUNDS == LIBRARY_BOUNDS
    assert SOLVERS == LIBRARY_SOLVERS
    for command in ("certify", "radius"):
        page = run(command, "--help")
        assert page.code == ExitCode.OK and f"geolip-lirpa {command}" in page.out and "Examples" in page.out


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_certificates_that_are_proven_again(run: Command, tmp_path: Path, method: str) -> None:
    options = ("--norm", "inf", "--eps", "0.005", "--images", "3,8", "--method", method, "--bounds", "alpha-crown")
    found = run("certify", MODEL, DATA, *options, "--certificates", tmp_path, "--json").json
    written = [row for row in found["rows"] if row["certificate"] is not None]
    assert [row["status"] for row in found["rows"]].count("proven") == len(written) == len(list(tmp_path.iterdir()))
    assert len(written) == 2 or method not in ("combined", "crown", "alpha-crown", "sdp")
    for row in written:
        assert is_margin_certificate(row["certificate"])
        checked = run("check", row["certificate"], MODEL, "--json")
        assert checked.code == ExitCode.OK and checked.json["proven"] is True
        assert min(line["lower"] for line in checked.json["rows"]) == row["lower"]
        assert len(checked.json["rows"]) == 9


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.fixture
def proof(run: Command, tmp_path: Path) -> Path:
    """A certificate of the radius of image 1."""
    run(*RADIUS, "--images", "1", "--method", "geolip", "--certificates", tmp_path / "proofs")
    return tmp_path / "proofs" / "image-00001.json"


def test_certificate_of_a_radius_is_stated_and_proven_again(run: Command, proof: Path) -> None:
    eps = json.loads(proof.read_text())["inputs"][0]["eps"]
    text = run("check", proof, MODEL)
    assert (text.code, text.err) == (ExitCode.OK, "")
    assert "proven again" in text.out and f"within {eps!r} (l_2) of input 0" in " ".join(text.out.split())
    assert "f[9] - f[0]" in text.out
    found = run("check", proof, MODEL, "--json").json
    assert found["inputs"] == [{"norm": "2", "eps": eps, "cut": False}]
    assert all(row["lower"] > 0 for row in found["rows"]) and found["reason"] is None


def test_damaged_forged_and_foreign_certificates_are_refused(run: Command, proof: Path, tmp_path: Path) -> None:
    content = proof.read_text()
    foreign = run("check", proof, FOLDER / "digits_conv.onnx", "--json")
    require_refusal(foreign)
    assert foreign.json["proven"] is False and foreign.json["rows"] == []

    damaged = tmp_path / "damaged.json"
    damaged.write_text(content.replace('"sample": 0', '"sample": 1', 1))
    require_refusal(run("check", damaged, MODEL))
    damaged.write_text(content[: len(content) // 2])
    require_refusal(run("check", damaged, MODEL))

    def larger(record: dict[str, Any]) -> None:
        record["inputs"][0]["eps"] *= 1.5

    def higher(record: dict[str, Any]) -> None:
        record["claims"][0]["lower"] += 1.0

    def elsewhere(record: dict[str, Any]) -> None:
        record["claims"][0]["sample"] = 7

    for change in (larger, higher, elsewhere):
        damaged.write_text(content)
        forge(damaged, change)
        require_refusal(run("check", damaged, MODEL))


def test_forged_bounds_of_neurons_are_refused(run: Command, tmp_path: Path) -> None:
    options = ("--norm", "2", "--eps", "0.2", "--images", "3", "--method", "geolip-anchored", "--bounds", "geolip")
    found = run("certify", MODEL, DATA, *options, "--certificates", tmp_path, "--json").json
    proof = Path(found["rows"][0]["certificate"])
    assert run("check", proof, MODEL).code == ExitCode.OK
    content = proof.read_text()
    assert json.loads(content)["bounds"]

    def tighter(record: dict[str, Any]) -> None:
        record["bounds"][0]["value"] *= 0.999

    def moved(record: dict[str, Any]) -> None:
        record["bounds"][0]["neuron"] = 10**9

    def misplaced(record: dict[str, Any]) -> None:
        record["bounds"][0]["node"] = 1

    def dropped(record: dict[str, Any]) -> None:
        record["bounds"] = []

    def missing(record: dict[str, Any]) -> None:
        del record["bounds"]

    def former(record: dict[str, Any]) -> None:
        record["version"] = 1

    for change in (tighter, moved, misplaced, dropped, missing, former):
        proof.write_text(content)
        forge(proof, change)
        require_refusal(run("check", proof, MODEL))


def test_part_of_the_model_and_domain_are_remembered(run: Command, networks: Path, tmp_path: Path) -> None:
    images = np.full((1, 3), 0.5)
    np.savez(tmp_path / "x.npz", x=images)
    options = ("--norm", "inf", "--eps", "1e-4", "--clip", "0.5,0.5001", "--certificates", tmp_path)
    whole = run("certify", networks / "softmax.onnx", tmp_path / "x.npz", *options)
    require_error(whole, ExitCode.BAD_INPUT, "--logits")
    found = run("certify", networks / "softmax.onnx", tmp_path / "x.npz", *options, "--logits", "--json").json
    assert found["proven"] == 1 and found["clip"] == [0.5, 0.5001]
    checked = run("check", found["rows"][0]["certificate"], networks / "softmax.onnx")
    assert checked.code == ExitCode.OK
    assert "cut by a domain" in " ".join(checked.out.split()) and "softmax" in checked.out
    assert run("check", found["rows"][0]["certificate"], networks / "softmax.onnx", "--json").json["inputs"][0]["cut"]
