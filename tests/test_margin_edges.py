"""Margins at the edges: domains in float64, NaN in proofs, sizes that leave float64 or float32."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geolip_lirpa.activations import ReLU
from geolip_lirpa.certificate import Claim
from geolip_lirpa.cli.certify_request import CertifyRequest
from geolip_lirpa.cli.certify_run import _Run
from geolip_lirpa.errors import CertificateError, SpecificationError
from geolip_lirpa.lirpa.compat import load_host
from geolip_lirpa.margin_certificate import check_margins
from geolip_lirpa.margin_queries import compute_margins
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_types import MarginOptions, MarginProblem, MarginResult
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.types import Norm
from tests.networks import random_mlp

DOMAIN = (0.1, 0.7)


def margins_of(network: Network, margin_set: MarginSet, method: str) -> MarginResult:
    rows = torch.eye(network.output_size, dtype=torch.float64)[None]
    problem = MarginProblem(network, (margin_set,), rows, torch.zeros(rows.shape[:2], dtype=torch.float64))
    return network_margins(problem, MarginOptions(method, enough=None))


def boxed_margins(domain: tuple[Tensor | float, Tensor | float], upper: float | None) -> Tensor:
    """Of x and -x over [0, 1], or a box up to another end that is no ball, and a domain."""
    host = load_host()
    module = nn.Linear(1, 2, bias=False).double()
    module.weight.data = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    x = torch.tensor([[0.5]], dtype=torch.float64)
    ends = {} if upper is None else {"x_L": torch.zeros_like(x), "x_U": torch.full_like(x, upper)}
    bounded = host.BoundedTensor(x, host.PerturbationLpNorm(norm=math.inf, eps=0.5, **ends))
    return compute_margins(host.BoundedModule(module, x), (bounded,), domain=domain).lower[0]


@pytest.mark.parametrize("upper", [None, 0.95])
def test_domains_are_not_rounded_to_float32(upper: float | None) -> None:
    """float32 of 0.1 lies above 0.1 and that of 0.7 below 0.7: both would make the set smaller."""
    lower = boxed_margins(DOMAIN, upper)
    assert float(lower[0]) <= DOMAIN[0] and float(lower[1]) <= -DOMAIN[1]


def certify_run(folder: Path, **changes: object) -> _Run:
    """A run on two images of one pixel; the outputs are 0.7 (float32) and the pixel."""
    np = pytest.importorskip("numpy")
    onnx = pytest.importorskip("onnx")
    weights = {"W": np.array([[0.0], [1.0]], np.float32), "B": np.array([0.7, 0.0], np.float32)}
    ends = [onnx.helper.make_tensor_value_info(n, 1, [1, k]) for n, k in (("x", 1), ("y", 2))]
    node = onnx.helper.make_node("Gemm", ["x", "W", "B"], ["y"], transB=1)
    initial = [onnx.numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], initial)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", images=np.array([[0.5], [0.6]]), labels=np.array([0, 0]))
    request = CertifyRequest(
        model=folder / "model.onnx", data=folder / "data.npz", norm=Norm.LINF, eps=0.5, images=None, targets=None,
        clip=None, method="combined", bounds="crown", solver="auto", gap=0.0, logits=False, final_node=None,
        resume=None, certificates=None, seed=0, format="json", quiet=True, debug=False,
    )  # fmt: skip
    return _Run(replace(request, **changes))  # type: ignore[arg-type]


def test_clip_is_not_rounded_to_float32(tmp_path: Path) -> None:
    """Over [0, 0.7] the margin falls to float32(0.7) - 0.7, which is negative."""
    bias = float(torch.tensor(0.7, dtype=torch.float32))
    for image in certify_run(tmp_path, clip=(0.0, 0.7)).outcome().images:
        assert image.lower is not None and image.lower <= bias - 0.7 < 0
        assert image.status != "proven"


def test_nan_proves_no_lipschitz_constant() -> None:
    r"""The network :math:`-\max(x_1 + 10 x_2, 0)` over an l_1 ball: the claim on the second coordinate is NaN."""
    first = linear_operator(torch.tensor([[1.0, 10.0]]), None)
    network = sequential((2,), [("a", first), ("r", ReLU()), ("b", linear_operator(torch.tensor([[-1.0]]), None))])
    margin_set = MarginSet(torch.ones(2, dtype=torch.float64), 0.5, Norm.L1)
    honest = margins_of(network, margin_set, "geolip").certificate
    assert float(check_margins(honest, network)[0, 0]) <= -16.0
    forged = (Claim(0, 0, 0, 1.01, None), Claim(0, 0, 1, math.nan, None))
    proof, claim = replace(honest.lipschitz[0], claims=forged), replace(honest.claims[0], lower=-11.6)
    with pytest.raises(CertificateError, match="not proven"):
        check_margins(replace(honest, lipschitz=(proof,), claims=(claim,)), network)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("method", ["crown", "alpha-crown", "sdp", "combined"])
@pytest.mark.parametrize("eps", [0.0, 1e45, 1e160, 1e300])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_radius_is_too_small_or_large(norm: Norm, method: str, eps: float) -> None:
    """Squares leave float64, the search leaves float32, no input of a box is free: bounds become weak, never errors."""
    network = random_mlp(3, (3, 4, 2))
    center = torch.zeros(3, dtype=torch.float64)
    for limit in (None, center):
        result = margins_of(network, MarginSet(center, eps, norm, limit, None), method)
        assert bool((result.lower <= result.attacked).all())
        assert bool((result.attacked <= network.forward(center[None])[0] + 1e-9).all())


def test_seeds_that_no_generator_takes_are_refused() -> None:
    for seed in (-1, 2**63):
        with pytest.raises(SpecificationError, match="seed"):
            MarginOptions(seed=seed)
