r"""Search of violations: projected gradient descent in many boxes at once.

Place in the data flow: level 7, ``forward + boxes + Targets -> candidates``. Untrusted: `violations` judges candidates.
For each polytope the largest row :math:`\max_i A_i f(x) - b_i` is minimised; steps are signs of the gradient times a
shrinking part of each input's own width, from the middle and from random points (arXiv:1706.06083). Violations often
lie at ends of some inputs and anywhere between those of others, so corners, points of the interior and points of faces
take turns. With few inputs the best of many such points is the start: on some networks gradients far from a violation
vanish or lead elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.splitting.targets import Targets

# points that are moved together
_BATCH = 2048
_FIRST_STEP, _LAST_STEP = 0.5, 0.005
# steps after the first violation
_PATIENCE = 4


@dataclass(frozen=True)
class SearchOptions:
    """Settings of a search.

    Args:
        starts: for each polytope, the middle among them.
        steps: from each start.
        drawn: random points of which one is a start.
        seed: of the random points.
    """

    starts: int = 16
    steps: int = 40
    drawn: int = 1
    seed: int = 0


def candidates(
    forward: Callable[[Tensor], Tensor],
    lower: Tensor,
    upper: Tensor,
    targets: Targets,
    options: SearchOptions,
    over: Callable[[], bool],
) -> Iterator[tuple[Tensor, int]]:
    """Points (n0,) that violate as computed, with their case, as they are found.

    Args:
        forward: outputs (B, n_out) at points (B, n0), differentiable.
        lower: (T, n0), smallest inputs of each case.
        upper: largest ones.
        targets: of the T cases.
        options: see `SearchOptions`.
        over: whether the time is over.
    """
    generator = torch.Generator().manual_seed(options.seed)
    case, group = (targets.offsets != torch.inf).any(dim=2).nonzero(as_tuple=True)
    together = max(1, _BATCH // max(1, len(case)))
    # several starts of all polytopes at once, or the first start of all, then the second ones
    for start in range(0, options.starts, together):
        count = min(together, options.starts - start)
        for part in torch.arange(len(case)).split(_BATCH):
            if over():
                return
            index = part.repeat(count)
            problem = _Problem(
                forward, lower[case[index]], upper[case[index]], targets.rows[case[index], group[index]],
                targets.offsets[case[index], group[index]],
            )  # fmt: skip
            number = start + torch.arange(count).repeat_interleave(len(part))
            found, points = problem.descended(problem.starts(number, options.drawn, generator), options.steps)
            yield from ((points[i], int(case[index[i]])) for i in found.nonzero()[:, 0].tolist())


@dataclass(frozen=True)
class _Problem:
    """One polytope of one box in each row."""

    forward: Callable[[Tensor], Tensor]
    lower: Tensor
    upper: Tensor
    rows: Tensor
    offsets: Tensor

    def descended(self, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Which descents from points (P, n0) reached their polytope, and the best points; ends soon after the first."""
        width = self.upper - self.lower
        best, kept = torch.full((len(x),), torch.inf, dtype=torch.float64), x
        patience = _PATIENCE
        for step in range(steps + 1):
            value, gradient = self._gradient(x)
            better = value < best
            best, kept = torch.where(better, value, best), torch.where(better[:, None], x, kept)
            # a few steps more: what is violated by a hair is not confirmed
            patience -= bool((best <= 0).any())
            if step == steps or patience < 0:
                break
            length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / max(1, steps - 1))
            x = torch.minimum(torch.maximum(x - length * width * gradient.sign(), self.lower), self.upper)
        return best <= 0, kept

    def starts(self, number: Tensor, drawn: int, generator: torch.Generator) -> Tensor:
        """The middles for start 0, else the best of some random points, (P, n0).

        Args:
            number: (P,) of each row's start, which says what kind of points are drawn for it.
            drawn: how many.
            generator: of random numbers.
        """
        best, kept = torch.full((len(number),), torch.inf, dtype=torch.float64), self._points(number, generator)
        for _ in range(drawn if drawn > 1 else 0):
            tried = self._points(number, generator)
            value = self._values(tried).amax(dim=1).nan_to_num(torch.inf)
            better = value < best
            best, kept = torch.where(better, value, best), torch.where(better[:, None], tried, kept)
        return kept

    def _points(self, number: Tensor, generator: torch.Generator) -> Tensor:
        """Corners, points of the interior and points of faces in turn."""
        share, where = torch.rand((2, *self.lower.shape), dtype=torch.float64, generator=generator)
        kind = (number % 3)[:, None]
        share = torch.where((kind == 1) | ((kind == 2) & (where < 0.5)), share.round(), share)
        share = torch.where((number == 0)[:, None], 0.5, share)
        return torch.minimum(torch.maximum(self.lower + share * (self.upper - self.lower), self.lower), self.upper)

    def _values(self, x: Tensor) -> Tensor:
        """Rows with their offsets at points (P, n0): (P, M)."""
        return torch.einsum("pmo,po->pm", self.rows, self.forward(x)) + self.offsets

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        points = x.detach().requires_grad_(True)
        with torch.enable_grad():
            worst = self._values(points).amax(dim=1)
            (gradient,) = torch.autograd.grad(worst.sum(), points)
        return worst.detach().nan_to_num(torch.inf), gradient.nan_to_num(0.0, 0.0, 0.0)
