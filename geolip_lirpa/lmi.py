r"""The matrix of the linear matrix inequality, block by block, and what rounding may have done to it.

Place in the data flow: level 5, ``Forms + Multipliers -> MatrixTerms -> BlockMatrix``; part of the trusted checker.
Blocks 0 to L are those of `Forms` (inputs, then one for each activation), the last block holds the outputs:

.. math:: M = \begin{pmatrix} M_{yy} & -O^T \\ -O & \mathrm{diag}(\sigma)\end{pmatrix}, \qquad
    M_{yy} = \mathrm{diag}(\tau) - \sum_i \lambda_i (a_i b_i^T + b_i a_i^T) .

With :math:`a_i = e_i - \alpha_i V_i` and :math:`b_i = \beta_i V_i - e_i`,
:math:`-(ab^T + ba^T) = 2 e e^T - (\alpha+\beta)(e V + V^T e^T) + 2\alpha\beta V^T V`: twice :math:`\lambda` on the
diagonal of a layer, :math:`-(\alpha+\beta)\lambda V` beside it, and, only where :math:`\alpha\beta \ne 0`,
:math:`V^T \mathrm{diag}(2\lambda\alpha\beta) V` on the layers that it reads. So for ReLU networks every diagonal block
is diagonal, and blocks couple only where one layer reads another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geolip_lirpa.blocks import Block, compact, dense, magnitude, scaled, transposed
from geolip_lirpa.forms import Forms
from geolip_lirpa.positive_definite import powers_of_two
from geolip_lirpa.rounding import UNDERFLOW, Array, gamma
from geolip_lirpa.sdp import Multipliers, input_diagonal


@dataclass
class BlockMatrix:
    """A symmetric matrix in blocks.

    Args:
        diagonal: per block a vector (n,), when the block is diagonal, or a symmetric array (n, n).
        coupling: blocks ``(t, s)`` with t > s below the diagonal; absent means zero.
        places: per block, where its variables lie in an image, (n, 2) or None; only the cost of a proof depends on it.
    """

    diagonal: list[Array]
    coupling: dict[tuple[int, int], Block]
    places: list[Array | None] | None = None

    @property
    def sizes(self) -> list[int]:
        return [len(block) for block in self.diagonal]

    def diagonal_entries(self, s: int) -> Array:
        """The diagonal of block s, (n,)."""
        block = self.diagonal[s]
        return block if block.ndim == 1 else block.diagonal()

    def to_dense(self) -> Array:
        """The whole matrix; for small ones."""
        offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        places = [slice(offsets[i], offsets[i + 1]) for i in range(len(self.sizes))]
        matrix = np.zeros((offsets[-1], offsets[-1]))
        for place, block in zip(places, self.diagonal, strict=True):
            matrix[place, place] = np.diag(block) if block.ndim == 1 else block
        for (t, s), part in self.coupling.items():
            matrix[places[t], places[s]] = dense(part)
            matrix[places[s], places[t]] = dense(part).T
        return matrix


@dataclass(frozen=True)
class LayerTerms:
    r"""What the constraints of one layer put into the matrix.

    Args:
        diagonal: on the layer's own diagonal, (free neurons,).
        linear: ``-diag(linear) V`` beside it.
        quadratic: ``V^T diag(quadratic) V`` on the blocks that the layer reads.
    """

    diagonal: Array
    linear: Array
    quadratic: Array


@dataclass(frozen=True)
class MatrixTerms:
    """All numbers of a matrix: its forms, and what multiplies them.

    Args:
        forms: V and O, with error bounds.
        input: diagonal of block 0.
        layers: one entry for each activation.
        output: diagonal of the last block.
    """

    forms: Forms
    input: Array
    layers: tuple[LayerTerms, ...]
    output: Array


def lipschitz_terms(forms: Forms, multipliers: Multipliers) -> MatrixTerms:
    r"""Of a Lipschitz program: :math:`2\lambda`, :math:`(\alpha+\beta)\lambda`, :math:`2\lambda\alpha\beta`."""
    layers = []
    for l in range(1, len(forms.kept)):
        lam = multipliers.hidden[l - 1][forms.kept[l]]
        alpha, beta = forms.lower[l - 1], forms.upper[l - 1]
        layers.append(LayerTerms(2.0 * lam, (alpha + beta) * lam, 2.0 * lam * (alpha * beta)))
    return MatrixTerms(forms, input_diagonal(forms, multipliers), tuple(layers), multipliers.output.astype(np.float64))


def assemble_lmi(forms: Forms, multipliers: Multipliers) -> BlockMatrix:
    """M from multipliers (float64, already non-negative)."""
    return assemble(lipschitz_terms(forms, multipliers))


def assemble(terms: MatrixTerms) -> BlockMatrix:
    """The matrix, in floating point."""
    forms = terms.forms
    matrix = BlockMatrix([terms.input], {}, [*forms.places, None])
    for l, layer in enumerate(terms.layers, start=1):
        matrix.diagonal.append(layer.diagonal)
        for s in _sources(forms, l):
            block = forms.blocks[l, s]
            _add(matrix, l, s, scaled(block, -layer.linear, np.ones(block.shape[1])))
        for s, t in _quadratic_pairs(terms, l):
            _add(matrix, t, s, _square(forms.blocks[l, t], layer.quadratic, forms.blocks[l, s], s == t))
    matrix.diagonal.append(terms.output)
    for s, output in forms.output.items():
        _add(matrix, len(forms.kept), s, -output)
    return matrix


def _sources(forms: Forms, l: int) -> list[int]:
    return sorted(s for (row, s) in forms.blocks if row == l)


def _quadratic_pairs(terms: MatrixTerms, l: int) -> Iterator[tuple[int, int]]:
    """Pairs s <= t of blocks that layer l reads, when it has a quadratic term."""
    if (terms.layers[l - 1].quadratic != 0).any():
        sources = _sources(terms.forms, l)
        yield from ((s, t) for s in sources for t in sources if t >= s)


def _square(left: Block, q: Array, right: Block, symmetric: bool) -> Block:
    r""":math:`V_t^T \mathrm{diag}(q) V_s`, symmetric to the last bit for t = s."""
    product = transposed(left) @ scaled(right, q, np.ones(right.shape[1]))
    if symmetric:
        product = dense(product)
        return np.asarray(0.5 * (product + product.T))
    return compact(product)


def _add(matrix: BlockMatrix, t: int, s: int, part: Block) -> None:
    if 0 in part.shape:
        return
    if t != s:
        old = matrix.coupling.get((t, s))
        matrix.coupling[t, s] = part if old is None else compact(old + part)
        return
    block = matrix.diagonal[s]
    matrix.diagonal[s] = dense(part) + (np.diag(block) if block.ndim == 1 else block)


# --- scaling and rounding -------------------------------------------------------------------------------------------


def scale_to_unit_diagonal(matrix: BlockMatrix) -> list[Array]:
    """Divide rows and columns by powers of two so that the diagonal comes near one; exact.

    Returns:
        The divisors, one vector for each block; any positive numbers would be valid.
    """
    divisors = []
    for s in range(len(matrix.diagonal)):
        entries = matrix.diagonal_entries(s)
        divisors.append(powers_of_two(np.sqrt(np.where(entries > 0, entries, 1.0)) * np.sqrt(2.0)))
    for s, divisor in enumerate(divisors):
        block = matrix.diagonal[s]
        matrix.diagonal[s] = block / divisor**2 if block.ndim == 1 else block / divisor[:, None] / divisor
    for (t, s), part in matrix.coupling.items():
        matrix.coupling[t, s] = scaled(part, 1.0 / divisors[t], 1.0 / divisors[s])
    return divisors


def matrix_error(terms: MatrixTerms, weights: Sequence[Array]) -> list[Array]:
    r"""Upper bound of :math:`E w` for a non-negative vector w and a matrix E with :math:`|fl(M) - M| \le E` entrywise.

    The terms may carry three roundings each, beside those of `assemble`. E itself is never formed. For non-negative
    summands the rounding of the sums is covered by the last factor.

    Args:
        terms: as given to `assemble`.
        weights: one vector for each block, the outputs' last.
    """
    forms, blocks = terms.forms, len(terms.forms.kept)
    total = [np.full(len(w), UNDERFLOW * float(sum(v.sum() for v in weights))) for w in weights]
    total[0] += gamma(blocks + 3) * np.abs(terms.input) * weights[0]
    for l, layer in enumerate(terms.layers, start=1):
        total[l] += gamma(blocks + 3) * np.abs(layer.diagonal) * weights[l]
        _add_linear_error(forms, l, np.abs(layer.linear), weights, total)
        for s, t in _quadratic_pairs(terms, l):
            _add_quadratic_error(forms, (l, s, t), np.abs(layer.quadratic), weights, total)
    for s, error in forms.output_error.items():
        total[blocks] += error @ weights[s]
        total[s] += error.T @ weights[blocks]
    rounding = 1.0 + gamma(2 * sum(len(w) for w in weights) + 16 * blocks * blocks + 64)
    return [t * rounding for t in total]


def _add_linear_error(forms: Forms, l: int, linear: Array, weights: Sequence[Array], total: list[Array]) -> None:
    r"""``linear V``: three roundings and the product's, then at most one addition for each block."""
    rounding = gamma(6 + len(forms.kept))
    for s in _sources(forms, l):
        parts: list[tuple[Block, Array]] = [(magnitude(forms.blocks[l, s]), rounding * linear)]
        if (l, s) in forms.block_errors:
            parts.append((forms.block_errors[l, s], linear * (1.0 + gamma(8))))
        for block, factor in parts:
            total[l] += factor * (block @ weights[s])
            total[s] += block.T @ (factor * weights[l])


