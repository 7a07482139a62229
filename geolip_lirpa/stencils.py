r"""Convolutions on the whole lattice: their symbols, and proven bounds of their norms.

Place in the data flow: level 5, part of the trusted base. A *stencil* maps channel fields on :math:`\mathbb{Z}^d`,

.. math:: y[p] = \sum_t K_t\, x[p + t], \qquad K(\omega) = \sum_t K_t e^{i t \cdot \omega},

and its norm is the largest spectral norm of the *symbol* :math:`K(\omega)`. A convolution with zero padding extends its
input by zeros, applies a stencil and keeps some of the outputs: a compression, so its norm is no larger. With a stride
s the inputs are sorted by their positions modulo s (*phases*, :math:`s^d` times as many channels), an isometry.

**From a grid to all frequencies.** For unit vectors u, v the function
:math:`p(\omega) = \mathrm{Re}\, u^* K(\omega) v` is a trigonometric polynomial whose degree along an axis is n, half
the extent of the taps there, after a shift, which changes no norm. If it attains its maximum M at :math:`\omega_0`,
then :math:`p(\omega) \ge M \cos(n(\omega - \omega_0))` for :math:`|\omega - \omega_0| \le \pi/n` (M. Riesz), and one
of N equidistant points is within :math:`\pi/N`. Axis by axis,

.. math:: \sup_\omega \|K(\omega)\| \le \max_{\text{grid}} \|K(\omega)\| \prod_a \frac{1}{\cos(\pi n_a / N_a)} .

On the grid norms are proven like those of dense matrices, by Cholesky factorisations. (Delattre et al., arXiv
2305.16173, bound the norm for circular padding, on the frequencies of the image's size.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geolip_lirpa.positive_definite import is_positive_semidefinite, powers_of_two, sharp_spectral_norm_bound
from geolip_lirpa.rounding import Array, gamma

Offset = tuple[int, ...]

#: Error of one entry of a table of cosines or sines, argument included; libraries stay a few times below.
TABLE_ROUNDINGS = 64
# Points of the grid for each degree; the bound exceeds the norm by a factor of at most 1 / cos(pi / density)^d.
_DENSITIES = (64, 32, 16, 8)
# Multiplications that the proof on a grid may take, and what each point costs besides.
_GRID_OPERATIONS = 2e11
_OVERHEAD = 5e6
# Far above what scaling a norm back can lose to underflow.
_TINY = 1e-290


@dataclass(frozen=True)
class Stencil:
    """Matrices :math:`K_t` (rows, columns) by offset t, with entrywise error bounds of the same keys.

    Args:
        taps: at least one.
        errors: absent means exact.
    """

    taps: Mapping[Offset, Array]
    errors: Mapping[Offset, Array]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = next(iter(self.taps.values())).shape
        return rows, columns

    @cached_property
    def extents(self) -> tuple[int, ...]:
        """Largest minus smallest offset along each axis."""
        offsets = np.array(list(self.taps))
        return tuple(int(v) for v in offsets.max(axis=0) - offsets.min(axis=0))

    def magnitude(self) -> Array:
        r""":math:`\sum_t |K_t|` with all errors, rounded up: it bounds every entry of every symbol."""
        total = sum((np.abs(tap) for tap in self.taps.values()), np.zeros(self.shape))
        total = sum(self.errors.values(), total)
        return np.asarray(total * (1.0 + gamma(2 * len(self.taps) + 4)))

    def scaled(self, rows: Array, columns: Array, roundings: int) -> Stencil:
        """``diag(rows) K diag(columns)`` for non-negative factors with `roundings` relative errors in all."""
        factor = rows[:, None] * columns
        taps = {t: factor * tap for t, tap in self.taps.items()}
        relative = gamma(roundings + 4)
        errors = {
            t: relative * np.abs(tap) + factor * self.errors.get(t, np.zeros(tap.shape)) * (1.0 + gamma(roundings + 8))
            for t, tap in taps.items()
        }
        return Stencil(taps, errors)


def convolution_stencil(
    weight: Array,
    error: Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    phases: Sequence[int],
) -> Stencil:
    r"""A convolution between fields whose positions are sorted by phases.

    Output position :math:`\rho P + q` (phase q of :math:`\rho` along an axis, cell P) reads inputs at
    :math:`s(\rho P + q) + \delta t - \pi = s \rho (P + a) + r`: channel phase r of :math:`s\rho`, cell P + a.

    Args:
        weight: (out, in, \*kernel) of one group.
        error: entrywise error bounds of the same shape, or None.
        stride: s along each axis.
        padding: :math:`\pi`.
        dilation: :math:`\delta`.
        phases: :math:`\rho`, phases of the output; those of the input are :math:`s\rho`.
    """
    outputs, inputs = weight.shape[:2]
    ratios = [s * r for s, r in zip(stride, phases, strict=True)]
    shape = (outputs * math.prod(phases), inputs * math.prod(ratios))
    taps: dict[Offset, Array] = {}
    errors: dict[Offset, Array] = {}
    steps = itertools.product(*(range(k) for k in weight.shape[2:]))
    for step, phase in itertools.product(list(steps), list(itertools.product(*(range(r) for r in phases)))):
        places = [s * q + d * t - p for s, q, d, t, p in zip(stride, phase, dilation, step, padding, strict=True)]
        cell = tuple(place // ratio for place, ratio in zip(places, ratios, strict=True))
        row = _number(phase, phases)
        column = _number([place % ratio for place, ratio in zip(places, ratios, strict=True)], ratios)
        rows = slice(row, None, math.prod(phases))
        columns = slice(column, None, math.prod(ratios))
        taps.setdefault(cell, np.zeros(shape))[rows, columns] = _tap(weight, step)
        if error is not None:
            errors.setdefault(cell, np.zeros(shape))[rows, columns] = _tap(error, step)
    return Stencil(taps, errors)


def _tap(values: Array, step: Offset) -> Array:
    flat = values.reshape(*values.shape[:2], -1)
    return np.asarray(flat[:, :, int(np.ravel_multi_index(step, values.shape[2:]))])


def _number(position: Sequence[int], sizes: Sequence[int]) -> int:
    number = 0
    for place, size in zip(position, sizes, strict=True):
        number = number * size + place
    return number


# --- symbols on a grid ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Frequencies :math:`2\\pi j / N` along each axis; j and -j give conjugate symbols, so one of them is enough.

    Args:
        sizes: N along each axis.
    """

    sizes: tuple[int, ...]

    def frequencies(self) -> Iterator[tuple[int, ...]]:
        """One j of each conjugate pair."""
        for j in itertools.product(*(range(n) for n in self.sizes)):
            if j <= tuple(-k % n for k, n in zip(j, self.sizes, strict=True)):
                yield j

    @cached_property
    def _tables(self) -> list[NDArray[np.complex128]]:
        return [np.exp(2j * np.pi * np.arange(n) / n) for n in self.sizes]

    def wave(self, offset: Offset, frequency: tuple[int, ...]) -> complex:
        r""":math:`e^{i t \cdot \omega}`; each axis contributes at most `TABLE_ROUNDINGS` roundings."""
        value = 1.0 + 0.0j
        for table, n, t, j in zip(self._tables, self.sizes, offset, frequency, strict=True):
            value *= complex(table[t * j % n])
        return value

    def symbol(self, stencil: Stencil, frequency: tuple[int, ...]) -> NDArray[np.complex128]:
        """The symbol at one frequency, within `symbol_error` of the true one."""
        total = np.zeros(stencil.shape, dtype=np.complex128)
        for offset, tap in stencil.taps.items():
            total += self.wave(offset, frequency) * tap
        return total


