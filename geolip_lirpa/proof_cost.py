"""What a proof will take, from the graph alone: before anything is solved or any block is built.

Place in the data flow: level 7, beside `proof`. An estimate for choosing a method; no bound depends on it.
"""

from __future__ import annotations

from geolip_lirpa.block_elimination import EliminationCost, Pattern, elimination_cost
from geolip_lirpa.dissection_cost import dissection_cost
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.slopes import SlopeIntervals

#: Largest memory that the elimination of a proof may need, in bytes.
PROOF_BYTES = 8 * 2.0**30
#: Multiplications that one elimination may need; a proof takes two to five. About three minutes on one thread.
PROOF_OPERATIONS = 2e12


def proof_fits(instance: SdpInstance) -> bool:
    """Whether a proof of an instance stays within `PROOF_BYTES` and `PROOF_OPERATIONS`."""
    cost = proof_cost(instance)
    return cost.bytes <= PROOF_BYTES and cost.operations <= PROOF_OPERATIONS


def proof_cost(instance: SdpInstance) -> EliminationCost:
    """Estimated cost of one elimination of an instance's matrix, forms included in the memory."""
    pattern = estimated_pattern(instance)
    cost = elimination_cost(pattern)
    dissected = dissection_cost(instance)
    if dissected is not None and dissected.operations < cost.operations:
        # sorting the entries into other blocks takes a few copies of them
        cost = EliminationCost((), dissected.operations, dissected.bytes + 4.0 * pattern.bytes())
    # values and error bounds of the forms stay in memory beside the matrix
    return EliminationCost(cost.order, cost.operations, cost.bytes + 2.0 * pattern.bytes())


def estimated_pattern(instance: SdpInstance) -> Pattern:
    """Blocks of the matrix with an upper estimate of the entries of each coupling."""
    slopes = instance.slopes
    sizes = [int((instance.input_scale > 0).sum())]
    sizes += [int((~s.fixed).sum()) for s in slopes]
    sizes.append(instance.rows.shape[0])
    last = len(sizes) - 1
    pattern = Pattern(sizes, set(range(len(sizes))), {})
    for target, fan_in in _fan_ins(instance.network, slopes).items():
        l = last if target is None else target + 1
        curved = target is not None and bool((slopes[target].lower * slopes[target].upper != 0).any())
        read = {s: float(min(count, sizes[s])) for s, count in fan_in.items() if sizes[s] > 0}
        for s, count in read.items():
            pattern.entries[l, s] = sizes[l] * (float(sizes[s]) if target is None else count)
        if curved:
            _add_products(pattern, read)
    return pattern


def _add_products(pattern: Pattern, read: dict[int, float]) -> None:
    """Quadratic terms couple the blocks that one layer reads, and fill these blocks."""
    for t in read:
        pattern.flat.discard(t)
        for s in read:
            if s < t:
                pattern.entries[t, s] = float(pattern.sizes[t] * pattern.sizes[s])


def _fan_ins(network: Network, slopes: SlopeIntervals) -> dict[int | None, dict[int, int]]:
    """How many variables of each block one entry of a pre-activation reads at most, by activation (None: output)."""
    sizes = [network.input_size, *(s.lower.numel() for s in slopes)]
    flows: list[dict[int, int]] = [{0: 1}]
    found: dict[int | None, dict[int, int]] = {}
    number = 0
    for node in network.nodes[1:]:
        total: dict[int, int] = {}
        for i in node.inputs:
            for s, count in flows[i].items():
                total[s] = total.get(s, 0) + count
        if isinstance(node.operation, AffineOperator):
            length = max(1, node.operation.sum_roundings)
            flows.append({s: min(sizes[s], count * length) for s, count in total.items()})
            continue
        found[number] = total
        fixed = slopes[number].fixed & (slopes[number].lower != 0)
        passed = dict(total) if bool(fixed.any()) else {}
        flows.append({**passed, number + 1: 1})
        number += 1
    found[None] = flows[-1]
    return found
