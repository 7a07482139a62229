"""One input of a margin computation: the methods that are tried on its rows, and the best bounds with their proofs.

Place in the data flow: level 10. ``MarginProblem -> Situation -> claims``; `margins` puts those of all inputs together.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from geolip_lirpa.activations import ReLU
from geolip_lirpa.bound_claims import BoundClaim
from geolip_lirpa.certificate import Claim
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem
from geolip_lirpa.margin_certificate import (
    BOUND_METHODS,
    LIPSCHITZ_METHODS,
    LipschitzProof,
    MarginClaim,
)
from geolip_lirpa.margin_splitting import SPLITTING_BUDGET, MarginSplitter
from geolip_lirpa.margin_statements import CLAIMED, Situation
from geolip_lirpa.margin_types import MarginOptions, MarginProblem, RowMargin
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import network_lipschitz
from geolip_lirpa.pointwise_bounding import ProgramOptions, prove_programs
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.tightening import TIGHTENINGS, tighten, tightened_layers, tightening_cost
from geolip_lirpa.types import Norm

#: What "combined" tries, one after the other.
CASCADE = ("crown", "geolip", "geolip-local", "geolip-anchored", "alpha-crown", "splitting", "sdp")
#: What it then tries again from tightened bounds of pre-activations.
AGAIN = ("alpha-crown", "geolip-anchored", "sdp")
# What is left of computed margins for a claim, relative to their size: whoever checks it computes them anew.
_SLACK = {"ibp": 1e-12, "crown": 1e-12, "alpha-crown": 1e-7}
# Relative gap of Lipschitz constants: far less than what relaxing costs.
_GAP = 1e-4
# Rows whose global constants are bounded together: all of ten classes. More would be in vain where one alone is open.
_PACK = 12
#: Multiplications for proofs of tightened bounds that the cascade spends at most on one input: a minute or so.
TIGHTENING_OPERATIONS = 3e11
# Branch and bound proves a margin of this part of what there is above the target at the centre, and claims half of it:
# whoever checks it on another processor ends elsewhere.
_SPLITTING_ROOM = 2e-6
# How far a margin may miss its target, in parts of what attacks leave above it, for tightened bounds to be tried.
_REACH = 1.0


@dataclass
class NetworkMemory:
    """What calls for one network share: its global Lipschitz constants, by norm and rows, and its matrices.

    Calls that get it fill it. Rows are bounded together in packs that do not depend on what was asked before: a
    solver's last digits differ with the company of a row, and an input's margins have to be the same in whatever order
    and process inputs are done.
    """

    known: dict[tuple[Norm, bytes], list[tuple[float, LipschitzProof | None]]] = field(default_factory=dict)
    splitter: MarginSplitter | None = None

    def splitter_of(self, network: Network) -> MarginSplitter:
        """Branch and bound for the network, whose matrices are multiplied out once."""
        if self.splitter is None or self.splitter.network is not network:
            self.splitter = MarginSplitter(network)
        return self.splitter


def has_program(network: Network) -> bool:
    """Whether the pointwise program serves a network."""
    return all(isinstance(network.nodes[i].operation, ReLU) for i in network.activations)


@dataclass
class SharedProofs:
    """Lipschitz proofs of all samples of a call."""

    memory: NetworkMemory
    proofs: list[LipschitzProof] = field(default_factory=list)

    def number(self, proof: LipschitzProof | None) -> int | None:
        """The place of a proof in the list, to which it is added if need be."""
        if proof is None:
            return None
        for place, other in enumerate(self.proofs):
            if other is proof:
                return place
        self.proofs.append(proof)
        return len(self.proofs) - 1


class InputWork:
    """The rows of one sample: best bounds and their proofs."""

    def __init__(
        self,
        sample: int,
        problem: MarginProblem,
        options: MarginOptions,
        attacked: Tensor | None,
        over: Callable[[], bool],
    ) -> None:
        self.sample, self.network, self.options, self.over = sample, problem.network, options, over
        self.set, self.rows, self.offsets = problem.sets[sample], problem.rows[sample], problem.offsets[sample]
        self.situation = Situation(self.network, self.set, self.rows, self.offsets)
        count = len(self.rows)
        self.attacked = torch.full((count,), torch.inf, dtype=torch.float64) if attacked is None else attacked
        self.lower = torch.full((count,), -torch.inf, dtype=torch.float64)
        self.claims: dict[int, MarginClaim] = {}
        # rows that branch and bound has found to miss their target
        self.lost = torch.zeros(count, dtype=torch.bool)
        self.seconds = [0.0] * count
        # multipliers of local constants, from which the pointwise program starts
        self.starts: dict[int, Multipliers | None] = {}
        # proofs of tightened bounds of pre-activations; None while nobody needs them
        self.bounds: list[BoundClaim] | None = None

    def run(self, shared: SharedProofs) -> None:
        """Apply the method, or the methods of the cascade, to the rows that still need it."""
        combined = self.options.method == "combined"
        self._stages(CASCADE if combined else (self.options.method,), shared)
        if combined and not self.over() and self._open() and self._is_worth_tightening():
            self._tighten("geolip")
            self._stages(AGAIN, shared)

    def _stages(self, methods: Sequence[str], shared: SharedProofs) -> None:
        for method in methods:
            rows = self._open()
            if not rows or self.over():
                return
            if method in BOUND_METHODS:
                self._timed(rows, functools.partial(self._linear, method, rows))
            elif method in LIPSCHITZ_METHODS:
                self._timed(rows, functools.partial(self._lipschitz, method, rows, shared))
            elif method == "splitting":
                self._splitting(rows, shared.memory)
            elif has_program(self.network):
                self._pointwise(rows)

    def report(self) -> list[RowMargin]:
        """The rows, one by one."""
        return [
            RowMargin(
                self.sample, i, float(self.lower[i]), float(self.attacked[i]),
                self.claims[i].method if i in self.claims else "", self.seconds[i],
            )
            for i in range(len(self.rows))
        ]  # fmt: skip

    def _open(self) -> list[int]:
        """Rows that are worth more work, the hardest first."""
        enough = self.options.enough
        order = torch.argsort(self.lower).tolist()
        if enough is None:
            return order
        lost = (self.attacked <= enough) | self.lost
        if self.options.whole and bool(lost.any()):
            return []
        return [i for i in order if not self.lower[i] > enough and not lost[i]]

    def _timed(self, rows: Sequence[int], action: Callable[[], object]) -> None:
        begin = time.perf_counter()
        action()
        for i in rows:
            self.seconds[i] += (time.perf_counter() - begin) / len(rows)

    def _claim(self, row: int, lower: float, claim: Mapping[str, object]) -> None:
        if lower > self.lower[row] and math.isfinite(lower):
            self.lower[row] = lower
            self.claims[row] = MarginClaim(self.sample, row, lower, **claim)  # type: ignore[arg-type]

    def _linear(self, method: str, rows: Sequence[int]) -> None:
        bounds = self._bound_method() if method != "ibp" and self._wants_tight_bounds() else method
        found = self.situation.margins(method, bounds)
        # another processor's sums end elsewhere, and an ascent carries such differences on
        slack = _SLACK[method] * torch.maximum(found.abs(), self.situation.clean.abs())
        for i in rows:
            self._claim(i, float(found[i] - slack[i]), {"method": method, "bound_method": bounds})

    # -- bounds of pre-activations -----------------------------------------------------------------------------------

    def _wants_tight_bounds(self) -> bool:
        return self.options.bound_method in TIGHTENINGS or self.bounds is not None

    def _bound_method(self) -> str:
        """How pre-activations are bounded; tightens them where the options say so."""
        if self.bounds is None and self.options.bound_method in TIGHTENINGS:
            self._tighten(self.options.bound_method)
        return self.options.bound_method if self.bounds is None else CLAIMED

    def _tighten(self, kind: str) -> None:
        rows = self._open()
        self._timed(rows, lambda: setattr(self, "bounds", self._tightened(kind)))

    def _tightened(self, kind: str) -> list[BoundClaim]:
        claims = tighten(self.situation, kind, self.options.seed)
        return [replace(claim, sample=self.sample) for claim in claims]

    def _is_worth_tightening(self) -> bool:
        """Whether tighter bounds are not there yet, cost no more than other stages, and may well be enough.

        With a single layer to tighten the pointwise program hardly gains.
        """
        if self.bounds is not None or self.set.eps == 0 or not self._in_reach():
            return False
        if tightened_layers(self.network) < 2:
            return False
        return 0.0 < tightening_cost(self.situation) < TIGHTENING_OPERATIONS

    def _in_reach(self) -> bool:
        """Whether the hardest row misses its target by less than attacks leave above it."""
        enough, hardest = self.options.enough, self._open()[0]
        if enough is None or not bool(self.attacked.isfinite().all()):
            return True
        return enough - float(self.lower[hardest]) < _REACH * (float(self.attacked[hardest]) - enough)

    # -- Lipschitz constants -----------------------------------------------------------------------------------------

    def _lipschitz(self, method: str, rows: Sequence[int], shared: SharedProofs) -> None:
        constants = self._global(rows, shared.memory) if method == "geolip" else self._constants(method, rows)
        for i, (constant, proof) in zip(rows, constants, strict=True):
            lower = self.situation.lipschitz_margin(i, constant)
            if proof is not None and lower > self.lower[i]:
                number = shared.number(proof)
                self._claim(i, lower, {"method": method, "bound_method": proof.bound_method, "lipschitz": number})

    def _global(self, rows: Sequence[int], memory: NetworkMemory) -> list[tuple[float, LipschitzProof | None]]:
        found: dict[int, tuple[float, LipschitzProof | None]] = {}
        # l_1 has a program for each input, which is enough for one call
        size = 1 if self.set.norm is Norm.L1 else _PACK
        for first in sorted({i - i % size for i in rows}):
            pack = range(first, min(first + size, len(self.rows)))
            key = self.set.norm, self.rows[first : pack.stop].numpy().tobytes()
            if key not in memory.known:
                memory.known[key] = self._constants("geolip", pack)
            found.update(zip(pack, memory.known[key], strict=True))
        return [found[i] for i in rows]

    def _constants(self, method: str, rows: Sequence[int]) -> list[tuple[float, LipschitzProof | None]]:
        """Constants of rows with their proofs; infinite without one."""
        bounds = self.options.bound_method if method == "geolip" else self._bound_method()
        slopes = self.situation.slopes(method, bounds)
        scale = torch.ones(self.network.input_size, dtype=torch.float64)
        problem = LipschitzProblem(self.network, self.rows[list(rows)][None], (slopes,), scale)
        options = LipschitzOptions(norm=self.set.norm, relative_gap=_GAP, lower_bounds=False, seed=self.options.seed)
        sample = None if method == "geolip" else self.sample
        result = network_lipschitz(problem, options)
        claims: Sequence[Claim] = () if result.certificate is None else result.certificate.claims
        found: list[tuple[float, LipschitzProof | None]] = []
        for number, i in enumerate(rows):
            own = tuple(replace(c, sample=0, row=0) for c in claims if c.row == number)
            if method == "geolip-local":
                self.starts[i] = own[0].multipliers if len(own) == 1 and own[0].coordinate is None else None
            constant = float(result.upper[0, number])
            if not own or not math.isfinite(constant):
                found.append((math.inf, None))
                continue
            proof = LipschitzProof(method, bounds, sample, self.rows[i], own)
            found.append((constant, proof))
        return found

    # -- branch and bound --------------------------------------------------------------------------------------------

    def _splitting(self, rows: Sequence[int], memory: NetworkMemory) -> None:
        """Row by row; one that cannot be proven ends the work on an input that counts only as a whole."""
        enough, splitter = self.options.enough, memory.splitter_of(self.network)
        if enough is None or not splitter.serves(self.set):
            return
        for i in rows:
            if self.over():
                return
            self._timed([i], functools.partial(self._split_row, i, enough, splitter))
            if self.options.whole and not self.lower[i] > enough:
                return

    def _split_row(self, row: int, enough: float, splitter: MarginSplitter) -> None:
        room = _SPLITTING_ROOM * (float(self.situation.clean[row]) - enough)
        if not room > 0 or not math.isfinite(room):
            return
        found = splitter.search(self.set, self.rows[row], float(self.offsets[row]), enough + room, SPLITTING_BUDGET)
        if found.proven:
            self._claim(row, enough + room / 2, {"method": "splitting"})
        self.lost[row] = found.violated

    # -- the pointwise program ---------------------------------------------------------------------------------------

    def _pointwise(self, rows: Sequence[int]) -> None:
        """The pointwise program; rows that cannot be proven end the work on an input that counts only as a whole."""
        bounds = self._bound_method()
        if self.options.method == "combined" and bounds != CLAIMED:
            bounds = "alpha-crown"
        # constants for l_1 have multipliers for each input apart, from which nothing can start
        missing = [i for i in rows if i not in self.starts and self.set.norm is not Norm.L1]
        if missing:
            self._timed(missing, functools.partial(self._constants, "geolip-local", missing))
        options = ProgramOptions(self.options.solver, self.options.enough, self.options.whole, self.options.seed)
        # they pay over balls where bounds are tight
        options = replace(options, all_products=bounds == CLAIMED)
        begin = time.perf_counter()
        instances = [self.situation.instance(bounds, i) for i in rows]
        shared = (time.perf_counter() - begin) / max(1, len(rows))
        for number, proven, seconds in prove_programs(instances, [self.starts.get(i) for i in rows], options):
            if self.over():
                return
            self.seconds[rows[number]] += shared + seconds
            if proven is not None:
                claim = {"method": "sdp", "bound_method": bounds, "multipliers": proven.multipliers}
                self._claim(rows[number], proven.lower, claim)
