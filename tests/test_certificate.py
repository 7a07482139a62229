"""Certificates: files read back exactly, every part of a statement is proven again, forgeries are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.certificate import Certificate, check
from geolip_lirpa.certificate_file import load_certificate, save_certificate
from geolip_lirpa.certificate_records import digest
from geolip_lirpa.errors import CertificateError
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem
from geolip_lirpa.margin_file import save_margins
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import global_problem, network_lipschitz
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import random_mlp, random_residual


def _certified(
    network: Network, norm: Norm = Norm.LINF, output: OutputNorm = OutputNorm.ROWS, method: str = "sdp"
) -> tuple[LipschitzProblem, Certificate]:
    problem = global_problem(network)
    options = LipschitzOptions(norm=norm, output=output, method=method, lower_bounds=False)
    certificate = network_lipschitz(problem, options).certificate
    assert certificate is not None
    return problem, certificate


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000), norm=st.sampled_from(Norm), output=st.sampled_from(OutputNorm), residual=st.booleans()
)
def test_round_trip_and_check(
    seed: int, norm: Norm, output: OutputNorm, residual: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = random_residual(seed) if residual else random_mlp(seed, (3, 5, 4, 2))
    problem, certificate = _certified(network, norm, output)
    path = tmp_path_factory.mktemp("certificate") / "c.json"
    save_certificate(certificate, path)
    again = load_certificate(path)
    assert torch.equal(again.bounds(), certificate.bounds())
    assert torch.equal(check(again, network, problem.slopes), certificate.bounds())
    assert certificate.bounds().shape == (1, 2 if output is OutputNorm.ROWS else 1)
    assert bool(torch.isfinite(certificate.bounds()).all())


@pytest.mark.parametrize("method", ["norm-product", "entrywise"])
def test_products_of_norms_are_recomputed(method: str) -> None:
    problem, certificate = _certified(random_mlp(0, (3, 5, 2)), method=method)
    bounds = check(certificate, problem.network, problem.slopes)
    lower = replace(certificate, claims=tuple(replace(c, upper=0.5 * c.upper) for c in certificate.claims))
    assert bool((bounds > 0).all())
    with pytest.raises(CertificateError, match="not proven"):
        check(lower, problem.network, problem.slopes)


def test_lowered_claims_are_refused() -> None:
    problem, certificate = _certified(random_mlp(0, (3, 5, 2)))
    for factor in (1 - 1e-9, 0.5, -1.0):
        forged = replace(certificate, claims=tuple(replace(c, upper=c.upper * factor) for c in certificate.claims))
        with pytest.raises(CertificateError, match="not proven"):
            check(forged, problem.network, problem.slopes)


def test_missing_parts_are_refused() -> None:
    problem, certificate = _certified(random_mlp(0, (3, 5, 2)), norm=Norm.L1)
    with pytest.raises(CertificateError, match="no proof"):
        check(replace(certificate, claims=certificate.claims[1:]), problem.network, problem.slopes)


def test_claims_outside_the_statement_are_refused() -> None:
    problem, certificate = _certified(random_mlp(0, (3, 5, 2)))
    for change in ({"row": 7}, {"row": None}, {"sample": 3}, {"coordinate": 0}, {"row": -1}):
        claims = (replace(certificate.claims[0], **change), *certificate.claims[1:])
        with pytest.raises(CertificateError, match="not a part"):
            check(replace(certificate, claims=claims), problem.network, problem.slopes)


def test_other_statements_need_their_own_proof() -> None:
    """The same multipliers for other rows of C or another input scale prove nothing."""
    problem, certificate = _certified(random_mlp(0, (3, 5, 2)))
    for forged in (
        replace(certificate, rows=2 * certificate.rows),
        replace(certificate, rows=certificate.rows.flip(1)),
        replace(certificate, input_scale=1.5 * certificate.input_scale),
        replace(certificate, norm=Norm.L2),
        replace(certificate, output=OutputNorm.L2),
    ):
        with pytest.raises(CertificateError):
            check(forged, problem.network, problem.slopes)


def test_other_weights_and_other_networks_are_refused() -> None:
    _, certificate = _certified(random_mlp(0, (3, 5, 2)))
    other = global_problem(random_mlp(1, (3, 5, 2)))
    with pytest.raises(CertificateError, match="not proven"):
        check(certificate, other.network, other.slopes)
    larger = global_problem(random_mlp(0, (3, 6, 2)))
    with pytest.raises(CertificateError, match="made for a network"):
        check(certificate, larger.network, larger.slopes)


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(CertificateError, match="cannot be read"):
        load_certificate(path)
    for text in ("", "{", "[1]", "{}", "\x00\xff", "1e999", "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CertificateError, match=r"not a certificate|malformed|nested"):
            load_certificate(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CertificateError):
        load_certificate(path)


def test_altered_files_are_refused(tmp_path: Path) -> None:
    _, certificate = _certified(random_mlp(0, (3, 5, 2)))
    path = tmp_path / "c.json"
    save_certificate(certificate, path)
    record = json.loads(path.read_text())
    record["claims"][0]["upper"] *= 0.9
    path.write_text(json.dumps(record))
    with pytest.raises(CertificateError, match="altered"):
        load_certificate(path)
    for key, value in (("version", 99), ("format", "x")):
        path.write_text(json.dumps({**record, key: value}))
        with pytest.raises(CertificateError):
            load_certificate(path)


@given(
    key=st.sampled_from(["norm", "rows", "claims", "scope", "input_scale", "output", "network"]),
    value=st.sampled_from([None, 3, "x", [], {}, [[]], {"shape": [10**9], "float64": ""}]),
)
def test_malformed_fields_give_one_clear_error(
    key: str, value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also with a digest that fits, as a forger would write it."""
    problem, certificate = _certified(random_mlp(0, (2, 3, 1)))
    path = tmp_path_factory.mktemp("certificate") / "c.json"
    save_certificate(certificate, path)
    record = json.loads(path.read_text())
    record[key] = value
    record["digest"] = digest(record)
    path.write_text(json.dumps(record))
    with pytest.raises(CertificateError):
        check(load_certificate(path), problem.network, problem.slopes)


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    _, certificate = _certified(random_mlp(0, (2, 3, 1)))
    with pytest.raises(CertificateError, match="cannot be written"):
        save_certificate(certificate, tmp_path / "missing" / "c.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CertificateError, match="cannot be written"):
        save_certificate(certificate, tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_numbers_survive_exactly(tmp_path: Path) -> None:
    _, certificate = _certified(random_mlp(0, (2, 3, 1)))
    multipliers = certificate.claims[0].multipliers
    assert multipliers is not None
    odd = replace(multipliers, input=np.array([5e-324, 0.1]))
    path = tmp_path / "c.json"
    save_certificate(replace(certificate, claims=(replace(certificate.claims[0], multipliers=odd),)), path)
    again = load_certificate(path).claims[0].multipliers
    assert again is not None and again.input.tolist() == [5e-324, 0.1]


@pytest.mark.parametrize("shape", [[0, 2], [1, 0], [0]])
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_regions_without_inputs_are_refused(shape: list[int], norm: str, tmp_path: Path) -> None:
    _, certificate = _certified(random_mlp(0, (2, 3, 1)))
    path = tmp_path / "c.json"
    save_certificate(certificate, path)
    record = json.loads(path.read_text())
    empty = {"shape": shape, "float64": ""}
    box = norm == "inf"
    record["region"] = {
        "norm": norm,
        "center": empty,
        "lower": empty if box else None,
        "upper": empty if box else None,
        "radius": None if box else 1.0,
        "bound_method": "crown",
    }
    record["scope"] = "local"
    record["digest"] = digest(record)
    path.write_text(json.dumps(record))
    with pytest.raises(CertificateError, match="region"):
        load_certificate(path)


def test_what_is_no_certificate_is_not_written(tmp_path: Path) -> None:
    nothing: Any = None
    with pytest.raises(CertificateError, match="got NoneType; allowed is the Certificate of"):
        save_certificate(nothing, tmp_path / "c.json")
    with pytest.raises(CertificateError, match="got NoneType; allowed is the MarginCertificate of"):
        save_margins(nothing, tmp_path / "c.json")
    assert not list(tmp_path.iterdir())
