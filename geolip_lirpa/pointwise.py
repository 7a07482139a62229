r"""The pointwise program: the smallest margin of a ReLU network over a ball or box, as products of affine forms.

Place in the data flow: level 5. ``Network + pre-activation bounds + input set -> PointwiseInstance -> multipliers ->
proven margin``. Nothing is solved here; `margin_proof` is the trusted check.

**Variables.** Inputs are :math:`x_j = c_j + s_j w_j` with :math:`w_j^2 \le 1` (box) or :math:`|w|^2 \le 1` (ball).
Neurons whose sign is known over the input set are affine and have been substituted; for the others, with proven bounds
:math:`l_i < 0 < u_i`, :math:`v_i = v^0_i + V_i y` over :math:`y = (w, z_1, .., z_L)`.

**Products.** The margin :math:`O y + o` is minimised under products of affine forms, each non-negative for every input
of the set and its true activations (arXiv 2001.01603, 1801.09344; the triangle is that of arXiv 1711.00851):

.. math::
    z_i (v_i - z_i), \quad z_i, \quad z_i - v_i, \quad \kappa_i (v_i - l_i) - z_i, \quad (v_i - l_i)(u_i - v_i), \quad
    1 - w_j^2 \;\text{ or }\; 1 - |w|^2,

with :math:`\kappa_i \ge u_i/(u_i - l_i)`, rounded up. With multipliers :math:`\lambda, \mu, \eta, t, \iota, \tau \ge 0`

.. math:: q(y) = 2 (O y + o - b) - 2 \sum_i [\lambda_i z_i (v_i - z_i) + \mu_i z_i + \eta_i (z_i - v_i)
    + t_i (\kappa_i(v_i - l_i) - z_i) + \iota_i (v_i - l_i)(u_i - v_i)] - \sum_j \tau_j (1 - w_j^2) ;

if :math:`q \ge 0` for all y, then the margin is at least b. q is the quadratic form of a symmetric matrix in (y, 1),
whose blocks over y are those of a Lipschitz program with slopes [0, 1]:

.. math:: 2\lambda_i \text{ on the diagonal of z}, \quad -\lambda_i V_i \text{ beside it}, \quad
    V^T \mathrm{diag}(2\iota) V ,

and whose column of the constant is, with :math:`h_i = \eta_i - \kappa_i t_i - \iota_i (u_i + l_i - 2 v^0_i)`,

.. math:: p = O + \sum_l V_l^T h_l + (0, -\lambda v^0 - \mu - \eta + t), \quad
    \text{corner } 2(o - b) - \sum\tau + \sum_i [2\eta_i v^0_i - 2 t_i \kappa_i (v^0_i - l_i)
    - 2\iota_i (v^0_i - l_i)(u_i - v^0_i)] .
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.activations import ReLU
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.forms import FormBlocks, Forms, build_blocks, build_forms
from geolip_lirpa.interval import affine_bounds
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.rounding import Array, gamma
from geolip_lirpa.slopes import SlopeIntervals, local_slopes
from geolip_lirpa.types import Norm

Bounds = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Constants:
    """Values of the affine forms where w and all unstable neurons are zero, as intervals.

    Args:
        hidden: per activation, lower and upper ends of v0 for its free neurons.
        output: ends of the network's outputs, (n_out,) each.
    """

    hidden: tuple[tuple[Array, Array], ...]
    output: tuple[Array, Array]


@dataclass(frozen=True)
class PointwiseFamily:
    """What the programs of all rows over one input set share.

    Args:
        network: float64, on the CPU; every activation is a ReLU.
        bounds: proven bounds of each pre-activation over the input set, (\\*shape) each, no batch.
        center: (\\*input_shape) float64.
        input_scale: (n0,) float64, half widths of the box or semi-axes of the ball.
        input_norm: `Norm.LINF` or `Norm.L2`.

    Raises:
        SpecificationError: another activation, or another norm.
    """

    network: Network
    bounds: tuple[tuple[Tensor, Tensor], ...]
    center: Tensor
    input_scale: Tensor
    input_norm: Norm

    def __post_init__(self) -> None:
        if self.input_norm is Norm.L1:
            raise SpecificationError("pointwise program: input norm 1 is not served; allowed are inf and 2.")
        for position in self.network.activations:
            node = self.network.nodes[position]
            if not isinstance(node.operation, ReLU):
                raise SpecificationError(
                    f"node {node.name!r}: the pointwise program knows ReLU only, found "
                    f"{type(node.operation).__name__}. Use an anchored or local Lipschitz bound, or CROWN."
                )

    @cached_property
    def slopes(self) -> SlopeIntervals:
        """Fixed slopes of the stable neurons, [0, 1] for the others."""
        return local_slopes(self.network, self.bounds)

    @cached_property
    def blocks(self) -> FormBlocks:
        """V, shared by all rows."""
        return build_blocks(self.network, self.slopes, self.input_scale)

    @cached_property
    def constants(self) -> Constants:
        """v0 and the outputs at w = 0 and z = 0, enclosed with all rounding errors."""
        return _constants(self)

    def limits(self, l: int) -> tuple[Array, Array]:
        """Bounds l and u of the free neurons of activation l - 1."""
        lower, upper = self.bounds[l - 1]
        kept = self.blocks.kept[l]
        return lower.reshape(-1).numpy()[kept], upper.reshape(-1).numpy()[kept]


@dataclass(frozen=True)
class PointwiseInstance:
    r"""One program: minimise :math:`c f(x) + d` over the input set.

    Args:
        family: of the network and the input set.
        row: c, (n_out,) float64.
        offset: d.
    """

    family: PointwiseFamily
    row: Tensor
    offset: float = 0.0

    @cached_property
    def forms(self) -> Forms:
        """V and, as the only output row, O; no neuron is left out but the stable ones."""
        return build_forms(self.family.blocks, self.row[None], prune=False)

    @cached_property
    def constant(self) -> tuple[float, float]:
        """Ends of o, the margin at w = 0 and z = 0."""
        low, high = self.family.constants.output
        c = self.row.numpy()
        least = np.where(c >= 0, low, high) * c
        largest = np.where(c >= 0, high, low) * c
        slack = gamma(len(c) + 4) * (float(np.maximum(np.abs(least), np.abs(largest)).sum()) + abs(self.offset)) + _TINY
        return float(least.sum()) + self.offset - slack, float(largest.sum()) + self.offset + slack


# far above what a few products may lose to underflow
_TINY = 1e-290


@dataclass(frozen=True)
class PointwiseMultipliers:
    """Multipliers of all products, per activation over all its neurons (entries of stable ones are ignored).

    Args:
        complementarity: lambda, (N_l,) each.
        positive: mu of ``z >= 0``.
        above: eta of ``z >= v``.
        triangle: t.
        interval: iota.
        input: tau, (n0,) for a box, (1,) for a ball.
    """

    complementarity: tuple[Array, ...]
    positive: tuple[Array, ...]
    above: tuple[Array, ...]
    triangle: tuple[Array, ...]
    interval: tuple[Array, ...]
    input: Array

    def hidden(self) -> tuple[tuple[Array, ...], ...]:
        """All groups over neurons."""
        return (self.complementarity, self.positive, self.above, self.triangle, self.interval)

    def with_hidden(self, groups: Sequence[tuple[Array, ...]], input: Array) -> PointwiseMultipliers:
        """Other numbers in the same order."""
        return replace(
            self, complementarity=groups[0], positive=groups[1], above=groups[2], triangle=groups[3],
            interval=groups[4], input=input,
        )  # fmt: skip


def triangle_slope(lower: Array, upper: Array) -> Array:
    r""":math:`\kappa \ge u / (u - l)`: the line through (l, 0) that stays above ReLU on [l, u]."""
    return np.asarray(upper / (upper - lower) * (1.0 + gamma(8)))


def _constants(family: PointwiseFamily) -> Constants:
    """Push the point w = 0 through the network, unstable neurons giving zero, as intervals."""
    network, slopes = family.network, family.slopes
    values: list[tuple[Tensor, Tensor]] = []
    found: list[tuple[Array, Array]] = []
    for node in network.nodes:
        if node.operation is None:
            values.append((family.center[None], family.center[None]))
        elif isinstance(node.operation, AffineOperator):
            values.append(affine_bounds(node.operation, [values[i] for i in node.inputs]))
        else:
            low, high = values[node.inputs[0]]
            l = len(found)
            kept = family.blocks.kept[l + 1]
            found.append((low.reshape(-1).numpy()[kept], high.reshape(-1).numpy()[kept]))
            # stable neurons have slope 0 or 1, unstable ones are variables
            slope = torch.where(slopes[l].fixed, slopes[l].lower, 0.0).reshape(node.shape)
            values.append((low * slope, high * slope))
    low, high = values[-1]
    return Constants(tuple(found), (low.reshape(-1).numpy(), high.reshape(-1).numpy()))
