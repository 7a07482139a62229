"""Products with one matrix from both sides, quick where most of its entries are zero.

Place in the data flow: level 7, a tool of `relu_chain`. Trusted: each entry of a product is the sum of the rounded
products of the matrix's nonzero entries, in some order; what a zero entry would have met, infinite or not, is left out.
Convolutions multiplied out have one entry in twenty to a hundred; branch and bound spends its time here.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

# Share of nonzero entries up to which, and number of entries from which, sparse products are quicker.
_SPARSE, _LARGE = 0.1, 2**14


class Product:
    """A matrix by which rows of numbers are multiplied.

    Args:
        matrix: (m, n) float64, on the CPU.

    Attributes:
        matrix: the same.
        entries: how many of its entries take part in a product.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.entries = matrix.numel()
        self._sparse: csr_array | None = None
        count = int(matrix.count_nonzero())
        if matrix.numel() >= _LARGE and count <= _SPARSE * matrix.numel():
            self._sparse, self.entries = csr_array(matrix.numpy()), count
            self._transposed = csr_array(self._sparse.T)

    def back(self, c: Tensor) -> Tensor:
        """``c @ matrix``, (R, m) to (R, n), differentiable."""
        if self._sparse is None:
            return c @ self.matrix
        found: Tensor = _SparseProduct.apply(c, self._sparse, self._transposed)  # type: ignore[no-untyped-call]
        return found

    def forth(self, z: Tensor) -> Tensor:
        """``z @ matrix.T``, (R, n) to (R, m), differentiable."""
        if self._sparse is None:
            return z @ self.matrix.T
        found: Tensor = _SparseProduct.apply(z, self._transposed, self._sparse)  # type: ignore[no-untyped-call]
        return found


class _SparseProduct(torch.autograd.Function):
    """Rows times a sparse matrix; its transpose takes gradients back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: csr_array, transposed: csr_array) -> Tensor:
        ctx.transposed = transposed
        return torch.from_numpy(rows.detach().numpy() @ matrix)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return torch.from_numpy(gradient.numpy() @ ctx.transposed), None, None
