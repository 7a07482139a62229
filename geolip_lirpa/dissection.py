r"""Another division of a block matrix: along the image instead of along the layers.

Place in the data flow: level 6, between `lmi` and `block_elimination`, for networks of local maps. A convolution
couples a pixel with its neighbours only. So the variables of all layers above one line of pixels separate those on its
left from those on its right: *nested dissection* (George, SIAM J. Numer. Anal. 10, 1973) eliminates the two sides
first, each of them divided in the same way, and the line last. A network with layers of C channels on H x W pixels then
costs about :math:`(H \sum C)^3` instead of :math:`\sum (H W C)^3`.

Trusted is `Arrangement.apply` alone: it puts the same entries into other blocks. Whether the division was wise changes
only the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from geolip_lirpa.block_elimination import EliminationCost, Pattern, elimination_cost
from geolip_lirpa.blocks import compact
from geolip_lirpa.lmi import BlockMatrix
from geolip_lirpa.rounding import Array

Indices = NDArray[np.int64]

# Variables of a leaf, and of one piece of a separating line.
_LEAF = 256
_PIECE = 384
# Variables coupled with more others than this part of all are eliminated at the end.
_HUB = 0.1
# Below this many multiplications the division by layers is good enough.
_CHEAP = 5e9


@dataclass(frozen=True)
class Arrangement:
    """Blocks and their order of elimination.

    Args:
        parts: for each new block the variables in it, numbered through all old blocks; None for the old blocks.
        order: in which the (new) blocks are eliminated, the outputs last.
        cost: of the elimination.
    """

    parts: tuple[Indices, ...] | None
    order: tuple[int, ...]
    cost: EliminationCost

    def apply(self, matrix: BlockMatrix) -> BlockMatrix:
        """The matrix in the new blocks; the old one is not changed."""
        if self.parts is None:
            return matrix
        entries = _lower_entries(matrix)
        size = sum(matrix.sizes)
        if not np.array_equal(np.sort(np.concatenate(self.parts)), np.arange(size)):
            raise ValueError("arrangement: its parts are not a partition of the matrix's variables")
        block, place = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
        for number, part in enumerate(self.parts):
            block[part], place[part] = number, np.arange(len(part))
        diagonal = np.concatenate([matrix.diagonal_entries(s) for s in range(len(matrix.sizes))])
        return _assembled(entries, block, place, [diagonal[part] for part in self.parts])


def _lower_entries(matrix: BlockMatrix) -> coo_array:
    """All entries below the diagonal of the whole matrix."""
    offsets = np.concatenate([[0], np.cumsum(matrix.sizes)])
    rows, columns, data = [], [], []
    pieces = [(t, s, coo_array(part)) for (t, s), part in matrix.coupling.items()]
    pieces += [(s, s, coo_array(np.tril(b, -1))) for s, b in enumerate(matrix.diagonal) if b.ndim == 2]
    for t, s, part in pieces:
        i, j = part.coords
        rows.append(i + offsets[t])
        columns.append(j + offsets[s])
        data.append(part.data)
    shape = (int(offsets[-1]), int(offsets[-1]))
    if not data:
        return coo_array(shape)
    return coo_array((np.concatenate(data), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def _assembled(entries: coo_array, block: Indices, place: Indices, diagonals: Sequence[Array]) -> BlockMatrix:
    """Sort entries into blocks."""
    row, column = (c.astype(np.int64) for c in entries.coords)
    swap = block[row] < block[column]
    row, column = np.where(swap, column, row), np.where(swap, row, column)
    count = len(diagonals)
    key = block[row] * count + block[column]
    order = np.argsort(key, kind="stable")
    key, row, column, data = key[order], place[row[order]], place[column[order]], entries.data[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    ends = np.append(starts[1:], len(key))
    result = BlockMatrix(list(diagonals), {})
    for first, last in zip(starts, ends, strict=True):
        t, s = divmod(int(key[first]), count)
        inside = slice(first, last)
        if t == s:
            square = np.diag(diagonals[t])
            square[row[inside], column[inside]] = data[inside]
            square[column[inside], row[inside]] = data[inside]
            result.diagonal[t] = square
        else:
            shape = (len(diagonals[t]), len(diagonals[s]))
            result.coupling[t, s] = compact(csr_array((data[inside], (row[inside], column[inside])), shape=shape))
    return result


# --- choosing ---------------------------------------------------------------------------------------------------------


def arrangement_of(matrix: BlockMatrix) -> Arrangement:
    """The cheaper of elimination by layers and by nested dissection."""
    layers = elimination_cost(Pattern.of(matrix))
    plain = Arrangement(None, layers.order, layers)
    if layers.operations <= _CHEAP or matrix.places is None or all(p is None for p in matrix.places):
        return plain
    parts = tuple(dissect(matrix))
    cost = _cost_in_order(matrix, parts)
    return Arrangement(parts, cost.order, cost) if cost.operations < layers.operations else plain


def _cost_in_order(matrix: BlockMatrix, parts: Sequence[Indices]) -> EliminationCost:
    state = Pattern.of(Arrangement(tuple(parts), (), EliminationCost((), 0.0, 0.0)).apply(matrix))
    operations, peak = 0.0, state.bytes()
    for s in range(len(parts)):
        operations += state.cost(s)
        state.eliminate(s)
        peak = max(peak, state.bytes())
        state.flat.add(s)
    return EliminationCost(tuple(range(len(parts))), operations, peak)


def dissect(matrix: BlockMatrix) -> list[Indices]:
    """Parts in the order of their elimination: nested dissection of the variables with a place, then all others."""
    sizes = matrix.sizes
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    lower = _lower_entries(matrix)
    below = csr_array((np.ones(len(lower.data), dtype=np.int8), lower.coords), shape=lower.shape)
    graph = csr_array(below + below.T)
    outputs = np.arange(offsets[-2], offsets[-1])
    places = np.full((int(offsets[-1]), 2), np.nan)
    for s, own in enumerate(matrix.places or []):
        if own is not None:
            places[offsets[s] : offsets[s + 1]] = own
    degree = np.diff(graph.indptr)
    placed = ~np.isnan(places[:, 0]) & (degree <= max(_HUB * len(degree), 2 * _LEAF))
    placed[outputs] = False
    parts: list[Indices] = []
    inner = np.flatnonzero(placed)
    _dissect(graph[inner][:, inner], places[inner], inner, parts)
    others = np.setdiff1d(np.flatnonzero(~placed), outputs)
    parts.extend(_pieces(others))
    return [*parts, outputs]


def _pieces(variables: Indices) -> list[Indices]:
    count = -(-len(variables) // _PIECE)
    return [part for part in np.array_split(variables, count) if len(part)] if count else []


def _dissect(graph: csr_array, places: Array, variables: Indices, parts: list[Indices]) -> None:
    """Append the parts of one region, its separating line last."""
    if len(variables) <= _LEAF:
        if len(variables):
            parts.append(variables)
        return
    extent = places.max(axis=0) - places.min(axis=0)
    axis = int(np.argmax(extent))
    if extent[axis] == 0:
        parts.extend(_pieces(variables))
        return
    left = places[:, axis] < places[:, axis].min() + 0.5 * extent[axis]
    across = [
        side[np.diff(graph[side][:, ~mask].indptr) > 0]
        for mask in (left, ~left)
        for side in [np.flatnonzero(mask)]
    ]  # fmt: skip
    line = min(across, key=len)
    on_line = np.zeros(len(variables), dtype=bool)
    on_line[line] = True
    for mask in (left & ~on_line, ~left & ~on_line):
        side = np.flatnonzero(mask)
        _dissect(graph[side][:, side], places[side], variables[side], parts)
    along = line[np.argsort(places[line, 1 - axis], kind="stable")]
    parts.extend(_pieces(variables[along]))
