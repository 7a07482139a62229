"""Sparse matrices of operators and the forms built from them, against unit columns sent through the network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa import affine, form_blocks
from geolip_lirpa.activations import ReLU
from geolip_lirpa.blocks import dense
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import AffineOperator, Network, Node, sequential
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.sparse_maps import sparse_matrices
from geolip_lirpa.types import Norm
from tests.networks import lipschitz_instance, random_linear, signed_sum, with_random_slopes
from tests.test_affine import MAPS
from tests.test_operator_norms import small_residual

#: Maps without a rule; networks with them are treated column by column.
WITHOUT = {"matmul right", "matmul vector", "matmul left", "gemm of two", "conv3d", "running sum"}


@pytest.mark.parametrize("name", MAPS)
def test_matrices_hold_the_operators_own_numbers(name: str) -> None:
    operator, shapes, _ = MAPS[name]()
    zeros = tuple(torch.zeros((1, *shape), dtype=torch.float64) for shape in shapes)
    result = tuple(operator.affine(zeros).shape[1:])
    matrices = sparse_matrices(operator, shapes, result)
    assert (matrices is None) == (name in WITHOUT)
    for chosen, matrix in enumerate(matrices or []):
        size = math.prod(shapes[chosen])
        units = torch.eye(size, dtype=torch.float64).reshape(size, *shapes[chosen])
        inputs = tuple(
            units if i == chosen else torch.zeros((size, *s), dtype=torch.float64) for i, s in enumerate(shapes)
        )
        assert np.array_equal(operator.linear(inputs).reshape(size, -1).T.numpy(), matrix.toarray())


def both(instance: SdpInstance, patch: pytest.MonkeyPatch) -> tuple[form_blocks.FormBlocks, form_blocks.FormBlocks]:
    """Blocks from dense columns and from sparse matrices."""
    found = []
    for threshold in (math.inf, 0):
        patch.setattr(form_blocks, "_SPARSE_FROM", threshold)
        found.append(form_blocks.build_blocks(instance.network, instance.slopes, instance.input_scale))
    return found[0], found[1]


def branches(seed: int) -> Network:
    """Two convolutions side by side, a difference, a pool, flattening, linear."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 6, 6)

    def conv() -> AffineOperator:
        weight = torch.randn((2, 2, 3, 3), generator=generator) / 3
        return affine.convolution(weight, torch.randn(2, generator=generator), stride=[1] * 2, padding=[1] * 2,
                                  dilation=[1] * 2)  # fmt: skip

    return Network(
        (
            Node("input", shape),
            Node("a", shape, (0,), conv()),
            Node("relu0", shape, (1,), ReLU()),
            Node("b", shape, (2,), conv()),
            Node("c", shape, (0,), conv()),
            Node("minus", shape, (3, 4), signed_sum(1.0, -1.0)),
            Node("relu1", shape, (5,), ReLU()),
            Node("pool", (2, 3, 3), (6,), affine.average_pool([2, 2], [2, 2], [0, 0])),
            Node("flat", (18,), (7,), affine.movement("Flatten", torch.arange(18))),
            Node("head", (3,), (8,), random_linear(3, 18, generator)),
        )
    )


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["residual", "branches"]),
    local=st.booleans(),
    norm=st.sampled_from([Norm.L2, Norm.LINF]),
)
def test_forms_agree(seed: int, kind: str, local: bool, norm: Norm) -> None:
    """Values up to rounding, and each within its bound of the other."""
    network = {"residual": small_residual, "branches": branches}[kind](seed)
    scale = torch.rand(network.input_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    instance = lipschitz_instance(network, norm=norm, input_scale=scale)
    if local:
        instance = with_random_slopes(instance, seed)
    with pytest.MonkeyPatch.context() as patch:
        plain, sparse = both(instance, patch)
    assert plain.hidden.keys() >= sparse.hidden.keys()
    for key, block in plain.hidden.items():
        mine = dense(sparse.hidden[key]) if key in sparse.hidden else np.zeros(block.shape)
        error = dense(plain.hidden_error[key]) if key in plain.hidden_error else np.zeros(block.shape)
        own = dense(sparse.hidden_error[key]) if key in sparse.hidden_error else np.zeros(block.shape)
        assert (np.abs(dense(block) - mine) <= error + own).all()
        assert (own <= 1e-13).all() and ((mine == 0) | (own < 1e-10 * np.abs(dense(block)).max())).all()
    for s, flow in plain.output.items():
        other = sparse.output[s]
        size = flow.value.shape[0]
        assert torch.allclose(flow.value.reshape(size, -1), other.value, rtol=1e-12, atol=1e-14)
        assert flow.roundings == other.roundings


def test_exact_blocks_stay_exact() -> None:
    """One convolution applied to unit columns rounds nothing."""
    instance = lipschitz_instance(small_residual(0))
    with pytest.MonkeyPatch.context() as patch:
        plain, sparse = both(instance, patch)
    assert plain.hidden_error.keys() == sparse.hidden_error.keys()
    assert np.array_equal(dense(plain.hidden[1, 0]), dense(sparse.hidden[1, 0]))


def test_networks_with_other_maps_are_treated_column_by_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_blocks, "_SPARSE_FROM", 0)
    weight = torch.ones((2, 1, 3))
    operations = [
        ("conv", affine.convolution(weight, stride=[1], padding=[1], dilation=[1])),
        ("sums", affine.cumulative_sum(1, (2, 5))),
        ("relu", ReLU()),
    ]
    network = sequential((1, 5), operations)
    instance = lipschitz_instance(network)
    assert form_blocks.network_matrices(network) is None
    blocks = form_blocks.build_blocks(network, instance.slopes, instance.input_scale)
    assert blocks.hidden[1, 0].shape == (10, 5)


@pytest.mark.parametrize("size", [1e-165, 1e70])
def test_coefficients_out_of_range_are_refused(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_blocks, "_SPARSE_FROM", 0)
    conv = affine.convolution(torch.full((1, 1, 1), size, dtype=torch.float64), stride=[1], padding=[0], dilation=[1])
    with pytest.raises(SpecificationError, match="Rescale"):
        _ = lipschitz_instance(sequential((1, 3), [("conv", conv), ("relu", ReLU())])).forms


def test_products_that_underflow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_blocks, "_SPARSE_FROM", 0)
    conv = affine.convolution(torch.full((1, 1, 1), 1e-90, dtype=torch.float64), stride=[1], padding=[0], dilation=[1])
    network = sequential((1, 3), [("a", conv), ("b", conv), ("relu", ReLU())])
    with pytest.raises(SpecificationError, match="Rescale"):
        _ = lipschitz_instance(network).forms
