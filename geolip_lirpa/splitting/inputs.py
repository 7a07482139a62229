r"""Branch and bound over input boxes.

Place in the data flow: level 7, ``boxes + Targets -> proven, a candidate for a violation, or what is left``. Trusted in
one direction: "proven" means that boxes which cover the given ones have each been bounded by proven arithmetic
(`chain_bounds`, `network_bounds`). A box is halved at a double that belongs to both halves; nothing is lost between
them. Candidates are mere points; whoever reports one has to replay it.

**Where to halve.** Along input j the linear lower bound :math:`a^T x + t` of the best row of an unproven polytope
varies by :math:`|a_j| (u_j - l_j)`, and the row itself by at most :math:`g_j (u_j - l_j)` with the largest derivative
:math:`g_j` on the box (arXiv:1804.10829). Each is divided by its largest value among the inputs, and the input with the
largest sum is halved: the first alone needs a hundred times as many boxes on some networks, the second three times as
many on others. Networks for which neither is known are halved along the input that is widest relative to its original
width.

**When not to halve.** Where outputs come close to a violation, boxes would have to be tiny; after many boxes the search
asks `few_signs` first, which is slower for a box and ends most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from geolip_lirpa.splitting.chain_bounds import Boxes
from geolip_lirpa.splitting.relu_chain import Pair
from geolip_lirpa.splitting.targets import Targets

#: Boxes that are bounded together.
BATCH = 512
#: Boxes after which `finish` is asked: what halving alone ends with few boxes, it ends sooner.
PATIENCE = 4096
#: With at most so many inputs that vary, halving boxes is better than splitting neurons.
FEW_INPUTS = 10


class BoxBounds(Protocol):
    """Bounds of one network over some boxes."""

    @property
    def hidden(self) -> list[Pair]:
        """Proven bounds of the pre-activations, (B, n_l) each."""

    def rows(self, matrix: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Lower bounds (R,) of rows (R, n_out) over boxes (R,), and coefficients (R, n0); zero where unknown."""

    def gradient_sizes(self, matrix: Tensor, box: Tensor) -> Tensor:
        """Largest sizes of derivatives of rows on boxes, (R, n0), as computed; zero where unknown."""


#: Bounds over some boxes, from known ones of boxes that contain them.
Bounder = Callable[[Boxes, Sequence[Pair] | None], BoxBounds]
#: Which of some boxes (B,) with the case of each (B,) and bounds of the pre-activations are proven otherwise.
Finish = Callable[[Boxes, Tensor, Sequence[Pair]], "Attempt"]
#: Outputs (B, n_out) at points (B, n0), as computed.
Forward = Callable[[Tensor], Tensor]
#: Whether a point (n0,) for case t violates the specification.
Confirm = Callable[[Tensor, int], bool]


@dataclass(frozen=True)
class Attempt:
    """How a limited search ended.

    Args:
        proven: cases, or boxes, all of whose polytopes are missed, (T,).
        violated: a point that `Confirm` accepted was found.
        bounded: number of domains that were bounded.
    """

    proven: Tensor
    violated: bool
    bounded: int


@dataclass(frozen=True)
class SplitResult:
    """How a search over boxes ended.

    Args:
        proven: all boxes miss their polytopes.
        violated: a point that `Confirm` accepted was found.
        bounded: number of boxes that were bounded.
        stuck: a box too small to be halved was left.
    """

    proven: bool
    violated: bool
    bounded: int
    stuck: bool = False


@dataclass
class _Open:
    """Boxes that are not proven yet, with the case of each and bounds known for it."""

    boxes: Boxes
    case: Tensor
    known: list[Pair]

    def __len__(self) -> int:
        return len(self.case)

    def __getitem__(self, index: Tensor) -> _Open:
        return _Open(self.boxes[index], self.case[index], [(low[index], high[index]) for low, high in self.known])


