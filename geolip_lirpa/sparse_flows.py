r"""Columns of one block of variables on their way through a network, as sparse matrices.

Place in the data flow: level 3, used by `forms` for large networks; part of the trusted base. The same bookkeeping as
for dense columns: beside each value runs its magnitude, and a count of roundings relative to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.rounding import FORM_RANGE, PARAMETER_RANGE
from geolip_lirpa.sparse_maps import sparse_matrices

#: The matrices of each affine node, one for each of its inputs, by position.
Matrices = Mapping[int, Sequence[csr_array]]


@dataclass(frozen=True)
class SparseFlow:
    """A node's value as a function of the variables: (N, variables), with magnitudes of the same shape."""

    value: csr_array
    magnitude: csr_array
    roundings: int


def network_matrices(network: Network) -> Matrices | None:
    """The matrices of all affine nodes; None when one of them has no rule.

    Raises:
        SpecificationError: coefficients that proofs in float64 cannot bear.
    """
    found: dict[int, Sequence[csr_array]] = {}
    for position, node in enumerate(network.nodes):
        operation = node.operation
        if not isinstance(operation, AffineOperator):
            continue
        if not all(PARAMETER_RANGE.holds(p) for p in operation.parameters):
            raise SpecificationError(
                f"{operation.kind}: holds coefficients of another size than {PARAMETER_RANGE}; proofs in float64 need "
                "that. Rescale the layer, or set coefficients that do not matter to zero."
            )
        matrices = sparse_matrices(operation, [network.nodes[i].shape for i in node.inputs], node.shape)
        if matrices is None:
            return None
        found[position] = matrices
    return found


def push(
    network: Network, matrices: Matrices, slopes: Sequence[SlopeInterval], source: int, kept: NDArray[np.int64]
) -> tuple[dict[int, SparseFlow], SparseFlow | None]:
    """Send unit columns of some entries of a node through the graph.

    Free neurons stop the flow (they are variables of their own); fixed slopes let it pass.

    Returns:
        The flow at each activation's pre-activation, by activation number, and at the output.
    """
    start = csr_array((np.ones(len(kept)), (kept, np.arange(len(kept)))), shape=(network.nodes[source].size, len(kept)))
    flows: dict[int, SparseFlow] = {source: SparseFlow(start, start, 0)}
    reached: dict[int, SparseFlow] = {}
    readers = _last_readers(network)
    for index in range(source + 1, len(network.nodes)):
        node = network.nodes[index]
        parts = {k: flows[i] for k, i in enumerate(node.inputs) if i in flows}
        if parts and isinstance(node.operation, AffineOperator):
            flows[index] = _apply(node.operation, matrices[index], parts, len(node.inputs))
        elif parts:
            number = network.activations.index(index)
            reached[number] = parts[0]
            passed = _passed(parts[0], slopes[number], node.name)
            if passed is not None:
                flows[index] = passed
        for i in list(flows):
            if readers[i] <= index and i != len(network.nodes) - 1:
                del flows[i]
    return reached, flows.get(len(network.nodes) - 1)


def _last_readers(network: Network) -> list[int]:
    last = list(range(len(network.nodes)))
    for position, node in enumerate(network.nodes):
        for i in node.inputs:
            last[i] = max(last[i], position)
    return last


def _apply(
    operator: AffineOperator, matrices: Sequence[csr_array], parts: Mapping[int, SparseFlow], inputs: int
) -> SparseFlow:
    # a column with a single entry +-1 meets one coefficient in every sum: nothing is rounded but the coefficient
    exact = inputs == 1 and _is_selection(parts[0].value)
    roundings = max(f.roundings for f in parts.values()) + operator.parameter_roundings
    roundings += 0 if exact else operator.sum_roundings
    values = [csr_array(matrices[k] @ flow.value) for k, flow in parts.items()]
    sizes = [csr_array(abs(matrices[k]) @ flow.magnitude) for k, flow in parts.items()]
    value, size = values[0], sizes[0]
    for other, more in zip(values[1:], sizes[1:], strict=True):
        value, size = csr_array(value + other), csr_array(size + more)
    return _in_range(SparseFlow(value, size, roundings), operator.kind)


def _is_selection(columns: csr_array) -> bool:
    entries = columns.data[columns.data != 0]
    counts = np.bincount(columns.indices[columns.data != 0], minlength=columns.shape[1])
    return bool((np.abs(entries) == 1).all() and (counts <= 1).all())


def _passed(flow: SparseFlow, interval: SlopeInterval, name: str) -> SparseFlow | None:
    """What fixed slopes let through; None when there is none."""
    slope = np.where(interval.fixed.numpy(), interval.lower.numpy(), 0.0)
    if not (slope != 0).any():
        return None
    factor, size = diags_array(slope), diags_array(np.abs(slope))
    value, magnitude = csr_array(factor @ flow.value), csr_array(size @ flow.magnitude)
    return _in_range(SparseFlow(value, magnitude, flow.roundings + 1), name)


def _in_range(flow: SparseFlow, where: str) -> SparseFlow:
    """Refuse products of coefficients that are close to underflow or overflow; their error bounds would not hold."""
    if not FORM_RANGE.holds(flow.magnitude.data):
        raise SpecificationError(
            f"{where}: products of the layers' coefficients leave the sizes {FORM_RANGE} that proofs in float64 need. "
            "Rescale the layers."
        )
    return flow
