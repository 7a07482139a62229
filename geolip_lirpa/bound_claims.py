r"""Claims on pre-activations in certificates of margins, and their check.

Place in the data flow: level 8, ``proven bounds of neurons -> BoundClaim``. Trusted. A bound of a pre-activation
:math:`v_i` is a margin: that of the row :math:`\pm e_i` of the network up to it. So the proofs are those of margins,

.. math:: |v_i(x) - v_i(x_0)| \le \varepsilon L_i \quad\text{(Lipschitz constant, both sides)}, \qquad
    v_i \ge b, \quad -v_i \ge -b \quad\text{(pointwise program, one side)},

and the same functions check them. They start from bounds of the nodes *before* v_i, which earlier claims may have
tightened: claims are checked node by node in topological order, whatever their order in the file, and a node's claims
are believed only when all of them are proven. So no claim takes part in its own proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geolip_lirpa.certificate import Certificate, Claim, check, network_signature
from geolip_lirpa.errors import CertificateError
from geolip_lirpa.interval import Bounds
from geolip_lirpa.margin_bounds import lipschitz_margins
from geolip_lirpa.margin_proof import verify_margin
from geolip_lirpa.margin_statements import CLAIMED, Situation
from geolip_lirpa.network import Network
from geolip_lirpa.pointwise import PointwiseMultipliers
from geolip_lirpa.slopes import SlopeIntervals
from geolip_lirpa.types import Norm, OutputNorm

SIDES = ("lower", "upper", "both")
#: Increments from the centre: the tightest slopes.
_METHOD = "geolip-anchored"


@dataclass(frozen=True)
class BoundClaim:
    """Bounds of one neuron's pre-activation over one input set.

    Args:
        sample: position in the batch of sets.
        node: position of the pre-activation in the network.
        neuron: index within the flattened node.
        side: one of `SIDES`.
        value: the bound; for "both" the Lipschitz constant of increments from the centre.
        lipschitz: proof of the constant, as in a `Certificate` of one row; empty unless `side` is "both".
        multipliers: proof of a one-sided bound; None for "both".
    """

    sample: int
    node: int
    neuron: int
    side: str
    value: float
    lipschitz: tuple[Claim, ...] = ()
    multipliers: PointwiseMultipliers | None = None


def check_bounds(situation: Situation, claims: Sequence[BoundClaim]) -> None:
    """Prove the claims on one input set; from then on the situation's bounds `CLAIMED` make use of them.

    Raises:
        CertificateError: a claim that does not fit the network, or is not proven.
    """
    for claim in claims:
        if not _fits(situation.network, claim):
            raise CertificateError(
                f"certificate: the bound of neuron {claim.neuron} of node {claim.node} does not fit the network, or "
                "its proof is for another one. Compute it again."
            )
    for node in sorted({c.node for c in claims}):
        own = [c for c in claims if c.node == node]
        inner = neurons(situation, node, own)
        _require_constants(inner, [(k, c) for k, c in enumerate(own) if c.side == "both"])
        for k, claim in enumerate(own):
            if claim.side != "both":
                _require_bound(inner, k, claim)
        situation.tighten(node, claimed_bounds(inner, own))


def neurons(situation: Situation, node: int, claims: Sequence[BoundClaim]) -> Situation:
    """The network up to a node, with one row for each claim: the neuron, or its negative for upper bounds."""
    rows = torch.zeros((len(claims), situation.network.nodes[node].size), dtype=torch.float64)
    for k, claim in enumerate(claims):
        rows[k, claim.neuron] = -1.0 if claim.side == "upper" else 1.0
    return situation.up_to(node, rows)


def claimed_bounds(inner: Situation, claims: Sequence[BoundClaim]) -> Bounds:
    r"""What claims say of a node, (1, \*shape); infinite where they say nothing.

    Args:
        inner: from `neurons` of the same claims.
        claims: on one node.
    """
    shape = inner.network.nodes[-1].shape
    lower = torch.full((inner.network.output_size,), -torch.inf, dtype=torch.float64)
    upper = -lower
    constants = torch.tensor([c.value if c.side == "both" else math.inf for c in claims], dtype=torch.float64)
    least = lipschitz_margins(inner.network, inner.set, inner.rows, inner.offsets, constants)
    most = -lipschitz_margins(inner.network, inner.set, -inner.rows, inner.offsets, constants)
    for k, claim in enumerate(claims):
        low = float(least[k]) if claim.side == "both" else claim.value if claim.side == "lower" else -math.inf
        high = float(most[k]) if claim.side == "both" else claim.value if claim.side == "upper" else math.inf
        lower[claim.neuron] = max(float(lower[claim.neuron]), low)
        upper[claim.neuron] = min(float(upper[claim.neuron]), high)
    return lower.reshape(1, *shape), upper.reshape(1, *shape)


def proven_constants(
    network: Network, slopes: SlopeIntervals, norm: Norm, rows: Tensor, claims: Sequence[Claim]
) -> Tensor:
    """Lipschitz constants (n,) of rows (n, n_out) whose proofs are found to be right.

    Args:
        network: float64.
        slopes: of the increments.
        norm: of the input.
        rows: (n, n_out) float64.
        claims: their `row` counts rows, their `sample` is 0.

    Raises:
        CertificateError: a claim that is not proven, or a row without one.
    """
    statement = Certificate(
        signature=network_signature(network),
        norm=norm,
        input_scale=torch.ones(network.input_size, dtype=torch.float64),
        rows=rows[None],
        output=OutputNorm.ROWS,
        scope="global",
        claims=tuple(claims),
        local=None,
        metadata={},
        rests_on=(),
    )
    return check(statement, network, (slopes,))[0]


def _require_constants(inner: Situation, numbered: Sequence[tuple[int, BoundClaim]]) -> None:
    if not numbered:
        return
    rows = inner.rows[[k for k, _ in numbered]]
    proofs = [replace(p, sample=0, row=n) for n, (_, claim) in enumerate(numbered) for p in claim.lipschitz]
    slopes = inner.slopes(_METHOD, CLAIMED)
    found = proven_constants(inner.network, slopes, inner.set.norm, rows, proofs)
    for (_, claim), constant in zip(numbered, found.tolist(), strict=True):
        if not constant <= claim.value:
            raise _unproven(claim)


def _require_bound(inner: Situation, k: int, claim: BoundClaim) -> None:
    lower = claim.value if claim.side == "lower" else -claim.value
    if claim.multipliers is None or not verify_margin(inner.instance(CLAIMED, k), claim.multipliers, lower):
        raise _unproven(claim)


def _unproven(claim: BoundClaim) -> CertificateError:
    return CertificateError(
        f"certificate: the bound {claim.value!r} ({claim.side}) of neuron {claim.neuron} of node {claim.node} over "
        f"input {claim.sample} is not proven. The file was altered or belongs to a model with other weights."
    )


def _fits(network: Network, claim: BoundClaim) -> bool:
    # intervals of the input itself are exact
    targets = {network.nodes[i].inputs[0] for i in network.activations} - {0}
    if claim.node not in targets or not 0 <= claim.neuron < network.nodes[claim.node].size:
        return False
    if not math.isfinite(claim.value) or claim.side not in SIDES:
        return False
    if claim.side == "both":
        return claim.multipliers is None and len(claim.lipschitz) > 0 and claim.value >= 0
    return claim.multipliers is not None and not claim.lipschitz
