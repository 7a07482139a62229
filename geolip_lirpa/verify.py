r"""Verification of a specification: attack, bounds, splitting.

Place in the data flow: level 10. ``Network + Specification -> VerifyResult``. Knows no auto_LiRPA and no files;
`file_verdicts` and `verify_queries` are the entry points.

The order of "combined": a search of violations; bounds of all cases by intervals and one backward pass; then, for the
cases that are left, boxes are halved where few inputs vary (`splitting.inputs`), signs of neurons are split where many
do (`splitting.neurons`), and all methods of margins are tried where neither serves the network. "sat" is said for
points that `violations` accepted, "unsat" when every case has been proven.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_types import MarginOptions, MarginProblem, RowMargin
from geolip_lirpa.margins import network_margins, require_served
from geolip_lirpa.network import Network
from geolip_lirpa.rounding import Array
from geolip_lirpa.specification import Case, Specification
from geolip_lirpa.splitting import search
from geolip_lirpa.splitting.chain_bounds import Boxes, ChainBounds
from geolip_lirpa.splitting.few_signs import FewSigns
from geolip_lirpa.splitting.inputs import BATCH, FEW_INPUTS, BoxBounds, InputSplitting
from geolip_lirpa.splitting.network_bounds import NetworkBounds
from geolip_lirpa.splitting.neurons import NeuronSplitting
from geolip_lirpa.splitting.relu_chain import Pair, ReluChain, relu_chain
from geolip_lirpa.splitting.targets import Targets
from geolip_lirpa.types import Norm
from geolip_lirpa.unit_box import over_unit_box
from geolip_lirpa.verify_types import Verdict, VerifyOptions, VerifyResult, Witness
from geolip_lirpa.violations import Judge, Replay, Violation

# starts of an attack and steps from each, and how many gradients it may cost
_STARTS, _STEPS, _SEARCH = 16, 40, 50_000
# random points of which one is a start where few inputs vary
_DRAWN = 128
# variables of all pointwise programs together up to which they are solved before neurons are split: a second or two
_SMALL_PROGRAMS = 400
# entries of a chain's matrices up to which it computes outputs faster than the network itself
_SMALL_CHAIN = 2**20


def verify_network(
    network: Network, specification: Specification, options: VerifyOptions, replay: Replay | None = None
) -> VerifyResult:
    """Prove that a specification holds, or find an input that violates it.

    Args:
        network: float64, on the CPU.
        specification: see its module.
        options: see `VerifyOptions`. The time is looked at between steps; a hard limit is the caller's business.
        replay: the model itself, which has to confirm violations; None believes the network.

    Raises:
        SpecificationError: it does not fit the network, or the method does not serve it.
    """
    _require_fitting(network, specification)
    require_served(network, options.method)
    return _Verification(network, specification, options, replay).run()


def _require_fitting(network: Network, specification: Specification) -> None:
    expected = (network.input_size, network.output_size)
    if (specification.inputs, specification.outputs) != expected:
        raise SpecificationError(
            f"specification: has {specification.inputs} inputs and {specification.outputs} outputs, the network has "
            f"{expected[0]} and {expected[1]}. Name the network that it was written for."
        )


class _TimeOverError(Exception):
    """The time is over."""


@dataclass
class _Verification:
    """One run: what is open, and how the rest was proven."""

    network: Network
    specification: Specification
    options: VerifyOptions
    replay: Replay | None
    violation: Violation | None = None
    bound: float | None = None
    boxes: int = 0
    proved_by: list[str] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.judge = Judge(self.network, self.specification, self.replay)
        self.chain = relu_chain(self.network)

    def run(self) -> VerifyResult:
        """The verdict."""
        verdict = Verdict.UNSAT
        try:
            if self.specification.cases:
                verdict = self._decided()
        except _TimeOverError:
            verdict = Verdict.TIMEOUT
        found = self.violation
        witness = None if found is None else Witness(found.inputs, found.outputs)
        seconds = time.monotonic() - self.begin
        return VerifyResult(verdict, witness, self.bound, seconds, tuple(self.proved_by), self.boxes, self.reason)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _decided(self) -> Verdict:
        if self._attacked():
            return Verdict.SAT
        method, open_cases = self.options.method, self._all
        # where crown is slow, intervals are asked before it
        stages = ("crown",) if self.chain is not None else ("ibp", "crown")
        for stage in stages if method == "combined" else (method,):
            open_cases = self._bounded(stage, open_cases)
            if not len(open_cases):
                return Verdict.UNSAT
        if method != "combined":
            self.reason = f"{method} proves {len(self._all) - len(open_cases)} of {len(self._all)} cases"
            return Verdict.UNKNOWN
        return self._split(open_cases)

    def _attacked(self) -> bool:
        cases = self.specification.cases
        lower, upper = self._inner
        targets = self._targets
        count = max(1, int((targets.offsets != torch.inf).any(dim=2).sum()))
        starts = max(2, min(_STARTS, _SEARCH // (_STEPS * count)))
        drawn = _DRAWN if self._varying(self._boxes) <= FEW_INPUTS and starts == _STARTS else 1
        steps = _STEPS if len(cases) < 1000 else _STEPS // 4
        options = search.SearchOptions(starts, steps, drawn, self.options.seed)
        found = search.candidates(self._forward, lower, upper, targets, options, self._over)
        return any(self._confirmed(point, case) for point, case in found)

    def _bounded(self, method: str, cases: Tensor) -> Tensor:
        """Bound some cases by a method; numbers of those that are left."""
        together = method in ("ibp", "crown", "alpha-crown")
        worst = self._bound_together(method, cases) if together else self._bound_apart(method, cases)
        self._best[cases] = torch.fmax(self._best[cases], worst)
        self.bound = float(self._best.min())
        if method != "combined":  # which credits its parts
            self._credit(method, bool((worst > 0).any()))
        return cases[~(worst > 0)]

    def _bound_together(self, method: str, cases: Tensor) -> Tensor:
        """Smallest margins of some cases, many at once."""
        parts = []
        for index in cases.split(BATCH if self.chain is not None else 16):
            self._require_time()
            bounds = self._bounds_by(method, self._boxes[index])
            targets = self._targets[index]
            shape = targets.offsets.shape
            box = torch.arange(len(index)).repeat_interleave(shape[1] * shape[2])
            lower, _ = bounds.rows(targets.rows.reshape(-1, targets.outputs), box)
            parts.append(_worst(targets.margins(lower.reshape(shape))))
            self.boxes += len(index)
        return torch.cat(parts)

    def _bounds_by(self, method: str, boxes: Boxes) -> BoxBounds:
        if method == "crown" and self.chain is not None:
            return ChainBounds.refined(self.chain, boxes)
        return NetworkBounds(self.network, boxes, method=method)

    def _bound_apart(self, method: str, numbers: Tensor) -> Tensor:
        """Smallest margins of some cases, one case after the other, each as a network over the unit cube."""
        found = []
        for number in numbers.tolist():
            self._require_time()
            try:
                found.append(self._case_margin(method, number))
            except SpecificationError:
                # numbers outside of the range of proofs; one method alone says so, several leave the case open
                if self.options.method != "combined":
                    raise
                found.append(-math.inf)
            self.boxes += 1
        return torch.tensor(found, dtype=torch.float64)

    def _case_margin(self, method: str, number: int) -> float:
        case, targets = self.specification.cases[number], self._targets[torch.tensor([number])]
        real = ~targets.offsets.isinf()
        rows, offsets = targets.rows[real], targets.offsets[real]
        margins = torch.full(targets.offsets.shape, -torch.inf, dtype=torch.float64)
        bounded: tuple[RowMargin, ...] = ()
        if len(rows):
            box = over_unit_box(self.network, *(torch.from_numpy(end) for end in (case.box.lower, case.box.upper)))
            center = torch.zeros(self.network.input_shape, dtype=torch.float64)
            problem = MarginProblem(box, (MarginSet(center, 1.0, Norm.LINF),), rows[None], offsets[None])
            options = MarginOptions(method, enough=0.0, attack=False, seed=self.options.seed)
            found = network_margins(problem, options, over=self._over)
            margins[real], bounded = found.lower[0], found.rows
        margins = torch.where(targets.offsets == torch.inf, torch.inf, margins)
        worst = float(_worst(margins)[0])
        if method == "combined" and worst > 0:
            for row in bounded:
                self._credit(row.method, row.lower > 0)
        return worst

    def _split(self, open_cases: Tensor) -> Verdict:
        if self._varying(self._boxes[open_cases]) <= FEW_INPUTS:
            return self._input_splitting(open_cases)
        if self.chain is not None and len(open_cases) * sum(self.chain.sizes) <= _SMALL_PROGRAMS:
            open_cases = self._bounded("sdp", open_cases)
            if not len(open_cases):
                return Verdict.UNSAT
        if self.chain is not None and self._neuron_splitting(self.chain, open_cases):
            return Verdict.UNSAT if self.violation is None else Verdict.SAT
        left = self._bounded("combined", open_cases)
        return self._input_splitting(left) if len(left) else Verdict.UNSAT

    def _input_splitting(self, cases: Tensor) -> Verdict:
        chain, network = self.chain, self.network

        def bounder(boxes: Boxes, known: Sequence[Pair] | None) -> BoxBounds:
            return NetworkBounds(network, boxes, known) if chain is None else ChainBounds.refined(chain, boxes, known)

        finish = None if chain is None else FewSigns(chain, self._targets, self._confirmed, self._over)
        splitting = InputSplitting(bounder, self._forward, self._targets, self._confirmed, self._over, finish)
        found = splitting.run(self._boxes[cases], cases)
        self.boxes += found.bounded
        if found.violated:
            return Verdict.SAT
        if found.proven:
            self._credit("splitting inputs", True)
            return Verdict.UNSAT
        if found.stuck:
            self.reason = "a box that cannot be halved any more is left"
            return Verdict.UNKNOWN
        raise _TimeOverError

    def _neuron_splitting(self, chain: ReluChain, cases: Tensor) -> bool:
        """Whether splitting neurons settled all cases before no neuron was left."""
        boxes = self._boxes[cases]
        hidden = ChainBounds.refined(chain, boxes).hidden

        def confirm(point: Tensor, case: int) -> bool:
            return self._confirmed(point, int(cases[case]))

        splitting = NeuronSplitting(chain, self._targets[cases], boxes, hidden, confirm, self._over)
        found = splitting.run()
        self.boxes += found.bounded
        self._credit("splitting neurons", found.proven)
        if not found.stuck and not found.proven and not found.violated:
            raise _TimeOverError
        return found.proven or found.violated

    # -- tools -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _varying(boxes: Boxes) -> int:
        """Largest number of inputs that vary in a box."""
        return int((boxes.upper > boxes.lower).sum(dim=1).max())

    def _confirmed(self, point: Tensor, case: int) -> bool:
        self.violation = self.judge.accepted(point.detach().numpy().astype(np.float64), case)
        return self.violation is not None

    def _credit(self, method: str, proven: bool) -> None:
        if proven and method not in self.proved_by:
            self.proved_by.append(method)

    def _over(self) -> bool:
        return time.monotonic() - self.begin > self.options.timeout

    def _require_time(self) -> None:
        if self._over():
            raise _TimeOverError

    def _forward(self, points: Tensor) -> Tensor:
        if self.chain is not None and sum(step.weight.entries for step in self.chain.steps) <= _SMALL_CHAIN:
            return self.chain.forward(points)
        shaped = points.to(torch.float32).reshape(-1, *self.network.input_shape)
        return self._single.forward(shaped).to(torch.float64)

    @cached_property
    def _single(self) -> Network:
        """The network in float32, for searches."""
        return self.network.to(torch.float32)

    @property
    def _cases(self) -> tuple[Case, ...]:
        return self.specification.cases

    @cached_property
    def _best(self) -> Tensor:
        """The largest bound of each case so far, before any splitting."""
        return torch.full((len(self._cases),), -math.inf, dtype=torch.float64)

    @property
    def _all(self) -> Tensor:
        return torch.arange(len(self._cases))

    @cached_property
    def _inner(self) -> tuple[Tensor, Tensor]:
        return _stacked([c.box.inner_lower for c in self._cases]), _stacked([c.box.inner_upper for c in self._cases])

    @cached_property
    def _boxes(self) -> Boxes:
        return Boxes(_stacked([c.box.lower for c in self._cases]), _stacked([c.box.upper for c in self._cases]))

    @cached_property
    def _targets(self) -> Targets:
        return Targets.of(self._cases, self.specification.outputs)


def _worst(margins: Tensor) -> Tensor:
    """The smallest over the polytopes of the largest margin of a row, (T,)."""
    if margins.shape[1] == 0:
        return torch.full(margins.shape[:1], math.inf, dtype=torch.float64)
    return margins.amax(dim=2).amin(dim=1)


def _stacked(vectors: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.stack(vectors))
