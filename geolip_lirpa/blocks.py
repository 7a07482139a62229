"""Matrix blocks that are stored densely or, where most entries are zero, in compressed rows.

Place in the data flow: level 1, used by the forms and by the checker. A convolution's block has a few dozen entries in
a row of thousands; a fully connected layer's has all of them. Whoever needs a plain array calls `dense`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from geolip_lirpa.rounding import Array

#: A dense (rows, columns) float64 array, or the same matrix in compressed rows.
Block: TypeAlias = Array | csr_array

# Compressed rows take 12 bytes an entry and compute several times slower for each; small blocks are not worth it.
_SPARSE_DENSITY = 0.1
_SMALLEST_SPARSE = 2**14


def compact(block: Block) -> Block:
    """The same matrix in the cheaper of the two formats; NaN and infinity stay."""
    rows, columns = block.shape
    count = block.nnz if isinstance(block, csr_array) else int(np.count_nonzero(block))
    sparse = rows * columns >= _SMALLEST_SPARSE and count <= _SPARSE_DENSITY * rows * columns
    if sparse:
        return block if isinstance(block, csr_array) else csr_array(block)
    return dense(block)


def dense(block: Block) -> Array:
    """The block as a plain array."""
    return block.toarray() if isinstance(block, csr_array) else block


def transposed(block: Block) -> Block:
    """The transpose, in the same format."""
    return csr_array(block.T) if isinstance(block, csr_array) else block.T


def join_columns(parts: Sequence[Block]) -> Block:
    """Blocks side by side, in the cheaper format."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, csr_array) for part in parts):
        return compact(csr_array(hstack([csr_array(part) for part in parts], format="csr")))
    return np.hstack([dense(part) for part in parts])


def stored(block: Block) -> int:
    """Number of stored entries."""
    return int(block.nnz) if isinstance(block, csr_array) else block.size


def magnitude(block: Block) -> Block:
    """Absolute values."""
    return abs(block) if isinstance(block, csr_array) else np.abs(block)


def scaled(block: Block, rows: Array, columns: Array) -> Block:
    """``diag(rows) block diag(columns)``, each entry multiplied twice."""
    if not isinstance(block, csr_array):
        return (rows[:, None] * block) * columns
    data = block.data * np.repeat(rows, np.diff(block.indptr)) * columns[block.indices]
    return csr_array((data, block.indices, block.indptr), shape=block.shape)


def select(block: Block, rows: NDArray[np.bool_] | None, columns: NDArray[np.bool_] | None) -> Block:
    """The rows and columns of two masks; None takes all."""
    if rows is not None:
        block = block[rows]
    return block if columns is None else block[:, columns]


def nonzero_rows(block: Block) -> NDArray[np.bool_]:
    """Which rows hold an entry other than zero (NaN counts)."""
    if not isinstance(block, csr_array):
        return np.asarray((block != 0).any(axis=1))
    found = np.zeros(block.shape[0], dtype=bool)
    found[np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))[block.data != 0]] = True
    return found


def nonzero_columns(block: Block) -> NDArray[np.bool_]:
    """Which columns hold an entry other than zero (NaN counts)."""
    if not isinstance(block, csr_array):
        return np.asarray((block != 0).any(axis=0))
    found = np.zeros(block.shape[1], dtype=bool)
    found[block.indices[block.data != 0]] = True
    return found
