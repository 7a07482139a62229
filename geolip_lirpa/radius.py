r"""Certified radii: bisection over proofs of margins, with attacks as upper bounds.

Place in the data flow: level 10. ``Network + inputs + rows -> RadiusResult``. A radius is proven when all margins over
its ball are proven to be positive; it is refuted when an input of the ball has a margin that is not. Sets grow with the
radius, so the largest proven and the smallest refuted radius enclose the true one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from geolip_lirpa.attacks import AttackOptions, attack
from geolip_lirpa.bounding import Progress
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_certificate import MarginCertificate
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import Situation
from geolip_lirpa.margin_types import MarginOptions, MarginProblem
from geolip_lirpa.margin_work import NetworkMemory
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network

# Radii are sought from here on, relative to the size of the input, where nothing better is known.
_FIRST = 1e-3
_SMALLEST = 1e-12
_LARGEST = 1e9
# Balls attacked beyond those that proofs were tried for, with random starts of so many seeds.
_ATTACKS, _SEEDS = 12, 2


@dataclass(frozen=True)
class RadiusOptions:
    """How radii are sought.

    Args:
        margins: how the margins of each radius are proven.
        relative_gap: the search ends when the smallest radius that was not proven exceeds the largest one that was by
            this part.
        largest: radii are not sought beyond it.
        timeout: seconds for each input; looked at between steps. Then the largest radius so far is the answer.
    """

    margins: MarginOptions = field(default_factory=lambda: MarginOptions(whole=True))
    relative_gap: float = 0.02
    largest: float | None = None
    timeout: float = math.inf

    def __post_init__(self) -> None:
        if not 1e-6 <= self.relative_gap < 1e3:
            raise SpecificationError(
                f"relative_gap: got {self.relative_gap!r}; allowed are numbers from 1e-6 on. The default is 0.02."
            )
        if self.largest is not None and not 0 < self.largest < math.inf:
            raise SpecificationError(f"largest: got {self.largest!r}; allowed are positive finite numbers, and None.")
        if not self.timeout > 0:
            raise SpecificationError(f"timeout: got {self.timeout!r}; allowed are positive seconds.")


@dataclass(frozen=True)
class InputRadius:
    """The radii of one input.

    Args:
        sample: position in the batch.
        lower: largest radius that was proven; 0 where none was.
        upper: smallest radius at which an attack succeeded; infinite where none did.
        correct: whether all margins at the input itself are positive.
        certificate: the proof of `lower`; None where it is 0.
        seconds: spent on this input.
        proofs: number of radii that were tried.
    """

    sample: int
    lower: float
    upper: float
    correct: bool
    certificate: MarginCertificate | None = field(repr=False)
    seconds: float
    proofs: int


@dataclass(frozen=True)
class RadiusResult:
    """Radii of a batch.

    Args:
        lower: (B,) float64, proven.
        upper: (B,) float64, attained by an attack.
        inputs: the same one by one.
        seconds: of the whole call.
    """

    lower: Tensor
    upper: Tensor
    inputs: tuple[InputRadius, ...]
    seconds: float


def network_radii(
    network: Network,
    sets: Sequence[MarginSet],
    rows: Sequence[Tensor],
    options: RadiusOptions,
    progress: Progress | None = None,
    memory: NetworkMemory | None = None,
    better: Callable[[InputRadius], None] | None = None,
) -> RadiusResult:
    """The radii of a batch of inputs.

    Args:
        network: float64, on the CPU.
        sets: inputs, norms and domains; their radii do not matter.
        rows: for each input the rows (S, n_out) whose margins have to stay positive.
        options: see `RadiusOptions`.
        progress: called with the numbers of finished and of all inputs.
        memory: as in `network_margins`.
        better: told of each radius that is proven, so that nothing is lost when the call is interrupted.
    """
    memory = NetworkMemory() if memory is None else memory
    begin = time.perf_counter()
    found = []
    for sample, (margin_set, c) in enumerate(zip(sets, rows, strict=True)):
        found.append(_Search(sample, network, margin_set, c, options, memory, better).run())
        if progress is not None:
            progress(sample + 1, len(sets))
    return RadiusResult(
        lower=torch.tensor([f.lower for f in found], dtype=torch.float64),
        upper=torch.tensor([f.upper for f in found], dtype=torch.float64),
        inputs=tuple(found),
        seconds=time.perf_counter() - begin,
    )


class _Search:
    """Bisection for one input."""

    def __init__(
        self,
        sample: int,
        network: Network,
        margin_set: MarginSet,
        rows: Tensor,
        options: RadiusOptions,
        memory: NetworkMemory,
        better: Callable[[InputRadius], None] | None,
    ) -> None:
        self.sample, self.network, self.set, self.rows, self.options = sample, network, margin_set, rows, options
        self.better, self.begin = better, time.perf_counter()
        self.lower, self.failed, self.upper = 0.0, math.inf, math.inf
        self.certificate: MarginCertificate | None = None
        self.memory = memory
        self.proofs = 0

    def run(self) -> InputRadius:
        """Look for a proven and a failed radius, then halve what lies between them."""
        offsets = torch.zeros(len(self.rows), dtype=torch.float64)
        correct = bool((Situation(self.network, self.set.with_eps(0.0), self.rows, offsets).clean > 0).all())
        if correct:
            self._bracket()
            while self._open():
                self._try(math.sqrt(self.lower * self.failed))
            self._attack_further()
        else:
            self.upper = 0.0
        return self._found(correct)

    def _found(self, correct: bool) -> InputRadius:
        seconds = time.perf_counter() - self.begin
        return InputRadius(self.sample, self.lower, self.upper, correct, self.certificate, seconds, self.proofs)

    def _over(self) -> bool:
        return time.perf_counter() - self.begin > self.options.timeout

    def _open(self) -> bool:
        return (
            not self._over()
            and 0 < self.lower < self.failed / (1.0 + self.options.relative_gap)
            and self.failed < math.inf
        )

    def _bracket(self) -> None:
        """Powers of four up or down from a guess, until one radius is proven and one is not."""
        limit = self.options.largest or _LARGEST
        radius = min(limit, _FIRST * max(1.0, float(self.set.center.norm())))
        self._try(radius)
        while self.lower == 0.0 and radius > _SMALLEST and not self._over():
            radius /= 4.0
            self._try(radius)
        while self.failed == math.inf and self.lower < limit and not self._over():
            self._try(min(limit, 4.0 * self.lower))

    def _try(self, radius: float) -> None:
        """Prove or refute one radius, or give it up."""
        self.proofs += 1
        offsets = torch.zeros((1, len(self.rows)), dtype=torch.float64)
        problem = MarginProblem(self.network, (self.set.with_eps(radius),), self.rows[None], offsets)
        result = network_margins(problem, self.options.margins, memory=self.memory, over=self._over)
        if bool((result.lower > 0).all()):
            self.lower, self.certificate = radius, result.certificate
            if self.better is not None:
                self.better(self._found(correct=True))
            return
        self.failed = radius
        if bool((result.attacked <= 0).any()):
            self.upper = min(self.upper, self._size(result.points, result.attacked, radius))

    def _attack_further(self) -> None:
        """Attack between the proven radius and the smallest attacked one.

        A larger ball is no easier for an attack: where it fails with one seed it may succeed with the next.
        """
        limit = self.options.largest or _LARGEST
        if not self.options.margins.attack or self.failed == math.inf:
            return
        left = _ATTACKS
        for seed in range(_SEEDS):
            safe = self.lower or self.failed
            while left and safe * (1.0 + self.options.relative_gap) < min(self.upper, limit) and not self._over():
                left -= 1
                radius = min(limit, 4.0 * safe if self.upper == math.inf else math.sqrt(safe * self.upper))
                if not self._attacked(radius, self.options.margins.seed + seed):
                    safe = radius

    def _attacked(self, radius: float, seed: int) -> bool:
        """Whether an attack succeeds; then it has made `upper` smaller."""
        offsets = torch.zeros((1, len(self.rows)), dtype=torch.float64)
        ball = self.set.with_eps(radius)
        found = attack(self.network, (ball,), self.rows[None], offsets, AttackOptions(seed=seed))
        succeeded = bool((found.values <= 0).any())
        if succeeded:
            self.upper = min(self.upper, self._size(found.points, found.values, radius))
        return succeeded

    def _size(self, points: Tensor | None, attacked: Tensor, radius: float) -> float:
        """Radius of the smallest ball in which one of the attack's inputs lies, rounded up."""
        if points is None:
            return radius
        points = points[0][attacked[0] <= 0]
        offsets = (points - self.set.center).flatten(1)
        size = float(offsets.norm(p=self.set.norm.p, dim=1).min()) * (1.0 + 1e-12)
        return min(radius, size)