def _add_quadratic_error(
    forms: Forms, where: tuple[int, int, int], q: Array, weights: Sequence[Array], total: list[Array]
) -> None:
    r"""Of :math:`V_t^T q V_s`: :math:`\gamma |V_t|^T q |V_s|`, and what the errors of both factors contribute."""
    l, s, t = where
    for to, of in {(s, t), (t, s)}:
        total[to] += _product_error(forms, l, to, of, q, weights[of])


def _product_error(forms: Forms, l: int, to: int, of: int, q: Array, weight: Array) -> Array:
    left, right = magnitude(forms.blocks[l, to]), magnitude(forms.blocks[l, of])
    left_error, right_error = forms.block_errors.get((l, to)), forms.block_errors.get((l, of))
    reached = right @ weight
    disturbed = np.zeros_like(reached) if right_error is None else right_error @ weight
    result = gamma(len(q) + 10 + len(forms.kept)) * (left.T @ (q * reached))
    result += (1.0 + gamma(8)) * (left.T @ (q * disturbed))
    if left_error is not None:
        result += (1.0 + gamma(8)) * (left_error.T @ (q * (reached + disturbed)))
    # all summands are non-negative: their own rounding is covered by one more factor
    return np.asarray(result * (1.0 + gamma(len(q) + 16)))


def error_norm(terms: MatrixTerms, divisors: Sequence[Array]) -> float:
    """Bound of the spectral norm of all entrywise errors after scaling: the largest absolute row sum."""
    weights = [1.0 / d for d in divisors]
    rows = matrix_error(terms, weights)
    largest = max(float((r * w).max(initial=0.0)) for r, w in zip(rows, weights, strict=True))
    return largest * (1.0 + gamma(16))
