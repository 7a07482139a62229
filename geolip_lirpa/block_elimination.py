r"""Cholesky factorisation of a block matrix along the graph of its couplings, as a proof of definiteness.

Place in the data flow: level 6, part of the trusted checker. A block is eliminated by

.. math:: S_{tu} \leftarrow S_{tu} - S_{ts} S_{ss}^{-1} S_{us}^T \qquad \text{for all } t, u \text{ coupled with } s,

so memory is needed for the blocks at work, never for the whole matrix. The order is free; `elimination_order` chooses
one that is cheap. While a block is still diagonal (inputs, and layers of ReLU whose neighbours are still there) its
elimination costs no factorisation and sparse couplings stay sparse: every other layer of a chain leaves that way.

**Rounding.** Whatever the order and the grouping, the operations are those of one Cholesky factorisation of the
symmetrically permuted matrix A, with the sums of each entry in some order and zeros left out. If it runs to completion,
then :math:`R^T R = A + \Delta` with :math:`|\Delta_{ij}| \le \varphi \sqrt{a_{ii} a_{jj}}`,
:math:`\varphi = \gamma_{k+1}/(1-\gamma_{k+1})`, where k is the longest sum (Rump, "Verification of positive
definiteness", BIT 46, 2006; Demmel 1989), and :math:`\Delta` vanishes where A and its fill do. Hence
:math:`\|\Delta\|_2 \le \varphi \max_t \sqrt{\delta_t} \sum_{s \sim t} \sqrt{\delta_s}` with :math:`\delta_t` the
trace of block t: for a chain of layers this does not grow with the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import blas, lapack
from scipy.sparse import csr_array

from geolip_lirpa.blocks import Block, compact, dense, scaled, stored, transposed
from geolip_lirpa.lmi import BlockMatrix
from geolip_lirpa.positive_definite import UNDERFLOW_IN_CHOLESKY
from geolip_lirpa.rounding import Array, gamma

# Sparse products cost several times more for each operation than dense ones.
_SPARSE_COST = 8.0


def is_positive_semidefinite_matrix(
    matrix: BlockMatrix, error: float, margin: float = 1.0, order: Sequence[int] | None = None
) -> bool:
    """Prove that every symmetric matrix within `error` (spectral norm) of `matrix` is positive semidefinite.

    Args:
        matrix: with a diagonal near one; destroyed.
        error: bound of the spectral norm of (true matrix - matrix), non-negative.
        margin: the allowance for the factorisation's own rounding is multiplied by it, at least 1.
        order: of the blocks; chosen when None.

    Returns:
        True only if proven. False says nothing.
    """
    order = elimination_order(matrix) if order is None else order
    if sorted(order) != list(range(len(matrix.diagonal))):
        raise ValueError("elimination: the order must hold every block once")
    traces = [float(matrix.diagonal_entries(s).sum()) for s in range(len(matrix.diagonal))]
    if not np.isfinite([error, *traces]).all():
        return False
    lower_diagonal(matrix, (error + margin * rounding_of_elimination(matrix, order)) * (1.0 + gamma(8)))
    return eliminate(matrix, order)


def schur_complement(matrix: BlockMatrix, order: Sequence[int]) -> Array | None:
    """What remains of the last block when all others are eliminated, in floating point; None when one is not positive.

    Args:
        matrix: destroyed.
        order: of all blocks, the last block last.
    """
    if not eliminate(matrix, order[:-1]):
        return None
    rest = matrix.diagonal[-1]
    if rest.ndim == 1:
        return np.diag(rest)
    lower = np.tril(rest)
    return lower + np.tril(rest, -1).T


def lower_diagonal(matrix: BlockMatrix, shift: float, blocks: int | None = None) -> None:
    """Subtract `shift` from the diagonal of the first blocks (all of them by default), rounded down."""
    for s in range(len(matrix.diagonal) if blocks is None else blocks):
        block = matrix.diagonal[s].copy()
        where = ... if block.ndim == 1 else np.diag_indices_from(block)
        block[where] = np.nextafter(block[where] - shift, -np.inf)
        matrix.diagonal[s] = block


def rounding_of_elimination(matrix: BlockMatrix, order: Sequence[int]) -> float:
    """Bound of the backward error of `eliminate` in the spectral norm, see the module's docstring."""
    pattern = Pattern.of(matrix)
    fill = _filled(pattern, order)
    place = {s: i for i, s in enumerate(order)}
    # longest sum that an entry of block t takes part in
    sums = [pattern.sizes[t] + sum(pattern.sizes[s] for s in fill.neighbours[t] if place[s] < place[t]) for t in place]
    phi = gamma(2 * max(sums) + 16)
    entries = [matrix.diagonal_entries(s) for s in range(len(pattern.sizes))]
    traces = [float(np.abs(e).sum()) for e in entries]
    own = [float(np.abs(e).max(initial=0.0)) if s in fill.flat else traces[s] for s, e in enumerate(entries)]
    rows = [
        own[t] + np.sqrt(traces[t]) * sum(np.sqrt(traces[s]) for s in fill.neighbours[t])
        for t in range(len(pattern.sizes))
    ]
    size = sum(pattern.sizes)
    largest = min(max(rows), sum(traces)) * (1.0 + gamma(size + 8 * len(rows) + 16))
    return float(phi / (1.0 - phi) * largest) + UNDERFLOW_IN_CHOLESKY


