r"""Branch and bound over the signs of neurons, for networks with many inputs.

Place in the data flow: level 7, ``boxes + polytopes + bounds of pre-activations -> proven, a candidate, or what is
left``. Trusted in one direction, as `inputs`: "proven" means that domains which cover all boxes have each been bounded
by proven arithmetic. Bounds of the pre-activations are those of the whole box, cut by the assumed signs.

**Which neuron.** Those whose upper line costs most in the last bound, :math:`-c_i \kappa_i l_i` for a coefficient
:math:`c_i < 0` of :math:`z_i`, are candidates; the one is taken whose worse half has the largest bound
(arXiv:2104.06718).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from geolip_lirpa.splitting.chain_bounds import Boxes, ChainBounds
from geolip_lirpa.splitting.domain_bounds import Bounded, DomainBounds, Polytopes
from geolip_lirpa.splitting.domains import Domains
from geolip_lirpa.splitting.inputs import Attempt, Confirm, SplitResult
from geolip_lirpa.splitting.relu_chain import Pair, ReluChain
from geolip_lirpa.splitting.relu_step import relu_lines
from geolip_lirpa.splitting.row_weights import mixed_weights
from geolip_lirpa.splitting.targets import Targets

# numbers in the largest tensors of a batch of domains
_NUMBERS = 2**20
_MOST_DOMAINS = 256
_FIRST_ITERATIONS, _ITERATIONS = 40, 20
_CANDIDATES = 3
# of a neuron with a positive coefficient: its lower line costs less than an upper one
_LOWER_SHARE = 0.3
# a domain without undecided neurons is a linear program; its ascent is repeated so often
_LAST_TRIES = 4
# iterations of an attempt: there are few neurons to choose slopes for
_ATTEMPT_ITERATIONS = 10


class NeuronSplitting:
    """The search.

    Args:
        chain: the network.
        targets: of all cases.
        boxes: of all cases.
        hidden: proven bounds of the pre-activations, (T, n_l) each, of each case.
        confirm: asked about candidates.
        over: whether the time is over.
    """

    def __init__(
        self,
        chain: ReluChain,
        targets: Targets,
        boxes: Boxes,
        hidden: Sequence[Pair],
        confirm: Confirm,
        over: Callable[[], bool],
    ) -> None:
        self.targets, self.confirm, self.over = targets, confirm, over
        # most neurons of a network are zero around an input
        self.chain, self.hidden = chain.without_zeros(hidden)
        self.polytopes, self.case = _tasks(targets, boxes)
        self.bounds = DomainBounds(self.chain, self.polytopes)
        self.batch = max(2, min(_MOST_DOMAINS, _NUMBERS // (2 * sum(self.chain.sizes))))
        self.bounded = 0

    def run(self) -> SplitResult:
        """Search all polytopes; domains added last are looked at first."""
        waiting = [self._start()]
        first, tries = True, 0
        while waiting:
            if self.over():
                return SplitResult(False, False, self.bounded)
            left, rest, violated = self._bounded(
                _taken(waiting, self.batch), _FIRST_ITERATIONS if first else _ITERATIONS
            )
            first = False
            if violated:
                return SplitResult(False, True, self.bounded)
            if not len(left):
                continue
            decided = ~left.undecided.any(dim=1)
            if bool(decided.any()):
                tries += 1
                if tries > _LAST_TRIES:
                    return SplitResult(False, False, self.bounded, stuck=True)
                waiting.append(left[decided])
                left, rest = left[~decided], _selected(rest, (~decided).nonzero()[:, 0])
            else:
                tries = 0
            if len(left):
                waiting.append(left.halves(self._chosen(left, rest)))
        return SplitResult(True, False, self.bounded)

    def attempt(self, rounds: int, most: int) -> Attempt:
        """Split the signs of all cases alike, a limited number of times, and say which cases that proves.

        Args:
            rounds: how often a domain may be split.
            most: domains at one time, beyond which nothing more is proven.
        """
        domains = self._start()
        failed = torch.zeros(len(self.targets.rows), dtype=torch.bool)
        for number in range(rounds + 1):
            left, rest, violated = self._bounded(domains, _ATTEMPT_ITERATIONS * (2 if number == 0 else 1))
            if violated:
                return Attempt(torch.zeros_like(failed), True, self.bounded)
            # where all signs are known, another split changes nothing
            failed[self.case[left.task[~left.undecided.any(dim=1)]]] = True
            index = (~failed[self.case[left.task]]).nonzero()[:, 0]
            domains, rest = left[index], _selected(rest, index)
            if not len(domains) or number == rounds or 2 * len(domains) > most or self.over():
                break
            domains = domains.halves(self._chosen(domains, rest))
        failed[self.case[domains.task]] = True
        return Attempt(~failed, False, self.bounded)

    def _bounded(self, work: Domains, iterations: int) -> tuple[Domains, Bounded, bool]:
        """What is left of some domains, with its bounds, and whether a violation was found there."""
        parts, kept = [], []
        for index in torch.arange(len(work)).split(self.batch):
            part = self.bounds.ascended(work[index], iterations)
            found = self.bounds.proven(part)
            self.bounded += len(part)
            open_ = (~(found.lower > 0)).nonzero()[:, 0]
            parts.append(part[open_])
            kept.append(_selected(found, open_))
            if self._violated(parts[-1], kept[-1]):
                return parts[-1], kept[-1], True
        return Domains.joined(parts), _joined(kept), False

    def _start(self) -> Domains:
        """Whole boxes, one for each polytope of each case."""
        hidden = [(low[self.case], high[self.case]) for low, high in self.hidden]
        return Domains.start(torch.arange(len(self.case)), hidden, self._first_weights(hidden))

    def _first_weights(self, hidden: Sequence[Pair]) -> Tensor:
        """Weights for the rows of each polytope with which its first bound is large, (D, M)."""
        rows, offsets, boxes = self.polytopes.rows, self.polytopes.offsets, self.polytopes.boxes
        if offsets.shape[1] == 1:
            return torch.ones_like(offsets)
        bounds = ChainBounds.given(self.chain, boxes, hidden, rigorous=False)
        found = [bounds.rows(rows[:, m], None, rigorous=False) for m in range(offsets.shape[1])]
        margins = torch.stack([lower for lower, _ in found], dim=1) + offsets
        slopes = torch.stack([slope for _, slope in found], dim=1)
        return mixed_weights(margins.nan_to_num(-torch.inf), slopes.nan_to_num(0.0), boxes.upper - boxes.lower)

    def _violated(self, left: Domains, found: Bounded) -> bool:
        """Try the corners at which the linear bounds are smallest."""
        ends = self.polytopes.boxes[left.task]
        points = torch.where(found.slopes > 0, ends.lower, ends.upper)
        case = self.case[left.task]
        reached = self.targets[case].reached(self.chain.forward(points)[:, None])[:, 0]
        return any(self.confirm(points[d], int(case[d])) for d in reached.nonzero()[:8, 0].tolist())

    def _chosen(self, left: Domains, found: Bounded) -> Tensor:
        """The neuron to split in each domain, (D,)."""
        score = torch.where(left.undecided, _costs(left, found), -1.0)
        count = min(_CANDIDATES, score.shape[1])
        candidates = score.topk(count, dim=1).indices
        allowed = left.undecided.gather(1, candidates)
        repeated = left[torch.arange(len(left)).repeat_interleave(count)]
        values = self.bounds.quick(repeated.halves(candidates.reshape(-1))).reshape(2, len(left), count)
        worse, better = values.amin(dim=0), values.amax(dim=0)
        # a half that is proven already counts as nothing left to do
        merit = torch.where(allowed, worse + 1e-3 * better.clamp(max=0.0), -torch.inf)
        return candidates.gather(1, merit.argmax(dim=1, keepdim=True))[:, 0]


def _tasks(targets: Targets, boxes: Boxes) -> tuple[Polytopes, Tensor]:
    """Every polytope of every case, with its case."""
    real = (targets.offsets != torch.inf).any(dim=2)
    case, group = real.nonzero(as_tuple=True)
    return Polytopes(boxes[case], targets.rows[case, group], targets.offsets[case, group]), case


def _costs(left: Domains, found: Bounded) -> Tensor:
    """What the lines of each neuron cost in the last bound, (D, N)."""
    parts = []
    for (low, high), c in zip(left.hidden, found.trace, strict=True):
        lines = relu_lines(low, high)
        parts.append(c.clamp(max=0).neg() * lines.intercept + _LOWER_SHARE * c.clamp(min=0) * torch.minimum(high, -low))
    return torch.cat(parts, dim=1)


def _selected(found: Bounded, index: Tensor) -> Bounded:
    return Bounded(found.lower[index], found.slopes[index], [c[index] for c in found.trace])


def _joined(parts: Sequence[Bounded]) -> Bounded:
    if len(parts) == 1:
        return parts[0]
    trace = [torch.cat(layer) for layer in zip(*(p.trace for p in parts), strict=True)]
    return Bounded(torch.cat([p.lower for p in parts]), torch.cat([p.slopes for p in parts]), trace)


def _taken(waiting: list[Domains], size: int) -> Domains:
    """Up to a batch of domains, the last ones; removes them."""
    parts = [waiting.pop()]
    while waiting and sum(len(p) for p in parts) < size:
        parts.append(waiting.pop())
    joined = Domains.joined(parts[::-1])
    if len(joined) <= size:
        return joined
    index = torch.arange(len(joined))
    waiting.append(joined[index[:-size]])
    return joined[index[-size:]]
