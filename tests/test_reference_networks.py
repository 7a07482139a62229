"""Bounds of published and trained networks against values that other solvers found."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor

from geolip_lirpa.activations import ReLU
from geolip_lirpa.lipschitz import check_certificate, compute_lipschitz
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzResult
from geolip_lirpa.lirpa import bounded_module, extract_network
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.network_lipschitz import global_problem, network_lipschitz
from geolip_lirpa.onnx_model import load_onnx
from geolip_lirpa.types import Norm, OutputNorm, Proof

RELU = (
    "digits_64-8-10", "digits_64-16-10", "digits_64-64-10", "digits_64-64-64-10", "digits_64-64x6-10", "mnist_784-8-10",
    "mnist_784-16-10", "mnist_784-64-10", "mnist_784-256-10", "mnist_784-64-64-10", "mnist_784-64x6-10",
    "rand_10-20-20-1", "rand_784-64-10",
)  # fmt: skip


def _row(folder: Path, network: str, norm: str) -> dict[str, str]:
    with (folder / "reference.csv").open() as file:
        return next(r for r in csv.DictReader(file) if r["network"] == f"{network}.onnx" and r["norm"] == norm)


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize("name", RELU)
def test_relu_networks(reference_data: Path, name: str, norm: str) -> None:
    folder = reference_data / "networks" / "relu"
    reference = _row(folder, name, norm)
    model = bounded_module(load_onnx(folder / f"{name}.onnx"))
    rows = torch.zeros((1, 1, 1 if name.endswith("-1") else 10))
    rows[0, 0, 0] = 1.0
    result = compute_lipschitz(model, C=rows, norm=norm)
    upper, lower = float(result.upper[0, 0]), float(result.lower[0, 0])
    assert result.rows[0].proof is Proof.RIGOROUS
    assert float(reference["pattern_lower_bound"]) * (1 - 1e-7) <= upper
    assert lower <= upper and lower >= 0.9 * float(reference["attained_lower_bound"])
    if reference["sdp_value"]:
        # the reference is printed with eight digits
        assert upper == pytest.approx(float(reference["sdp_value"]), rel=1e-5)
        assert upper >= float(reference["sdp_value"]) * (1 - 1e-7)
    assert result.certificate is not None
    assert torch.equal(check_certificate(result.certificate, model), result.upper)


def _mat_network(path: Path) -> Network:
    data = scipy.io.loadmat(path)
    if "weights" in data:
        weights = [np.asarray(w, dtype=np.float64) for w in data["weights"][0]]
    else:
        names = sorted(k for k in data if k.startswith("fc") and k.endswith("weight"))
        weights = [np.asarray(data[k], dtype=np.float64).T for k in names]
    operations: list[tuple[str, object]] = []
    for number, weight in enumerate(weights):
        operations.append((f"fc{number}", linear_operator(torch.from_numpy(weight))))
        if number < len(weights) - 1:
            operations.append((f"relu{number}", ReLU()))
    return sequential((weights[0].shape[1],), operations)  # type: ignore[arg-type]


def _bound(network: Network, norm: Norm, output: OutputNorm, rows: Tensor | None = None) -> LipschitzResult:
    return network_lipschitz(global_problem(network, rows), LipschitzOptions(norm=norm, output=output))


def test_random_weights_have_their_closed_form(reference_data: Path) -> None:
    network = _mat_network(reference_data / "networks" / "lipschitz_ref" / "random_weights.mat")
    vector = _bound(network, Norm.L2, OutputNorm.L2)
    assert float(vector.upper[0, 0]) == pytest.approx(36.48223, rel=1e-6)
    rows = _bound(network, Norm.LINF, OutputNorm.ROWS).upper[0]
    # known lower bounds 37.0319 and 35.9218, printed with four decimals
    assert float(rows[0]) >= 37.0319 - 5e-5 and float(rows[1]) >= 35.9218 - 5e-5
    assert all(r.proof is Proof.RIGOROUS for r in vector.rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("family", ["fnn2", "fnn3"])
def test_published_lipsdp_values(reference_data: Path, family: str, seed: int) -> None:
    folder = reference_data / "networks" / "lipschitz_ref"
    with (folder / "reference_l2.csv").open() as file:
        values = {
            r["method"]: float(r["value"]) for r in csv.DictReader(file) if r["file"] == f"{family}_seed{seed}.mat"
        }
    network = _mat_network(folder / f"{family}_seed{seed}.mat")
    rows = torch.zeros((1, 10), dtype=torch.float64)
    rows[0, 7] = 1.0
    upper = float(_bound(network, Norm.L2, OutputNorm.ROWS, rows).upper[0, 0])
    assert upper == pytest.approx(values["Lip_LipSDP"], rel=1e-5)
    assert upper >= values["Lip_lb"]


def _samples(model: Network, center: Tensor, spread: float, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = center + spread * torch.randn((count, *model.input_shape), dtype=torch.float64, generator=generator)
    size = 10.0 ** (3 * torch.rand((count,), dtype=torch.float64, generator=generator) - 3)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=generator).sign()
    return x, x + spread * size.reshape(-1, *[1] * len(model.input_shape)) * direction


@pytest.mark.parametrize("name", ["tansig_200_50_onnx", "logsig_200_50_onnx"])
def test_sampled_secants_of_smooth_networks_stay_below(reference_data: Path, name: str) -> None:
    folder = reference_data / "networks" / "tanh_sigmoid"
    model = bounded_module(load_onnx(folder / f"{name}.onnx", logits=True))
    network = extract_network(model)
    images = np.stack(
        [np.loadtxt(folder / "images" / f"image{i}", delimiter=",", usecols=range(784)) for i in range(1, 26)]
    )
    centers = torch.from_numpy(images).reshape(25, *network.input_shape)
    for norm in (Norm.LINF, Norm.L2):
        rows = torch.eye(10, dtype=torch.float64)[None, :2]
        upper = compute_lipschitz(model, C=rows, norm=norm, lower_bounds=False).upper[0]
        for spread in (0.1, 3.0, 30.0):
            x, y = _samples(network, centers[torch.arange(200) % 25], spread, 200, 0)
            change = (network.forward(x) - network.forward(y)).abs()[:, :2]
            distance = (x - y).flatten(1).norm(p=norm.p, dim=1, keepdim=True)
            assert bool((change / distance <= upper).all())