# --- elimination ----------------------------------------------------------------------------------------------------


def eliminate(matrix: BlockMatrix, order: Sequence[int]) -> bool:
    """Eliminate blocks one after the other, in place; False as soon as a pivot is not positive."""
    for s in order:
        below = {t: _take(matrix, t, s) for t in _neighbours(matrix, s)}
        block = matrix.diagonal[s]
        if block.ndim == 1:
            if not _divide_by_vector(block, below):
                return False
        elif not _divide_by_factor(block, below):
            return False
        matrix.diagonal[s] = np.ones(len(block))
        _update(matrix, below)
    return True


def _neighbours(matrix: BlockMatrix, s: int) -> list[int]:
    return sorted({t if u == s else u for (t, u) in matrix.coupling if s in (t, u)})


def _take(matrix: BlockMatrix, t: int, s: int) -> Block:
    """Remove the coupling of two blocks and return it with rows of t and columns of s."""
    if t > s:
        return matrix.coupling.pop((t, s))
    return transposed(matrix.coupling.pop((s, t)))


def _divide_by_vector(pivots: Array, below: dict[int, Block]) -> bool:
    """Replace each block B by B T^(-1/2)."""
    if not (np.isfinite(pivots).all() and (pivots > 0).all()):
        return False
    factor = 1.0 / np.sqrt(pivots)
    for t, block in below.items():
        if isinstance(block, csr_array):
            below[t] = scaled(block, np.ones(block.shape[0]), factor)
        else:
            below[t] = block * factor
    return True


def _divide_by_factor(block: Array, below: dict[int, Block]) -> bool:
    """Replace each block B by B L^(-T), where L L^T is the pivot block (its lower triangle counts)."""
    factor, info = lapack.dpotrf(block, lower=1, clean=0, overwrite_a=1)
    pivots = factor.diagonal()
    if info != 0 or not (np.isfinite(pivots).all() and (pivots > 0).all()):
        return False
    for t in below:
        right = np.asfortranarray(dense(below[t]))
        below[t] = blas.dtrsm(1.0, factor, right, side=1, lower=1, trans_a=1, overwrite_b=1)
    return True


def _update(matrix: BlockMatrix, below: dict[int, Block]) -> None:
    """Subtract H_t H_u^T for all pairs of blocks that were coupled with the eliminated one."""
    for t in sorted(below):
        _subtract_square(matrix, t, below[t])
        for u in sorted(below):
            if u < t:
                _subtract_product(matrix, t, u, below[t], below[u])


def _subtract_square(matrix: BlockMatrix, t: int, half: Block) -> None:
    target = matrix.diagonal[t]
    if target.ndim == 1:
        target = np.asfortranarray(np.diag(target))
    if isinstance(half, csr_array):
        product = (half @ transposed(half)).tocoo()
        target[product.row, product.col] -= product.data
        matrix.diagonal[t] = target
    else:
        # only the lower triangle is kept up from here on
        matrix.diagonal[t] = blas.dsyrk(
            -1.0, np.asfortranarray(half), beta=1.0, c=np.asfortranarray(target), lower=1, overwrite_c=1
        )  # fmt: skip


def _subtract_product(matrix: BlockMatrix, t: int, u: int, left: Block, right: Block) -> None:
    old = matrix.coupling.get((t, u))
    if isinstance(left, csr_array) and isinstance(right, csr_array):
        product = left @ transposed(right)
        matrix.coupling[t, u] = compact(-product if old is None else old - product)
        return
    if isinstance(left, csr_array) or isinstance(right, csr_array):
        product = np.asarray(left @ right.T)
        matrix.coupling[t, u] = -product if old is None else dense(old) - product
        return
    if old is None:
        matrix.coupling[t, u] = blas.dgemm(-1.0, left, right, trans_b=1)
    else:
        target = np.asfortranarray(dense(old))
        matrix.coupling[t, u] = blas.dgemm(-1.0, left, right, beta=1.0, c=target, trans_b=1, overwrite_c=1)


# --- order and cost -------------------------------------------------------------------------------------------------


