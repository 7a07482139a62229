r"""The blocks of a network's forms: unit columns on their way through the graph.

Place in the data flow: level 4, used by `forms`; part of the trusted base. Unit columns of the inputs and of every
activation's free neurons are sent through the network; beside each value runs a bound on its rounding error, from the
operators' declared numbers of roundings and their absolute values (`AffineOperator.magnitude`). For large networks of
convolutions the columns are sparse matrices (`sparse_flows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.blocks import Block, compact, join_columns, scaled
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.linear_maps import AveragePool, Convolution, TransposedConvolution
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.rounding import FORM_RANGE, PARAMETER_RANGE, Array, gamma
from geolip_lirpa.sparse_flows import Matrices, network_matrices, push

# Bytes of one node's values for the unit columns that are sent through the graph together.
_CHUNK_BYTES = 2**26
# Variables times entries of the widest node, from which networks of local maps are treated by sparse matrices.
_SPARSE_FROM = 2**25
_LOCAL = (Convolution, TransposedConvolution, AveragePool)


@dataclass
class Flow:
    """Columns of one source block on their way through the graph.

    `value` and `magnitude` have shape (columns, \\*shape); `roundings` counts the roundings so far, each relative to
    the magnitude.
    """

    value: Tensor
    magnitude: Tensor
    roundings: int


def is_selection(columns: Tensor) -> bool:
    flat = columns.reshape(columns.shape[0], -1)
    return bool(((flat == 0) | (flat.abs() == 1)).all()) and bool(((flat != 0).sum(dim=1) <= 1).all())


def _apply(operator: AffineOperator, flows: tuple[Flow, ...]) -> Flow:
    values = tuple(f.value for f in flows)
    # A column with a single entry +-1 meets one coefficient in every sum: nothing is rounded but the coefficient.
    exact = len(flows) == 1 and is_selection(values[0])
    roundings = (
        max(f.roundings for f in flows) + operator.parameter_roundings + (0 if exact else operator.sum_roundings)
    )
    if not all(PARAMETER_RANGE.holds(p) for p in operator.parameters):
        raise SpecificationError(
            f"{operator.kind}: holds coefficients of another size than {PARAMETER_RANGE}; proofs in float64 need that. "
            "Rescale the layer, or set coefficients that do not matter to zero."
        )
    result = Flow(operator.linear(values), operator.magnitude(tuple(f.magnitude for f in flows)), roundings)
    return _in_range(result, operator.kind)


def _in_range(flow: Flow, where: str) -> Flow:
    """Refuse products of coefficients that are close to underflow or overflow; their error bounds would not hold."""
    if not FORM_RANGE.holds(flow.magnitude):
        raise SpecificationError(
            f"{where}: products of the layers' coefficients leave the sizes {FORM_RANGE} that proofs in float64 need. "
            "Rescale the layers."
        )
    return flow


def _zero_like(network: Network, index: int, columns: int) -> Flow:
    zero = torch.zeros((columns, *network.nodes[index].shape), dtype=torch.float64)
    return Flow(zero, zero, 0)


def _push(
    network: Network, slopes: tuple[SlopeInterval, ...], source: int, columns: Tensor
) -> tuple[dict[int, Flow], Flow | None]:
    """Send the columns of one source node through the graph.

    Free neurons stop the flow (they are variables of their own); fixed slopes let it pass. Returns the flow at each
    activation's pre-activation, by activation number, and at the output.
    """
    flows: dict[int, Flow] = {source: Flow(columns, columns.abs(), 0)}
    reached: dict[int, Flow] = {}
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
            passed = Flow(passed.value * slope, passed.magnitude * slope.abs(), passed.roundings + 1)
            flows[index] = _in_range(passed, node.name)
    return reached, flows.get(len(network.nodes) - 1)


def _unit_columns(shape: tuple[int, ...], kept: NDArray[np.int64]) -> Tensor:
    columns = torch.zeros((len(kept), int(np.prod(shape))), dtype=torch.float64)
    columns[torch.arange(len(kept)), torch.as_tensor(kept)] = 1.0
    return columns.reshape(len(kept), *shape)


def block_and_error(flow: Flow, scale: Tensor | None, rows: NDArray[np.int64] | None) -> tuple[Array, Array | None]:
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
    output: dict[int, Flow]


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
    matrices = network_matrices(network) if _is_large(network, kept) else None
    for s, variables in enumerate(kept):
        if len(variables) == 0:
            continue
        if matrices is None:
            _add_source(blocks, s)
        else:
            _add_sparse_source(blocks, s, matrices)
    return blocks


def _is_large(network: Network, kept: Sequence[NDArray[np.int64]]) -> bool:
    """Whether sending unit columns through a convolutional network would take long."""
    local = any(isinstance(getattr(node.operation, "function", None), _LOCAL) for node in network.nodes)
    return local and sum(len(k) for k in kept) * max(node.size for node in network.nodes) > _SPARSE_FROM


def _add_sparse_source(blocks: FormBlocks, s: int, matrices: Matrices) -> None:
    """Fill in all blocks over the variables of block s by products of sparse matrices."""
    network = blocks.network
    source = 0 if s == 0 else network.activations[s - 1]
    scale = None if s > 0 or blocks.column_scale is None else blocks.column_scale.numpy()
    reached, final = push(network, matrices, blocks.slopes, source, blocks.kept[s])
    for number, flow in reached.items():
        rows = blocks.kept[number + 1]
        columns = np.ones(flow.value.shape[1]) if scale is None else scale
        block = scaled(flow.value[rows], np.ones(len(rows)), columns)
        blocks.hidden[number + 1, s] = compact(block)
        roundings = flow.roundings + (scale is not None)
        if roundings > 0:
            # the magnitude is itself rounded at most as often: doubling the count covers it
            size = scaled(flow.magnitude[rows], np.full(len(rows), gamma(2 * roundings + 4)), columns)
            blocks.hidden_error[number + 1, s] = compact(size)
    if final is not None:
        value, size = (torch.from_numpy(m.T.toarray()) for m in (final.value, final.magnitude))
        blocks.output[s] = Flow(value, size, final.roundings)


def _add_source(blocks: FormBlocks, s: int) -> None:
    """Fill in all blocks over the variables of block s."""
    network, variables = blocks.network, blocks.kept[s]
    source = 0 if s == 0 else network.activations[s - 1]
    count = max(1, _CHUNK_BYTES // (8 * max(node.size for node in network.nodes)))
    parts: dict[int, list[Block]] = {}
    errors: dict[int, list[Block | None]] = {}
    outputs: list[Flow] = []
    for first in range(0, len(variables), count):
        chosen = variables[first : first + count]
        scale = blocks.column_scale[first : first + count] if s == 0 and blocks.column_scale is not None else None
        reached, final = _push(network, blocks.slopes, source, _unit_columns(network.nodes[source].shape, chosen))
        for number, flow in reached.items():
            block, error = block_and_error(flow, scale, blocks.kept[number + 1])
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


def _joined(flows: list[Flow]) -> Flow:
    value = torch.cat([f.value for f in flows])
    magnitude = torch.cat([f.magnitude for f in flows])
    return Flow(value, magnitude, max(f.roundings for f in flows))
