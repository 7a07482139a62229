r"""A ReLU network without branches as a list of matrices.

Place in the data flow: level 7. ``Network -> ReluChain -> chain_bounds``. Branch and bound looks at many thousands of
boxes; for that the affine maps between activations are multiplied out once, each with a bound on its rounding errors:

.. math:: v_l = W_l z_{l-1} + b_l, \quad z_l = \max(0, v_l), \quad z_0 = x, \quad f(x) = v_{L+1},
    \qquad |W_l - \hat W_l| \le E_l, \quad |b_l - \hat b_l| \le r_l .
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.activations import ReLU
from geolip_lirpa.blocks import Block, dense
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.form_blocks import FormBlocks, block_and_error
from geolip_lirpa.network import Network
from geolip_lirpa.pointwise import PointwiseFamily
from geolip_lirpa.rounding import Array
from geolip_lirpa.splitting.products import Product
from geolip_lirpa.types import Norm

#: Lower and upper bounds.
Pair = tuple[Tensor, Tensor]

# entries of all matrices together
_LARGEST = 2**26


@dataclass(frozen=True)
class AffineStep:
    """One affine map of a chain, float64.

    Args:
        weight: (n_l, n_{l-1}), as computed, ready for products.
        size: its absolute values.
        error: E, entrywise bound of its error, or None where it is exact.
        bias: (n_l,).
        bias_error: r, (n_l,).
    """

    weight: Product
    size: Product
    error: Product | None
    bias: Tensor
    bias_error: Tensor

    @property
    def inputs(self) -> int:
        """n_{l-1}."""
        return self.weight.matrix.shape[1]

    def part(self, rows: Tensor, columns: Tensor) -> AffineStep:
        """The map between some neurons, by their numbers (k,), of this layer and of the one before."""

        def cut(product: Product) -> Product:
            return Product(product.matrix[rows][:, columns].contiguous())

        error = None if self.error is None else cut(self.error)
        return AffineStep(cut(self.weight), cut(self.size), error, self.bias[rows], self.bias_error[rows])


@dataclass(frozen=True)
class ReluChain:
    """The network: affine maps with ReLU between them.

    Args:
        steps: L + 1 maps; the last one gives the outputs.
    """

    steps: tuple[AffineStep, ...]

    @property
    def sizes(self) -> list[int]:
        """Numbers of inputs, neurons of each layer, and outputs."""
        return [self.steps[0].inputs, *(len(step.bias) for step in self.steps)]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, n_out) at points (B, n0), rounded."""
        for step in self.steps[:-1]:
            x = (step.weight.forth(x) + step.bias).clamp(min=0)
        return self.steps[-1].weight.forth(x) + self.steps[-1].bias

    def without_zeros(self, hidden: Sequence[Pair]) -> tuple[ReluChain, list[Pair]]:
        """The same function on some boxes, without neurons that are zero on all of them.

        Args:
            hidden: proven bounds of the pre-activations, (B, n_l) each.

        Returns:
            A chain that has one neuron in each layer at least, and the bounds that are left.
        """
        kept = [torch.arange(self.steps[0].inputs)]
        for _, high in hidden:
            # what is not a number is no bound: its neuron stays, and with it the bounds that it makes useless
            numbers = (~(high <= 0)).any(dim=0).nonzero()[:, 0]
            kept.append(numbers if len(numbers) else torch.arange(1))
        kept.append(torch.arange(len(self.steps[-1].bias)))
        steps = [step.part(rows, columns) for step, rows, columns in zip(self.steps, kept[1:], kept, strict=False)]
        pairs = zip(hidden, kept[1:-1], strict=True)
        return ReluChain(tuple(steps)), [(low[:, index], high[:, index]) for (low, high), index in pairs]


def relu_chain(network: Network) -> ReluChain | None:
    """The network as a chain; None where it branches, has other activations, or matrices that are too large.

    Args:
        network: float64, on the CPU.
    """
    activations = [network.nodes[i] for i in network.activations]
    sizes = [network.input_size, *(node.size for node in activations), network.output_size]
    entries = sum(a * b for a, b in itertools.pairwise(sizes))
    if entries > _LARGEST or not all(isinstance(node.operation, ReLU) for node in activations):
        return None
    free = tuple((torch.full(n.shape, -math.inf), torch.full(n.shape, math.inf)) for n in activations)
    bounds = tuple((low.double(), high.double()) for low, high in free)
    center = torch.zeros(network.input_shape, dtype=torch.float64)
    family = PointwiseFamily(network, bounds, center, torch.ones(network.input_size, dtype=torch.float64), Norm.LINF)
    try:
        blocks, constants = family.blocks, family.constants
    except SpecificationError:
        # coefficients out of the range of proofs
        return None
    if any(s != l - 1 for l, s in blocks.hidden) or any(s != len(activations) for s in blocks.output):
        return None
    steps = [
        _step(_hidden(blocks, l, sizes), blocks.hidden_error.get((l, l - 1)), *constants.hidden[l - 1])
        for l in range(1, len(activations) + 1)
    ]
    matrix, error = _output(blocks, sizes)
    return ReluChain((*steps, _step(matrix, error, *constants.output)))


def _hidden(blocks: FormBlocks, l: int, sizes: list[int]) -> Array:
    block = blocks.hidden.get((l, l - 1))
    return np.zeros((sizes[l], sizes[l - 1])) if block is None else dense(block)


def _output(blocks: FormBlocks, sizes: list[int]) -> tuple[Array, Array | None]:
    flow = blocks.output.get(len(sizes) - 2)
    if flow is None:
        return np.zeros((sizes[-1], sizes[-2])), None
    return block_and_error(flow, None, None)


def _step(matrix: Array, error: Block | None, low: Array, high: Array) -> AffineStep:
    weight = torch.from_numpy(np.ascontiguousarray(matrix))
    below, above = torch.from_numpy(low), torch.from_numpy(high)
    middle = 0.5 * below + 0.5 * above
    # the distances are rounded once each
    radius = torch.maximum(above - middle, middle - below) * (1.0 + 2.0**-50)
    spread = None if error is None else Product(torch.from_numpy(np.ascontiguousarray(dense(error))))
    return AffineStep(Product(weight), Product(weight.abs()), spread, middle, radius)
