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

# Rows with more than this share of entries are multiplied as dense rows: BLAS is that much quicker for each entry.
_DENSE_SHARE = 1 / 16


class Rows:
    """The rows of a matrix (m, n), the full ones dense and the others sparse."""

    def __init__(self, matrix: sparse.csr_array) -> None:
        entries = np.diff(matrix.indptr)
        self.shape: tuple[int, int] = matrix.shape
        self.is_full: NDArray[np.bool_] = entries > _DENSE_SHARE * matrix.shape[1]
        self.full = np.ascontiguousarray(matrix[np.flatnonzero(self.is_full)].toarray())
        self.thin = matrix[np.flatnonzero(~self.is_full)]

    def times(self, matrix: Array) -> Array:
        """The product with a matrix (n, q): (m, q)."""
        if self.is_full.all():
            return self.full @ matrix
        if not self.is_full.any():
            return self.thin @ matrix
        product = np.empty((self.shape[0], matrix.shape[1]))
        product[self.is_full] = self.full @ matrix
        product[~self.is_full] = self.thin @ matrix
        return product

    def transposed_times(self, matrix: Array) -> Array:
        """The product of the transposed rows with a matrix (m, q): (n, q)."""
        if self.is_full.all():
            return self.full.T @ matrix
        product = self.thin.T @ matrix[~self.is_full]
        return product + self.full.T @ matrix[self.is_full] if self.is_full.any() else product

    def inner(self, other: Array) -> Array:
        """Inner products with the rows of a matrix (m, n): (m,)."""
        products = np.empty(self.shape[0])
        products[self.is_full] = np.einsum("ij,ij->i", self.full, other[self.is_full])
        thin = np.repeat(np.flatnonzero(~self.is_full), np.diff(self.thin.indptr))
        terms = self.thin.data * other[thin, self.thin.indices]
        products[~self.is_full] = np.bincount(thin, terms, self.shape[0])[~self.is_full]
        return products

    def part(self, full: bool, index: NDArray[np.bool_]) -> Array | sparse.csr_array:
        """The rows of an index set that are all full or all thin, in their own format."""
        return self.full[index[self.is_full]] if full else self.thin[np.flatnonzero(index[~self.is_full])]


@dataclass(frozen=True)
class Images:
    """The products A X and B X of the stacked forms with a symmetric matrix, (m, n) each."""

    left: Array
    right: Array


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
    def _left(self) -> Rows:
        return Rows(self.left)

    @cached_property
    def _right(self) -> Rows:
        return Rows(self.right)

    @cached_property
    def _collection(self) -> sparse.csr_array | None:
        """Sums over the products of each variable, (p, m); None when it is the identity."""
        count = len(self.variables)
        if count == len(self.weights) and bool((self.variables == np.arange(count)).all()):
            return None
        return sparse.csr_array((np.ones(count), (self.variables, np.arange(count))), shape=(len(self.weights), count))

    def _collect(self, values: Array) -> Array:
        return values if self._collection is None else self._collection @ values

    @cached_property
    def _pairs(self) -> list[tuple[NDArray[np.bool_], Array | sparse.csr_array, Array | sparse.csr_array]]:
        """Products by format: which, and the forms, sparse before dense."""
        pairs = []
        for left_full in (False, True):
            for right_full in (False, True):
                index = (self._left.is_full == left_full) & (self._right.is_full == right_full)
                left, right = self._left.part(left_full, index), self._right.part(right_full, index)
                if index.any():
                    pairs.append((index, right, left) if left_full and not right_full else (index, left, right))
        return pairs

    def change(self, step: Array) -> Array:
        r""":math:`M(\theta + h) - M(\theta)` for a step h, (p,): (n, n), symmetric to the last bit."""
        factors = step[self.variables]
        total = np.zeros((self.size, self.size))
        for index, first, second in self._pairs:
            if isinstance(second, np.ndarray):
                total -= first.T @ (factors[index, None] * second)
            else:
                total -= (first.T @ second.multiply(factors[index, None]).tocsr()).toarray()
        return total + total.T

    def matrix(self, theta: Array) -> Array:
        r""":math:`M(\theta)`, (n, n)."""
        return self.constant + self.change(theta)

    def pairing(self, gram: Array) -> Array:
        r""":math:`-2 \sum_{v(i) = j} a_i^T X b_i` for symmetric X: (p,)."""
        return self._collect(-2.0 * self._left.inner(self._right.times(gram)))

    def change_times(self, step: Array, images: Images) -> Array:
        r""":math:`(M(\theta + h) - M(\theta)) P` from the images of P; cheap when there are fewer full rows than n."""
        factors = step[self.variables][:, None]
        product = self._left.transposed_times(factors * images.right)
        product += self._right.transposed_times(factors * images.left)
        return -product

    def images(self, matrix: Array) -> Images:
        """A X and B X of a symmetric matrix."""
        return Images(self._left.times(matrix), self._right.times(matrix))

    def schur(self, gram: Images, inverse: Images) -> tuple[Array, Array]:
        r"""The matrix :math:`\mathrm{tr}(Q_i X Q_j P)` of :math:`Q_i = -(a_i b_i^T + b_i a_i^T)`, and the pairing of P.

        With the stacked forms A and B the sum of four Hadamard products of small matrices,
        :math:`(BXB^T) \circ (APA^T) + (AXA^T) \circ (BPB^T) + (AXB^T)^T \circ (APB^T) + (AXB^T) \circ (APB^T)^T`.

        Args:
            gram: images of a symmetric matrix X.
            inverse: images of a symmetric matrix P.

        Returns:
            (p, p) symmetric, and (p,).
        """
        a, b = self._left, self._right
        left_gram, left_inverse = np.ascontiguousarray(gram.left.T), np.ascontiguousarray(inverse.left.T)
        schur = b.times(np.ascontiguousarray(gram.right.T)) * a.times(left_inverse)
        schur += a.times(left_gram) * b.times(np.ascontiguousarray(inverse.right.T))
        # B X A^T and B P A^T
        mixed, mixed_inverse = b.times(left_gram), b.times(left_inverse)
        cross = mixed * mixed_inverse.T
        schur += cross
        schur += cross.T
        pairing = -2.0 * mixed_inverse.diagonal()
        if self._collection is None:
            return schur, pairing
        return self._collection @ (self._collection @ schur).T, self._collect(pairing)
