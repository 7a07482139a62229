r"""Search of violations: projected gradient descent in many boxes at once.

Place in the data flow: level 9, ``forward + boxes + Targets -> candidates``. Untrusted: `violations` judges candidates.
For each polytope the largest row :math:`\max_i A_i f(x) - b_i` is minimised; steps are signs of the gradient times a
shrinking part of each input's own width, from the middle and from random points (arXiv:1706.06083).
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


@dataclass(frozen=True)
class SearchOptions:
    """Settings of a search.

    Args:
        starts: for each polytope, the middle among them.
        steps: from each start.
        seed: of the random points.
    """

    starts: int = 16
    steps: int = 40
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
    # the first start of all polytopes, then the second ones: easy violations are found early
    for start in range(options.starts):
        for part in torch.arange(len(case)).split(_BATCH):
            if over():
                return
            problem = _Problem(
                forward, lower[case[part]], upper[case[part]], targets.rows[case[part], group[part]],
                targets.offsets[case[part], group[part]],
            )  # fmt: skip
            found, points = problem.descended(start, options.steps, generator)
            yield from ((points[i], int(case[part[i]])) for i in found.nonzero()[:, 0].tolist())


@dataclass(frozen=True)
class _Problem:
    """One polytope of one box in each row."""

    forward: Callable[[Tensor], Tensor]
    lower: Tensor
    upper: Tensor
    rows: Tensor
    offsets: Tensor

    def descended(self, start: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which descents reached their polytope, and their best points."""
        x = self._start(start, generator)
        width = self.upper - self.lower
        best, kept = torch.full((len(x),), torch.inf, dtype=torch.float64), x
        for step in range(steps + 1):
            value, gradient = self._gradient(x)
            better = value < best
            best, kept = torch.where(better, value, best), torch.where(better[:, None], x, kept)
            if bool((best <= 0).all()) or step == steps:
                break
            length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / max(1, steps - 1))
            x = torch.minimum(torch.maximum(x - length * width * gradient.sign(), self.lower), self.upper)
        return best <= 0, kept

    def _start(self, start: int, generator: torch.Generator) -> Tensor:
        if start == 0:
            return 0.5 * self.lower + 0.5 * self.upper
        share = torch.rand(self.lower.shape, dtype=torch.float64, generator=generator)
        if start % 2 == 0:
            # corners: violations of boxes often lie there
            share = share.round()
        return torch.minimum(torch.maximum(self.lower + share * (self.upper - self.lower), self.lower), self.upper)

    def _gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        points = x.detach().requires_grad_(True)
        with torch.enable_grad():
            values = torch.einsum("pmo,po->pm", self.rows, self.forward(points)) + self.offsets
            worst = values.amax(dim=1)
            (gradient,) = torch.autograd.grad(worst.sum(), points)
        return worst.detach().nan_to_num(torch.inf), gradient.nan_to_num(0.0, 0.0, 0.0)
