r"""Affine forms of a network's increments over the variables of the semidefinite program, block by block.

Place in the data flow: level 4, ``Network + SlopeIntervals -> Forms``; part of the trusted base. Unit columns are sent
through the graph, as many at a time as a fixed amount of memory allows; beside each value runs a bound on its rounding
error, from the operators' declared numbers of roundings and their absolute values (`AffineOperator.magnitude`). Blocks
that are mostly zero, as those of convolutions, are stored without their zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.blocks import Block, dense, nonzero_columns, nonzero_rows, select
from geolip_lirpa.form_blocks import Flow, FormBlocks, block_and_error, build_blocks, is_selection
from geolip_lirpa.rounding import SMALLEST_SLOPE, Array

__all__ = ["FormBlocks", "Forms", "build_blocks", "build_forms"]


@dataclass(frozen=True)
class Forms:
    """Affine forms over ``y = (w, dz_1, .., dz_L)``, block by block, with rounding error bounds.

    Block 0 holds the inputs with positive scale that somebody reads, block l >= 1 the neurons of activation l - 1 that
    are *free*: slope interval of positive width, a non-zero pre-activation form and an effect on the output. All other
    neurons are linear or irrelevant and have been substituted.

    Args:
        kept: per block, positions of its variables within the flattened input or activation.
        blocks: ``blocks[l, s]`` is V's block (free neurons of block l) x (variables of block s); absent means zero.
        block_errors: entrywise error bounds of the same keys; absent means exact.
        output: ``output[s]``, (m, variables of block s); absent means zero.
        output_error: likewise.
        lower: per block l >= 1 (index l - 1), slopes alpha of its free neurons.
        upper: likewise beta.
        shapes: per block, the shape of the input or activation it belongs to.
    """

    kept: tuple[NDArray[np.int64], ...]
    blocks: dict[tuple[int, int], Block]
    block_errors: dict[tuple[int, int], Block]
    output: dict[int, Array]
    output_error: dict[int, Array]
    lower: tuple[Array, ...]
    upper: tuple[Array, ...]
    rows: int
    shapes: tuple[tuple[int, ...], ...] = ()
    offsets: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [len(k) for k in self.kept]
        object.__setattr__(self, "offsets", tuple(int(v) for v in np.concatenate([[0], np.cumsum(sizes)])))

    @cached_property
    def hidden(self) -> dict[tuple[int, int], Array]:
        """V's blocks as plain arrays."""
        return {key: dense(block) for key, block in self.blocks.items()}

    @cached_property
    def hidden_error(self) -> dict[tuple[int, int], Array]:
        """Their error bounds as plain arrays."""
        return {key: dense(error) for key, error in self.block_errors.items()}

    @cached_property
    def places(self) -> tuple[Array | None, ...]:
        """Per block, where its variables lie in an image; None for blocks that are no image."""
        if not self.shapes:
            return (None,) * len(self.kept)
        return tuple(_places(shape, kept) for shape, kept in zip(self.shapes, self.kept, strict=True))

    @property
    def size(self) -> int:
        """Number of variables y."""
        return self.offsets[-1]

    def block(self, s: int) -> slice:
        """Positions of block s within y."""
        return slice(self.offsets[s], self.offsets[s + 1])


def build_forms(blocks: FormBlocks, rows: Tensor, prune: bool = True) -> Forms:
    """The forms of some rows of C.

    Args:
        blocks: of the network, from `build_blocks`.
        rows: (m, n_out) float64.
        prune: remove dead and irrelevant neurons; right for increments, wrong where constants count.
    """
    output: dict[int, Array] = {}
    output_error: dict[int, Array] = {}
    for s, flow in blocks.output.items():
        output[s], error = _output_block(flow, blocks.column_scale if s == 0 else None, rows)
        if error is not None:
            output_error[s] = error
    pairs = list(zip(blocks.slopes, blocks.kept[1:], strict=True))
    lower = tuple(-_widened(-s.lower.numpy()[k]) for s, k in pairs)
    upper = tuple(_widened(s.upper.numpy()[k]) for s, k in pairs)
    shapes = tuple(blocks.network.nodes[i].shape for i in (0, *blocks.network.activations))
    tables = blocks.hidden, blocks.hidden_error, output, output_error
    forms = Forms(blocks.kept, *tables, lower, upper, rows.shape[0], shapes)
    return _prune(forms) if prune else forms


