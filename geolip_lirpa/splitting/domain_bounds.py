r"""Lower bounds over domains: gradient ascent on slopes, forces and weights, then one proven evaluation.

Place in the data flow: level 7, a tool of `neurons`. Whatever the ascent finds is admissible: slopes lie in
[0, 1], forces and weights are at least 0; `proven` evaluates them with all rounding errors.

References:
    Wang et al., arXiv:2103.06624 (beta-CROWN).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geolip_lirpa.rounding import gamma
from geolip_lirpa.splitting.chain_bounds import Boxes, ChainBounds
from geolip_lirpa.splitting.domains import Domains
from geolip_lirpa.splitting.relu_chain import ReluChain

_SLOPE_RATE, _FORCE_RATE, _WEIGHT_RATE, _DECAY = 0.1, 0.1, 0.1, 0.97
# iterations after which an ascent looks whether all is proven
_LOOK = 5


@dataclass(frozen=True)
class Polytopes:
    """One polytope for each task, with the box it belongs to.

    Args:
        boxes: (T, n0).
        rows: (T, M, n_out).
        offsets: (T, M); minus infinity for a row that is none.
    """

    boxes: Boxes
    rows: Tensor
    offsets: Tensor

    @property
    def real(self) -> Tensor:
        """Which rows there are, (T, M)."""
        return ~self.offsets.isinf()

    def combined(self, task: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of the rows (D, n_out) and offsets (D,) of some tasks, as computed."""
        offsets = self.offsets[task].nan_to_num(0.0, 0.0, 0.0)
        return torch.einsum("dm,dmo->do", weights, self.rows[task]), (weights * offsets).sum(1)


@dataclass(frozen=True)
class Bounded:
    """Proven bounds of domains.

    Args:
        lower: (D,) of the weighted margins; positive means that the polytope is missed.
        slopes: coefficients (D, n0) of the linear function of x behind each.
        trace: coefficients of z_l, (D, n_l) for each layer.
    """

    lower: Tensor
    slopes: Tensor
    trace: list[Tensor]


class DomainBounds:
    """Bounds of one chain's domains.

    Args:
        chain: the network.
        polytopes: the tasks.
    """

    def __init__(self, chain: ReluChain, polytopes: Polytopes) -> None:
        self.chain, self.polytopes = chain, polytopes

    def proven(self, domains: Domains) -> Bounded:
        """Lower bounds that hold on the domains, with the parameters that they carry."""
        bounds = ChainBounds.given(self.chain, self.polytopes.boxes[domains.task], domains.hidden)
        matrix, offset = self.polytopes.combined(domains.task, domains.weights)
        trace: list[Tensor] = []
        lower, slopes = bounds.rows(matrix, None, domains.slopes, domains.shifts, trace=trace)
        total = lower + offset
        lost = 4 * gamma(2) * (lower.abs() + offset.abs())
        single = (domains.weights == 1.0).sum(1) + (domains.weights == 0.0).sum(1) == domains.weights.shape[1]
        lost = torch.where(single & (domains.weights.sum(1) == 1.0), lost, lost + self._combining(domains, bounds))
        total = total - lost
        return Bounded(torch.where(total.isfinite(), total, -torch.inf), slopes, trace[::-1])

    def _combining(self, domains: Domains, bounds: ChainBounds) -> Tensor:
        """What rounding of the weighted sums may cost: their error times the size of the outputs, (D,)."""
        low, high = bounds.interval(len(self.chain.steps) - 1)
        reach = torch.maximum(low.abs(), high.abs())
        rows, offsets = self.polytopes.rows[domains.task].abs(), self.polytopes.offsets[domains.task]
        sizes = torch.einsum("dmo,do->dm", rows, reach) + offsets.abs().nan_to_num(0.0, 0.0, 0.0)
        relative = gamma(4 * (rows.shape[1] + rows.shape[2]) + 32)
        return relative * (domains.weights * sizes).sum(1) * (1 + 2 * relative) + 1e-250

    def ascended(self, domains: Domains, iterations: int) -> Domains:
        """The same domains with better parameters."""
        bounds = ChainBounds.given(
            self.chain, self.polytopes.boxes[domains.task], domains.hidden, rigorous=False
        )  # fmt: skip
        ascent = _Ascent(bounds, self.polytopes, domains)
        return ascent.run(iterations)

    def quick(self, domains: Domains) -> Tensor:
        """Bounds (D,) without charges, to compare with each other."""
        with torch.no_grad():
            bounds = ChainBounds.given(
                self.chain, self.polytopes.boxes[domains.task], domains.hidden, rigorous=False
            )  # fmt: skip
            matrix, offset = self.polytopes.combined(domains.task, domains.weights)
            lower, _ = bounds.rows(matrix, None, domains.slopes, domains.shifts, rigorous=False)
            return (lower + offset).nan_to_num(-torch.inf)


