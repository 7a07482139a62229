r"""Products of norms: quick proven upper bounds of Lipschitz constants.

Place in the data flow: level 6, ``SdpInstance -> proven bound``; trusted, rounded outward. GeoLIP (arXiv 2203.01212)
compares with the product of the weight matrices' operator norms; here the same idea on any graph. With
:math:`dv_l = \sum_s V_{l,s} dz_s` (`Forms`; dz_0 = w, the normalised input) and :math:`|dz_i| \le \kappa_i |dv_i|`,
:math:`\kappa_i = \max(|\alpha_i|, |\beta_i|)`,

.. math:: \|dz_l\|_p \le r_l := \sum_{s < l} \|\mathrm{diag}(\kappa_l) V_{l,s}\|_{p \to p}\; r_s, \quad r_0 = 1, \qquad
    \|C\,df\| \le \sum_s \|O_s\|_{p \to out}\; r_s .

`entrywise_bound` keeps one radius for each neuron instead of one for each activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from geolip_lirpa.forms import Forms
from geolip_lirpa.positive_definite import powers_of_two, sharp_spectral_norm_bound
from geolip_lirpa.rounding import Array, gamma
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm, OutputNorm

# Far above what the products of one sum can lose to underflow.
_TINY = 1e-290

#: An upper bound of an operator norm, from a matrix and its entrywise error bounds.
_NormBound = Callable[[Array, Array], float]


def norm_product(instance: SdpInstance) -> float:
    r"""Proven bound from operator norms of blocks; for a chain, the product of the matrices' norms.

    .. math:: \sup_{x \ne x'} \frac{\|C(f(x) - f(x'))\|_{out}}{\|(x - x')/s\|_{in}}
        \le \|O_L\|_{p \to out} \prod_{l=1}^{L} \|\mathrm{diag}(\kappa_l) V_{l,l-1}\|_{p \to p}

    Sound for the slopes of the instance (and so for the formal constant). Spectral norms are proven to about ten
    digits; another order of summation may change the last few of them.

    Args:
        instance: any program.

    Returns:
        The bound, rounded up; infinite when float64 overflows.
    """
    forms = instance.forms
    box = instance.input_norm is Norm.LINF
    inner: _NormBound = _largest_row_sum if box else sharp_spectral_norm_bound
    outer = _output_rule(instance.output, box)
    radii = [1.0]
    with np.errstate(over="ignore", invalid="ignore"):
        for l in range(1, len(forms.kept)):
            parts = [
                _product(inner(*_scaled(forms, l, s)), radii[s])
                for s in range(l)
                # a NaN, from overflow, must not be passed over
                if (l, s) in forms.hidden and radii[s] != 0
            ]
            radii.append(_sum(parts))
        parts = [
            _product(outer(block, _error(forms.output_error, s, block)), radii[s]) for s, block in forms.output.items()
        ]
        return _finite(_sum(parts))


def entrywise_bound(instance: SdpInstance) -> float:
    r"""Proven bound with a radius for every neuron, propagated through absolute values.

    .. math:: |dz_i| \le r_i := \kappa_i \Big(\rho_i + \sum_{s \ge 1} \sum_j |V_{ij}| r_j\Big), \qquad
        \rho_i = \|V_{i,0}\|_1 \text{ (l_inf input)}, \; \|V_{i,0}\|_2 \text{ (l_2)},

    then the output norm of the vector of the rows' radii. Tighter than `norm_product` for l_inf, incomparable for l_2.

    Args:
        instance: any program.

    Returns:
        The bound, rounded up; infinite when float64 overflows.
    """
    forms = instance.forms
    box = instance.input_norm is Norm.LINF
    radii: list[Array] = [np.ones(len(forms.kept[0]))]
    with np.errstate(over="ignore", invalid="ignore"):
        for l in range(1, len(forms.kept)):
            kappa = _steepest(forms, l)
            sources = [s for s in range(l) if (l, s) in forms.hidden]
            blocks = {s: (forms.hidden[l, s], _error(forms.hidden_error, (l, s), forms.hidden[l, s])) for s in sources}
            reached = _radii(blocks, radii, len(kappa), box)
            radii.append(reached * kappa * (1.0 + gamma(4)) + _TINY * ((reached != 0) & (kappa != 0)))
        outputs = {s: (block, _error(forms.output_error, s, block)) for s, block in forms.output.items()}
        rows = _radii(outputs, radii, forms.rows, box)
        return _finite(_vector_norm(rows, instance.output))


_Key = TypeVar("_Key")


def _error(table: Mapping[_Key, Array], key: _Key, block: Array) -> Array:
    found = table.get(key)
    return np.zeros_like(block) if found is None else found


def _steepest(forms: Forms, l: int) -> Array:
    return np.maximum(np.abs(forms.lower[l - 1]), np.abs(forms.upper[l - 1]))


def _scaled(forms: Forms, l: int, s: int) -> tuple[Array, Array]:
    r""":math:`\mathrm{diag}(\kappa) V` and its error: that of V, and one rounding where kappa is not 0 or 1."""
    block, kappa = forms.hidden[l, s], _steepest(forms, l)[:, None]
    product, error = kappa * block, _error(forms.hidden_error, (l, s), block)
    rounding = gamma(1) * np.abs(product) + _TINY * ((block != 0) | (error != 0))
    return product, kappa * error * (1.0 + gamma(4)) + np.where((kappa == 0) | (kappa == 1), 0.0, rounding)


# --- norms, rounded up ------------------------------------------------------------------------------------------------


def _sum(parts: list[float]) -> float:
    """Upper bound of a sum of non-negative numbers, each of them a product of two factors rounded once."""
    return float(np.sum(parts)) * (1.0 + gamma(len(parts) + 8)) if parts else 0.0


def _product(first: float, second: float) -> float:
    """Product of two non-negative numbers that underflow makes no smaller."""
    return 0.0 if first == 0 or second == 0 else first * second + _TINY


def _row_sums(block: Array, error: Array) -> Array:
    return np.asarray((np.abs(block) + error).sum(axis=1) * (1.0 + gamma(block.shape[1] + 8)))


def _row_lengths(block: Array, error: Array) -> Array:
    return _lengths(np.abs(block) + error)


def _lengths(rows: Array) -> Array:
    """Euclidean norms of rows of non-negative numbers, scaled by powers of two so that no square leaves float64."""
    largest = rows.max(axis=1, initial=0.0)
    powers = powers_of_two(largest)
    scaled = rows / powers[:, None]
    lengths = np.sqrt((scaled * scaled).sum(axis=1)) * (1.0 + gamma(rows.shape[1] + 12))
    return np.asarray(lengths * powers + _TINY * (largest != 0))


def _largest_row_sum(block: Array, error: Array) -> float:
    r""":math:`\|A\|_{\infty \to \infty}`."""
    return float(_row_sums(block, error).max(initial=0.0))


def _output_rule(output: OutputNorm, box: bool) -> _NormBound:
    r"""Bounds of :math:`\|O\|_{p \to out}`.

    From l_inf the row sums bound the entries of O w. From l_2 so do the rows' lengths; the spectral norm bounds
    :math:`\|O w\|_2` and :math:`\|O w\|_1 \le \sqrt m \|O w\|_2`.
    """

    def from_rows(block: Array, error: Array) -> float:
        sizes = _row_sums(block, error) if box else _row_lengths(block, error)
        return _vector_norm(sizes, output)

    def from_ball(block: Array, error: Array) -> float:
        spectral = sharp_spectral_norm_bound(block, error)
        factor = np.sqrt(block.shape[0]) * (1.0 + gamma(4)) if output is OutputNorm.L1 else 1.0
        return min(from_rows(block, error), float(spectral * factor) * (1.0 + gamma(2)))

    return from_rows if box else from_ball


def _vector_norm(sizes: Array, output: OutputNorm) -> float:
    """Norm of a vector of non-negative numbers; a single row is its own norm."""
    by_sum = output is OutputNorm.L1 or len(sizes) == 1
    total = sizes.sum() if by_sum else _lengths(sizes[None])[0]
    return float(total) * (1.0 + gamma(len(sizes) + 8))


def _radii(blocks: dict[int, tuple[Array, Array]], radii: list[Array], count: int, box: bool) -> Array:
    r""":math:`\rho_i + \sum_{s \ge 1} \sum_j |V_{ij}| r_j`."""
    total = np.zeros(count)
    for s, (block, error) in blocks.items():
        if s == 0:
            total += _row_sums(block, error) if box else _row_lengths(block, error)
        else:
            absolute = np.abs(block) + error
            total += (absolute @ radii[s]) * (1.0 + gamma(block.shape[1] + 8))
            # products that underflow
            total += _TINY * ((absolute != 0) @ (radii[s] != 0))
    return total * (1.0 + gamma(len(blocks) + 4))


def _finite(value: float) -> float:
    """NaN (an infinite norm times zero) says nothing: infinity."""
    return value if np.isfinite(value) else float("inf")