def symbol_error(stencil: Stencil) -> Array:
    """Entrywise bound of real and imaginary errors of all computed symbols, the stencil's own errors included."""
    axes = len(next(iter(stencil.taps)))
    relative = gamma(axes * (TABLE_ROUNDINGS + 8) + 2 * len(stencil.taps) + 8)
    own = sum(stencil.errors.values(), np.zeros(stencil.shape)) * (1.0 + gamma(len(stencil.taps) + 8))
    return np.asarray(relative * stencil.magnitude() + own)


def interpolation_factor(extents: Sequence[int], sizes: Sequence[int]) -> float:
    r""":math:`\prod_a 1 / \cos(\pi n_a / N_a)`, rounded up; the degree n is half the extent, rounded up."""
    factor = 1.0
    for extent, size in zip(extents, sizes, strict=True):
        degree = -(-extent // 2)
        if degree > 0:
            factor /= math.cos(math.pi * degree / size)
    # two roundings of the argument, one of the library function, one of the quotient; cos' / cos < 3 for N >= 5 n
    return factor * (1.0 + gamma(64 * len(sizes)))


def real_form(matrix: NDArray[np.complex128]) -> Array:
    """The real matrix [[Re, -Im], [Im, Re]], which has the same singular values, each twice."""
    top = np.concatenate([matrix.real, -matrix.imag], axis=1)
    return np.concatenate([top, np.concatenate([matrix.imag, matrix.real], axis=1)])


# --- norms ------------------------------------------------------------------------------------------------------------


def stencil_norm_bound(stencil: Stencil) -> float:
    """Proven upper bound of the norm on l_2 of a stencil, a few tenths of a per cent above it.

    Returns:
        The bound; zero for zero, infinite when float64 overflows.
    """
    peak = float(stencil.magnitude().max(initial=0.0))
    if peak == 0.0 or not math.isfinite(peak):
        return peak if peak == 0.0 else math.inf
    power = float(powers_of_two(np.array([peak]))[0])
    inverse = Stencil(
        {t: tap / power for t, tap in stencil.taps.items()}, {t: e / power for t, e in stencil.errors.items()}
    )
    # dividing by a power of two is exact, but for what underflows
    return _unit_norm_bound(inverse) * power + _TINY


def _unit_norm_bound(stencil: Stencil) -> float:
    sizes = _grid_sizes(stencil)
    if sizes is None:
        return _row_column_bound(stencil)
    grid, error = Grid(sizes), symbol_error(stencil)
    factor = interpolation_factor(stencil.extents, sizes) * (1.0 + gamma(8))
    if min(stencil.shape) == 1:
        return _longest_symbol(grid, stencil, error) * factor
    largest = 0.0
    real_error = np.tile(error, (2, 2))
    slack = _with_error(0.0, error)
    for frequency in grid.frequencies():
        symbol = real_form(grid.symbol(stencil, frequency))
        if not _is_below(symbol, largest - slack):
            largest = max(largest, sharp_spectral_norm_bound(symbol, real_error))
    return largest * factor


def _longest_symbol(grid: Grid, stencil: Stencil, error: Array) -> float:
    """Largest length of the symbols of a single row or column, which is their norm."""
    waves = np.array([[grid.wave(t, j) for t in stencil.taps] for j in grid.frequencies()])
    symbols = waves @ np.array([tap.reshape(-1) for tap in stencil.taps.values()])
    entries = np.abs(symbols.real) + np.abs(symbols.imag) * 1j + error.reshape(-1) * (1 + 1j)
    lengths = np.sqrt((entries.real**2 + entries.imag**2).sum(axis=1))
    return float(lengths.max()) * (1.0 + gamma(2 * entries.shape[1] + 16))


def _grid_sizes(stencil: Stencil) -> tuple[int, ...] | None:
    """Points along each axis: as many as the effort allows; None when even the coarsest grid takes too long."""
    degrees = [-(-extent // 2) for extent in stencil.extents]
    small, large = sorted(stencil.shape)
    for density in _DENSITIES:
        sizes = tuple(density * degree if degree else 1 for degree in degrees)
        if math.prod(sizes) / 2 * ((2 * small) ** 2 * (2 * large + small) + _OVERHEAD) <= _GRID_OPERATIONS:
            return sizes
    return None


def _row_column_bound(stencil: Stencil) -> float:
    r""":math:`\|K\| \le \sqrt{\|K\|_1 \|K\|_\infty}`."""
    total = stencil.magnitude()
    roots = np.sqrt(total.sum(axis=0).max()) * np.sqrt(total.sum(axis=1).max())
    return float(roots) * (1.0 + gamma(sum(total.shape) + 16))


def _with_error(norm: float, error: Array) -> float:
    r""":math:`\|A\| + \|E\|` for a complex matrix whose real and imaginary parts have errors up to `error`."""
    roots = np.sqrt(2.0 * error.sum(axis=0).max()) * np.sqrt(2.0 * error.sum(axis=1).max())
    return (norm + float(roots)) * (1.0 + gamma(2 * sum(error.shape) + 16)) + _TINY


def _is_below(matrix: Array, bound: float) -> bool:
    r"""Prove :math:`\|A\| \le` bound, by a Cholesky factorisation of :math:`b^2 I - A A^T`."""
    if bound <= 0:
        return False
    a = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    gram = a @ a.T
    gram = -0.5 * (gram + gram.T)
    absolute = np.abs(a)
    spread = float((absolute @ absolute.sum(axis=0)).max()) * (1.0 + gamma(sum(a.shape) + 8))
    square = bound * bound * (1.0 - gamma(4))
    # |fl(t - g_ii) - (t - g_ii)| <= u (t + |g_ii|)
    rounding = gamma(a.shape[1] + 4) * spread + gamma(1) * (square + float(np.abs(gram.diagonal()).max()))
    gram[np.diag_indices_from(gram)] += square
    return is_positive_semidefinite(gram, rounding * (1.0 + gamma(8)))
