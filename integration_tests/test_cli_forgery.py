"""Damaged and forged certificates: refused, or the checker speaks of what they really prove."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command
from forgery import Change, floats, forge, require_refusal, store
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.certificate_file import save_certificate
from geolip_lirpa.cli import main
from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.lipschitz import compute_lipschitz
from geolip_lirpa.lirpa import bounded_module
from geolip_lirpa.onnx_model import load_onnx


def test_flipped_digit_is_refused(run: Command, networks: Path, certificate: Path) -> None:
    text = certificate.read_text()
    upper = json.loads(text)["claims"][0]["upper"]
    certificate.write_text(text.replace(repr(upper), repr(upper / 2)))
    result = run("check", certificate, networks / "small.onnx")
    require_refusal(result)
    assert "digest" in result.err


def _lower_claim(record: dict[str, Any]) -> None:
    record["claims"][1]["upper"] *= 1 - 1e-9


def _shrink_multipliers(record: dict[str, Any]) -> None:
    claim = record["claims"][0]
    for values in (claim["multipliers"]["input"], *claim["multipliers"]["hidden"]):
        store(values, 0.5 * floats(values))
    claim["upper"] *= 0.5


def _negative_multiplier(record: dict[str, Any]) -> None:
    values = record["claims"][0]["multipliers"]["hidden"][0]
    store(values, -floats(values))


def _not_a_number(record: dict[str, Any]) -> None:
    values = record["claims"][0]["multipliers"]["input"]
    store(values, floats(values) * np.nan)


def _infinite_claim(record: dict[str, Any]) -> None:
    record["claims"][0]["upper"] = float("inf")


def _other_row(record: dict[str, Any]) -> None:
    rows = floats(record["rows"]).copy()
    rows[0, 0] = 100 * rows[0, 0]
    store(record["rows"], rows)


def _drop_claim(record: dict[str, Any]) -> None:
    del record["claims"][1]


def _no_claims(record: dict[str, Any]) -> None:
    record["claims"] = []


def _no_multipliers(record: dict[str, Any]) -> None:
    record["claims"][0]["multipliers"] = None


def _other_norm(record: dict[str, Any]) -> None:
    record["norm"] = "inf"


def _unknown_version(record: dict[str, Any]) -> None:
    record["version"] = 99


def _wrong_node(record: dict[str, Any]) -> None:
    record["metadata"]["final_node"] = "no such node"


def _wrong_type(record: dict[str, Any]) -> None:
    record["metadata"]["logits"] = "yes"


def _wrong_sample(record: dict[str, Any]) -> None:
    record["claims"][0]["sample"] = 7


def _local_without_region(record: dict[str, Any]) -> None:
    record["scope"] = "local"


def _metadata_list(record: dict[str, Any]) -> None:
    record["metadata"] = [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        _lower_claim, _shrink_multipliers, _negative_multiplier, _not_a_number, _infinite_claim, _other_row,
        _drop_claim, _no_claims, _no_multipliers, _other_norm, _unknown_version, _wrong_node, _wrong_type,
        _wrong_sample, _local_without_region, _metadata_list,
    ],
)  # fmt: skip
def test_forged_content_with_a_fitting_digest_is_refused(
    run: Command, networks: Path, certificate: Path, change: Change
) -> None:
    forge(certificate, change)
    require_refusal(run("check", certificate, networks / "small.onnx"))


def test_local_certificate_cannot_pose_as_a_global_one(
    run: Command, networks: Path, images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    run("lipschitz", networks / "small.onnx", "--data", images, "--index", 0, "--eps", "0.01", "--certificate", path)
    forge(path, lambda record: record.update(scope="global"))
    result = run("check", path, networks / "small.onnx")
    assert result.code == ExitCode.REFUSED or "For all inputs x, x' in the box" in result.out
    forge(path, lambda record: record.update(scope="global", region=None))
    require_refusal(run("check", path, networks / "small.onnx"))


def test_ball_cannot_pose_as_a_box(run: Command, networks: Path, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    region = ("--data", images, "--index", 0, "--eps", "0.01", "--region-norm", "2")
    run("lipschitz", networks / "small.onnx", *region, "--certificate", path)

    def widen(record: dict[str, Any]) -> None:
        center = record["region"]["center"]
        for key, shift in (("lower", -100.0), ("upper", 100.0)):
            record["region"][key] = dict(center)
            store(record["region"][key], floats(center) + shift)

    forge(path, widen)
    require_refusal(run("check", path, networks / "small.onnx"))


@pytest.mark.parametrize("key", ["center", "lower", "upper"])
def test_forged_box_is_refused_or_spoken_of(
    run: Command, networks: Path, images: Path, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "c.json"
    run("lipschitz", networks / "small.onnx", "--data", images, "--index", 0, "--eps", "0.01", "--certificate", path)
    honest = run("check", path, networks / "small.onnx").out

    def shift(record: dict[str, Any]) -> None:
        store(record["region"][key], floats(record["region"][key]) + 0.125)

    forge(path, shift)
    result = run("check", path, networks / "small.onnx")
    # the box is what counts: its centre is recorded for readers
    assert result.code == ExitCode.REFUSED or (key == "center") == (result.out == honest)


@pytest.mark.parametrize("radius", [-0.01, math.nan, math.inf, None, "0.01", 0.02, 5.0, 0.0])
def test_forged_radius_is_refused_or_spoken_of(
    run: Command, networks: Path, images: Path, tmp_path: Path, radius: Any
) -> None:
    path = tmp_path / "c.json"
    region = ("--data", images, "--index", 0, "--eps", "0.01", "--region-norm", "2")
    run("lipschitz", networks / "small.onnx", *region, "--certificate", path)
    forge(path, lambda record: record["region"].update(radius=radius))
    result = run("check", path, networks / "small.onnx")
    if radius in (0.0, "0.01", 0.02, 5.0) and result.code == ExitCode.OK:
        assert f"ball of radius {float(radius)!r}" in " ".join(result.out.split())
    else:
        require_refusal(result)


@pytest.mark.parametrize("key", ["center", "lower", "upper"])
def test_forged_numbers_of_a_region_are_refused(
    run: Command, networks: Path, images: Path, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "c.json"
    run("lipschitz", networks / "small.onnx", "--data", images, "--index", 0, "--eps", "0.01", "--certificate", path)

    def spoil(record: dict[str, Any]) -> None:
        store(record["region"][key], floats(record["region"][key]) * np.nan)

    forge(path, spoil)
    require_refusal(run("check", path, networks / "small.onnx"))


def test_weaker_claim_is_proven_and_shown(run: Command, networks: Path, certificate: Path) -> None:
    forge(certificate, lambda record: record["claims"][0].update(upper=12345.0))
    result = run("check", certificate, networks / "small.onnx")
    assert result.code == ExitCode.OK and "12345.0" in result.out


def test_certificate_of_another_model_is_refused(run: Command, networks: Path, certificate: Path) -> None:
    for other in ("twin.onnx", "linear.onnx"):
        require_refusal(run("check", certificate, networks / other))


def test_refusal_as_json(run: Command, networks: Path, certificate: Path) -> None:
    found = run("check", certificate, networks / "twin.onnx", "--json")
    assert found.code == ExitCode.REFUSED
    assert found.json["proven"] is False and found.json["rows"] == [] and "not proven" in found.json["reason"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"format": 1e400}', b"[" * 100_000, b'["]",' * 100_000],
)
def test_other_files_are_refused(run: Command, networks: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    require_refusal(run("check", path, networks / "small.onnx"))


def test_missing_files_are_bad_input(run: Command, networks: Path, certificate: Path, tmp_path: Path) -> None:
    assert run("check", tmp_path / "none.json", networks / "small.onnx").code == ExitCode.BAD_INPUT
    assert run("check", tmp_path, networks / "small.onnx").code == ExitCode.BAD_INPUT
    assert run("check", certificate, tmp_path / "none.onnx").code == ExitCode.BAD_INPUT


@given(position=st.integers(min_value=0), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_certificates_never_pass(
    fuzzed: tuple[Path, Path, bytes, str], position: int, value: int, cut: bool
) -> None:
    path, model, original, statement = fuzzed
    at = position % len(original)
    damaged = original[:at] if cut else original[:at] + bytes([value]) + original[at + 1 :]
    path.write_bytes(damaged)
    code, out, err = _quiet_check(path, model)
    assert code in (ExitCode.OK, ExitCode.REFUSED) and "Traceback" not in err
    if damaged != original and code == ExitCode.OK:
        assert json.loads(damaged) == json.loads(original) and out == statement


@given(
    where=st.sampled_from(["hidden", "input", "output", "rows", "scale", "claim"]),
    number=st.integers(0, 100),
    factor=st.sampled_from([0.0, -1.0, 0.5, 1 - 1e-9, 1e300, np.nan, np.inf]),
)
def test_forged_numbers_never_prove_too_small_a_bound(
    fuzzed: tuple[Path, Path, bytes, str], where: str, number: int, factor: float
) -> None:
    path, model, original, _ = fuzzed
    path.write_bytes(original)
    honest = [claim["upper"] for claim in json.loads(original)["claims"]]

    def change(record: dict[str, Any]) -> None:
        claim = record["claims"][number % len(record["claims"])]
        if where == "claim":
            claim["upper"] = claim["upper"] * factor
            return
        proof = claim["multipliers"]
        stored = {"rows": record["rows"], "scale": record["input_scale"], "hidden": proof["hidden"][0]}.get(where)
        stored = proof[where] if stored is None else stored
        values = floats(stored).copy()
        values.flat[number % values.size] *= factor
        store(stored, values)

    forge(path, change)
    code, out, err = _quiet_check(path, model)
    assert code in (ExitCode.OK, ExitCode.REFUSED) and "Traceback" not in err
    if code == ExitCode.OK and where not in ("rows", "scale"):
        shown = [float(line.split("│")[1]) for line in out.splitlines() if "│" in line]
        # the relaxation's optimum: no multipliers prove less
        assert all(s >= h * (1 - 1e-5) for s, h in zip(shown, honest, strict=True))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> tuple[Path, Path, bytes, str]:
    """A file to overwrite, its model, a valid certificate's bytes, and what the checker says of it."""
    path, model = tmp_path_factory.mktemp("fuzz") / "c.json", networks / "small.onnx"
    result = compute_lipschitz(bounded_module(load_onnx(model)))
    assert result.certificate is not None
    save_certificate(replace(result.certificate, metadata={"model": "small.onnx"}), path)
    code, out, _ = _quiet_check(path, model)
    assert code == ExitCode.OK
    return path, model, path.read_bytes(), out


def _quiet_check(path: Path, model: Path) -> tuple[int, str, str]:
    """Check in this process with the output caught (hypothesis and capsys do not go together)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["check", str(path), str(model), "--threads", "1"])
    return code, out.getvalue(), err.getvalue()
