r"""Where to cut a network into blocks.

Place in the data flow: level 8, used by `compositional`. As few cuts as possible, so that every block's proof fits, and
in the middle: the loss is largest for blocks that hold a single layer of activations. A piece between neighbouring cut
nodes that does not fit alone is left to products of norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geolip_lirpa.composition import Block, block_between, cut_positions, split
from geolip_lirpa.network import Network
from geolip_lirpa.proof_cost import proof_cost
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import SdpInstance

#: Whether the proof of a program is within reach.
Fits = Callable[[SdpInstance], bool]

# Price of a block that is bounded by norms, where one with a single layer of activations costs 1/2.
_NORM_PRICE = 2.0


@dataclass(frozen=True)
class Plan:
    """Cuts, and which of the blocks between them are proven by multipliers."""

    cuts: tuple[int, ...]
    by_multipliers: tuple[bool, ...]


def plan_cuts(instance: SdpInstance, fits: Fits) -> Plan | None:
    """The cheapest cuts, by dynamic programming over the cut nodes; None when the whole network is one block."""
    places: list[int | None] = [None, *_candidates(instance.network), None]
    best: list[tuple[float, int, bool]] = [(0.0, 0, True)] + [(math.inf, 0, False)] * (len(places) - 1)
    for i in range(len(places) - 1):
        for j in range(i + 1, len(places)):
            price, proven = _price(instance, places[i], places[j], fits)
            if not proven and j > i + 1:
                break
            if best[i][0] + price < best[j][0]:
                best[j] = best[i][0] + price, i, proven
    cuts: list[int] = []
    flags: list[bool] = []
    j = len(places) - 1
    while j > 0:
        _, i, proven = best[j]
        flags.append(proven)
        cuts.extend(place for place in [places[i]] if place is not None)
        j = i
    return Plan(tuple(reversed(cuts)), tuple(reversed(flags))) if cuts else None


def plan_cost(instance: SdpInstance, fits: Fits) -> float:
    """Multiplications that one elimination of every block of the planned cuts takes."""
    plan = plan_cuts(instance, fits)
    if plan is None:
        return 0.0
    weights = [np.ones(instance.network.nodes[c].size) for c in plan.cuts]
    blocks = split(instance, plan.cuts, weights)
    wanted = [b for b, proven in zip(blocks, plan.by_multipliers, strict=True) if proven]
    return sum(proof_cost(_estimated(block)).operations for block in wanted)


def _candidates(network: Network) -> list[int]:
    """Cut activations, and affine cut nodes that several nodes read (before a single reader a cut gains nothing)."""
    cuts = cut_positions(network)
    return [c for c in cuts if c in network.activations or c + 1 not in (*cuts, len(network.nodes) - 1)]


def _price(instance: SdpInstance, start: int | None, end: int | None, fits: Fits) -> tuple[float, bool]:
    """Expected loss of a block, and whether its proof fits."""

    def mark(place: int | None) -> tuple[int, Array] | None:
        return None if place is None else (place, np.ones(instance.network.nodes[place].size))

    block = block_between(instance, mark(start), mark(end))
    if not fits(_estimated(block)):
        return _NORM_PRICE, False
    return 1.0 / (1.0 + len(block.slopes)), True


def _estimated(block: Block) -> SdpInstance:
    """The program whose proof is the block's."""
    gain = block.gain_program()
    return block.program() if gain is None else gain.instance
