r"""Networks in consecutive blocks: a bound for each of them, and their product as a bound of the whole.

Place in the data flow: level 7, part of the trusted checker, used by `certificate`. A *cut* is a node through which
every path from the input to the output goes. With cuts :math:`z_1, .., z_K` and weights :math:`d_k > 0` there,

.. math:: \|D_1 dz_1\|_2 \le L_1 \|dx / s\|_{in}, \quad \|D_{k+1} dz_{k+1}\|_2 \le L_{k+1} \|D_k dz_k\|_2, \quad
    \|C\,df\|_{out} \le L_{K+1} \|D_K dz_K\|_2

gives the bound :math:`L_1 L_2 \cdots L_{K+1}`, whatever the weights are (cf. ECLipsE, arXiv 2404.04375, which cuts at
every layer). Each :math:`L_k` is a Lipschitz constant of a small network: proven by multipliers of its own program, or
by products of norms (`matrix_free`).

**Cuts at activations.** With :math:`|dz_i| \le \kappa_i |dv_i|`, :math:`\kappa = \max(|\alpha|, |\beta|)`, the block
before such a cut ends at the pre-activations, :math:`\|D\,dz\| \le \|D K\,dv\|`, and the next one begins at z: the cut
neurons belong to no program. Nothing is lost beyond what any weighted cut there loses, since a vector of length
:math:`\kappa_i |dv_i|` whose direction the next block does not know is all that a cut leaves of a neuron.

**Rounding.** The weights d of a certificate are floating-point numbers. The next block's input scale is
:math:`s \ge 1/d`, rounded up, so :math:`|dz_i / s_i| \le d_i |dz_i|`; the rows :math:`d \kappa` of the block before
are rounded up as well. Cut neurons with :math:`\kappa_i = 0` do not move and have the scale 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.activations.base import Activation
from geolip_lirpa.baselines.matrix_free import matrix_free_bound, matrix_free_gain, steepest
from geolip_lirpa.gain_proof import GainProgram, verify_gain
from geolip_lirpa.network import Network, Node
from geolip_lirpa.proof import verify
from geolip_lirpa.rounding import STATEMENT_RANGE, Array, Range, gamma
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.slopes import SlopeIntervals
from geolip_lirpa.types import Norm, OutputNorm

#: Weights at cuts; their reciprocals and products with slopes stay in the range of statements.
WEIGHT_RANGE = Range(1e-50, 1e50)


@dataclass(frozen=True, eq=False)
class Front:
    """All blocks but the last, which several claims may share.

    Args:
        cuts: positions of the cut nodes, ascending.
        weights: d at each cut, (N_k,) positive.
        proofs: multipliers of the block that ends at each cut; None where the product of norms is the proof.
    """

    cuts: tuple[int, ...]
    weights: tuple[Array, ...]
    proofs: tuple[Multipliers | None, ...]


@dataclass(frozen=True)
class Composition:
    """The proof of one bound by blocks.

    Args:
        front: all blocks but the last.
        last: multipliers of the last block; None where the product of norms is the proof.
    """

    front: Front
    last: Multipliers | None


@dataclass(frozen=True)
class Block:
    """A part of a network between two cuts, with its input set and the measure of its output.

    Args:
        network: the part, its input being the cut node before.
        slopes: of its activations.
        norm: of its input.
        input_scale: its norm is that of the input divided by this scale.
        weights: of the output's entries, measured in l_2; None for the last block.
        rows: C, for the last block.
        output: how ``C f`` is measured, for the last block.
    """

    network: Network
    slopes: SlopeIntervals
    norm: Norm
    input_scale: Tensor
    weights: Tensor | None
    rows: Tensor
    output: OutputNorm

    def program(self) -> SdpInstance:
        """The block's program with rows of C; diag(weights), a dense matrix, for all but the last block."""
        rows, output = self.rows, self.output
        if self.weights is not None:
            rows, output = torch.diag(self.weights), OutputNorm.L2
        return SdpInstance(self.network, self.slopes, self.norm, self.input_scale, rows, output)

    def gain_program(self) -> GainProgram | None:
        """The program of its gain; None for the last block."""
        if self.weights is None:
            return None
        return GainProgram.of(self.network, self.slopes, self.norm, self.input_scale, self.weights)

    def norm_bound(self) -> float:
        """Product of norms; the weights are folded into the layers beside them."""
        inside = self.norm is Norm.L2
        network = _weighted(self.network, self.input_scale if inside else None, self.weights)
        scale = torch.ones_like(self.input_scale) if inside else self.input_scale
        if self.weights is not None:
            return matrix_free_gain(network, self.slopes, self.norm, scale)
        return matrix_free_bound(SdpInstance(network, self.slopes, self.norm, scale, self.rows, self.output))

    def constant(self, multipliers: Multipliers | None) -> float | None:
        """Prove the block's constant, by norms where there are no multipliers; None when nothing finite is proven."""
        gain = None if multipliers is None else self.gain_program()
        if multipliers is None:
            bound: float | None = self.norm_bound()
        elif gain is None:
            bound = verify(self.program(), multipliers)
        else:
            bound = verify_gain(gain, multipliers)
        return bound if bound is not None and math.isfinite(bound) else None


