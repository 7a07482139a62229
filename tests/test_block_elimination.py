"""Elimination along the graph proves what is positive semidefinite, in any order and storage, and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from geolip_lirpa import blocks, form_blocks
from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.affine import convolution, movement
from geolip_lirpa.block_elimination import (
    Pattern,
    eliminate,
    elimination_cost,
    elimination_order,
    is_positive_semidefinite_matrix,
    rounding_of_elimination,
    schur_complement,
)
from geolip_lirpa.lmi import BlockMatrix, assemble_lmi, error_norm, lipschitz_terms, scale_to_unit_diagonal
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.proof import prove, verify
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual, with_random_slopes

seeds = st.integers(0, 10_000)


def _random_matrix(seed: int, sparse: bool, shift: float, integers: bool = False) -> BlockMatrix:
    """Random blocks, some diagonal, some couplings missing; `shift` is added to the diagonal."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=rng.integers(2, 6))
    diagonal, coupling = [], {}
    for s, n in enumerate(sizes):
        square = rng.integers(-4, 5, size=(n, n)).astype(float) if integers else rng.normal(size=(n, n))
        whole = square + square.T + shift * np.eye(n)
        diagonal.append(np.abs(whole.diagonal()) + shift if rng.random() < 0.5 else whole)
        for t in range(s):
            if rng.random() < 0.7:
                part = rng.integers(-4, 5, size=(n, sizes[t])).astype(float)
                coupling[s, t] = csr_array(part) if sparse and rng.random() < 0.7 else part
    return BlockMatrix(diagonal, coupling)


def _copy(matrix: BlockMatrix) -> BlockMatrix:
    return BlockMatrix([d.copy() for d in matrix.diagonal], {k: b.copy() for k, b in matrix.coupling.items()})


@given(seed=seeds, sparse=st.booleans(), shift=st.sampled_from([1.0, 10.0, 25.0, 40.0]))
def test_elimination_agrees_with_the_eigenvalues_in_every_order(seed: int, sparse: bool, shift: float) -> None:
    matrix = _random_matrix(seed, sparse, shift)
    smallest = float(np.linalg.eigvalsh(matrix.to_dense())[0])
    if abs(smallest) < 1e-6:
        return
    for order in itertools.islice(itertools.permutations(range(len(matrix.diagonal))), 24):
        assert eliminate(_copy(matrix), order) == (smallest > 0)
    assert is_positive_semidefinite_matrix(_copy(matrix), 0.0) == (smallest > 0)
    assert not is_positive_semidefinite_matrix(_copy(matrix), max(smallest, 0.0) * (1 + 1e-9) + 1e-12)
    assert smallest < 0 or is_positive_semidefinite_matrix(_copy(matrix), 0.9 * smallest)


@given(seed=seeds, sparse=st.booleans())
def test_schur_complement_of_the_last_block(seed: int, sparse: bool) -> None:
    matrix = _random_matrix(seed, sparse, 60.0)
    whole, last = matrix.to_dense(), len(matrix.diagonal[-1])
    inner, cross = whole[:-last, :-last], whole[-last:, :-last]
    found = schur_complement(matrix, elimination_order(matrix))
    assert found is not None
    np.testing.assert_allclose(found, whole[-last:, -last:] - cross @ np.linalg.solve(inner, cross.T), atol=1e-9)


