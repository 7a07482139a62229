r"""Margins over boxes by branch and bound.

Place in the data flow: level 8. ``Network + MarginSet + row + claim -> proven or not``. Trusted, and used alike by
whoever makes a claim and by whoever checks it: the check of such a claim is the search itself, which no stored number
can mislead. It costs as much as the proof did.

The claim :math:`c^T f(x) + d > b` for all x of a box says that the polytope :math:`c^T y \le b - d` is missed. Boxes
are halved where few inputs vary; elsewhere signs of neurons are split, see `splitting`.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.network import Network
from geolip_lirpa.specification import Case, InputBox, Polytope
from geolip_lirpa.splitting.chain_bounds import Boxes, ChainBounds
from geolip_lirpa.splitting.inputs import FEW_INPUTS, InputSplitting, SplitResult
from geolip_lirpa.splitting.neurons import NeuronSplitting
from geolip_lirpa.splitting.relu_chain import ReluChain, relu_chain
from geolip_lirpa.splitting.targets import Targets
from geolip_lirpa.types import Norm

#: Boxes or domains of one row that a proof may take; whoever checks it allows twice as many.
SPLITTING_BUDGET = 2000


class MarginSplitter:
    """Branch and bound for one network; its chain is built once.

    Args:
        network: float64, on the CPU.
    """

    def __init__(self, network: Network) -> None:
        self.network = network

    @cached_property
    def _chain(self) -> ReluChain | None:
        return relu_chain(self.network)

    def serves(self, margin_set: MarginSet) -> bool:
        """Whether the set is a box and the network a chain of ReLU layers."""
        return margin_set.norm is Norm.LINF and self._chain is not None

    def search(self, margin_set: MarginSet, row: Tensor, offset: float, lower: float, most: int) -> SplitResult:
        """Try to prove that a margin is larger than a number on the whole box.

        Args:
            margin_set: a box.
            row: (n_out,) float64.
            offset: d.
            lower: b, finite.
            most: bounded boxes or domains after which the search gives up.

        Returns:
            `proven` only if it is; `violated` if some point of the box seems to have a smaller margin.
        """
        chain = self._chain
        if chain is None or not self.serves(margin_set) or not math.isfinite(lower):
            return SplitResult(False, False, 0)
        inputs = margin_set.input_set()
        low, high = inputs.lower.reshape(1, -1), inputs.upper.reshape(1, -1)
        # c f <= bound holds wherever c f + d <= b does: rounded up
        with np.errstate(over="ignore"):
            bound = np.nextafter(np.array([lower - offset]), np.inf)
        if not (np.isfinite(bound).all() and bool(low.isfinite().all()) and bool(high.isfinite().all())):
            return SplitResult(False, False, 0)
        polytope = Polytope.of(row.numpy()[None], bound)
        case = Case(InputBox.of(low[0].numpy(), high[0].numpy()), (polytope,))
        targets = Targets.of((case,), self.network.output_size)
        return _search(chain, targets, Boxes(low, high), most)


def _search(chain: ReluChain, targets: Targets, boxes: Boxes, most: int) -> SplitResult:
    """The search; a point at which the polytope seems to be reached ends it."""
    search: InputSplitting | NeuronSplitting

    def spent() -> bool:
        return search.bounded >= most

    if int((boxes.upper > boxes.lower).sum()) <= FEW_INPUTS:
        search = InputSplitting(
            lambda b, known: ChainBounds.refined(chain, b, known), chain.forward, targets, _reached, spent
        )
        return search.run(boxes, torch.zeros(1, dtype=torch.int64))
    search = NeuronSplitting(chain, targets, boxes, ChainBounds.refined(chain, boxes).hidden, _reached, spent)
    return search.run()


def _reached(point: Tensor, case: int) -> bool:
    return True
