r"""Proof of positive semidefiniteness in floating point.

Place in the data flow: level 5, part of the trusted checker. The method is Rump's ("Verification of positive
definiteness", BIT 46, 2006): lower a matrix by a bound on everything that rounding can do, then let the ordinary
Cholesky factorisation run to completion. An eigenvalue *estimate* proves nothing and is not used.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigvalsh, lapack
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from geolip_lirpa.rounding import Array, gamma

#: Far above everything that underflow can add in a matrix of up to 1e6 rows with entries below 1e100 (eta = 2^-1074).
UNDERFLOW_IN_CHOLESKY = 1e-200
# Far above what scaling a norm back can lose to underflow.
_TINY = 1e-290
# Rows of a Gram matrix whose largest eigenvalue is worth a factorisation.
_SHARP_LIMIT = 8000
# From here on the largest eigenvalue is estimated by Lanczos iterations.
_LANCZOS_FROM = 1000


def powers_of_two(values: Array) -> Array:
    """The power of two nearest to each positive value; multiplying by them is exact."""
    _, exponent = np.frexp(values)
    return np.asarray(np.ldexp(1.0, exponent - 1), dtype=np.float64)


def cholesky_error(size: int, trace: float) -> float:
    r"""Bound of the backward error of a completed Cholesky factorisation in the spectral norm.

    If the factorisation of a floating-point matrix A runs to completion, then :math:`R^T R = A + \Delta` with
    :math:`|\Delta_{ij}| \le \varphi \sqrt{a_{ii} a_{jj}}`, :math:`\varphi = \gamma_{n+1}/(1-\gamma_{n+1})`, hence
    :math:`\|\Delta\|_2 \le \varphi\,\mathrm{tr} A` and :math:`A + \varphi\,\mathrm{tr}(A) I \succeq 0` (Rump 2006,
    Theorem 2.3; Demmel 1989). The bound holds for every order of summation. The doubled count covers libraries that
    multiply by the reciprocal of a pivot instead of dividing by it.
    """
    phi = gamma(2 * size + 16)
    return float(phi / (1.0 - phi) * trace * (1.0 + gamma(size + 8))) + UNDERFLOW_IN_CHOLESKY


def is_positive_semidefinite(matrix: Array, error: float) -> bool:
    """Prove that every symmetric matrix within `error` (spectral norm) of `matrix` is positive semidefinite.

    Args:
        matrix: (n, n) float64, symmetric. Overwritten.
        error: bound on the spectral norm of (true matrix - matrix), non-negative.

    Returns:
        True only if proven. False says nothing.
    """
    size = matrix.shape[0]
    diagonal = matrix.diagonal()
    finite = np.isfinite(matrix).all() and np.isfinite(error)
    if size == 0 or not finite or bool((diagonal <= 0).any()):
        return False
    trace = float(diagonal.sum()) * (1.0 + gamma(size + 8))
    _lower(matrix, (error + cholesky_error(size, trace)) * (1.0 + gamma(8)))
    factor, info = lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    pivots = factor.diagonal()
    return bool(info == 0 and np.isfinite(pivots).all() and (pivots > 0).all())


def _lower(matrix: Array, shift: float) -> None:
    """Subtract `shift` from the diagonal, rounded down."""
    diagonal = np.diag_indices_from(matrix)
    matrix[diagonal] = np.nextafter(matrix[diagonal] - shift, -np.inf)


def spectral_norm_bound(matrix: Array, error: Array | None = None) -> float:
    r"""Upper bound of the spectral norm of every matrix within `error` entrywise of `matrix`.

    :math:`\|A\|^4 = \|G\|^2 \le \|G^2\|_\infty` for the Gram matrix :math:`G = A A^T` (or :math:`A^T A`, whichever is
    smaller). Rounding: :math:`\|fl(G) - G\| \le \gamma_k \|\,|A||A|^T\|_\infty`, likewise for the square.
    """
    if matrix.size == 0:
        return 0.0
    a = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    scale = float(np.abs(a).max())
    if scale == 0.0:
        result = 0.0
    else:
        a = a / powers_of_two(np.array([scale]))[0]
        absolute = np.abs(a)
        gram = a @ a.T
        gram = 0.5 * (gram + gram.T)
        # row sums of |A||A|^T, without forming it
        spread = float((absolute @ absolute.sum(axis=0)).max()) * (1.0 + gamma(sum(a.shape) + 8))
        squared = float(np.abs(gram @ gram).sum(axis=1).max())
        rows = float(np.abs(gram).sum(axis=1).max())
        squared += gamma(2 * a.shape[0] + 8) * rows * rows
        norm_gram = np.sqrt(squared) * (1.0 + gamma(a.shape[0] + 16)) + gamma(a.shape[1] + 4) * spread
        result = float(np.sqrt(norm_gram) * (1.0 + gamma(8))) * float(powers_of_two(np.array([scale]))[0]) + _TINY
    return _with_error(result, error)


def _with_error(norm: float, error: Array | None) -> float:
    r""":math:`\|A\|_2 + \|E\|_2 \le \|A\|_2 + \sqrt{\|E\|_1 \|E\|_\infty}`, rounded up; zero for zero."""
    result = norm
    if error is not None:
        # two roots: the product under a single one might underflow
        roots = np.sqrt(error.sum(axis=0).max()) * np.sqrt(error.sum(axis=1).max())
        result += float(roots) * (1.0 + gamma(2 * sum(error.shape) + 16))
        result += _TINY if np.any(error) else 0.0
    return result * (1.0 + gamma(16))


def sharp_spectral_norm_bound(matrix: Array, error: Array | None = None) -> float:
    r"""Like `spectral_norm_bound`, to about ten digits, for a Cholesky factorisation of the Gram matrix more.

    If :math:`t I - A A^T \succeq 0` is proven, then :math:`\|A\| \le \sqrt t`. An eigenvalue estimate suggests t; the
    proof does not depend on it. Where no t near the estimate can be proven, the result is that of
    `spectral_norm_bound`. Rounding: :math:`\|fl(A A^T) - A A^T\| \le \gamma_k \|\,|A||A|^T\|_\infty`, and one more
    rounding on the diagonal.

    Args:
        matrix: (m, n) float64.
        error: (m, n) entrywise error bounds, or None when exact.
    """
    fallback = spectral_norm_bound(matrix, error)
    large = min(matrix.shape, default=0) > _SHARP_LIMIT
    if matrix.size == 0 or large or not np.isfinite(fallback) or not np.any(matrix):
        return fallback
    a = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    factor = float(powers_of_two(np.array([np.abs(a).max()]))[0])
    a = a / factor
    square = _largest_eigenvalue_bound(a)
    if square is None:
        return fallback
    result = float(np.sqrt(square) * (1.0 + gamma(8))) * factor
    return min(fallback, _with_error(result + _TINY, error))


def _estimated_eigenvalue(gram: Array) -> float:
    """The largest eigenvalue to about ten digits; nothing depends on whether it is right."""
    size = len(gram)
    if size < _LANCZOS_FROM:
        return float(eigvalsh(gram, subset_by_index=[size - 1, size - 1])[0])
    # a fixed start, so that whoever checks a bound finds the same
    start = np.random.default_rng(0).normal(size=size)
    try:
        return float(eigsh(gram, k=1, which="LA", v0=start, tol=1e-11, return_eigenvectors=False)[0])
    except ArpackNoConvergence:
        return float(eigvalsh(gram, subset_by_index=[size - 1, size - 1])[0])


def _largest_eigenvalue_bound(a: Array) -> float | None:
    """A proven bound t of the largest eigenvalue of ``a a^T``, or None."""
    size = a.shape[0]
    gram = a @ a.T
    gram = 0.5 * (gram + gram.T)
    absolute = np.abs(a)
    spread = float((absolute @ absolute.sum(axis=0)).max()) * (1.0 + gamma(sum(a.shape) + 8))
    estimate = _estimated_eigenvalue(gram)
    rounding = gamma(a.shape[1] + 4) * spread
    step = rounding + cholesky_error(size, size * estimate)
    for multiple in (2.0, 32.0, 1024.0):
        t = estimate + multiple * step
        shifted = -gram
        shifted[np.diag_indices(size)] += t
        # |fl(t - g_ii) - (t - g_ii)| <= u |t - g_ii| <= u (t + |g_ii|)
        diagonal = gamma(1) * (t + float(np.abs(gram.diagonal()).max()))
        if is_positive_semidefinite(shifted, (rounding + diagonal) * (1.0 + gamma(8))):
            return t
    return None
