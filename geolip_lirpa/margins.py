"""Proven lower bounds of margins: every method, and the cascade that tries the cheap ones first.

Place in the data flow: level 10. ``MarginProblem -> Situation -> margins with proofs -> MarginResult``. Knows no
auto_LiRPA; `margin_queries.compute_margins` is the entry point for its users.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from geolip_lirpa.attacks import Attack, AttackOptions, attack
from geolip_lirpa.bounding import Progress
from geolip_lirpa.certificate import network_signature
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_certificate import (
    MarginCertificate,
    without_unused,
)
from geolip_lirpa.margin_types import MarginOptions, MarginProblem, MarginResult
from geolip_lirpa.margin_work import InputWork, NetworkMemory, SharedProofs, has_program
from geolip_lirpa.network import Network


def network_margins(
    problem: MarginProblem,
    options: MarginOptions,
    progress: Progress | None = None,
    memory: NetworkMemory | None = None,
    over: Callable[[], bool] = lambda: False,
) -> MarginResult:
    """Bound all margins of a problem.

    Args:
        problem: see `MarginProblem`.
        options: see `MarginOptions`.
        progress: called with the numbers of finished and of all inputs.
        memory: of calls for the same network, so that nothing is computed twice.
        over: asked between steps whether the time is over; what has been proven until then is kept.

    Raises:
        SpecificationError: the method does not serve this network.
    """
    begin = time.perf_counter()
    require_served(problem.network, options.method)
    found = _attacked(problem, options)
    shared = SharedProofs(NetworkMemory() if memory is None else memory)
    work = []
    for b in range(len(problem.sets)):
        work.append(InputWork(b, problem, options, None if found is None else found.values[b], over))
        work[-1].run(shared)
        if progress is not None:
            progress(b + 1, len(problem.sets))
    certificate = MarginCertificate(
        signature=network_signature(problem.network),
        sets=problem.sets,
        rows=problem.rows,
        offsets=problem.offsets,
        claims=tuple(claim for w in work for claim in w.claims.values()),
        lipschitz=tuple(shared.proofs),
        bounds=tuple(claim for w in work for claim in w.bounds or ()),
    )
    return MarginResult(
        lower=torch.stack([w.lower for w in work]),
        attacked=torch.stack([w.attacked for w in work]),
        points=None if found is None else found.points,
        rows=tuple(row for w in work for row in w.report()),
        certificate=without_unused(certificate),
        seconds=time.perf_counter() - begin,
    )


def require_served(network: Network, method: str) -> None:
    """Refuse a method that cannot serve a network.

    Raises:
        SpecificationError: "sdp" for activations other than ReLU.
    """
    if method == "sdp" and not has_program(network):
        kinds = {getattr(network.nodes[i].operation, "name", "?") for i in network.activations}
        raise SpecificationError(
            f"method 'sdp': got activations {', '.join(sorted(kinds))}; the pointwise program knows ReLU only. Use "
            "'geolip-anchored', 'alpha-crown', or 'combined', which leaves it out."
        )


def _attacked(problem: MarginProblem, options: MarginOptions) -> Attack | None:
    if not options.attack:
        return None
    return attack(problem.network, problem.sets, problem.rows, problem.offsets, AttackOptions(seed=options.seed))
