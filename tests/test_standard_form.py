"""The sparse pair of programs against the quadratic form it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lmi import assemble_lmi
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.sparse_sdp import SparseMatrices, SparseSdp
from geolip_lirpa.standard_form import standard_form
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual, with_random_slopes


def dense(matrices: SparseMatrices, index: int, size: int) -> np.ndarray:
    """One symmetric matrix of a family."""
    mine = matrices.index == index
    result = np.zeros((size, size))
    result[matrices.rows[mine], matrices.cols[mine]] = matrices.values[mine]
    return result + np.tril(result, -1).T


def _lmi(sdp: SparseSdp, x: np.ndarray) -> np.ndarray:
    total = sum(value * dense(sdp.constraints, i, sdp.size) for i, value in enumerate(x))
    return total - dense(sdp.objective, 0, sdp.size)


def _shifted_point(instance: SdpInstance, y: np.ndarray) -> np.ndarray:
    """(w, t) with t = dz - alpha dv, from (w, dz)."""
    forms = instance.forms
    t = y.copy()
    for (l, s), block in forms.hidden.items():
        t[forms.block(l)] -= forms.lower[l - 1] * (block @ y[forms.block(s)])
    return t


@given(
    st.integers(0, 10_000), st.sampled_from(list(Norm)[1:]), st.sampled_from([OutputNorm.L1, OutputNorm.L2]),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_matrices_are_the_linear_matrix_inequality(seed, norm, output, tie_input, tie_layers, residual) -> None:
    network = random_residual(seed) if residual else random_mlp(seed, (4, 5, 3, 2))
    plain = lipschitz_instance(network, norm=norm, output=output, tie_input=tie_input, tie_layers=tie_layers)
    instance = with_random_slopes(plain, seed)
    sdp = standard_form(instance)
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 2, len(sdp.rhs))
    multipliers = sdp.multipliers(x, instance)
    lmi = assemble_lmi(instance.forms, multipliers).to_dense()
    y, u = rng.standard_normal(instance.forms.size), rng.standard_normal(instance.rows.shape[0])
    expected = np.concatenate([y, u]) @ lmi @ np.concatenate([y, u])
    point = np.concatenate([_shifted_point(instance, y), u])
    assert point @ _lmi(sdp, x) @ point == pytest.approx(expected, rel=1e-9, abs=1e-9)
    sigma = multipliers.output.max() if output is OutputNorm.L2 else multipliers.output.sum()
    assert sdp.rhs @ x == pytest.approx((multipliers.input.sum() + sigma) / 2)


def test_no_dense_block_for_lower_slopes_that_are_not_zero() -> None:
    plain = standard_form(lipschitz_instance(random_mlp(0, (30, 20, 1), ReLU())))
    leaky = standard_form(lipschitz_instance(random_mlp(0, (30, 20, 1), LeakyReLU(0.1))))
    # one output form on the inputs more, which reach the output directly with slope 0.1
    assert len(leaky.constraints.values) == len(plain.constraints.values)
    assert len(leaky.objective.values) == len(plain.objective.values) + 30


def test_multipliers_have_full_length_and_zeros_for_what_left_the_program() -> None:
    network = random_mlp(1, (3, 4, 1))
    scale = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    instance = lipschitz_instance(network, input_scale=scale)
    fixed = torch.tensor([True, False, False, False])
    slopes = (SlopeInterval(torch.zeros(4, dtype=torch.float64), (~fixed).to(torch.float64)),)
    instance = SdpInstance(network, slopes, Norm.LINF, scale, instance.rows)
    sdp = standard_form(instance)
    multipliers = sdp.multipliers(np.where(np.arange(len(sdp.rhs)) == 1, -1.0, 5.0), instance)
    assert multipliers.input.tolist() == [5.0, 0.0, 0.0]  # the third was negative
    assert multipliers.hidden[0].tolist() == [0.0, 5.0, 5.0, 5.0]
    assert multipliers.output.tolist() == [5.0]


def test_unknown_form_and_constant_output_are_refused() -> None:
    instance = lipschitz_instance(random_mlp(0, (3, 4, 2)))
    with pytest.raises(SpecificationError, match="form: got 'primal'; allowed are dual and natural"):
        standard_form(instance, "primal")
    with pytest.raises(SpecificationError, match="do not depend on the input"):
        standard_form(instance.with_rows(torch.zeros((1, 2), dtype=torch.float64)))