class InputSplitting:
    """The search.

    Args:
        bounder: bounds of the network.
        forward: its outputs.
        targets: of all cases.
        confirm: asked about candidates.
        over: whether the time is over.
        finish: asked about boxes that would be halved; None halves all of them.
        patience: number of boxes after which `finish` is asked.
    """

    def __init__(
        self,
        bounder: Bounder,
        forward: Forward,
        targets: Targets,
        confirm: Confirm,
        over: Callable[[], bool],
        finish: Finish | None = None,
        patience: int = PATIENCE,
    ) -> None:
        self.bounder, self.forward, self.targets = bounder, forward, targets
        self.confirm, self.over, self.finish, self.patience = confirm, over, finish, patience
        self.bounded = 0

    def run(self, boxes: Boxes, case: Tensor) -> SplitResult:
        """Search boxes; those added last are looked at first, which keeps their number small.

        Args:
            boxes: B of them.
            case: (B,) which case each belongs to.
        """
        widths = (boxes.upper - boxes.lower).clamp(min=1e-300)
        waiting = [
            _Open(Boxes(boxes.lower[part], boxes.upper[part]), case[part], [])
            for part in torch.arange(len(case)).split(BATCH)
        ]
        original = torch.zeros((int(case.max()) + 1 if len(case) else 0, widths.shape[1]), dtype=torch.float64)
        original[case] = widths
        while waiting:
            if self.over():
                return SplitResult(False, False, self.bounded)
            work = _taken(waiting)
            left, score = self._bounded(work, original)
            if left is None:
                return SplitResult(False, True, self.bounded)
            if self.finish is not None and self.bounded > self.patience and len(left):
                found = self.finish(left.boxes, left.case, left.known)
                self.bounded += found.bounded
                if found.violated:
                    return SplitResult(False, True, self.bounded)
                left, score = left[~found.proven], score[~found.proven]
            if not len(left):
                continue
            if bool(_stuck(left.boxes).any()):
                return SplitResult(False, False, self.bounded, stuck=True)
            waiting.append(_halved(left, score))
        return SplitResult(True, False, self.bounded)

    def _bounded(self, work: _Open, original: Tensor) -> tuple[_Open | None, Tensor]:
        """What is left of some boxes, with scores of the inputs; None when a violation was found."""
        count = len(work)
        bounds = self.bounder(work.boxes, work.known or None)
        self.bounded += count
        targets = self.targets[work.case]
        shape = targets.offsets.shape
        box = torch.arange(count).repeat_interleave(shape[1] * shape[2])
        lower, slopes = bounds.rows(targets.rows.reshape(-1, targets.outputs), box)
        margins = targets.margins(lower.reshape(shape))
        best, row = margins.max(dim=2)
        open_ = ~(best > 0).all(dim=1)
        index = open_.nonzero()[:, 0]
        # the least bound last: it is looked at first, since a violation is likely there
        index = index[best.amin(dim=1)[index].argsort(descending=True)]
        left = _Open(work.boxes, work.case, bounds.hidden)[index]
        slopes = slopes.reshape(*shape, -1)[index]
        chosen = slopes.gather(2, row[index][..., None, None].expand(-1, -1, 1, slopes.shape[3]))[:, :, 0]
        if not len(index):
            return left, chosen
        if self._violated(left, chosen):
            return None, chosen
        # polytopes that are missed already need no splitting
        needed = (~(best[index] > 0))[..., None]
        return left, self._score(bounds, index, left, row[index], chosen.abs() * needed, needed, original)

    def _score(
        self,
        bounds: BoxBounds,
        index: Tensor,
        left: _Open,
        row: Tensor,
        slopes: Tensor,
        needed: Tensor,
        original: Tensor,
    ) -> Tensor:
        """How much is gained by halving each input, (B, n0)."""
        rows = self.targets.rows[left.case]
        chosen = rows.gather(2, row[..., None, None].expand(-1, -1, 1, rows.shape[3]))[:, :, 0]
        sizes = bounds.gradient_sizes(chosen.flatten(0, 1), index.repeat_interleave(chosen.shape[1]))
        sizes = sizes.reshape(*chosen.shape[:2], -1) * needed
        width = left.boxes.upper - left.boxes.lower
        score = _relative(slopes.amax(dim=1) * width) + _relative(sizes.amax(dim=1) * width)
        unknown = ~(score.amax(dim=1) > 0) | ~score.isfinite().all(dim=1)
        return torch.where(unknown[:, None], width / original[left.case], score)

    def _violated(self, left: _Open, slopes: Tensor) -> bool:
        """Try the middle of each box, and the corners at which the linear bounds are smallest."""
        low, high = left.boxes.lower[:, None], left.boxes.upper[:, None]
        points = torch.cat([torch.where(slopes > 0, low, high), 0.5 * low + 0.5 * high], dim=1)
        outputs = self.forward(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
        found = self.targets[left.case].reached(outputs).nonzero()
        return any(self.confirm(points[b, k], int(left.case[b])) for b, k in found[:8].tolist())


def _relative(values: Tensor) -> Tensor:
    """Divided by the largest of each row."""
    return values / values.amax(dim=1, keepdim=True).clamp(min=1e-300)


def _taken(waiting: list[_Open]) -> _Open:
    """Up to a batch of open boxes, the last ones; removes them."""
    parts = [waiting.pop()]
    while waiting and sum(len(p) for p in parts) < BATCH and bool(waiting[-1].known) == bool(parts[0].known):
        parts.append(waiting.pop())
    last = _joined(parts[::-1])
    if len(last) > BATCH:
        index = torch.arange(len(last))
        waiting.append(last[index[:-BATCH]])
        return last[index[-BATCH:]]
    return last


def _joined(parts: Sequence[_Open]) -> _Open:
    if len(parts) == 1:
        return parts[0]
    boxes = Boxes(torch.cat([p.boxes.lower for p in parts]), torch.cat([p.boxes.upper for p in parts]))
    layers = zip(*(p.known for p in parts), strict=True)
    known = [(torch.cat([low for low, _ in layer]), torch.cat([high for _, high in layer])) for layer in layers]
    return _Open(boxes, torch.cat([p.case for p in parts]), known)


def _halved(work: _Open, score: Tensor) -> _Open:
    """Both halves of each box along the input of the highest score, beside each other."""
    middle, possible = _middles(work.boxes)
    axis = torch.where(possible, score, -torch.inf).argmax(dim=1, keepdim=True)
    middle = middle.gather(1, axis)
    both = work[torch.arange(len(work)).repeat_interleave(2)]
    both.boxes.upper[::2].scatter_(1, axis, middle)
    both.boxes.lower[1::2].scatter_(1, axis, middle)
    return both


def _stuck(boxes: Boxes) -> Tensor:
    """Boxes between whose ends there is no double, in all inputs."""
    return ~_middles(boxes)[1].any(dim=1)


def _middles(boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Middles of the inputs, and which of them lie strictly between the ends."""
    middle = 0.5 * boxes.lower + 0.5 * boxes.upper
    return middle, (middle > boxes.lower) & (middle < boxes.upper)
