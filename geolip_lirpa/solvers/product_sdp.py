r"""Semidefinite programs whose constraints are products of two linear forms, as data with their linear algebra.

Place in the data flow: level 7, read by `path_following`; knows no networks.

With vectors :math:`a_i, b_i`, a symmetric matrix C, a vector c and a map v from products to variables, the pair is

.. math::
    & \min_\theta\; c^T\theta \quad\text{s.t.}\quad
      M(\theta) = C - \sum_i \theta_{v(i)} (a_i b_i^T + b_i a_i^T) \succeq 0, \quad \theta_j \ge 0 \;(j \in S), \\
    & \max_X\; -\langle C, X\rangle \quad\text{s.t.}\quad
      c_j + 2 \sum_{v(i) = j} a_i^T X b_i \;\; (= 0,\; j \notin S;\;\; \ge 0,\; j \in S), \quad X \succeq 0 .

The first is the Lagrange dual of maximising :math:`-y^T C y` subject to :math:`c_j + 2 \sum (a_i^T y)(b_i^T y) \ge 0`.
A multiple d of :math:`e_j e_j^T` is the product of :math:`a = e_j` and :math:`b = -\tfrac d2 e_j`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from geolip_lirpa.rounding import Array
from geolip_lirpa.sparse_sdp import Index

# Vectors with more entries than this are multiplied as dense rows, all of them together.
_MOST_ENTRIES = 16


@dataclass(frozen=True)
class ProductSdp:
    """A pair of programs over products of linear forms, see the module's docstring.

    Args:
        left: a, (m, n).
        right: b, (m, n).
        variables: v, (m,), every number from 0 to p - 1 at least once.
        constant: C, (n, n) symmetric.
        weights: c, (p,).
        signed: the set S, (p,) bool.
    """

    left: sparse.csr_array
    right: sparse.csr_array
    variables: NDArray[np.int64]
    constant: Array
    weights: Array
    signed: NDArray[np.bool_]

    @property
    def size(self) -> int:
        """Rows of the matrix, n."""
        return self.constant.shape[0]

    @cached_property
    def _products(self) -> _Products:
        return _Products.of(self.left, self.right)

    @cached_property
    def _collection(self) -> sparse.csr_array | None:
        """Sums over the products of each variable, (p, m); None when it is the identity."""
        count = len(self.variables)
        if count == len(self.weights) and bool((self.variables == np.arange(count)).all()):
            return None
        return sparse.csr_array((np.ones(count), (self.variables, np.arange(count))), shape=(len(self.weights), count))

    def matrix(self, theta: Array) -> Array:
        r""":math:`M(\theta)`, (n, n)."""
        return self.constant + self.change(theta)

    def change(self, step: Array) -> Array:
        r""":math:`M(\theta + h) - M(\theta)` for a step h, (p,): (n, n), symmetric to the last bit."""
        whole, mixed, full = self._products.weighted(-step[self.variables])
        forms = self._products.forms
        total = whole.toarray()
        if mixed.nnz:
            total += mixed @ forms
        if full.nnz:
            total += forms.T @ (full @ forms)
        return total + total.T

    def change_times(self, step: Array, images: Array) -> Array:
        r""":math:`(M(\theta + h) - M(\theta)) P` from the images of P; cheap when there are fewer forms than n."""
        whole, mixed, full = self._products.weighted(-step[self.variables])
        matrix, moved = images[: self.size, : self.size], images[self.size :, : self.size]
        product = (whole + whole.T) @ matrix
        if mixed.nnz or full.nnz:
            product += mixed @ moved
            product += self._products.forms.T @ (mixed.T @ matrix + (full + full.T) @ moved)
        return product

    def images(self, matrix: Array) -> Array:
        r""":math:`U X U^T` of a symmetric matrix, with the unit vectors and the dense forms as rows of U."""
        forms, size = self._products.forms, self.size
        result = np.empty((size + len(forms), size + len(forms)))
        result[:size, :size] = matrix
        result[size:, :size] = forms @ matrix
        result[:size, size:] = result[size:, :size].T
        result[size:, size:] = result[size:, :size] @ forms.T
        return result

    def pairing(self, gram: Array) -> Array:
        r""":math:`-2 \sum_{v(i) = j} a_i^T X b_i` for symmetric X: (p,)."""
        return self._paired(self._products.values(gram))

    def pairing_of_images(self, images: Array) -> Array:
        """The pairing of a matrix from its images."""
        return self._paired(images[self._products.first, self._products.second])

    def _paired(self, values: Array) -> Array:
        products = self._products
        variables = self.variables[products.product]
        return np.asarray(np.bincount(variables, -2.0 * products.coefficient * values, len(self.weights)), np.float64)

    def schur(self, gram: Array, inverse: Array) -> Array:
        r"""The matrix :math:`\mathrm{tr}(Q_i X Q_j P)` of :math:`Q_i = -(a_i b_i^T + b_i a_i^T)`, (p, p).

        With the stacked vectors A and B the sum of four Hadamard products of small matrices,
        :math:`(BXB^T) \circ (APA^T) + (AXA^T) \circ (BPB^T) + (AXB^T)^T \circ (APB^T) + (AXB^T) \circ (APB^T)^T`.

        Args:
            gram: images of a symmetric matrix X.
            inverse: images of a symmetric matrix P.
        """
        aa, ab, bb = self._products.moments(gram)
        aa_inverse, ab_inverse, bb_inverse = self._products.moments(inverse)
        bb *= aa_inverse
        aa *= bb_inverse
        schur = bb + aa
        cross = ab.T * ab_inverse
        schur += cross
        schur += cross.T
        return schur if self._collection is None else self._collection @ (self._collection @ schur).T


@dataclass(frozen=True)
class _Products:
    """Products over unit vectors and a few dense forms: ``a_i = sum_k left[i, k] u_k``, b likewise with `right`.

    Vectors with many entries become forms, equal and opposite ones the same form. The entries
    ``left[i, k] right[i, l]`` of all products are listed as well.

    Args:
        forms: (q, n) dense.
        left: (m, n + q).
        right: (m, n + q).
        first: k of each entry.
        second: l of each entry.
        product: i of each entry.
        coefficient: of each entry.
    """

    forms: Array
    left: sparse.csr_array
    right: sparse.csr_array
    first: Index
    second: Index
    product: Index
    coefficient: Array

    @staticmethod
    def of(left: sparse.csr_array, right: sparse.csr_array) -> _Products:
        known: dict[bytes, int] = {}
        found: list[Array] = []
        parts = [_over_forms(matrix, known, found) for matrix in (left, right)]
        size = left.shape[1]
        forms = np.array(found) if found else np.zeros((0, size))
        over = [sparse.csr_array(p, shape=(left.shape[0], size + len(forms))) for p in parts]
        first, second = (matrix.tocoo() for matrix in over)
        # all pairs of entries of the same product
        counts = np.diff(over[1].indptr)[first.row]
        repeated = np.repeat(np.arange(len(first.row)), counts)
        starts = np.repeat(over[1].indptr[first.row] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        other = starts + np.arange(len(repeated))
        return _Products(
            forms, over[0], over[1], first.col[repeated], second.col[other], first.row[repeated],
            first.data[repeated] * second.data[other],
        )  # fmt: skip

    @property
    def size(self) -> int:
        """n."""
        return self.forms.shape[1]

    def weighted(self, factors: Array) -> tuple[sparse.csr_array, sparse.csr_array, sparse.csr_array]:
        r"""Blocks W of :math:`\sum_i f_i (a_i b_i^T + b_i a_i^T) = U^T (W + W^T) U`.

        Among the unit vectors, (n, n); units by forms, (n, q); among the forms, (q, q).
        """
        values = factors[self.product] * self.coefficient
        n, q = self.size, len(self.forms)
        low, high = np.minimum(self.first, self.second), np.maximum(self.first, self.second)
        blocks = []
        for rows, columns, shape in ((low, high, (n, n)), (low, high - n, (n, q)), (low - n, high - n, (q, q))):
            inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
            blocks.append(sparse.csr_array((values[inside], (rows[inside], columns[inside])), shape=shape))
        return blocks[0], blocks[1], blocks[2]

    def values(self, matrix: Array) -> Array:
        """``u_k X u_l`` for each entry."""
        n = self.size
        low, high = np.minimum(self.first, self.second), np.maximum(self.first, self.second)
        result = np.empty(len(low))
        plain, full = high < n, low >= n
        result[plain] = matrix[low[plain], high[plain]]
        if not plain.all():
            moved = self.forms @ matrix
            mixed = ~plain & ~full
            result[mixed] = moved[high[mixed] - n, low[mixed]]
            result[full] = np.einsum("ij,ij->i", moved[low[full] - n], self.forms[high[full] - n])
        return result

    def moments(self, images: Array) -> tuple[Array, Array, Array]:
        """A X A^T, A X B^T and B X B^T, (m, m) each, from the images of X."""
        left = np.ascontiguousarray((self.left @ images).T)
        right = np.ascontiguousarray((self.right @ images).T)
        return self.left @ left, self.left @ right, self.right @ right


def _over_forms(
    matrix: sparse.csr_array, known: dict[bytes, int], forms: list[Array]
) -> tuple[Array, tuple[Index, Index]]:
    """Coefficients of the rows over unit vectors and forms, with rows and columns; adds the forms that are new."""
    size = matrix.shape[1]
    entries = np.diff(matrix.indptr)
    full = np.flatnonzero(entries > _MOST_ENTRIES)
    columns, values = np.zeros(len(full), dtype=np.int64), np.zeros(len(full))
    for number, row in enumerate(full):
        vector = matrix[[row]].toarray()[0]
        values[number] = np.sign(vector[np.flatnonzero(vector)[0]])
        vector = values[number] * vector + 0.0
        key = vector.tobytes()
        if key not in known:
            known[key] = len(forms)
            forms.append(vector)
        columns[number] = size + known[key]
    thin = matrix.tocoo()
    kept = entries[thin.row] <= _MOST_ENTRIES
    rows = np.concatenate([thin.row[kept], full]).astype(np.int64)
    return np.concatenate([thin.data[kept], values]), (rows, np.concatenate([thin.col[kept], columns]))