@given(seed=seeds, exponent=st.integers(-18, -6))
def test_a_slightly_negative_eigenvalue_is_never_accepted(seed: int, exponent: int) -> None:
    """F F^T of low rank with integer entries, minus a power of two on the diagonal: exact and indefinite."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, size=3)
    total = int(sizes.sum())
    factor = rng.integers(-8, 9, size=(total, total - 1)).astype(float)
    whole = factor @ factor.T - np.ldexp(1.0, exponent) * np.eye(total)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    places = [slice(ends[i], ends[i + 1]) for i in range(3)]
    coupling = {(t, s): whole[places[t], places[s]] for t in range(3) for s in range(t)}
    assert not is_positive_semidefinite_matrix(BlockMatrix([whole[p, p] for p in places], coupling), 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sparse", [False, True])
def test_nan_and_infinity_are_refused(bad: float, sparse: bool) -> None:
    part = np.zeros((3, 2))
    part[1, 1] = bad
    coupling = {(1, 0): csr_array(part) if sparse else part}
    assert not is_positive_semidefinite_matrix(BlockMatrix([np.ones(2), np.ones(3)], coupling), 0.0)
    assert not is_positive_semidefinite_matrix(BlockMatrix([np.array([1.0, bad]), np.ones(3)], {}), 0.0)
    assert not is_positive_semidefinite_matrix(BlockMatrix([np.ones(2)], {}), bad)


@settings(max_examples=30)
@given(seed=seeds, sparse=st.booleans())
def test_rounding_bound_covers_the_backward_error(seed: int, sparse: bool) -> None:
    """The factor's product, in rational arithmetic, differs from the matrix by less than the bound."""
    matrix = _random_matrix(seed, sparse, 60.0)
    whole = matrix.to_dense()
    order = elimination_order(matrix)
    bound = rounding_of_elimination(matrix, order)
    offsets = np.concatenate([[0], np.cumsum(matrix.sizes)])
    permutation = np.concatenate([np.arange(offsets[s], offsets[s + 1]) for s in order])
    permuted = whole[np.ix_(permutation, permutation)]
    factor = np.linalg.cholesky(permuted)
    exact = [[Fraction(v) for v in row] for row in factor.tolist()]
    errors = [
        [
            abs(sum(a * b for a, b in zip(p, q, strict=True)) - Fraction(float(v)))
            for q, v in zip(exact, row, strict=True)
        ]
        for p, row in zip(exact, permuted, strict=True)
    ]
    assert max(float(sum(row)) for row in errors) <= bound
    assert bound <= 1e-9


# --- the matrix of a network ------------------------------------------------------------------------------------------


def _convolutional(seed: int, activation: ReLU | None = None) -> Network:
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / 4

    geometry = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}
    act = activation or ReLU()
    return sequential(
        (1, 16, 16),
        [
            ("conv0", convolution(weight(4, 1, 4, 4), **geometry)),
            ("act0", act),
            ("conv1", convolution(weight(6, 4, 4, 4), **geometry)),
            ("act1", act),
            ("flatten", movement("Flatten", torch.arange(96))),
            ("linear0", linear_operator(weight(20, 96))),
            ("act2", act),
            ("linear1", linear_operator(weight(3, 20))),
        ],
    )


def _multipliers(instance: SdpInstance, seed: int) -> Multipliers:
    rng = np.random.default_rng(seed)
    hidden = tuple(rng.uniform(0.1, 2, s.lower.numel()) for s in instance.slopes)
    size = 1 if instance.input_norm is Norm.L2 else instance.input_scale.numel()
    return Multipliers(hidden, rng.uniform(0.1, 2, size), np.ones(instance.rows.shape[0]))


@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.1)])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_sparse_storage_and_chunks_change_nothing(
    activation: ReLU, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _convolutional(1, activation)
    instance = lipschitz_instance(network, norm=norm)
    multipliers = _multipliers(instance, 2)
    assert isinstance(instance.forms.blocks[1, 0], csr_array)
    monkeypatch.setattr(blocks, "_SMALLEST_SPARSE", 10**9)
    monkeypatch.setattr(form_blocks, "_CHUNK_BYTES", 8 * 1024 * 7)
    plain = lipschitz_instance(network, norm=norm)
    assert not any(isinstance(b, csr_array) for b in plain.forms.blocks.values())
    matrix, same = assemble_lmi(instance.forms, multipliers), assemble_lmi(plain.forms, multipliers)
    np.testing.assert_allclose(matrix.to_dense(), same.to_dense(), rtol=1e-14, atol=1e-13)
    first, second = scale_to_unit_diagonal(matrix), scale_to_unit_diagonal(same)
    error = error_norm(lipschitz_terms(instance.forms, multipliers), first)
    assert error == pytest.approx(error_norm(lipschitz_terms(plain.forms, multipliers), second), rel=1e-9)
    assert 0 <= error < 1e-10


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.1)])
def test_convolutional_networks_are_proven_with_little_loss(activation: ReLU, norm: Norm) -> None:
    instance = lipschitz_instance(_convolutional(3, activation), norm=norm)
    result = LowRankSolver().solve([instance])[0]
    proven = prove(instance, result.multipliers)
    assert result.value is not None
    assert result.value <= proven.upper <= result.value * (1 + 1e-5)
    again = verify(instance, proven.multipliers)
    assert again is not None and again <= proven.upper


