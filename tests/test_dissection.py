"""Division of the matrix along the image: the same matrix, the same proofs, for less work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from geolip_lirpa import dissection
from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import Activation
from geolip_lirpa.block_elimination import EliminationCost, is_positive_semidefinite_matrix, schur_complement
from geolip_lirpa.dissection import Arrangement, arrangement_of, dissect
from geolip_lirpa.dissection_cost import dissection_cost
from geolip_lirpa.lmi import BlockMatrix, assemble_lmi
from geolip_lirpa.network import sequential
from geolip_lirpa.proof import prove, verify
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm
from tests.networks import lipschitz_instance, random_convnet, random_linear

UNKNOWN = EliminationCost((), 0.0, 0.0)


def random_matrix(seed: int, dense_block: bool = False) -> BlockMatrix:
    """A symmetric matrix of three blocks with places, and one row that is coupled with everything."""
    generator = np.random.default_rng(seed)
    sizes = [30, 25, 20, 2]
    places: list[np.ndarray | None] = [generator.uniform(size=(n, 2)) for n in sizes[:3]]
    matrix = BlockMatrix([generator.uniform(1, 2, size=n) for n in sizes], {}, [*places, None])
    for t in range(4):
        for s in range(t):
            part = generator.normal(size=(sizes[t], sizes[s]))
            near = np.ones(part.shape, dtype=bool)
            if t < 3:
                near = np.abs(places[t][:, None] - places[s]).max(axis=2) < 0.2  # type: ignore[index]
            part = np.where(near, part, 0.0)
            matrix.coupling[t, s] = csr_array(part) if (t + s) % 2 else part
    if dense_block:
        square = generator.normal(size=(25, 25))
        matrix.diagonal[1] = 0.1 * (square + square.T) + np.diag(matrix.diagonal[1])
    return matrix


def moved(matrix: BlockMatrix, parts: tuple[np.ndarray, ...]) -> np.ndarray:
    order = np.concatenate(parts)
    return matrix.to_dense()[np.ix_(order, order)]


@given(seed=st.integers(0, 10**6), dense_block=st.booleans(), leaf=st.integers(1, 40))
def test_the_same_entries_in_other_blocks(seed: int, dense_block: bool, leaf: int) -> None:
    matrix = random_matrix(seed, dense_block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dissection, "_LEAF", leaf)
        patch.setattr(dissection, "_PIECE", leaf)
        parts = tuple(dissect(matrix))
    again = Arrangement(parts, tuple(range(len(parts))), UNKNOWN).apply(matrix)
    assert np.array_equal(again.to_dense(), moved(matrix, parts))
    assert np.array_equal(parts[-1], [75, 76])


@given(seed=st.integers(0, 10**6))
def test_any_partition_is_applied_faithfully(seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix = random_matrix(seed)
    order = generator.permutation(77)
    parts = tuple(p for p in np.split(order, np.sort(generator.integers(0, 77, size=5))) if len(p))
    again = Arrangement(parts, tuple(range(len(parts))), UNKNOWN).apply(matrix)
    assert np.array_equal(again.to_dense(), moved(matrix, parts))


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: (*p, p[0]), lambda p: (p[0][:-1], *p[1:])])
def test_what_is_no_partition_is_refused(change) -> None:  # type: ignore[no-untyped-def]
    matrix = random_matrix(0)
    parts = tuple(np.array_split(np.arange(77), 5))
    with pytest.raises(ValueError, match="partition"):
        Arrangement(change(parts), tuple(range(5)), UNKNOWN).apply(matrix)


@given(seed=st.integers(0, 10**6), distance=st.floats(-6, -1))
def test_definite_matrices_pass_and_others_do_not(seed: int, distance: float) -> None:
    """Shifted to either side of the smallest eigenvalue."""
    for side in (1.0, -1.0):
        matrix = random_matrix(seed)
        smallest = np.linalg.eigvalsh(matrix.to_dense())[0]
        for s, block in enumerate(matrix.diagonal):
            matrix.diagonal[s] = block - smallest + side * 10.0**distance
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dissection, "_LEAF", 8)
            parts = tuple(dissect(matrix))
        order = tuple(range(len(parts)))
        again = Arrangement(parts, order, UNKNOWN).apply(matrix)
        assert is_positive_semidefinite_matrix(again, 0.0, order=order) == (side > 0)


@pytest.mark.parametrize("order", [(), (0, 1, 2), (0, 1, 2, 2), (0, 1, 2, 3, 4)])
def test_orders_that_leave_blocks_out_are_refused(order: tuple[int, ...]) -> None:
    """An elimination that skips a block would accept anything."""
    with pytest.raises(ValueError, match="every block once"):
        is_positive_semidefinite_matrix(random_matrix(0), 0.0, order=order)


def test_schur_complements_agree() -> None:
    matrix = random_matrix(3)
    for s, block in enumerate(matrix.diagonal):
        matrix.diagonal[s] = block + 20.0
    whole = matrix.to_dense()
    expected = whole[75:, 75:] - whole[75:, :75] @ np.linalg.solve(whole[:75, :75], whole[:75, 75:])
    parts = tuple(dissect(matrix))
    order = tuple(range(len(parts)))
    found = schur_complement(Arrangement(parts, order, UNKNOWN).apply(matrix), order)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.1)])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_proofs_are_the_same(activation: Activation, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    instance = lipschitz_instance(random_convnet(activation=activation), norm=norm)
    multipliers = LowRankSolver(rank=12).solve([instance])[0].multipliers
    by_layers = prove(instance, multipliers)
    monkeypatch.setattr(dissection, "_CHEAP", 0.0)
    monkeypatch.setattr(dissection, "_LEAF", 20)
    monkeypatch.setattr(dissection, "_cost_in_order", lambda m, parts: EliminationCost(tuple(range(len(parts))), 0, 0))
    assert arrangement_of(assemble_lmi(instance.forms, multipliers)).parts is not None
    by_image = prove(instance, multipliers)
    assert by_image.upper == pytest.approx(by_layers.upper, rel=1e-6)
    upper = verify(instance, by_layers.multipliers)
    assert upper is not None and upper <= by_layers.upper
    worse = replace(by_image.multipliers, input=0.9 * by_image.multipliers.input)
    assert verify(instance, worse) is None


def test_lines_make_large_images_cheaper() -> None:
    instance = lipschitz_instance(random_convnet(channels=8, size=40, layers=5))
    matrix = assemble_lmi(instance.forms, LowRankSolver(rank=2, max_iterations=3).solve([instance])[0].multipliers)
    found = arrangement_of(matrix)
    assert found.parts is not None
    plain = dissection.elimination_cost(dissection.Pattern.of(matrix))
    assert found.cost.operations < 0.3 * plain.operations
    estimate = dissection_cost(instance)
    assert estimate is not None
    assert 0.3 * found.cost.operations < estimate.operations < 5 * found.cost.operations


def test_networks_without_an_image_are_left_alone() -> None:
    network = sequential((4,), [("a", random_linear(5, 4, torch.Generator().manual_seed(0))), ("r", ReLU())])
    instance: SdpInstance = lipschitz_instance(network)
    assert dissection_cost(instance) is None
    assert all(p is None for p in instance.forms.places)
