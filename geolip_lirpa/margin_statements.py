r"""One input set with its rows: everything that proofs of margins start from, computed once.

Place in the data flow: level 6. ``MarginSet + Network -> Situation -> margins, slopes, PointwiseInstance``. Trusted:
used by whoever computes a proof and, with the same results, by whoever checks it. `margin_bounds` has the derivations.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from geolip_lirpa.interval import Bounds, intersected, preactivations
from geolip_lirpa.margin_bounds import crown_margins, ibp_margins, lipschitz_margins, margin_slopes, set_bounds
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_values import margin_enclosures
from geolip_lirpa.network import Network
from geolip_lirpa.pointwise import PointwiseFamily, PointwiseInstance
from geolip_lirpa.rounding import gamma
from geolip_lirpa.slopes import SlopeIntervals
from geolip_lirpa.truncation import truncated
from geolip_lirpa.types import Norm

#: Steps of the ascent on slopes that "alpha-crown" means.
ALPHA_ITERATIONS = 20
#: The bounds of pre-activations that proven claims have tightened; without claims those of "alpha-crown".
CLAIMED = "claimed"
_SCOPES = {"geolip": "global", "geolip-local": "local", "geolip-anchored": "anchored"}


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
        self._inputs = margin_set.input_set()
        self._nodes: dict[str, list[Bounds]] = {}
        self._margins: dict[tuple[str, bool], Tensor] = {}
        self._slopes: dict[tuple[str, str], SlopeIntervals] = {}
        self._families: dict[str, PointwiseFamily] = {}

    def margins(self, method: str, bound_method: str = "") -> Tensor:
        """Lower bounds (S,) by "ibp", "crown" or "alpha-crown", over its own bounds of the nodes or over `CLAIMED`."""
        claimed = bound_method == CLAIMED
        if (method, claimed) not in self._margins:
            bounds = self.node_bounds(CLAIMED if claimed else method)
            if method == "ibp":
                found = ibp_margins(self.network, bounds, self.rows, self.offsets)
            else:
                steps = ALPHA_ITERATIONS if method == "alpha-crown" else 0
                found = crown_margins(self.network, self._inputs, bounds, self.rows, self.offsets, steps)
            self._margins[method, claimed] = found
        return self._margins[method, claimed]

    def tighten(self, node: int, bounds: Bounds) -> None:
        """Let `CLAIMED` make use of bounds of one node that somebody has proven over the set.

        What rests on `CLAIMED` has to be asked for again.

        Args:
            node: its position.
            bounds: (1, \\*shape) each, infinite where nothing is proven.
        """
        known = list(self.node_bounds(CLAIMED))
        known[node] = intersected(known[node], bounds)
        self._nodes[CLAIMED] = set_bounds(self.network, self._inputs, "crown", known=known)
        self._margins = {key: found for key, found in self._margins.items() if not key[1]}
        self._slopes = {key: found for key, found in self._slopes.items() if key[1] != CLAIMED}
        self._families.pop(CLAIMED, None)

    def up_to(self, node: int, rows: Tensor) -> Situation:
        """The network up to a node over the same set, with the bounds `CLAIMED` of now.

        Args:
            node: its position.
            rows: (S, size of the node).
        """
        network, kept = truncated(self.network, node)
        inner = Situation(network, self.set, rows, torch.zeros(len(rows), dtype=torch.float64))
        bounds = self.node_bounds(CLAIMED)
        inner._nodes[CLAIMED] = [bounds[i] for i in kept]
        return inner

    def bounds(self, method: str) -> list[Bounds]:
        """Bounds of each pre-activation, without batch."""
        return [(low[0], high[0]) for low, high in preactivations(self.network, self.node_bounds(method))]

    def slopes(self, method: str, bound_method: str) -> SlopeIntervals:
        """Slope intervals for "geolip", "geolip-local" or "geolip-anchored"."""
        key = (method, "" if method == "geolip" else bound_method)
        if key not in self._slopes:
            bounds = None if method == "geolip" else self.node_bounds(bound_method)
            self._slopes[key] = margin_slopes(self.network, self.set, _SCOPES[method], bounds)
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
        one, number = slice(row, row + 1), torch.tensor([constant], dtype=torch.float64)
        return float(lipschitz_margins(self.network, self.set, self.rows[one], self.offsets[one], number)[0])

    @cached_property
    def clean(self) -> Tensor:
        """Lower bounds (S,) of the margins at the centre itself."""
        return margin_enclosures(self.network, self.set.center[None], self.rows[None], self.offsets[None])[0][0]

    def node_bounds(self, method: str) -> list[Bounds]:
        """Bounds of all nodes, (1, \\*shape) each."""
        if method == CLAIMED and method not in self._nodes:
            return self.node_bounds("alpha-crown")
        if method not in self._nodes:
            known = self.node_bounds("crown") if method == "alpha-crown" else None
            self._nodes[method] = set_bounds(self.network, self._inputs, method, ALPHA_ITERATIONS, known)
        return self._nodes[method]


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


def class_rows(label: int, classes: int) -> Tensor:
    """Rows of the margins of one class over all others, (classes - 1, classes) float64."""
    others = [k for k in range(classes) if k != label]
    rows = torch.zeros((classes - 1, classes), dtype=torch.float64)
    rows[range(classes - 1), others] = -1.0
    rows[:, label] = 1.0
    return rows
