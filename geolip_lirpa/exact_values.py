r"""Outputs of a small piecewise linear network at one point, in rational arithmetic.

Place in the data flow: level 4, ``Network + point -> fractions``. Used by `violations` where an enclosure cannot tell
whether an output lies on a bound or a rounding error beside it. Trusted.

Doubles are integers over powers of two, and so are their sums and products: vectors are integers with one common
denominator :math:`2^k`. Coefficients of an affine map are its answers to unit vectors, in which every sum has one term
that is not zero: nothing is rounded. Maps whose coefficients are rounded themselves (means, folded batch normalisation)
are not served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.activations import Abs, ReLU
from geolip_lirpa.network import AffineOperator, Network, Node
from geolip_lirpa.rounding import Array

#: Entries of all matrices together up to which networks are served.
MOST_ENTRIES = 2**18


@dataclass(frozen=True)
class _Dyadic:
    """Python's integers over ``2^bits``."""

    numbers: NDArray[Any]
    bits: int

    @staticmethod
    def of(values: Array) -> _Dyadic:
        ratios = [float(v).as_integer_ratio() for v in values.reshape(-1)]
        # denominators are powers of two
        bits = max((d.bit_length() - 1 for _, d in ratios), default=0)
        numbers = np.empty(len(ratios), dtype=object)
        numbers[:] = [n << (bits - d.bit_length() + 1) for n, d in ratios]
        return _Dyadic(numbers.reshape(values.shape), bits)

    def plus(self, other: _Dyadic) -> _Dyadic:
        bits = max(self.bits, other.bits)
        return _Dyadic(self.numbers * 2 ** (bits - self.bits) + other.numbers * 2 ** (bits - other.bits), bits)

    def applied(self, vector: _Dyadic) -> _Dyadic:
        """The matrix times a vector."""
        return _Dyadic(self.numbers @ vector.numbers, self.bits + vector.bits)


class ExactNetwork:
    """A network whose outputs can be computed exactly.

    Args:
        network: see `exact_network`, which asks first whether it is served.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._maps = {
            i: _matrices(network, node, node.operation)
            for i, node in enumerate(network.nodes)
            if isinstance(node.operation, AffineOperator)
        }

    def outputs(self, point: Array) -> list[Fraction]:
        """Outputs (n_out,) at a point (n_in,), float64 and finite."""
        values: list[_Dyadic] = []
        for position, node in enumerate(self._network.nodes):
            inputs = [values[i] for i in node.inputs]
            if node.operation is None:
                values.append(_Dyadic.of(point))
            elif position in self._maps:
                values.append(_sum(self._maps[position], inputs))
            elif isinstance(node.operation, ReLU):
                values.append(_Dyadic(np.maximum(inputs[0].numbers, 0), inputs[0].bits))
            else:
                values.append(_Dyadic(np.abs(inputs[0].numbers), inputs[0].bits))
        last = values[-1]
        return [Fraction(int(n), 2**last.bits) for n in last.numbers]


def exact_network(network: Network) -> ExactNetwork | None:
    """The network in rational arithmetic; None where it is large or not piecewise linear, or coefficients are rounded.

    Args:
        network: float64, on the CPU.
    """
    entries = 0
    for node in network.nodes[1:]:
        if isinstance(node.operation, AffineOperator):
            entries += node.size * sum(network.nodes[i].size for i in node.inputs)
            if node.operation.parameter_roundings:
                return None
        elif not isinstance(node.operation, ReLU | Abs):
            return None
    if entries > MOST_ENTRIES or not all(_is_finite(node) for node in network.nodes):
        return None
    return ExactNetwork(network)


def _is_finite(node: Node) -> bool:
    numbers: list[Tensor] = []
    if isinstance(node.operation, AffineOperator):
        numbers = [*node.operation.parameters, *([] if node.operation.bias is None else [node.operation.bias])]
    return all(bool(t.isfinite().all()) for t in numbers)


def _matrices(network: Network, node: Node, operator: AffineOperator) -> tuple[list[_Dyadic], _Dyadic]:
    """One matrix (n, n_i) for each input of an affine node, and the bias (n,)."""
    found = []
    for own in range(len(node.inputs)):
        count = network.nodes[node.inputs[own]].size
        columns = [torch.zeros((count, *network.nodes[i].shape), dtype=torch.float64) for i in node.inputs]
        columns[own] = torch.eye(count, dtype=torch.float64).reshape(columns[own].shape)
        found.append(_Dyadic.of(operator.linear(tuple(columns)).reshape(count, node.size).T.numpy()))
    bias = torch.zeros(node.shape, dtype=torch.float64)
    if operator.bias is not None:
        bias = bias + operator.bias
    return found, _Dyadic.of(bias.reshape(-1).numpy())


def _sum(maps: tuple[list[_Dyadic], _Dyadic], inputs: Sequence[_Dyadic]) -> _Dyadic:
    matrices, total = maps
    for matrix, vector in zip(matrices, inputs, strict=True):
        total = total.plus(matrix.applied(vector))
    return total
