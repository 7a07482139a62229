r"""What can be proven of margins over one input set without multipliers, and what proofs with multipliers need.

Place in the data flow: level 6. ``MarginSet + Network -> Situation -> margins, slopes, PointwiseInstance``. Trusted:
used by whoever computes a proof and, with the same results, by whoever checks it.

**Linear bounds.** The rows are appended to the network as one more affine map, so that interval arithmetic or CROWN
bounds the margins themselves, every rounding included.

**Lipschitz constants.** For x in the ball :math:`|x - x_0|_p \le \rho`, and L with
:math:`|c(f(x) - f(x_0))| \le L |x - x_0|_p` on the set,

.. math:: c f(x) + d \ge c f(x_0) + d - L \rho .

L is the formal global constant, one with slopes of the set, or one with *anchored* slopes: those of increments from
:math:`x_0` alone. The true pre-activations at the centre are known as intervals only, which
`slopes.enclosed_anchored_slopes` accounts for.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.crown import crown_node_bounds
from geolip_lirpa.interval import Bounds, node_bounds, preactivations
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_values import combined
from geolip_lirpa.network import Network, Node, linear_operator
from geolip_lirpa.pointwise import PointwiseFamily, PointwiseInstance
from geolip_lirpa.rounding import gamma
from geolip_lirpa.slopes import SlopeIntervals, enclosed_anchored_slopes, global_slopes, local_slopes
from geolip_lirpa.types import Norm

#: Steps of the ascent on slopes that "alpha-crown" means.
ALPHA_ITERATIONS = 20
_TINY = 1e-290


class Situation:
    """A network over one input set, with rows; everything that is asked is computed once.

    Args:
        network: float64, on the CPU.
        margin_set: the inputs.
        rows: (S, n_out) float64.
        offsets: (S,).
    """

    def __init__(self, network: Network, margin_set: MarginSet, rows: Tensor, offsets: Tensor) -> None:
        self.network, self.set, self.rows, self.offsets = network, margin_set, rows, offsets
        self._extended = with_rows(network, rows, offsets)
        self._nodes: dict[str, list[Bounds]] = {}
        self._slopes: dict[tuple[str, str], SlopeIntervals] = {}
        self._families: dict[str, PointwiseFamily] = {}

    def margins(self, method: str) -> Tensor:
        """Lower bounds (S,) by "ibp", "crown" or "alpha-crown"."""
        return self._node_bounds(method)[-1][0].reshape(-1)

    def bounds(self, method: str) -> list[Bounds]:
        """Bounds of each pre-activation, without batch."""
        return [(low[0], high[0]) for low, high in preactivations(self._extended, self._node_bounds(method))]

    def slopes(self, method: str, bound_method: str) -> SlopeIntervals:
        """Slope intervals for "geolip", "geolip-local" or "geolip-anchored"."""
        key = (method, "" if method == "geolip" else bound_method)
        if key not in self._slopes:
            self._slopes[key] = self._new_slopes(method, bound_method)
        return self._slopes[key]

    def instance(self, bound_method: str, row: int) -> PointwiseInstance:
        """The pointwise program of one row.

        Raises:
            SpecificationError: an activation other than ReLU.
        """
        if bound_method not in self._families:
            bounds = tuple(self.bounds(bound_method))
            self._families[bound_method] = PointwiseFamily(self.network, bounds, *_hull(self.set))
        return PointwiseInstance(self._families[bound_method], self.rows[row], float(self.offsets[row]))

    def lipschitz_margin(self, row: int, constant: float) -> float:
        """The margin that a Lipschitz constant of a row proves."""
        lost = constant * self.set.eps * (1.0 + gamma(4)) + _TINY
        value = float(self.clean[row]) - lost
        return value - gamma(2) * abs(value) - _TINY

    @cached_property
    def clean(self) -> Tensor:
        """Lower bounds (S,) of the margins at the centre itself."""
        low, high = (end.reshape(1, -1) for end in self._at_center[-1])
        return combined(low, high, self.rows[None], self.offsets[None])[0][0]

    @cached_property
    def _at_center(self) -> list[Bounds]:
        center = self.set.center[None]
        return node_bounds(self.network, center, center)

    def _node_bounds(self, method: str) -> list[Bounds]:
        if method not in self._nodes:
            inputs = self.set.input_set()
            if method == "ibp":
                found = node_bounds(self._extended, inputs.lower, inputs.upper)
            else:
                found = crown_node_bounds(self._extended, inputs, ALPHA_ITERATIONS if method == "alpha-crown" else 0)
            self._nodes[method] = found
        return self._nodes[method]

    def _new_slopes(self, method: str, bound_method: str) -> SlopeIntervals:
        if method == "geolip":
            return global_slopes(self.network)
        bounds = self.bounds(bound_method)
        if method == "geolip-local":
            return local_slopes(self.network, bounds)
        centers = [(low[0], high[0]) for low, high in preactivations(self.network, self._at_center)]
        return enclosed_anchored_slopes(self.network, centers, bounds)


def _hull(margin_set: MarginSet) -> tuple[Tensor, Tensor, Norm]:
    """Centre, semi-axes and norm of a ball or box that contains the set; an l_1 ball lies in the l_2 ball."""
    center = margin_set.center
    if margin_set.norm is not Norm.LINF:
        return center, torch.full((center.numel(),), margin_set.eps, dtype=torch.float64), Norm.L2
    inputs = margin_set.input_set()
    low, high = inputs.lower[0], inputs.upper[0]
    middle = 0.5 * low + 0.5 * high
    # the distances are rounded once each
    half = torch.maximum(middle - low, high - middle) * (1.0 + gamma(4))
    return middle, half.reshape(-1), Norm.LINF


def with_rows(network: Network, rows: Tensor, offsets: Tensor) -> Network:
    """The network with :math:`c f + d` as its outputs, for all rows c (S, n_out)."""
    nodes = list(network.nodes)
    shape = nodes[-1].shape
    if len(shape) != 1:
        size = math.prod(shape)
        positions = torch.arange(size)
        nodes.append(Node("margins/flat", (size,), (len(nodes) - 1,), affine.movement("Flatten", positions)))
    nodes.append(Node("margins", (len(rows),), (len(nodes) - 1,), linear_operator(rows, offsets)))
    return Network(tuple(nodes))


def class_rows(label: int, classes: int) -> Tensor:
    """Rows of the margins of one class over all others, (classes - 1, classes) float64."""
    others = [k for k in range(classes) if k != label]
    rows = torch.zeros((classes - 1, classes), dtype=torch.float64)
    rows[range(classes - 1), others] = -1.0
    rows[:, label] = 1.0
    return rows