@settings(max_examples=20)
@given(seed=seeds, residual=st.booleans(), norm=st.sampled_from([Norm.LINF, Norm.L2]), vector=st.booleans())
def test_proofs_hold_against_eigenvalues(seed: int, residual: bool, norm: Norm, vector: bool) -> None:
    """What verify accepts has a matrix without an eigenvalue that is clearly negative, whatever the slopes."""
    network = random_residual(seed) if residual else random_mlp(seed, (4, 6, 5, 5, 2))
    output = OutputNorm.L2 if vector else OutputNorm.ROWS
    instance = with_random_slopes(lipschitz_instance(network, norm=norm, output=output), seed)
    rng = np.random.default_rng(seed)
    base = _multipliers(instance, seed)
    for grading in (1.0, 4.0, 30.0):
        depth = len(base.hidden)
        hidden = tuple(h * grading ** (depth - l) for l, h in enumerate(base.hidden))
        tried = replace(
            base, hidden=hidden, input=base.input * grading ** (depth + 1), output=base.output * rng.uniform(1, 50)
        )
        matrix = assemble_lmi(instance.forms, tried).to_dense()
        smallest, size = float(np.linalg.eigvalsh(matrix)[0]), float(np.abs(matrix).max())
        proven = verify(instance, tried)
        assert proven is None or smallest > -1e-12 * size
        assert proven is not None or smallest < 1e-9 * size


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("fixed", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 2}, {0, 1, 2}])
def test_layers_without_a_free_neuron_are_proven(fixed: set[int], norm: Norm) -> None:
    """Blocks of size zero stay in the numbering."""
    instance = lipschitz_instance(random_mlp(5, (4, 6, 5, 7, 1)), norm=norm)
    slopes = tuple(SlopeInterval(s.upper, s.upper) if l in fixed else s for l, s in enumerate(instance.slopes))
    instance = replace(instance, slopes=slopes)
    proven = prove(instance, LowRankSolver().solve([instance])[0].multipliers)
    free = [s for s in slopes if not bool(s.fixed.all())]
    assert [len(k) for k in instance.forms.kept].count(0) == len(fixed) and len(free) == 3 - len(fixed)
    gradient = torch.eye(4, dtype=torch.float64)
    exact = instance.network.propagate(gradient, lambda l, v: v)
    assert proven.upper >= float(exact.norm(p=1 if norm is Norm.LINF else 2)) * (1 - 1e-12)
    again = verify(instance, proven.multipliers)
    assert again is not None and again <= proven.upper


# --- order and cost ---------------------------------------------------------------------------------------------------


def test_every_other_layer_of_a_chain_leaves_without_a_factorisation() -> None:
    sizes = [784, 3136, 1568, 100, 1]
    entries = {(1, 0): 3136 * 16.0, (2, 1): 1568 * 256.0, (3, 2): 156_800.0, (4, 3): 100.0}
    cost = elimination_cost(Pattern(sizes, set(range(5)), entries))
    # not the 10^10 of a factorisation of the largest layer
    assert cost.operations < 6e9 and cost.order[-1] == 4 and sorted(cost.order) == [0, 1, 2, 3, 4]
    assert cost.bytes < 2e8


def test_a_deep_chain_costs_in_proportion_to_its_depth() -> None:
    def cost(depth: int) -> float:
        sizes = [64] * depth + [1]
        return elimination_cost(
            Pattern(sizes, set(range(depth + 1)), {(l + 1, l): 4096.0 if l < depth - 1 else 64.0 for l in range(depth)})
        ).operations

    assert cost(40) <= 2.3 * cost(20)
