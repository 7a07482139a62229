"""Low-rank solver of the pointwise program: near the interior point's optimum, and never above what points attain."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geolip_lirpa.bounding import bound_programs
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_proof import prove_margin, verify_margin
from geolip_lirpa.margin_types import MarginOptions
from geolip_lirpa.pointwise import PointwiseInstance, PointwiseMultipliers
from geolip_lirpa.pointwise_bounding import ProgramOptions, prove_programs
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers import pointwise_scaled
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.solvers.pointwise_augmented import evaluate
from geolip_lirpa.solvers.pointwise_forward import forward_optimum, margins, nearest_feasible
from geolip_lirpa.solvers.pointwise_low_rank import PointwiseLowRank
from geolip_lirpa.solvers.pointwise_point import PointwiseInteriorPoint
from geolip_lirpa.solvers.pointwise_scaled import ScaledRows
from geolip_lirpa.types import Norm
from tests.test_margin_proof import instance, points
from tests.test_margin_proof import margins as true_margins

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])
products = st.sampled_from([(), ("triangle",), ("triangle", "interval")])


def rows_of(seed: int, norm: Norm, radius: float, residual: bool = False) -> list[PointwiseInstance]:
    """Three rows of one family."""
    first = instance(seed, norm, radius, residual)
    rows = torch.randn((2, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [first, *(replace(first, row=row) for row in rows)]


def starts_of(programs: list[PointwiseInstance]) -> list[Multipliers | None]:
    """Multipliers of the rows' Lipschitz constants, where their programs are not empty."""
    found = []
    for program in programs:
        family = program.family
        shape = (family.network, family.slopes, family.input_norm, family.input_scale, program.row[None])
        found.append(bound_programs([SdpInstance(*shape)], [0], LowRankSolver())[0].multipliers)
    return found


def proven_by(solver: PointwiseLowRank, programs: list[PointwiseInstance]) -> list[float]:
    """Proven margins, each verified again."""
    best = [-np.inf] * len(programs)

    def prove(number: int, multipliers: PointwiseMultipliers) -> float | None:
        found = prove_margin(programs[number], multipliers)
        if found is None:
            return None
        assert verify_margin(programs[number], found.multipliers, found.lower)
        best[number] = max(best[number], found.lower)
        return found.lower

    solver.solve(programs, starts_of(programs), prove)
    return best


@settings(max_examples=6)
@given(seed=seeds, norm=norms, residual=st.booleans(), chosen=products, radius=st.sampled_from([0.05, 0.3, 1.0]))
def test_proven_margins_are_near_the_interior_points(
    seed: int, norm: Norm, residual: bool, chosen: tuple[str, ...], radius: float
) -> None:
    program = instance(seed, norm, radius, residual)
    optimum = PointwiseInteriorPoint(products=chosen).solve([program])[0]
    exact = prove_margin(program, optimum.multipliers)
    assert exact is not None
    found = proven_by(PointwiseLowRank(products=chosen, max_rounds=10), [program])[0]
    # what the margin moves by over the set
    scale = float(ScaledRows.of([program], chosen).scale[0]) + abs(exact.lower)
    # boxes take more rounds than balls
    allowed = 0.02 if norm is Norm.L2 else 0.5
    assert exact.lower - allowed * scale <= found <= exact.lower + 1e-4 * scale
    assert found <= float(true_margins(program, points(program, 4000, seed)).min())


