"""Numbers so small or large that error bounds would not hold are refused, and never turn into a proof."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from geolip_lirpa.activations import ReLU
from geolip_lirpa.certificate import check
from geolip_lirpa.errors import CertificateError, SpecificationError
from geolip_lirpa.lipschitz_types import LipschitzOptions
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.network_lipschitz import check_scale, global_problem, network_lipschitz
from geolip_lirpa.proof import verify
from geolip_lirpa.rounding import STATEMENT_RANGE
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.types import Norm
from tests.networks import lipschitz_instance, random_mlp


def _chain(*sizes: float) -> Network:
    return sequential(
        (1,), [(f"w{i}", linear_operator(torch.tensor([[s]], dtype=torch.float64))) for i, s in enumerate(sizes)]
    )


@pytest.mark.parametrize("sizes", [(1e-165, 1e-165, 1e165, 1e165), (1e-90, 1e-90, 1e55, 1e55, 1e55, 1e15), (5e-324,)])
def test_products_that_underflow_are_refused(sizes: tuple[float, ...]) -> None:
    """The constant of the first chain is one; in floating point its product is zero."""
    with pytest.raises(SpecificationError, match="Rescale"):
        network_lipschitz(global_problem(_chain(*sizes)), LipschitzOptions())


@pytest.mark.parametrize("method", ["sdp", "norm-product", "entrywise"])
def test_denormal_float32_weights_are_bounded(method: str) -> None:
    network = _chain(1e-45, 1e-38)
    result = network_lipschitz(global_problem(network), LipschitzOptions(method=method))
    assert 1e-83 <= float(result.upper[0, 0]) <= 1.000001e-83


@pytest.mark.parametrize("value", [5e-324, 1e-162, 1e200, np.inf, np.nan])
def test_statements_out_of_range_are_refused(value: float) -> None:
    network = random_mlp(0, (3, 4, 2))
    with pytest.raises(SpecificationError):
        global_problem(network, torch.tensor([[value, 0.0]], dtype=torch.float64))
    with pytest.raises(SpecificationError):
        check_scale(torch.tensor([1.0, 1.0, value], dtype=torch.float64), network)


def test_a_scale_of_zeros_is_refused() -> None:
    with pytest.raises(SpecificationError, match="not all zero"):
        check_scale(torch.zeros(3), random_mlp(0, (3, 4, 2)))


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-200, 1e200])
def test_multipliers_that_underflow_prove_nothing(size: float) -> None:
    instance = lipschitz_instance(random_mlp(0, (3, 4, 1)))
    small = instance.with_rows(torch.tensor([[1e-12]], dtype=torch.float64))
    for sigma in (1.0, size):
        forged = Multipliers((np.full(4, size),), np.full(3, size), np.full(1, sigma))
        assert verify(small, forged) is None
        assert verify(small, replace(forged, hidden=(np.ones(4),))) is None


def test_certificates_out_of_range_are_refused() -> None:
    problem = global_problem(random_mlp(0, (3, 4, 1)))
    certificate = network_lipschitz(problem, LipschitzOptions(lower_bounds=False)).certificate
    assert certificate is not None
    for forged in (
        replace(certificate, rows=certificate.rows * 1e-200),
        replace(certificate, input_scale=certificate.input_scale * 1e-200),
    ):
        with pytest.raises(CertificateError, match="does not fit"):
            check(forged, problem.network, problem.slopes)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("size", [1e-55, 1e-12, 1e12, 1e55])
def test_bounds_scale_with_c_over_the_whole_range(norm: Norm, size: float) -> None:
    network = random_mlp(3, (3, 5, 1))
    assert STATEMENT_RANGE.holds(torch.tensor([size], dtype=torch.float64))
    reference = network_lipschitz(global_problem(network), LipschitzOptions(norm=norm)).upper
    scaled = network_lipschitz(
        global_problem(network, torch.tensor([[size]], dtype=torch.float64)), LipschitzOptions(norm=norm)
    )
    assert float(scaled.upper[0, 0]) == pytest.approx(float(reference[0, 0]) * size, rel=1e-5)
    assert float(scaled.lower[0, 0]) <= float(scaled.upper[0, 0])
    assert all(r.solver == "low-rank" for r in scaled.rows)


def test_a_scalar_between_layers_is_bounded() -> None:
    """Nodes of shape () are as good as any other."""
    operator = replace(
        linear_operator(torch.ones(1, 2)), function=lambda x, p: torch.nn.functional.linear(x[0], p[0])[:, 0]
    )
    network = sequential((2,), [("dot", operator), ("relu", ReLU())])
    assert float(network_lipschitz(global_problem(network), LipschitzOptions()).upper[0, 0]) == pytest.approx(2.0)
