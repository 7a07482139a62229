r"""How far a positive definite matrix can move before it becomes singular.

Place in the data flow: level 7, a tool of `path_following`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import blas, eigh_tridiagonal, lapack, solve_triangular

from geolip_lirpa.rounding import Array

# Below this size all eigenvalues are as quick as the Lanczos method.
_DENSE_SIZE = 64
_LANCZOS_STEPS = 60


def cholesky(matrix: Array) -> Array | None:
    """The lower factor L with ``L L^T`` equal to a symmetric matrix (columns contiguous), None if it has none."""
    factor, info = lapack.dpotrf(matrix.T, lower=1, clean=1)
    return factor if info == 0 and bool(np.isfinite(factor.diagonal()).all()) else None


def inverse(factor: Array) -> Array:
    """The inverse of ``L L^T``, symmetric to the last bit."""
    lower, _ = lapack.dpotri(factor, lower=1)
    lower = np.tril(lower)
    result = lower + lower.T
    result[np.diag_indices(len(result))] = lower.diagonal()
    return result


def semidefinite_step(factor: Array, change: Array, tolerance: float = 1e-2) -> float:
    r"""The largest :math:`t` with :math:`L L^T + t D \succeq 0`, or a little less; infinite if there is none.

    Args:
        factor: L, (n, n), lower triangular.
        change: D, (n, n) symmetric.
        tolerance: relative accuracy.
    """
    smallest = smallest_eigenvalue(factor, change, tolerance)
    return np.inf if smallest >= 0 else -1.0 / smallest


def smallest_eigenvalue(factor: Array, matrix: Array, tolerance: float = 1e-2) -> float:
    r"""A lower estimate of the smallest eigenvalue of :math:`L^{-1} D L^{-T}`.

    The estimate is a Ritz value lowered by its residual: some eigenvalue is that near, and after enough steps it is the
    smallest. Minus infinity where numbers overflow: nothing is known of it, and no step is short enough.
    """
    size = len(factor)
    if size <= _DENSE_SIZE:
        half = solve_triangular(factor, matrix, lower=True, check_finite=False)
        whole = solve_triangular(factor, half.T, lower=True, check_finite=False)
        if not np.isfinite(whole).all():
            return -np.inf
        return float(np.linalg.eigvalsh(0.5 * (whole + whole.T))[0])

    def image(vector: Array) -> Array:
        inner = blas.dsymv(1.0, matrix.T, blas.dtrsv(factor, vector, lower=1, trans=1), lower=1)
        return np.asarray(blas.dtrsv(factor, inner, lower=1))

    return _lanczos(image, size, tolerance)


def _lanczos(image: Callable[[Array], Array], size: int, tolerance: float) -> float:
    """Smallest Ritz value minus its residual, with full orthogonalisation."""
    basis = np.zeros((min(_LANCZOS_STEPS, size), size))
    diagonal: list[float] = []
    beside: list[float] = []
    vector = np.random.default_rng(0).standard_normal(size)
    length = float(np.linalg.norm(vector))
    value, residual = 0.0, np.inf
    for step in range(len(basis)):
        basis[step] = vector / length
        vector = image(basis[step])
        diagonal.append(float(vector @ basis[step]))
        for _ in range(2):
            vector = vector - basis[: step + 1].T @ (basis[: step + 1] @ vector)
        length = float(np.linalg.norm(vector))
        if not np.isfinite([diagonal[-1], length]).all():
            return -np.inf
        values, vectors = eigh_tridiagonal(diagonal, beside, select="i", select_range=(0, 0))
        value, residual = float(values[0]), length * abs(float(vectors[-1, 0]))
        if residual <= tolerance * max(abs(value), tolerance) or length <= 1e-14 * abs(value):
            break
        beside.append(length)
    return value - residual
