"""Margins of the pointwise program: between the oracle's optimum and what points of the set attain."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.bounding import bound_programs
from geolip_lirpa.margin_proof import prove_margin, verify_margin
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import Situation
from geolip_lirpa.pointwise import PointwiseInstance
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.solvers.pointwise_point import PointwiseInteriorPoint, _Program
from geolip_lirpa.types import Norm
from tests.networks import random_mlp
from tests.test_margin_proof import instance, margins, points

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])
products = st.sampled_from([(), ("triangle",), ("triangle", "interval")])


def proven(program: PointwiseInstance, chosen: tuple[str, ...]) -> tuple[float, float]:
    """Proven margin and the solver's own value."""
    result = PointwiseInteriorPoint(products=chosen).solve([program])[0]
    found = prove_margin(program, result.multipliers)
    assert found is not None and result.value is not None
    assert verify_margin(program, found.multipliers, found.lower)
    return found.lower, result.value


@settings(max_examples=25)
@given(seed=seeds, norm=norms, residual=st.booleans(), chosen=products, radius=st.sampled_from([0.05, 0.3, 1.0]))
def test_margins_are_proven_to_the_programs_value(
    seed: int, norm: Norm, residual: bool, chosen: tuple[str, ...], radius: float
) -> None:
    program = instance(seed, norm, radius, residual)
    lower, value = proven(program, chosen)
    sampled = float(margins(program, points(program, 4000, seed)).min())
    size = 1 + abs(value)
    assert lower <= sampled
    assert value - 1e-4 * size <= lower <= value + 1e-4 * size


def oracle(program: PointwiseInstance, chosen: tuple[str, ...]) -> float:
    """The optimum of the same products by Clarabel."""
    scaled = _Program.of(program, chosen, 0)
    sdp = scaled.sdp
    theta = cp.Variable(len(sdp.weights))
    left, right = sdp.left.toarray(), sdp.right.toarray()
    total = sdp.constant
    for i, v in enumerate(sdp.variables):
        product = np.outer(left[i], right[i])
        total = total - theta[int(v)] * (product + product.T)
    problem = cp.Problem(cp.Maximize(theta[len(sdp.weights) - 1]), [total >> 0, theta[np.flatnonzero(sdp.signed)] >= 0])
    problem.solve(solver="CLARABEL")
    return float(problem.value) * scaled.value_scale


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("chosen", [(), ("triangle", "interval")])
@pytest.mark.parametrize("seed", [0, 2])
def test_the_optimum_is_clarabels(seed: int, norm: Norm, chosen: tuple[str, ...]) -> None:
    program = instance(seed, norm, 0.5)
    lower, _ = proven(program, chosen)
    assert lower == pytest.approx(oracle(program, chosen), abs=1e-4)


@settings(max_examples=8)
@given(seed=seeds, norm=norms)
def test_more_products_never_hurt(seed: int, norm: Norm) -> None:
    program = instance(seed, norm, 0.8)
    assert proven(program, ("triangle", "interval"))[0] >= proven(program, ())[0] - 1e-4


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("seed", range(4))
def test_lipschitz_multipliers_are_a_start_below_the_margin_they_prove(seed: int, norm: Norm) -> None:
    """The first point is feasible, its b is near the Lipschitz margin; the end is that of the crude start."""
    network = random_mlp(seed, (4, 8, 7, 2))
    situation = Situation(
        network, MarginSet(torch.full((4,), 0.2).double(), 0.3, norm), torch.eye(2).double(), torch.zeros(2).double()
    )
    slopes, rows = situation.slopes("geolip-local", "crown"), torch.eye(2, dtype=torch.float64)
    program = SdpInstance(network, slopes, norm, torch.ones(4, dtype=torch.float64), rows[:1])
    bound = bound_programs([program], [0], LowRankSolver())[0]
    assert bound.multipliers is not None
    instance = situation.instance("crown", 0)
    lipschitz = float(situation.clean[0]) - 0.3 * bound.upper
    first = PointwiseInteriorPoint(max_iterations=0).solve([instance], [bound.multipliers])[0]
    proven = prove_margin(instance, first.multipliers)
    assert proven is not None
    # graded by a few per cent and a tenth of L rho below, but not more
    assert lipschitz - 0.3 * 0.3 * bound.upper <= proven.lower
    crude, warm = (PointwiseInteriorPoint().solve([instance], [s])[0] for s in (None, bound.multipliers))
    assert crude.value is not None and warm.value is not None
    assert warm.value == pytest.approx(crude.value, rel=1e-4, abs=1e-5)
    assert warm.value >= lipschitz - 1e-6