def _output_block(flow: Flow, scale: Tensor | None, rows: Tensor) -> tuple[Array, Array | None]:
    """Multiply the network's output forms with C; exact when each row of C selects outputs."""
    selects = is_selection(rows)
    combined = Flow(
        flow.value.reshape(flow.value.shape[0], -1) @ rows.T,
        flow.magnitude.reshape(flow.value.shape[0], -1) @ rows.abs().T,
        flow.roundings + (0 if selects else rows.shape[1] + 1),
    )
    return block_and_error(combined, scale, None)


def _places(shape: tuple[int, ...], kept: NDArray[np.int64]) -> Array | None:
    """Positions between 0 and 1, (n, 2), of some entries of a (C, H, W) or (C, L) sample; None for other shapes."""
    if len(shape) not in (2, 3):
        return None
    height, width = (1, *shape[1:])[-2:]
    pixel = kept % (height * width)
    return np.stack([(pixel // width + 0.5) / height, (pixel % width + 0.5) / width], axis=1)


def _widened(upper: Array) -> Array:
    """Upper ends of slope intervals, moved up where they are so small that products with them might underflow."""
    tiny = (upper != 0) & (np.abs(upper) < SMALLEST_SLOPE)
    return np.where(tiny, np.where(upper > 0, SMALLEST_SLOPE, 0.0), upper)


def _read_rows(forms: Forms, l: int) -> NDArray[np.bool_]:
    mask = np.zeros(len(forms.kept[l]), dtype=bool)
    for table in (forms.blocks, forms.block_errors):
        for (row, _), block in table.items():
            if row == l:
                mask |= nonzero_rows(block)
    return mask


def _read_columns(forms: Forms, s: int) -> NDArray[np.bool_]:
    mask = np.zeros(len(forms.kept[s]), dtype=bool)
    for table in (forms.blocks, forms.block_errors):
        for (_, column), block in table.items():
            if column == s:
                mask |= nonzero_columns(block)
    for outputs in (forms.output, forms.output_error):
        if s in outputs:
            mask |= (outputs[s] != 0).any(axis=0)
    return mask


def _restrict(forms: Forms, l: int, mask: NDArray[np.bool_]) -> Forms:
    """Drop variables of block l, as rows of V and as columns everywhere."""

    def cut(table: dict[tuple[int, int], Block]) -> dict[tuple[int, int], Block]:
        return {k: select(b, mask if k[0] == l else None, mask if k[1] == l else None) for k, b in table.items()}

    def cut_output(table: dict[int, Array]) -> dict[int, Array]:
        return {s: (b[:, mask] if s == l else b) for s, b in table.items()}

    kept = tuple(k[mask] if s == l else k for s, k in enumerate(forms.kept))
    lower = tuple(a[mask] if s == l - 1 else a for s, a in enumerate(forms.lower))
    upper = tuple(a[mask] if s == l - 1 else a for s, a in enumerate(forms.upper))
    return Forms(
        kept, cut(forms.blocks), cut(forms.block_errors), cut_output(forms.output), cut_output(forms.output_error),
        lower, upper, forms.rows, forms.shapes,
    )  # fmt: skip


def _prune(forms: Forms) -> Forms:
    """Remove neurons that cannot move (zero pre-activation form), and neurons and inputs nobody reads.

    A neuron with ``dv = 0`` has ``(dz - 0)(0 - dz) >= 0``, hence ``dz = 0``. A neuron without a reader does not occur
    in the objective or in other constraints; its own constraint can always be met by ``dz = alpha dv``. An input that
    nobody reads may as well be zero.
    """
    for l in range(1, len(forms.kept)):
        mask = _read_rows(forms, l)
        if not mask.all():
            forms = _restrict(forms, l, mask)
    for l in reversed(range(len(forms.kept))):
        mask = _read_columns(forms, l)
        if not mask.all():
            forms = _restrict(forms, l, mask)
    return forms