@settings(max_examples=4)
@given(seed=seeds, radius=st.sampled_from([0.1, 0.5, 2.0]), residual=st.booleans())
def test_values_of_feasible_points_enclose_the_optimum(seed: int, radius: float, residual: bool) -> None:
    """Forward passes never fall below what is proven, and their optimum not far above it."""
    program = instance(seed, Norm.L2, radius, residual)
    result = PointwiseLowRank(max_rounds=5).solve([program])[0]
    assert result.value is not None
    optimum = PointwiseInteriorPoint().solve([program])[0]
    exact = prove_margin(program, optimum.multipliers)
    assert exact is not None and result.value >= exact.lower - 1e-9 * (1 + abs(exact.lower))


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("seed", range(3))
def test_forward_points_satisfy_all_products(seed: int, norm: Norm) -> None:
    rows = ScaledRows.of(rows_of(seed, norm, 0.8), ())
    index = torch.arange(3)
    one = torch.ones((3, 1), dtype=torch.float64)
    theta = torch.stack([rows.crude(i) for i in range(3)])
    generator = torch.Generator().manual_seed(seed)
    anywhere = torch.randn((3, 3, rows.size), generator=generator, dtype=torch.float64)
    for point in (forward_optimum(rows, index, 3, 20, seed), nearest_feasible(rows, anywhere)):
        assert float(evaluate(rows, index, point, theta, one).products.min()) >= -1e-12
    # a feasible point is its own nearest one
    assert torch.allclose(nearest_feasible(rows, point), point, atol=1e-9)
    start, end = (margins(rows, index, forward_optimum(rows, index, 3, n, seed)) for n in (0, 40))
    assert bool((end < start).all())


@settings(max_examples=15)
@given(seed=seeds, norm=norms, chosen=products, residual=st.booleans())
def test_the_gradient_is_that_of_the_value(seed: int, norm: Norm, chosen: tuple[str, ...], residual: bool) -> None:
    rows = ScaledRows.of(rows_of(seed, norm, 0.8, residual), chosen)
    generator = torch.Generator().manual_seed(seed)
    index = torch.tensor([2, 0])
    theta = torch.stack([rows.crude(i) for i in index.tolist()])
    point, step = (torch.randn((2, 3, rows.size), generator=generator, dtype=torch.float64) for _ in range(2))
    penalty = 0.5 + torch.rand(theta.shape, generator=generator, dtype=torch.float64)
    found = evaluate(rows, index, point, theta, penalty)
    h = 1e-6
    up, down = (evaluate(rows, index, point + s * h * step, theta, penalty).value for s in (1, -1))
    assert torch.allclose((up - down) / (2 * h), (found.gradient * step).sum((1, 2)), rtol=1e-5, atol=1e-5)


@settings(max_examples=10)
@given(seed=seeds, norm=norms, chosen=products, residual=st.booleans())
def test_without_a_matrix_everything_is_as_with_one(
    seed: int, norm: Norm, chosen: tuple[str, ...], residual: bool
) -> None:
    """Sparse forms, which are not rotated, and dense ones give the same network, scale and multipliers' meaning."""
    programs = rows_of(seed, norm, 0.6, residual)
    dense = ScaledRows.of(programs, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointwise_scaled, "_SPARSE_DENSITY", 2.0)
        thin = ScaledRows.of(programs, chosen)
    assert dense.forms._dense is not None and thin.forms._dense is None
    assert torch.allclose(dense.scale, thin.scale, rtol=1e-10)
    for a, b in zip(dense.at_center(), thin.at_center(), strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    # the same neurons beside w = 0: a rotation does not show there
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((3, 2, dense.neurons), generator=generator, dtype=torch.float64)
    found = []
    for rows in (dense, thin):
        point = torch.cat([z.new_zeros((3, 2, rows.inputs)), z], dim=2)
        theta = torch.full((3, len(rows.products) * rows.neurons + (1 if rows.ball else rows.inputs)), 0.3).double()
        found.append(evaluate(rows, torch.arange(3), point, theta, torch.ones((3, 1), dtype=torch.float64)))
    assert torch.allclose(found[0].value, found[1].value)
    hidden = len(dense.products) * dense.neurons
    assert torch.allclose(found[0].products[:, :hidden], found[1].products[:, :hidden], atol=1e-9)
    by_input = [e.gradient[..., : r.inputs].norm(dim=2) for e, r in zip(found, (dense, thin), strict=True)]
    assert torch.allclose(by_input[0], by_input[1], atol=1e-8)


def test_sparse_forms_are_applied_like_dense_ones() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(7, 11)) * (rng.random((7, 11)) < 0.3)
    dense = pointwise_scaled.LinearForms(matrix, torch.float64)
    thin = pointwise_scaled.LinearForms(sparse.csr_array(matrix), torch.float64)
    x, g = torch.randn((2, 3, 11), dtype=torch.float64), torch.randn((2, 3, 7), dtype=torch.float64)
    assert torch.allclose(dense.apply(x), thin.apply(x)) and torch.allclose(dense.adjoint(g), thin.adjoint(g))
    assert torch.allclose(dense.apply(x[0, 0]), torch.from_numpy(matrix @ x[0, 0].numpy()))


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("seed", [1, 3])
def test_a_batch_is_solved_like_its_rows_one_by_one(seed: int, norm: Norm) -> None:
    programs = rows_of(seed, norm, 0.5)
    # a rotation of the inputs would turn the random start
    assert all(ScaledRows.of(part, ()).inputs == 4 for part in (programs, programs[:1]))
    # few iterations: later ones amplify the roundings in which products of matrices differ
    solver = PointwiseLowRank(forward_iterations=10, max_rounds=2, inner_iterations=20)
    together = proven_by(solver, programs)
    alone = [proven_by(solver, [program])[0] for program in programs]
    assert together == pytest.approx(alone, rel=2e-3, abs=2e-3)


