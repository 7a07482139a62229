r"""Tighter bounds of pre-activations by semidefinite programs, the neurons of a layer as rows of one batch.

Place in the data flow: level 9, ``Situation -> BoundClaims``; untrusted, the claims carry their proofs. Bound
propagation is loose from the second hidden layer on, most of all over l_2 balls. Layer by layer, each from the
tightened bounds before it,

* a Lipschitz constant of each unstable neuron, of increments from the centre, bounds it from both sides,
  :math:`|v_i(x) - v_i(x_0)| \le \varepsilon L_i`; all of a layer are solved together;
* where wanted, the pointwise program bounds one side after the other of the few neurons with the highest triangles.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geolip_lirpa.activations import Activation, ReLU
from geolip_lirpa.bound_claims import BoundClaim, claimed_bounds, neurons
from geolip_lirpa.certificate import Claim
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem
from geolip_lirpa.margin_statements import CLAIMED, Situation
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.network_lipschitz import network_lipschitz
from geolip_lirpa.pointwise_bounding import ProgramOptions, program_variables, prove_programs
from geolip_lirpa.proof_cost import proof_cost
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.types import Norm

#: Ways to tighten: by Lipschitz constants, and by the pointwise program as well.
TIGHTENINGS = ("geolip", "sdp")
# Constants need not be closer than what they are good for.
_GAP = 1e-3
# Claims that tighten their interval by less than this part of its width are not worth a place in the certificate.
_WORTH = 1e-3
# Neurons of a layer for the pointwise program, and its tolerance.
_NEURONS = 16
_TOLERANCE = 1e-3
# Rows of its matrix: a few seconds for each side of a neuron.
_MOST_VARIABLES = 1000


def tighten(situation: Situation, kind: str, seed: int = 0) -> list[BoundClaim]:
    """Bounds of the unstable neurons behind the first layer with their proofs; the situation makes use of them.

    Args:
        situation: its `CLAIMED` bounds become tighter.
        kind: one of `TIGHTENINGS`.
        seed: of random starts.
    """
    found: list[BoundClaim] = []
    for node in _targets(situation.network):
        unstable = _unstable(situation, node)
        if not unstable:
            continue
        own = _by_constants(situation, node, unstable, seed)
        own = _worthwhile(situation, node, own)
        if kind == "sdp" and _has_program(situation.network):
            own += _worthwhile(situation, node, _by_programs(situation, node, own, seed))
        if own:
            situation.tighten(node, claimed_bounds(neurons(situation, node, own), own))
            found += own
    return found


def tightened_layers(network: Network) -> int:
    """How many layers have bounds that may become tighter."""
    return len(_targets(network))


def tightening_cost(situation: Situation) -> float:
    """Multiplications that the proofs of "geolip" will take, roughly."""
    total = 0.0
    for node in _targets(situation.network):
        unstable = _unstable(situation, node)
        if unstable:
            row = torch.zeros((1, situation.network.nodes[node].size), dtype=torch.float64)
            inner = situation.up_to(node, row)
            norm = Norm.LINF if situation.set.norm is Norm.L1 else situation.set.norm
            slopes = inner.slopes("geolip-anchored", CLAIMED)
            scale = torch.ones(inner.network.input_size, dtype=torch.float64)
            cost = proof_cost(SdpInstance(inner.network, slopes, norm, scale, row)).operations
            programs = situation.network.input_size if situation.set.norm is Norm.L1 else 1
            total += len(unstable) * programs * cost
    return total


def _targets(network: Network) -> list[int]:
    """Pre-activations that lie behind another activation: the bounds of others are exact or nearly so."""
    linear = {0}
    for i, node in enumerate(network.nodes):
        if isinstance(node.operation, AffineOperator) and linear.issuperset(node.inputs):
            linear.add(i)
    return sorted({network.nodes[i].inputs[0] for i in network.activations} - linear)


def _has_program(network: Network) -> bool:
    return all(isinstance(network.nodes[i].operation, ReLU) for i in network.activations)


def _bounds(situation: Situation, node: int) -> tuple[Tensor, Tensor]:
    low, high = situation.node_bounds(CLAIMED)[node]
    return low.reshape(-1), high.reshape(-1)


def _unstable(situation: Situation, node: int) -> list[int]:
    """Neurons that one of their activations may bend."""
    low, high = _bounds(situation, node)
    bent = torch.zeros(low.shape, dtype=torch.bool)
    for i in situation.network.activations:
        reader = situation.network.nodes[i]
        if reader.inputs[0] == node and isinstance(reader.operation, Activation):
            slopes = reader.operation.derivative_range(low, high)
            bent |= slopes.lower != slopes.upper
    return [int(i) for i in bent.nonzero()[:, 0]]


def _worthwhile(situation: Situation, node: int, claims: list[BoundClaim]) -> list[BoundClaim]:
    """The claims that tighten their neurons' intervals."""
    if not claims:
        return []
    low, high = _bounds(situation, node)
    inner = neurons(situation, node, claims)
    least, most = (end.reshape(-1) for end in claimed_bounds(inner, claims))
    gained = (least - low).clamp(min=0) + (high - most).clamp(min=0)
    return [c for c in claims if bool(gained[c.neuron] > _WORTH * (high - low)[c.neuron])]


