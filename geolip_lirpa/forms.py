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
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.blocks import Block, compact, dense, join_columns, nonzero_columns, nonzero_rows, select
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.rounding import FORM_RANGE, PARAMETER_RANGE, SMALLEST_SLOPE, Array, gamma

# Bytes of one node's values for the unit columns that are sent through the graph together.
_CHUNK_BYTES = 2**26


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
    """

    kept: tuple[NDArray[np.int64], ...]
    blocks: dict[tuple[int, int], Block]
    block_errors: dict[tuple[int, int], Block]
    output: dict[int, Array]
    output_error: dict[int, Array]
    lower: tuple[Array, ...]
    upper: tuple[Array, ...]
    rows: int
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

    @property
    def size(self) -> int:
        """Number of variables y."""
        return self.offsets[-1]

    def block(self, s: int) -> slice:
        """Positions of block s within y."""
        return slice(self.offsets[s], self.offsets[s + 1])


# --- building the forms ---------------------------------------------------------------------------------------------


@dataclass
class _Flow:
    """Columns of one source block on their way through the graph.

    `value` and `magnitude` have shape (columns, \\*shape); `roundings` counts the roundings so far, each relative to
    the magnitude.
    """

    value: Tensor
    magnitude: Tensor
    roundings: int


def _is_selection(columns: Tensor) -> bool:
    flat = columns.reshape(columns.shape[0], -1)
    return bool(((flat == 0) | (flat.abs() == 1)).all()) and bool(((flat != 0).sum(dim=1) <= 1).all())


def _apply(operator: AffineOperator, flows: tuple[_Flow, ...]) -> _Flow:
    values = tuple(f.value for f in flows)
    # A column with a single entry +-1 meets one coefficient in every sum: nothing is rounded but the coefficient.
    exact = len(flows) == 1 and _is_selection(values[0])
    roundings = (
        max(f.roundings for f in flows) + operator.parameter_roundings + (0 if exact else operator.sum_roundings)
    )
    if not all(PARAMETER_RANGE.holds(p) for p in operator.parameters):
        raise SpecificationError(
            f"{operator.kind}: holds coefficients of another size than {PARAMETER_RANGE}; proofs in float64 need that. "
            "Rescale the layer, or set coefficients that do not matter to zero."
        )
    result = _Flow(operator.linear(values), operator.magnitude(tuple(f.magnitude for f in flows)), roundings)
    return _in_range(result, operator.kind)


def _in_range(flow: _Flow, where: str) -> _Flow:
    """Refuse products of coefficients that are close to underflow or overflow; their error bounds would not hold."""
    if not FORM_RANGE.holds(flow.magnitude):
        raise SpecificationError(
            f"{where}: products of the layers' coefficients leave the sizes {FORM_RANGE} that proofs in float64 need. "
            "Rescale the layers."
        )
    return flow


def _zero_like(network: Network, index: int, columns: int) -> _Flow:
    zero = torch.zeros((columns, *network.nodes[index].shape), dtype=torch.float64)
    return _Flow(zero, zero, 0)


def _push(
    network: Network, slopes: tuple[SlopeInterval, ...], source: int, columns: Tensor
) -> tuple[dict[int, _Flow], _Flow | None]:
    """Send the columns of one source node through the graph.

    Free neurons stop the flow (they are variables of their own); fixed slopes let it pass. Returns the flow at each
    activation's pre-activation, by activation number, and at the output.
    """
    flows: dict[int, _Flow] = {source: _Flow(columns, columns.abs(), 0)}
    reached: dict[int, _Flow] = {}
    for index in range(source + 1, len(network.nodes)):
        node = network.nodes[index]
        if not any(i in flows for i in node.inputs):
            continue
        parts = tuple(flows.get(i) or _zero_like(network, i, columns.shape[0]) for i in node.inputs)
        if isinstance(node.operation, AffineOperator):
            flows[index] = _apply(node.operation, parts)
            continue
        number = network.activations.index(index)
        reached[number] = parts[0]
        interval = slopes[number]
        slope = torch.where(interval.fixed, interval.lower, 0.0).reshape(node.shape)
        if bool((slope != 0).any()):
            passed = parts[0]
            passed = _Flow(passed.value * slope, passed.magnitude * slope.abs(), passed.roundings + 1)
            flows[index] = _in_range(passed, node.name)
    return reached, flows.get(len(network.nodes) - 1)


def _unit_columns(shape: tuple[int, ...], kept: NDArray[np.int64]) -> Tensor:
    columns = torch.zeros((len(kept), int(np.prod(shape))), dtype=torch.float64)
    columns[torch.arange(len(kept)), torch.as_tensor(kept)] = 1.0
    return columns.reshape(len(kept), *shape)


def _block_and_error(flow: _Flow, scale: Tensor | None, rows: NDArray[np.int64] | None) -> tuple[Array, Array | None]:
    """Transpose a flow into a form block (rows x columns), columns scaled, with its error bound, or None when exact."""
    columns = flow.value.shape[0]
    value = flow.value.reshape(columns, -1).T
    magnitude = flow.magnitude.reshape(columns, -1).T
    roundings = flow.roundings
    if scale is not None:
        value, magnitude, roundings = value * scale, magnitude * scale, roundings + 1
    if rows is not None:
        select = torch.as_tensor(rows)
        value, magnitude = value[select], magnitude[select]
    block = np.ascontiguousarray(value.numpy())
    if roundings == 0:
        return block, None
    # The magnitude is itself rounded at most as often: doubling the count covers it.
    return block, np.ascontiguousarray(magnitude.numpy()) * gamma(2 * roundings + 2)


@dataclass(frozen=True)
class FormBlocks:
    """What the forms of all rows of C have in common: V's blocks, and the network's outputs as flows."""

    network: Network
    slopes: tuple[SlopeInterval, ...]
    input_scale: Tensor
    kept: tuple[NDArray[np.int64], ...]
    column_scale: Tensor | None
    hidden: dict[tuple[int, int], Block]
    hidden_error: dict[tuple[int, int], Block]
    output: dict[int, _Flow]


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
    forms = Forms(blocks.kept, blocks.hidden, blocks.hidden_error, output, output_error, lower, upper, rows.shape[0])
    return _prune(forms) if prune else forms


def build_blocks(network: Network, slopes: tuple[SlopeInterval, ...], input_scale: Tensor) -> FormBlocks:
    """Send unit columns of the inputs and of every activation's free neurons through the network.

    Args:
        network: float64, on the CPU.
        slopes: per activation, (N_l,).
        input_scale: (n0,), see `geolip_lirpa.sdp`; coordinates of scale zero leave the program.
    """
    kept = [np.flatnonzero(input_scale.reshape(-1).numpy() > 0)]
    kept += [np.flatnonzero(~s.fixed.numpy()) for s in slopes]
    scale = input_scale.reshape(-1)[torch.as_tensor(kept[0])]
    column_scale = None if bool((scale == 1).all()) else scale
    blocks = FormBlocks(network, slopes, input_scale, tuple(kept), column_scale, {}, {}, {})
    for s, variables in enumerate(kept):
        if len(variables) > 0:
            _add_source(blocks, s)
    return blocks


def _add_source(blocks: FormBlocks, s: int) -> None:
    """Fill in all blocks over the variables of block s."""
    network, variables = blocks.network, blocks.kept[s]
    source = 0 if s == 0 else network.activations[s - 1]
    count = max(1, _CHUNK_BYTES // (8 * max(node.size for node in network.nodes)))
    parts: dict[int, list[Block]] = {}
    errors: dict[int, list[Block | None]] = {}
    outputs: list[_Flow] = []
    for first in range(0, len(variables), count):
        chosen = variables[first : first + count]
        scale = blocks.column_scale[first : first + count] if s == 0 and blocks.column_scale is not None else None
        reached, final = _push(network, blocks.slopes, source, _unit_columns(network.nodes[source].shape, chosen))
        for number, flow in reached.items():
            block, error = _block_and_error(flow, scale, blocks.kept[number + 1])
            parts.setdefault(number + 1, []).append(compact(block))
            errors.setdefault(number + 1, []).append(None if error is None else compact(error))
        if final is not None:
            outputs.append(final)
    for l, found in parts.items():
        blocks.hidden[l, s] = join_columns(found)
        if any(error is not None for error in errors[l]):
            exact = [
                compact(np.zeros(part.shape)) if e is None else e for part, e in zip(found, errors[l], strict=True)
            ]
            blocks.hidden_error[l, s] = join_columns(exact)
    if outputs:
        blocks.output[s] = _joined(outputs)


def _joined(flows: list[_Flow]) -> _Flow:
    value = torch.cat([f.value for f in flows])
    magnitude = torch.cat([f.magnitude for f in flows])
    return _Flow(value, magnitude, max(f.roundings for f in flows))


def _output_block(flow: _Flow, scale: Tensor | None, rows: Tensor) -> tuple[Array, Array | None]:
    """Multiply the network's output forms with C; exact when each row of C selects outputs."""
    selects = _is_selection(rows)
    combined = _Flow(
        flow.value.reshape(flow.value.shape[0], -1) @ rows.T,
        flow.magnitude.reshape(flow.value.shape[0], -1) @ rows.abs().T,
        flow.roundings + (0 if selects else rows.shape[1] + 1),
    )
    return _block_and_error(combined, scale, None)


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
        lower, upper, forms.rows,
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
