r"""Gradient ascent on the slopes of linear bounds (alpha-CROWN).

Place in the data flow: level 3, beside `crown`, which proves whatever comes from here: any slopes give proven lines.

References:
    Xu et al., arXiv:2011.13824.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from geolip_lirpa.relaxation import Lines, Relaxation

_LEARNING_RATE = 1.0
_DECAY = 0.85


def ascended_lines(
    relaxations: Mapping[int, Relaxation],
    value: Callable[[Mapping[int, Lines]], Tensor],
    shape: torch.Size,
    iterations: int,
) -> dict[int, Lines]:
    """Lines whose slopes make lower bounds large, apart for each row.

    Args:
        relaxations: the activations whose slopes are free, by position.
        value: from lines to lower bounds (G, B), differentiable in the slopes.
        shape: (G, B), groups of rows and samples.
        iterations: steps of Adam.
    """
    slopes = {i: _starting_slopes(relaxation, shape[0]) for i, relaxation in relaxations.items()}
    variables = [s for pair in slopes.values() for s in pair if s.requires_grad]
    optimiser = torch.optim.Adam(variables, lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, _DECAY)
    best = variables[0].new_full(shape, -torch.inf, requires_grad=False)
    chosen = {i: [s.detach().clone() for s in pair] for i, pair in slopes.items()}
    for _ in range(iterations):
        found = value({i: relaxation.lines(*slopes[i]) for i, relaxation in relaxations.items()})
        _keep_better(best, found.detach(), chosen, slopes)
        optimiser.zero_grad()
        (-found.nan_to_num().sum()).backward()
        optimiser.step()
        schedule.step()
        _clamp(slopes, relaxations)
    return {i: relaxation.lines(*chosen[i]) for i, relaxation in relaxations.items()}


def _starting_slopes(relaxation: Relaxation, groups: int) -> list[Tensor]:
    """A slope for each row where the relaxation leaves it free, else the default one."""
    lines = relaxation.default
    found = []
    for side, slope in (("lower", lines.lower_slope), ("upper", lines.upper_slope)):
        rows = slope.expand(groups, *slope.shape).clone()
        found.append(rows.requires_grad_(side in relaxation.free_slopes))
    return found


def _keep_better(
    best: Tensor, value: Tensor, chosen: Mapping[int, list[Tensor]], slopes: Mapping[int, list[Tensor]]
) -> None:
    better = value > best
    best.copy_(torch.where(better, value, best))
    for i, pair in slopes.items():
        for kept, tried in zip(chosen[i], pair, strict=True):
            mask = better.reshape(*better.shape, *([1] * (kept.ndim - 2)))
            kept.copy_(torch.where(mask, tried.detach(), kept))


def _clamp(slopes: Mapping[int, list[Tensor]], relaxations: Mapping[int, Relaxation]) -> None:
    with torch.no_grad():
        for i, pair in slopes.items():
            for s in pair:
                s.copy_(torch.minimum(torch.maximum(s, relaxations[i].smallest), relaxations[i].largest))
