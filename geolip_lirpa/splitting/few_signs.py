r"""Boxes in which few neurons are left without a sign: those signs are split instead of the box.

Place in the data flow: level 7, a tool of `inputs`. Trusted as `neurons`. Where an output comes close to a violation,
and where two rows of a polytope have to be combined, halving needs millions of boxes: a line of a neuron costs as much
as its bounds are wide, and these shrink with the box alone. A box whose few signs are split has no lines left, and
slopes and weights of rows are optimised on the way (`domain_bounds`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from geolip_lirpa.splitting.chain_bounds import Boxes
from geolip_lirpa.splitting.inputs import Attempt, Confirm
from geolip_lirpa.splitting.neurons import NeuronSplitting
from geolip_lirpa.splitting.relu_chain import Pair, ReluChain
from geolip_lirpa.splitting.targets import Targets

# Neurons without a sign up to which a box is tried. Of 10, 16, 24 and 40 the third needed the least time on the
# networks that halving alone does not finish; the attempts seldom fail below it.
_FEW = 24
_ROUNDS, _MOST_DOMAINS = 16, 2048


class FewSigns:
    """Attempts on boxes of one chain. Where they fail more often than not, fewer neurons are tried from then on.

    Args:
        chain: the network.
        targets: of all cases.
        confirm: asked about candidates.
        over: whether the time is over.
    """

    def __init__(self, chain: ReluChain, targets: Targets, confirm: Confirm, over: Callable[[], bool]) -> None:
        self.chain, self.targets, self.confirm, self.over = chain, targets, confirm, over
        self.few = _FEW

    def __call__(self, boxes: Boxes, case: Tensor, hidden: Sequence[Pair]) -> Attempt:
        """Try the boxes with few neurons without a sign.

        Args:
            boxes: B of them.
            case: (B,) which case each belongs to.
            hidden: proven bounds of the pre-activations, (B, n_l) each.
        """
        open_signs = torch.zeros(len(case), dtype=torch.int64)
        for low, high in hidden:
            open_signs += ((low < 0) & (high > 0)).sum(dim=1)
        index = (open_signs <= self.few).nonzero()[:, 0]
        proven = torch.zeros(len(case), dtype=torch.bool)
        if not len(index):
            return Attempt(proven, False, 0)
        own = case[index]
        inner = [(low[index], high[index]) for low, high in hidden]

        def confirm(point: Tensor, number: int) -> bool:
            return self.confirm(point, int(own[number]))

        search = NeuronSplitting(self.chain, self.targets[own], boxes[index], inner, confirm, self.over)
        found = search.attempt(_ROUNDS, _MOST_DOMAINS)
        proven[index] = found.proven
        if 2 * int(found.proven.sum()) < len(index):
            self.few //= 2
        return Attempt(proven, found.violated, found.bounded)