class _Ascent:
    """One ascent: variables, their units, and the best of each domain so far."""

    def __init__(self, bounds: ChainBounds, polytopes: Polytopes, domains: Domains) -> None:
        self.bounds, self.polytopes, self.domains = bounds, polytopes, domains
        self.columns = _columns(bounds, domains)
        self.signs = self._of(domains.signs)
        self.slopes = [s.requires_grad_() for s in self._of(domains.slopes)]
        self.weights = domains.weights.clone()
        self.real = polytopes.real[domains.task]
        self.mixed = bool((self.real.sum(1) > 1).any())
        self.units = self._units()
        self.forces = [
            (f / unit).requires_grad_() if bool(sign.any()) else torch.zeros_like(f)
            for f, unit, sign in zip(self._of(domains.forces), self.units, self.signs, strict=True)
        ]
        self.best = torch.full((len(domains),), -torch.inf, dtype=torch.float64)
        self.kept = [t.detach().clone() for t in (*self.slopes, *self.forces, self.weights)]

    def _of(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """The columns that are varied, copied."""
        return [values[:, columns] for values, columns in zip(layers, self.columns, strict=True)]

    def _units(self) -> list[Tensor]:
        """Typical size of the coefficients in each layer, in which forces are counted."""
        matrix, _ = self.polytopes.combined(self.domains.task, self.domains.weights)
        trace: list[Tensor] = []
        with torch.no_grad():
            self.bounds.rows(matrix, None, rigorous=False, trace=trace)
        return [(c.abs().mean(dim=1, keepdim=True) + 1e-30) for c in trace[::-1]]

    def run(self, iterations: int) -> Domains:
        """The domains with the best parameters that were met."""
        if not self.slopes and not self.mixed:
            # one row of a linear network: nothing to choose
            return self.domains
        groups = [{"params": self.slopes, "lr": _SLOPE_RATE}]
        free = [f for f in self.forces if f.requires_grad]
        if free:
            groups.append({"params": free, "lr": _FORCE_RATE})
        if self.mixed:
            groups.append({"params": [self.weights.requires_grad_()], "lr": _WEIGHT_RATE})
        optimiser = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, _DECAY)
        for step in range(iterations):
            value = self._value()
            self._keep(value.detach())
            if step % _LOOK == _LOOK - 1 and bool((self.best > 0).all()):
                break
            optimiser.zero_grad()
            (-value.nan_to_num(0.0, 0.0, 0.0).sum()).backward()
            optimiser.step()
            schedule.step()
            self._clamp()
        return self._result()

    def _value(self) -> Tensor:
        matrix, offset = self.polytopes.combined(self.domains.task, self.weights)
        shifts = [f * u * s for f, u, s in zip(self.forces, self.units, self.signs, strict=True)]
        lower, _ = self.bounds.rows(matrix, None, self.slopes, shifts, columns=self.columns, rigorous=False)
        return lower + offset

    def _keep(self, value: Tensor) -> None:
        better = value > self.best
        index = better.nonzero()[:, 0]
        self.best[index] = value[index]
        for kept, tried in zip(self.kept, (*self.slopes, *self.forces, self.weights), strict=True):
            if len(index) == len(better):
                kept.copy_(tried.detach())
            else:
                kept[index] = tried.detach()[index]

    def _clamp(self) -> None:
        with torch.no_grad():
            for s in self.slopes:
                s.clamp_(0.0, 1.0)
            for f, sign in zip(self.forces, self.signs, strict=True):
                f.clamp_(min=0.0).mul_(sign.abs())
            if self.mixed:
                w = self.weights.clamp_(min=0.0).mul_(self.real)
                total = w.sum(1, keepdim=True)
                w.copy_(torch.where(total > 0, w / total, self.domains.weights))

    def _result(self) -> Domains:
        count = len(self.slopes)
        forces = [f * u for f, u in zip(self.kept[count : 2 * count], self.units, strict=True)]
        return replace(
            self.domains,
            slopes=self._placed(self.domains.slopes, self.kept[:count]),
            forces=self._placed(self.domains.forces, forces),
            weights=self.kept[-1],
        )

    def _placed(self, layers: Sequence[Tensor], varied: Sequence[Tensor]) -> list[Tensor]:
        """All columns, with those that were varied."""
        triples = zip(layers, self.columns, varied, strict=True)
        return [values.index_copy(1, columns, part) for values, columns, part in triples]


def _columns(bounds: ChainBounds, domains: Domains) -> list[Tensor]:
    """Neurons without a sign, or with an assumed one, in some domain; the others have nothing to choose."""
    pairs = zip(bounds.lines, domains.signs, strict=True)
    return [(lines.unstable | (sign != 0)).any(dim=0).nonzero()[:, 0] for lines, sign in pairs]