@dataclass
class Pattern:
    """Sizes of blocks, which are diagonal, and how many entries the couplings store."""

    sizes: list[int]
    flat: set[int]
    entries: dict[tuple[int, int], float]

    @staticmethod
    def of(matrix: BlockMatrix) -> Pattern:
        flat = {s for s, block in enumerate(matrix.diagonal) if block.ndim == 1}
        return Pattern(matrix.sizes, flat, {key: float(stored(part)) for key, part in matrix.coupling.items()})

    def copy(self) -> Pattern:
        return Pattern(self.sizes, set(self.flat), dict(self.entries))

    def count(self, t: int, s: int) -> float:
        """Stored entries of a coupling; zero where there is none."""
        return self.entries.get((max(t, s), min(t, s)), 0.0)

    def neighbours(self, s: int) -> list[int]:
        return sorted({t if u == s else u for (t, u) in self.entries if s in (t, u)})

    def cost(self, s: int) -> float:
        """Multiplications, in units of dense ones, that eliminating block s takes now."""
        size = max(1, self.sizes[s])
        counts = [self.count(t, s) for t in self.neighbours(s)]
        if s in self.flat:
            sparse = any(c < size * self.sizes[t] for c, t in zip(counts, self.neighbours(s), strict=True))
            return (_SPARSE_COST if sparse else 1.0) * sum(counts) ** 2 / size
        reached = sum(self.sizes[t] for t in self.neighbours(s))
        return size**3 / 3 + reached * size**2 + reached**2 * size

    def eliminate(self, s: int) -> None:
        """What the elimination of block s does to the others."""
        found = self.neighbours(s)
        size = max(1, self.sizes[s])
        for t in found:
            self.flat.discard(t)
            for u in found:
                if u < t:
                    whole = float(self.sizes[t] * self.sizes[u])
                    fill = whole if s not in self.flat else self.count(t, s) * self.count(u, s) / size
                    self.entries[t, u] = min(whole, self.count(t, u) + fill)
        self.entries = {key: c for key, c in self.entries.items() if s not in key}

    def bytes(self) -> float:
        """Memory of what is stored now."""
        flat = sum(8.0 * self.sizes[s] for s in self.flat)
        full = sum(8.0 * self.sizes[s] ** 2 for s in range(len(self.sizes)) if s not in self.flat)
        return (
            flat + full + sum(min(12.0 * c, 8.0 * self.sizes[t] * self.sizes[s]) for (t, s), c in self.entries.items())
        )


@dataclass
class Fill:
    """Which blocks become coupled in the course of an elimination, and which are diagonal when their turn comes."""

    neighbours: list[set[int]]
    flat: set[int] = field(default_factory=set)


def _filled(pattern: Pattern, order: Sequence[int]) -> Fill:
    state = pattern.copy()
    fill = Fill([set() for _ in pattern.sizes])
    for s in order:
        if s in state.flat:
            fill.flat.add(s)
        for t in state.neighbours(s):
            fill.neighbours[s].add(t)
            fill.neighbours[t].add(s)
        state.eliminate(s)
    return fill


@dataclass(frozen=True)
class EliminationCost:
    """What eliminating all blocks takes.

    Args:
        order: in which they leave; the last block is last.
        operations: floating-point multiplications, roughly.
        bytes: largest memory at any time, roughly.
    """

    order: tuple[int, ...]
    operations: float
    bytes: float


def elimination_order(matrix: BlockMatrix) -> tuple[int, ...]:
    """A cheap order, see `elimination_cost`."""
    return elimination_cost(Pattern.of(matrix)).order


def elimination_cost(pattern: Pattern) -> EliminationCost:
    """The cheapest of a few orders, the last block last.

    Each starts with some blocks that are diagonal and not coupled with each other (none, the even or the odd ones) and
    goes on with whichever block is cheapest at its turn.
    """
    hidden = range(len(pattern.sizes) - 1)
    starts = [[], _independent(pattern, hidden[0::2]), _independent(pattern, hidden[1::2])]
    return min((_simulate(pattern, start) for start in starts), key=lambda cost: cost.operations)


def _independent(pattern: Pattern, blocks: Sequence[int]) -> list[int]:
    chosen: list[int] = []
    for s in blocks:
        if s in pattern.flat and not any(t in chosen for t in pattern.neighbours(s)):
            chosen.append(s)
    return chosen


def _simulate(pattern: Pattern, start: Sequence[int]) -> EliminationCost:
    state, order, operations, peak = pattern.copy(), list[int](), 0.0, pattern.bytes()
    waiting = set(range(len(pattern.sizes) - 1))
    while waiting:
        s = start[len(order)] if len(order) < len(start) else min(waiting, key=lambda t: (state.cost(t), t))
        operations += state.cost(s)
        before = 8.0 * sum(state.sizes[t] for t in state.neighbours(s)) * state.sizes[s]
        state.eliminate(s)
        peak = max(peak, state.bytes() + (before if s not in state.flat else 0.0))
        state.flat.add(s)
        order.append(s)
        waiting.discard(s)
    last = len(pattern.sizes) - 1
    return EliminationCost((*order, last), operations + state.cost(last), peak)
