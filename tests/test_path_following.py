"""The interior point method on products of linear forms: linear algebra, steps, programs of another kind."""

from __future__ import annotations

import itertools

import cvxpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.linalg import eigh

from geolip_lirpa.errors import SolverError
from geolip_lirpa.rounding import Array
from geolip_lirpa.solvers.base import Status
from geolip_lirpa.solvers.path_following import PathFollowing
from geolip_lirpa.solvers.product_sdp import ProductSdp
from geolip_lirpa.solvers.step_length import cholesky, inverse, semidefinite_step

seeds = st.integers(0, 10_000)


# --- linear algebra -------------------------------------------------------------------------------------------------


def _random_sdp(seed: int, size: int, thin: bool) -> ProductSdp:
    """Products of sparse and dense vectors in all combinations, some equal or opposite, some tied."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(6, size))
    unit = np.eye(size)[rng.integers(size, size=6)]
    left = np.vstack([unit, unit, dense, dense])
    right = np.vstack([dense, unit, dense[::-1], -unit]) if not thin else np.vstack([unit[::-1], unit, unit, unit])
    left = left if not thin else np.vstack([unit, unit, unit, unit])
    variables = np.concatenate([np.arange(20), [3, 3, 7, 0]])
    constant = rng.normal(size=(size, size))
    csr = sparse.csr_array
    return ProductSdp(csr(left), csr(right), variables, constant + constant.T, np.ones(20), np.ones(20, dtype=bool))


@settings(max_examples=20)
@given(seed=seeds, size=st.sampled_from([3, 8, 25, 40]), thin=st.booleans())
def test_linear_algebra_against_its_definition(seed: int, size: int, thin: bool) -> None:
    sdp = _random_sdp(seed, size, thin)
    rng = np.random.default_rng(seed + 1)
    a, b = sdp.left.toarray(), sdp.right.toarray()
    terms = np.zeros((20, size, size))
    for i, v in enumerate(sdp.variables):
        terms[v] -= np.outer(a[i], b[i]) + np.outer(b[i], a[i])
    theta = rng.uniform(-1, 1, 20)
    change = np.einsum("v,vij->ij", theta, terms)
    np.testing.assert_allclose(sdp.change(theta), change, atol=1e-11)
    np.testing.assert_array_equal(sdp.change(theta), sdp.change(theta).T)
    np.testing.assert_allclose(sdp.matrix(theta), sdp.constant + change, atol=1e-11)
    factor = rng.normal(size=(2, size, size))
    x, p = factor[0] @ factor[0].T, factor[1] @ factor[1].T
    pairing = np.einsum("vij,ij->v", terms, x)
    np.testing.assert_allclose(sdp.pairing(x), pairing, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(sdp.pairing_of_images(sdp.images(x)), pairing, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(sdp.change_times(theta, sdp.images(p)), change @ p, rtol=1e-9, atol=1e-7)
    schur = np.einsum("vij,jk,wkl,li->vw", terms, x, terms, p, optimize=True)
    scale = np.abs(schur).max()
    np.testing.assert_allclose(sdp.schur(sdp.images(x), sdp.images(p)) / scale, schur / scale, atol=1e-11)


@settings(max_examples=20)
@given(seed=seeds, size=st.sampled_from([1, 5, 64, 65, 120]), clustered=st.booleans())
def test_steps_end_at_the_boundary(seed: int, size: int, clustered: bool) -> None:
    """Also when most eigenvalues lie close together, as they do for nearly full steps of the method."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size)) + 2 * np.eye(size)
    matrix = root @ root.T
    if clustered:
        outlier = rng.normal(size=size)
        change = -matrix * (1 + 1e-3 * rng.normal()) - 0.2 * np.outer(root @ outlier, root @ outlier) / (
            outlier @ outlier
        )
    else:
        change = rng.normal(size=(size, size))
        change = change + change.T
    factor = cholesky(matrix)
    assert factor is not None
    np.testing.assert_allclose(factor @ factor.T, matrix, atol=1e-10 * np.abs(matrix).max())
    np.testing.assert_allclose(inverse(factor) @ matrix, np.eye(size), atol=1e-6)
    lowest = eigh(change, matrix, eigvals_only=True)[0]
    step = semidefinite_step(factor, change, 1e-4)
    if lowest >= 0:
        assert step > 1e3
    else:
        assert (-1 / lowest) * (1 - 1e-3) <= step <= (-1 / lowest) * (1 + 1e-6)


def test_no_factor_without_definiteness() -> None:
    assert cholesky(np.diag([1.0, -1.0])) is None
    assert cholesky(np.diag([1.0, np.nan])) is None


# --- programs of another kind ---------------------------------------------------------------------------------------