def cut_positions(network: Network) -> tuple[int, ...]:
    """Nodes between input and output through which every path goes: no edge passes over them."""
    reach, found = 0, []
    furthest = list(range(len(network.nodes)))
    for position, node in enumerate(network.nodes):
        for i in node.inputs:
            furthest[i] = max(furthest[i], position)
    for position in range(1, len(network.nodes) - 1):
        reach = max(reach, furthest[position - 1])
        if reach <= position:
            found.append(position)
    return tuple(found)


def split(instance: SdpInstance, cuts: Sequence[int], weights: Sequence[Array]) -> tuple[Block, ...]:
    """The blocks of a program; cuts and weights must have been checked by `is_valid`."""
    marks: list[tuple[int, Array] | None] = [None, *zip(cuts, weights, strict=True), None]
    return tuple(block_between(instance, a, b) for a, b in itertools.pairwise(marks))


def block_between(instance: SdpInstance, before: tuple[int, Array] | None, after: tuple[int, Array] | None) -> Block:
    """The block between two cuts with their weights; None stands for the input or the output."""
    network = instance.network
    start, norm, scale = 0, instance.input_norm, instance.input_scale
    if before is not None:
        start, norm, scale = before[0], Norm.L2, _up(1.0 / torch.from_numpy(before[1].copy()))
        # a neuron without slope does not move
        scale = torch.where(_steepness(instance, start) == 0, 0.0, scale)
    end, weights = len(network.nodes) - 1, None
    if after is not None:
        end = _end(network, after[0])
        weights = _steepened(torch.from_numpy(after[1].copy()), _steepness(instance, after[0]))
    inner = [l for l, position in enumerate(network.activations) if start < position <= end]
    slopes = tuple(instance.slopes[l] for l in inner)
    return Block(_part(network, start, end), slopes, norm, scale, weights, instance.rows, instance.output)


def is_valid(network: Network, front: Front) -> bool:
    """Whether cuts are cuts and weights are positive numbers of a size that neither under- nor overflows."""
    if not (len(front.cuts) == len(front.weights) == len(front.proofs) > 0):
        return False
    ascending = all(a < b for a, b in zip(front.cuts, front.cuts[1:], strict=False))
    if not ascending or not set(front.cuts) <= set(cut_positions(network)):
        return False
    sizes = [network.nodes[c].size for c in front.cuts]
    if [w.shape for w in front.weights] != [(n,) for n in sizes]:
        return False
    return all(bool((w > 0).all()) and WEIGHT_RANGE.holds(w) for w in front.weights)


def front_constant(instance: SdpInstance, front: Front) -> float | None:
    r"""Prove the blocks of a front again.

    Returns:
        A proven bound of :math:`L_1 \cdots L_K`, or None when something in it proves nothing.
    """
    if not is_valid(instance.network, front):
        return None
    constants = []
    for block, multipliers in zip(split(instance, front.cuts, front.weights)[:-1], front.proofs, strict=True):
        constant = block.constant(multipliers)
        if constant is None:
            return None
        constants.append(constant)
    return product(constants)


def last_block(instance: SdpInstance, front: Front) -> Block:
    """The block behind a valid front."""
    return block_between(instance, (front.cuts[-1], front.weights[-1]), None)


def product(constants: Sequence[float]) -> float:
    """Product of non-negative numbers, rounded up; underflow makes none of them smaller than it is."""
    total = 1.0
    for constant in constants:
        if constant == 0:
            return 0.0
        total = max(total * constant * (1.0 + gamma(2)), 1e-300)
    return total


def _end(network: Network, cut: int) -> int:
    """Where the block before a cut ends: an activation's input, or the cut itself."""
    node = network.nodes[cut]
    return node.inputs[0] if isinstance(node.operation, Activation) else cut


def _part(network: Network, start: int, end: int) -> Network:
    """Nodes after `start` up to `end`, reading the value of `start` as their input."""
    nodes = [Node(network.nodes[start].name, network.nodes[start].shape)]
    for node in network.nodes[start + 1 : end + 1]:
        nodes.append(replace(node, inputs=tuple(i - start for i in node.inputs)))
    return Network(tuple(nodes))


def _weighted(network: Network, before: Tensor | None, after: Tensor | None) -> Network:
    """The network between two scalings."""
    nodes = list(network.nodes)
    if before is not None:
        first = affine.scaling(before.reshape(network.input_shape))
        moved = [replace(node, inputs=tuple(i + 1 for i in node.inputs)) for node in nodes[1:]]
        nodes = [nodes[0], Node("input scale", network.input_shape, (0,), first), *moved]
    if after is not None:
        last = nodes[-1]
        nodes.append(Node("weights", last.shape, (len(nodes) - 1,), affine.scaling(after.reshape(last.shape))))
    return Network(tuple(nodes))


def _steepness(instance: SdpInstance, cut: int) -> Tensor:
    r""":math:`\kappa` of a cut activation, ones for other cuts, (N,)."""
    activations = instance.network.activations
    if cut in activations:
        return steepest(instance.slopes[activations.index(cut)])
    return torch.ones(instance.network.nodes[cut].size, dtype=torch.float64)


def _steepened(weights: Tensor, kappa: Tensor) -> Tensor:
    r""":math:`d \kappa`, rounded up and raised where other numbers would underflow with it; zero where kappa is."""
    product = _up(weights * kappa).clamp_min(STATEMENT_RANGE.smallest)
    return torch.where(kappa == 1, weights, torch.where(kappa == 0, 0.0, product))


def _up(values: Tensor) -> Tensor:
    return torch.nextafter(values, torch.full_like(values, np.inf))
