r"""Small margins of real inputs: projected gradient descent on many samples and rows at once.

Place in the data flow: level 5, ``Network + MarginSets + rows -> Attack``. Whatever the search does, the answer is
true: its points are proven members of their sets, and its values are upper ends of enclosures in float64, so

.. math:: \min_{x \in \text{set}} c^T f(x) + d \;\le\; \text{value}.

**The search** runs in float32. From the centre, then from random points, each step goes against the gradient g, as far
as the norm of the set says: along :math:`g / |g|_2`, along the signs of g (l_inf), or towards the corner of the set
that minimises :math:`g^T x` (l_1, Frank and Wolfe; the budget :math:`\varepsilon` goes to the largest entries of g as
far as the domain allows). Steps shrink, with a part of the step before added (arXiv:2003.01690). Margins of piecewise
linear networks are often smallest at kinks, which is why small steps at the end matter.

References:
    Madry et al., arXiv:1706.06083 (PGD); Croce and Hein, arXiv:2003.01690 (momentum, shrinking steps).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_values import margin_enclosures, required_margins
from geolip_lirpa.network import Network
from geolip_lirpa.regions import Region
from geolip_lirpa.types import Norm

# values of nodes held for one batch of points
_BATCH_NUMBERS = 4_000_000
# part of the way just gone that is added to a step
_MOMENTUM = 0.25
# first and last step, relative to the radius; from random points small ones, which do not all end in the same place
_FIRST_STEP, _RANDOM_FIRST_STEP, _LAST_STEP = 2.0, 0.3, 0.01
# of the length of a projected step
_BISECTIONS = 12
# steps after which problems that are settled leave the batch
_PAUSE = 8


@dataclass(frozen=True)
class AttackOptions:
    """Settings of the search.

    Args:
        steps: from each starting point.
        restarts: random starting points after the centre.
        seed: of the random points.
        goal: margins below it are not searched further; ``-math.inf`` searches all as far as steps allow.
    """

    steps: int = 30
    restarts: int = 2
    seed: int = 0
    goal: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 0 or self.goal != self.goal:
            raise SpecificationError(
                f"attack: got steps={self.steps}, restarts={self.restarts}, goal={self.goal}; allowed are steps and "
                "restarts from 0 on, and a number as the goal."
            )


@dataclass(frozen=True)
class Attack:
    r"""Margins that inputs of the sets attain.

    Args:
        values: (B, S) float64, upper bounds of the margins at `points`, rounded up.
        points: (B, S, \*input_shape) float64, members of the sets.
    """

    values: Tensor
    points: Tensor


def attack(
    network: Network,
    sets: Sequence[MarginSet],
    rows: Tensor,
    offsets: Tensor,
    options: AttackOptions | None = None,
) -> Attack:
    r"""Search inputs with small margins :math:`c^T f(x) + d`, for all samples and rows at once.

    Args:
        network: float64.
        sets: B sets of one norm.
        rows: (B, S, n_out), the c.
        offsets: (B, S), the d.
        options: see `AttackOptions`.

    Returns:
        The smallest margins found with their points; the centre where nothing is better.

    Raises:
        SpecificationError: shapes that do not fit, sets of different norms.
    """
    rows, offsets = required_margins(network, rows, offsets)
    _check_sets(network, sets, rows)
    search = _Search(network, sets, rows, offsets, AttackOptions() if options is None else options)
    search.run()
    return Attack(search.values.reshape(offsets.shape), search.points.reshape(*offsets.shape, *network.input_shape))


def _check_sets(network: Network, sets: Sequence[MarginSet], rows: Tensor) -> None:
    if rows.ndim != 3 or rows.shape[0] != len(sets):
        raise SpecificationError(
            f"rows: got shape {tuple(rows.shape)} for {len(sets)} sets; allowed is ({len(sets)}, rows, "
            f"{network.output_size}). Pass the rows of each set."
        )
    wrong = [s.center.shape for s in sets if tuple(s.center.shape) != network.input_shape]
    if wrong:
        raise SpecificationError(
            f"sets: got a centre of shape {tuple(wrong[0])}; the network's input has shape {network.input_shape}. "
            "Leave out the batch dimension."
        )


class _Search:
    """All problems in one row: best values (N,) and points (N, n0) so far."""

    def __init__(
        self, network: Network, sets: Sequence[MarginSet], rows: Tensor, offsets: Tensor, options: AttackOptions
    ) -> None:
        self.network, self.options = network, options
        self.fast = network.to(torch.float32)
        self.rows, self.offsets = rows.flatten(0, 1), offsets.flatten()
        self.owner = torch.arange(len(sets)).repeat_interleave(rows.shape[1])
        self.region = Region.stacked([s.region() for s in sets])
        self.generator = torch.Generator().manual_seed(options.seed)
        self.points = self.region.center[self.owner, 0].clone()
        self.values = torch.full_like(self.offsets, torch.inf)

    def run(self) -> None:
        """The centre, then descents from there and from random points."""
        everything = torch.arange(len(self.values))
        for chunk in self._chunks(everything):
            self._offer(chunk, self.points[chunk])
        for restart in range(self.options.restarts + 1 if self.options.steps else 0):
            starts = self.region.sample(1, self.generator) if restart else self.region.center
            for chunk in self._chunks((self.values >= self.options.goal).nonzero()[:, 0]):
                self._descend(chunk, starts[self.owner[chunk], 0], _RANDOM_FIRST_STEP if restart else _FIRST_STEP)

    def _chunks(self, problems: Tensor) -> Iterator[Tensor]:
        size = max(1, _BATCH_NUMBERS // sum(node.size for node in self.network.nodes))
        return iter(problems.split(size)) if len(problems) else iter(())

    def _offer(self, problems: Tensor, points: Tensor) -> None:
        """Keep points that are proven members and better than the best so far."""
        region = _of(self.region, self.owner[problems])
        # the search may have left float32; NaN is in no set
        points = points.to(torch.float64).where(points.isfinite(), region.center)
        points = region.nearest(points)
        shaped = points.reshape(-1, *self.network.input_shape)
        found = margin_enclosures(self.network, shaped, self.rows[problems], self.offsets[problems])[1]
        better = region.contains(points) & (found < self.values[problems])
        self.values[problems] = torch.where(better, found, self.values[problems])
        self.points[problems] = torch.where(better[:, None], points, self.points[problems])

    def _descend(self, problems: Tensor, start: Tensor, first: float) -> None:
        """One descent of some problems; those below the goal leave on the way."""
        region = _of(self.region, self.owner[problems], torch.float32)
        rows, offsets = self.rows[problems].to(torch.float32), self.offsets[problems].to(torch.float32)
        x = before = start.to(torch.float32)
        best, best_x = torch.full_like(offsets, torch.inf), x
        for step in range(self.options.steps + 1):
            value, gradient = self._gradient(x, rows, offsets)
            better = value < best
            best, best_x = torch.where(better, value, best), torch.where(better[:, None], x, best_x)
            open_ = best >= self.options.goal
            if step == self.options.steps or not bool(open_.any()):
                break
            if step % _PAUSE == _PAUSE - 1 and not bool(open_.all()):
                self._offer(problems[~open_], best_x[~open_])
                problems, region = problems[open_], _of(region, open_)
                x, before, gradient, rows, offsets, best, best_x = (
                    t[open_] for t in (x, before, gradient, rows, offsets, best, best_x)
                )
            if region.norm is Norm.L1:
                x = x + 2.0 / (step + 2.0 / min(1.0, first)) * (_corner(region, gradient) - x)
                continue
            length = first * (_LAST_STEP / first) ** (step / max(1, self.options.steps - 1))
            # the first step has nothing before it
            x, before = _moved(region, x, before, gradient, length, _MOMENTUM if step else 0.0), x
        self._offer(problems, best_x)

    def _gradient(self, x: Tensor, rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        points = x.detach().requires_grad_(True)
        with torch.enable_grad():
            values = self.fast.forward(points.reshape(-1, *self.network.input_shape))
            margins = (values * rows).sum(-1) + offsets
            (gradient,) = torch.autograd.grad(margins.sum(), points)
        return margins.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)


def _of(region: Region, index: Tensor, dtype: torch.dtype | None = None) -> Region:
    """Some of the sets, tensors (n, n0)."""
    parts = (region.lower, region.upper, region.center, region.radius)
    low, high, center, radius = ((p[index, 0] if p.ndim == 3 else p[index]).to(dtype or p.dtype) for p in parts)
    return Region(low, high, center, radius, region.norm)


def _moved(region: Region, x: Tensor, before: Tensor, gradient: Tensor, length: float, momentum: float) -> Tensor:
    """A step against the gradient, with a part of the step before."""
    if region.norm is Norm.LINF:
        move = gradient.sign()
    else:
        move = gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-30)
    target = _projected(region, x - length * region.radius * move)
    return _projected(region, x + (1.0 - momentum) * (target - x) + momentum * (x - before))


def _projected(region: Region, points: Tensor) -> Tensor:
    r"""The nearest points of a box or l_2 ball cut by a box, up to few digits.

    For a cut ball it is :math:`\mathrm{clamp}(x_0 + t (x - x_0))` with the t in [0, 1] that makes it as long as the
    radius, or 1: what the box takes from some coordinates is left for the others.
    """
    offset = points - region.center
    size = offset.norm(dim=1, keepdim=True) / region.radius[:, :1].clamp_min(1e-30)
    pulled = region.center + offset / size.clamp_min(1.0)
    if region.norm is Norm.LINF or bool(((pulled >= region.lower) & (pulled <= region.upper)).all()):
        return region.nearest(points)
    low, high = (region.lower - region.center), (region.upper - region.center)
    least, most = torch.zeros_like(offset[:, :1]), torch.ones_like(offset[:, :1])
    for step in range(_BISECTIONS):
        t = most if step == 0 else (least + most) / 2
        length = torch.minimum(torch.maximum(t * offset, low), high).norm(dim=1, keepdim=True)
        inside = length <= region.radius[:, :1]
        least, most = torch.where(inside, t, least), torch.where(inside, most, t)
    return region.nearest(region.center + torch.minimum(torch.maximum(least * offset, low), high))


def _corner(region: Region, gradient: Tensor) -> Tensor:
    r"""The point of a cut l_1 ball that minimises :math:`g^T x`: largest entries first, until the radius is used."""
    way = torch.where(gradient > 0, region.lower - region.center, region.upper - region.center)
    order = gradient.abs().argsort(dim=1, descending=True)
    ordered = way.gather(1, order)
    used = ordered.abs().cumsum(1)
    left = (region.radius[:, :1] - (used - ordered.abs())).clamp(min=0.0)
    taken = torch.minimum(ordered.abs(), left) * ordered.sign()
    return region.center + torch.zeros_like(way).scatter(1, order, taken)