def _pointwise(seed: int) -> ProductSdp:
    """Products of affine forms of (1, x, z): a ball, two layers of ReLUs with intervals, the least value of a row.

    Minimise c z with |x|^2 <= 1, z (v - z) >= 0, z >= 0, z >= v and (v + r)(r - v) >= 0. The first row of X is that of
    the constant 1; its multiplier is free.
    """
    rng = np.random.default_rng(seed)
    sizes = (3, 4, 3)
    total = 1 + sum(sizes)
    unit = np.eye(total)
    pairs: list[tuple[Array, Array]] = [(unit[0], -0.5 * unit[0])]
    pairs += [(unit[1 + j], -0.5 * unit[1 + j]) for j in range(sizes[0])]
    first = 1
    for width, count in itertools.pairwise(sizes):
        for i in range(count):
            v, z = np.zeros(total), unit[first + width + i]
            v[first : first + width], v[0] = rng.normal(size=width) / width**0.5, 0.3 * rng.normal()
            r = 4.0 * unit[0]
            pairs += [(z, v - z), (unit[0], z), (unit[0], z - v), (v + r, r - v)]
        first += width
    left, right = (sparse.csr_array(np.array(side)) for side in zip(*pairs, strict=True))
    products = len(pairs) - 1 - sizes[0]
    variables = np.concatenate([[0], np.ones(sizes[0]), 2 + np.arange(products)]).astype(np.int64)
    constant = np.zeros((total, total))
    constant[0, first:] = constant[first:, 0] = rng.normal(size=sizes[-1])
    weights = np.concatenate([[1.0, 1.0], np.zeros(products)])
    return ProductSdp(left, right, variables, constant, weights, np.arange(len(weights)) > 0)


def _value(sdp: ProductSdp) -> float:
    """By CLARABEL, from the definition of the program of X."""
    x = cvxpy.Variable((sdp.size, sdp.size), symmetric=True)
    a, b = sdp.left.toarray(), sdp.right.toarray()
    constraints = [x >> 0]
    for j, weight in enumerate(sdp.weights):
        room = weight + sum(2 * a[i] @ x @ b[i] for i in np.flatnonzero(sdp.variables == j))
        constraints.append(room >= 0 if sdp.signed[j] else room == 0)
    problem = cvxpy.Problem(cvxpy.Maximize(-cvxpy.trace(sdp.constant @ x)), constraints)
    return float(problem.solve(solver="CLARABEL"))


@settings(max_examples=6)
@given(seed=seeds)
def test_affine_products_from_a_start_that_is_not_feasible(seed: int) -> None:
    sdp = _pointwise(seed)
    theta, gram = np.ones(len(sdp.weights)), np.eye(sdp.size)
    assert np.linalg.eigvalsh(sdp.matrix(theta))[0] < 0
    result = PathFollowing().solve(sdp, theta, gram)
    assert result.status is Status.CONVERGED and result.iterations <= 40
    assert result.gap <= 5e-9 and result.violation <= 5e-9
    assert result.value == pytest.approx(_value(sdp), abs=1e-6)
    # both sides are what they claim to be
    assert result.feasible and np.linalg.eigvalsh(sdp.matrix(result.theta))[0] > 0
    assert (result.theta[sdp.signed] > 0).all() and np.linalg.eigvalsh(result.gram)[0] > 0
    assert result.value == pytest.approx(float(sdp.weights @ result.theta), rel=1e-12)
    room = sdp.weights - sdp.pairing(result.gram)
    assert (room[sdp.signed] >= -1e-6).all() and np.abs(room[~sdp.signed]).max() <= 1e-6


@settings(max_examples=6)
@given(seed=seeds)
def test_the_value_does_not_depend_on_the_start(seed: int) -> None:
    sdp = _pointwise(seed)
    rng = np.random.default_rng(seed)
    root = np.eye(sdp.size) + 0.3 * rng.normal(size=(sdp.size, sdp.size))
    other = PathFollowing().solve(sdp, rng.uniform(0.1, 3.0, len(sdp.weights)), root @ root.T)
    usual = PathFollowing().solve(sdp, np.ones(len(sdp.weights)), np.eye(sdp.size))
    assert other.status is Status.CONVERGED and other.value == pytest.approx(usual.value, abs=3e-8)


@pytest.mark.parametrize("what", ["gram", "sign", "nan"])
def test_starts_outside_are_refused(what: str) -> None:
    sdp = _pointwise(0)
    theta, gram = np.ones(len(sdp.weights)), np.eye(sdp.size)
    if what == "gram":
        gram[0, 0] = -1.0
    else:
        theta[3] = 0.0 if what == "sign" else np.nan
    with pytest.raises(SolverError, match="interior point: the start is not in the interior; allowed are"):
        PathFollowing().solve(sdp, theta, gram)


def test_the_limit_is_reported() -> None:
    sdp = _pointwise(0)
    result = PathFollowing(max_iterations=1).solve(sdp, np.ones(len(sdp.weights)), np.eye(sdp.size))
    assert result.status is Status.ITERATION_LIMIT and result.iterations == 1
