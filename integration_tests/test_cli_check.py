"""Certificates: what the checker confirms, in which words, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Command
from onnx_files import random_weights, write_mlp

from geolip_lirpa.certificate_file import FORMAT, load_certificate, save_certificate
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.lipschitz import compute_lipschitz
from geolip_lirpa.lirpa import bounded_module
from geolip_lirpa.onnx_model import load_onnx


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("output", ["rows", "inf", "2", "1"])
def test_every_global_certificate_is_proven_again(
    run: Command, networks: Path, tmp_path: Path, norm: str, output: str
) -> None:
    path = tmp_path / "c.json"
    options = ("--norm", norm, "--output", output, "--certificate", path, "--json")
    computed = run("lipschitz", networks / "small.onnx", *options).json
    assert computed["certificate"] == str(path)
    checked = run("check", path, networks / "small.onnx", "--json")
    assert checked.code == ExitCode.OK
    found = checked.json
    assert found["proven"] is True
    assert (found["statement"]["norm"], found["statement"]["output"]) == (norm, output)
    assert [row["upper"] for row in found["rows"]] == [row["upper"] for row in computed["rows"]]


@pytest.mark.parametrize("bounds", ["ibp", "crown", "alpha-crown"])
@pytest.mark.parametrize("region_norm", ["inf", "2", "1"])
def test_every_local_certificate_is_proven_again(
    run: Command, networks: Path, images: Path, tmp_path: Path, bounds: str, region_norm: str
) -> None:
    path = tmp_path / "c.json"
    region = ("--data", images, "--index", 4, "--eps", "0.3", "--region-norm", region_norm, "--bounds", bounds)
    assert run("lipschitz", networks / "small.onnx", *region, "--certificate", path).code == ExitCode.OK
    checked = run("check", path, networks / "small.onnx")
    assert checked.code == ExitCode.OK
    text = " ".join(checked.out.split())
    assert bounds in text and "For all inputs x, x' in the" in text
    assert ("box with half widths" if region_norm == "inf" else f"l_{region_norm} ball of radius 0.3") in text


@pytest.mark.parametrize("method", ["norm-product", "entrywise"])
def test_certificates_of_norm_products_are_proven_again(
    run: Command, networks: Path, tmp_path: Path, method: str
) -> None:
    path = tmp_path / "c.json"
    assert run("lipschitz", networks / "small.onnx", "--method", method, "--certificate", path).code == ExitCode.OK
    assert run("check", path, networks / "small.onnx").code == ExitCode.OK


def test_statement_names_rows_norm_and_scope(run: Command, networks: Path, certificate: Path) -> None:
    result = run("check", certificate, networks / "small.onnx")
    assert result.code == ExitCode.OK and result.err == ""
    assert "For all inputs x, x':" in result.out
    assert "|c f(x) - c f(x')| <= bound * |x - x'|_2" in result.out
    labels = [line.split("│")[0].strip() for line in result.out.splitlines() if "│" in line]
    assert labels == ["row 1", "row 3"]


def test_shown_bound_is_not_below_the_proven_one(run: Command, networks: Path, certificate: Path) -> None:
    proven = [row["upper"] for row in run("check", certificate, networks / "small.onnx", "--json").json["rows"]]
    lines = [line for line in run("check", certificate, networks / "small.onnx").out.splitlines() if "│" in line]
    shown = [float(line.split("│")[1]) for line in lines]
    assert all(s >= p and s == pytest.approx(p, rel=1e-5) for s, p in zip(shown, proven, strict=True))


def test_statement_of_other_rows_and_weights_is_spelled_out(run: Command, networks: Path, tmp_path: Path) -> None:
    rows = torch.tensor([[[1.0, -1, 0, 0], [0, 0, 2, 0], [0.5, 0.25, 1, -3]]])
    scale = torch.tensor([0.5, 2.0, 0.0])
    model = bounded_module(load_onnx(networks / "small.onnx"))
    result = compute_lipschitz(model, C=rows, norm=2, input_scale=scale)
    assert result.certificate is not None
    save_certificate(result.certificate, tmp_path / "c.json")
    found = run("check", tmp_path / "c.json", networks / "small.onnx")
    assert found.code == ExitCode.OK
    assert "row " not in found.out
    assert "c = f_0 - f_1" in found.out and "c = 2.0 f_2" in found.out and "- 3.0 f_3" in found.out
    assert "|(x - x') / s|_2" in found.out
    assert "s_j from 0.5 to 2.0" in found.out and "1 inputs with s_j = 0" in found.out


def test_part_of_a_model_is_remembered(run: Command, networks: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    run("lipschitz", networks / "softmax.onnx", "--logits", "--certificate", path)
    result = run("check", path, networks / "softmax.onnx")
    assert result.code == ExitCode.OK and "without the softmax at its end" in " ".join(result.out.split())


def test_note_when_the_file_is_another_one(run: Command, networks: Path, certificate: Path, tmp_path: Path) -> None:
    copy = write_mlp(tmp_path / "smaller.onnx", [w / np.float32(2) for w in random_weights([3, 5, 4], seed=1)])
    result = run("check", certificate, copy)
    # every multiplier still proves its claim for the smaller weights, or the certificate is refused
    assert (result.code == ExitCode.OK) == ("note: the certificate was computed for another file" in result.err)


def test_files_can_be_read_back(certificate: Path) -> None:
    record = load_certificate(certificate)
    assert record.metadata["model_sha256"] and FORMAT in certificate.read_text()