def _by_constants(situation: Situation, node: int, chosen: list[int], seed: int) -> list[BoundClaim]:
    rows = torch.zeros((len(chosen), situation.network.nodes[node].size), dtype=torch.float64)
    rows[range(len(chosen)), chosen] = 1.0
    inner = situation.up_to(node, rows)
    constants, proofs = _constants(inner, "geolip-anchored", seed)
    return [
        BoundClaim(0, node, neuron, "both", float(constants[k]), lipschitz=proofs[k])
        for k, neuron in enumerate(chosen)
        if proofs[k] and bool(constants[k].isfinite())
    ]


def _constants(inner: Situation, method: str, seed: int) -> tuple[Tensor, list[tuple[Claim, ...]]]:
    """Lipschitz constants (n,) of all rows with their proofs."""
    scale = torch.ones(inner.network.input_size, dtype=torch.float64)
    problem = LipschitzProblem(inner.network, inner.rows[None], (inner.slopes(method, CLAIMED),), scale)
    options = LipschitzOptions(norm=inner.set.norm, relative_gap=_GAP, lower_bounds=False, seed=seed)
    result = network_lipschitz(problem, options)
    proofs: list[list[Claim]] = [[] for _ in inner.rows]
    for claim in () if result.certificate is None else result.certificate.claims:
        if claim.row is not None:
            proofs[claim.row].append(replace(claim, sample=0, row=0))
    return result.upper[0], [tuple(p) for p in proofs]


def _by_programs(situation: Situation, node: int, known: list[BoundClaim], seed: int) -> list[BoundClaim]:
    """One-sided bounds of the neurons whose triangles are highest."""
    low, high = _bounds(situation, node)
    if known:
        least, most = (e.reshape(-1) for e in claimed_bounds(neurons(situation, node, known), known))
        low, high = torch.maximum(low, least), torch.minimum(high, most)
    heights = torch.where((low < 0) & (high > 0), -low * high / (high - low), 0.0)
    order = torch.argsort(heights, descending=True)[:_NEURONS]
    chosen = [int(i) for i in order if heights[i] > 0]
    if not chosen:
        return []
    sides = [BoundClaim(0, node, i, side, 0.0) for i in chosen for side in ("lower", "upper")]
    inner = neurons(situation, node, sides)
    instances = [inner.instance(CLAIMED, k) for k in range(len(sides))]
    if program_variables(instances[0]) > _MOST_VARIABLES:
        return []
    starts = [start for start in _starts(situation, node, chosen, seed) for _ in range(2)]
    options = ProgramOptions("interior-point", seed=seed, all_products=True, tolerance=_TOLERANCE)
    found = []
    for k, proven, _ in prove_programs(instances, starts, options):
        if proven is not None:
            value = proven.lower if sides[k].side == "lower" else -proven.lower
            found.append(replace(sides[k], value=value, multipliers=proven.multipliers))
    return found


def _starts(situation: Situation, node: int, chosen: list[int], seed: int) -> list[Multipliers | None]:
    """Multipliers of local Lipschitz constants, from which programs start."""
    if situation.set.norm is Norm.L1:
        return [None] * len(chosen)
    rows = torch.zeros((len(chosen), situation.network.nodes[node].size), dtype=torch.float64)
    rows[range(len(chosen)), chosen] = 1.0
    _, proofs = _constants(situation.up_to(node, rows), "geolip-local", seed)
    return [own[0].multipliers if len(own) == 1 else None for own in proofs]
