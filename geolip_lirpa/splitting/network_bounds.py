"""Proven bounds of any network over many boxes, in the form that `inputs` asks for.

Place in the data flow: level 7, ``Network + boxes -> bounds of pre-activations and of rows``, by interval arithmetic or
`crown`. For ReLU networks without branches `chain_bounds` does the same several times faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geolip_lirpa.crown import crown_lower_bounds, crown_node_bounds
from geolip_lirpa.interval import InputSet, node_bounds, preactivations
from geolip_lirpa.margin_bounds import with_margins
from geolip_lirpa.margin_statements import ALPHA_ITERATIONS
from geolip_lirpa.network import Network
from geolip_lirpa.splitting.chain_bounds import Boxes
from geolip_lirpa.splitting.relu_chain import Pair


class NetworkBounds:
    """Bounds of a network over some boxes.

    Args:
        network: float64, on the CPU.
        boxes: B of them.
        known: proven bounds of the pre-activations, (B, n_l) each, of these boxes or larger ones.
        method: "ibp", "crown" or "alpha-crown".
    """

    def __init__(
        self, network: Network, boxes: Boxes, known: Sequence[Pair] | None = None, method: str = "crown"
    ) -> None:
        self.network, self.boxes, self.method = network, boxes, method
        shape = (len(boxes), *network.input_shape)
        self._inputs = InputSet(boxes.lower.reshape(shape), boxes.upper.reshape(shape))
        positions = [network.nodes[i].inputs[0] for i in network.activations]
        given = {
            i: (low.reshape(-1, *network.nodes[i].shape), high.reshape(-1, *network.nodes[i].shape))
            for i, (low, high) in zip(positions, known or [], strict=bool(known))
        }
        if method == "ibp":
            self._nodes = node_bounds(network, self._inputs.lower, self._inputs.upper, given)
        else:
            self._nodes = crown_node_bounds(network, self._inputs, self._iterations, output=False, known=given)

    @property
    def _iterations(self) -> int:
        return ALPHA_ITERATIONS if self.method == "alpha-crown" else 0

    @property
    def hidden(self) -> list[Pair]:
        """Proven bounds of the pre-activations, (B, n_l) each."""
        return [(low.flatten(1), high.flatten(1)) for low, high in preactivations(self.network, self._nodes)]

    def rows(self, matrix: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Lower bounds (R,) of rows (R, n_out) over boxes (R,); coefficients (R, n0) are not known: zero."""
        unknown = torch.zeros((len(matrix), self.network.input_size), dtype=torch.float64)
        if not len(matrix):
            return torch.zeros(0, dtype=torch.float64), unknown
        distinct, place = matrix.unique(dim=0, return_inverse=True)
        whole = with_margins(self.network, distinct, torch.zeros(len(distinct), dtype=torch.float64))
        flat = tuple(end.flatten(1) for end in self._nodes[-1])
        known = [*self._nodes, *[(flat[0], flat[1])] * (len(whole.nodes) - len(self._nodes) - 1)]
        if self.method == "ibp":
            lower = node_bounds(whole, self._inputs.lower, self._inputs.upper, dict(enumerate(known)))[-1][0].flatten(1)
        else:
            lower = crown_lower_bounds(whole, self._inputs, known, self._iterations)
        return lower[box, place], unknown

    def gradient_sizes(self, matrix: Tensor, box: Tensor) -> Tensor:
        """Not known: zero, (R, n0)."""
        return torch.zeros((len(matrix), self.network.input_size), dtype=torch.float64)