def test_rows_leave_when_proven_and_when_lost() -> None:
    """With a target a proven row costs few rounds; a row whose feasible points are below it costs none."""
    programs = rows_of(3, Norm.L2, 0.4)
    optimum = proven_by(PointwiseLowRank(), programs)
    calls = [0, 0, 0]

    def prove(number: int, multipliers: PointwiseMultipliers) -> float | None:
        calls[number] += 1
        found = prove_margin(programs[number], multipliers)
        return None if found is None else found.lower

    easy = PointwiseLowRank(target=min(optimum) - 5.0).solve(programs, starts_of(programs), prove)
    assert all(0 < c <= 4 for c in calls) and len(easy) == 3
    assert all(r.iterations < PointwiseLowRank().max_rounds * 300 for r in easy)
    calls[:] = [0, 0, 0]
    hard = PointwiseLowRank(target=max(optimum) + 100.0).solve(programs, starts_of(programs), prove)
    assert calls == [0, 0, 0] and all(r.iterations == 0 for r in hard)


def test_one_lost_row_ends_a_batch_that_counts_as_a_whole() -> None:
    programs = rows_of(3, Norm.L2, 0.4)
    shifted = [programs[0], replace(programs[1], offset=-1000.0), programs[2]]
    for whole in (True, False):
        found = PointwiseLowRank(target=-50.0, whole=whole).solve(shifted, None, lambda number, multipliers: None)
        assert (max(found[0].iterations, found[2].iterations) == 0) is whole


@settings(max_examples=2)
@given(seed=seeds, norm=norms)
def test_all_solvers_prove_sound_margins_through_one_door(seed: int, norm: Norm) -> None:
    programs = rows_of(seed, norm, 0.5)
    sampled = [float(true_margins(p, points(p, 3000, seed)).min()) for p in programs]
    for solver in ("interior-point", "low-rank", "auto"):
        found = list(prove_programs(programs, starts_of(programs), ProgramOptions(solver)))
        assert [number for number, _, _ in found] == [0, 1, 2]
        for number, margin, seconds in found:
            assert margin is not None and margin.lower <= sampled[number] and seconds >= 0
            assert verify_margin(programs[number], margin.multipliers, margin.lower)


def test_ends_of_a_ball_without_unstable_neurons() -> None:
    """A tiny ball leaves a linear program, whose optimum is known."""
    program = instance(2, Norm.L2, 1e-9)
    assert len(program.forms.kept[1]) + len(program.forms.kept[2]) == 0
    found = proven_by(PointwiseLowRank(), [program])[0]
    corners = torch.tensor(list(itertools.product([-0.5, 0.5], repeat=4)), dtype=torch.float64)
    lowest = float(true_margins(program, corners).min())
    assert lowest - 1e-7 <= found <= lowest


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(SpecificationError, match="solver: got 'simplex'"):
        MarginOptions(solver="simplex")
