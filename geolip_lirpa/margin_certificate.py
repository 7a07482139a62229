r"""Certificates of margins: statements, their proofs, and their check from the network alone.

Place in the data flow: level 8, ``proven margins -> MarginCertificate``. Trusted: `check_margins` believes nothing that
a certificate says; bounds of pre-activations, margins of linear bounds and slopes are computed anew, multipliers are
tested by `margin_proof.verify_margin` and `certificate.check`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.bound_claims import BoundClaim, check_bounds, proven_constants
from geolip_lirpa.certificate import Claim, network_signature
from geolip_lirpa.errors import CertificateError
from geolip_lirpa.margin_proof import verify_margin
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_splitting import SPLITTING_BUDGET, MarginSplitter
from geolip_lirpa.margin_statements import CLAIMED, Situation
from geolip_lirpa.network import Network
from geolip_lirpa.pointwise import PointwiseMultipliers
from geolip_lirpa.rounding import STATEMENT_RANGE
from geolip_lirpa.types import Norm

BOUND_METHODS = ("ibp", "crown", "alpha-crown")
LIPSCHITZ_METHODS = ("geolip", "geolip-local", "geolip-anchored")


@dataclass(frozen=True)
class LipschitzProof:
    """A Lipschitz constant of one row, which several margins may use.

    Args:
        method: one of `LIPSCHITZ_METHODS`.
        bound_method: how pre-activations are bounded, one of `BOUND_METHODS` or `CLAIMED`; no meaning for "geolip".
        sample: whose set the slopes are for; None for "geolip", which holds everywhere.
        row: (n_out,) float64.
        claims: proofs as in a `Certificate` of this row alone.
    """

    method: str
    bound_method: str
    sample: int | None
    row: Tensor
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class MarginClaim:
    """One proven inequality: the margin of row `row` over set `sample` is at least `lower`.

    Args:
        sample: position in the batch.
        row: position among the rows.
        lower: the claim.
        method: how it is proven.
        bound_method: how pre-activations are bounded, for method "sdp": one of `BOUND_METHODS`, or `CLAIMED` for the
            bounds that the certificate claims and proves. For `BOUND_METHODS` only the latter has a meaning.
        multipliers: for method "sdp".
        lipschitz: number of the `LipschitzProof`, for `LIPSCHITZ_METHODS`.
    """

    sample: int
    row: int
    lower: float
    method: str
    bound_method: str = "crown"
    multipliers: PointwiseMultipliers | None = None
    lipschitz: int | None = None


@dataclass(frozen=True)
class MarginCertificate:
    r"""The statement: :math:`c f(x) + d \ge \text{lower}` for all x of a set, for every claim.

    Args:
        signature: of the network, see `certificate.network_signature`.
        sets: the input sets.
        rows: (B, S, n_out) float64.
        offsets: (B, S).
        claims: see `MarginClaim`.
        lipschitz: see `LipschitzProof`.
        bounds: claims on pre-activations, from which others start; see `BoundClaim`.
        metadata: model file, versions; for information only.
    """

    signature: str
    sets: tuple[MarginSet, ...]
    rows: Tensor
    offsets: Tensor
    claims: tuple[MarginClaim, ...]
    lipschitz: tuple[LipschitzProof, ...] = ()
    bounds: tuple[BoundClaim, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def lower(self) -> Tensor:
        """Claimed margins (B, S); minus infinity where nothing is claimed."""
        result = torch.full(self.rows.shape[:2], -torch.inf, dtype=torch.float64)
        for claim in self.claims:
            result[claim.sample, claim.row] = max(float(result[claim.sample, claim.row]), claim.lower)
        return result


def without_unused(certificate: MarginCertificate) -> MarginCertificate:
    """The certificate with only those Lipschitz proofs and bounds of pre-activations that its claims need."""
    used = sorted({c.lipschitz for c in certificate.claims if c.lipschitz is not None})
    place = {old: new for new, old in enumerate(used)}
    claims = tuple(c if c.lipschitz is None else replace(c, lipschitz=place[c.lipschitz]) for c in certificate.claims)
    samples = {c.sample for c in claims if c.bound_method == CLAIMED}
    return replace(
        certificate,
        claims=claims,
        lipschitz=tuple(certificate.lipschitz[i] for i in used),
        bounds=tuple(c for c in certificate.bounds if c.sample in samples),
    )


def check_margins(certificate: MarginCertificate, network: Network) -> Tensor:
    """Prove all claims again.

    Args:
        certificate: from any source.
        network: extracted anew from the model.

    Returns:
        The proven margins (B, S); minus infinity where nothing is claimed.

    Raises:
        CertificateError: made for another network, or a claim that is not proven.
    """
    _check_statement(certificate, network)
    parts = zip(certificate.sets, certificate.rows, certificate.offsets, strict=True)
    situations = [Situation(network, *part) for part in parts]
    for sample, situation in enumerate(situations):
        check_bounds(situation, [c for c in certificate.bounds if c.sample == sample])
    constants: dict[int, float] = {}
    splitter = MarginSplitter(network)
    for claim in certificate.claims:
        proven = _proven(certificate, claim, situations, constants, splitter)
        if proven is None or not proven >= claim.lower:
            raise CertificateError(
                f"certificate: the claim that row {claim.row} of input {claim.sample} has a margin of at least "
                f"{claim.lower!r} is not proven by method {claim.method!r} (proven: {proven}). The file was altered or "
                "belongs to a model with other weights."
            )
    return certificate.lower()


def _proven(
    certificate: MarginCertificate,
    claim: MarginClaim,
    situations: Sequence[Situation],
    constants: dict[int, float],
    splitter: MarginSplitter,
) -> float | None:
    """What the proof of a claim really proves; None where it proves nothing."""
    situation = situations[claim.sample]
    if claim.method in BOUND_METHODS:
        return float(situation.margins(claim.method, claim.bound_method)[claim.row])
    if claim.method in LIPSCHITZ_METHODS and claim.lipschitz is not None:
        number = claim.lipschitz
        if number not in constants:
            constants[number] = _constant(certificate, certificate.lipschitz[number], situations)
        return situation.lipschitz_margin(claim.row, constants[number])
    if claim.method == "splitting":
        row, offset = situation.rows[claim.row], float(situation.offsets[claim.row])
        found = splitter.search(situation.set, row, offset, claim.lower, 2 * SPLITTING_BUDGET)
        return claim.lower if found.proven else None
    if claim.method == "sdp" and claim.multipliers is not None:
        instance = situation.instance(claim.bound_method, claim.row)
        return claim.lower if verify_margin(instance, claim.multipliers, claim.lower) else None
    return None


def _constant(certificate: MarginCertificate, proof: LipschitzProof, situations: Sequence[Situation]) -> float:
    """A proven Lipschitz constant of the proof's row."""
    sample = 0 if proof.sample is None else proof.sample
    situation = situations[sample]
    slopes = situation.slopes(proof.method, proof.bound_method)
    return float(proven_constants(situation.network, slopes, situation.set.norm, proof.row[None], proof.claims)[0])


def _check_statement(certificate: MarginCertificate, network: Network) -> None:
    """The statement fits the network, every claim fits the statement, every proof the claim that it is for."""
    if network_signature(network) != certificate.signature:
        raise CertificateError(
            f"certificate: made for a network {certificate.signature!r}, this model is {network_signature(network)!r}. "
            "Check it against the model it was computed for."
        )
    rows, batch = certificate.rows, len(certificate.sets)
    good = rows.ndim == 3 and rows.shape[::2] == (batch, network.output_size)
    good = good and certificate.offsets.shape == rows.shape[:2]
    good = good and all(tuple(s.center.shape) == network.input_shape for s in certificate.sets)
    if not (good and STATEMENT_RANGE.holds(rows) and STATEMENT_RANGE.holds(certificate.offsets)):
        raise CertificateError("certificate: its rows or inputs do not fit the network. Compute it again.")
    if not all(0 <= claim.sample < batch for claim in certificate.bounds):
        raise CertificateError("certificate: it has bounds over inputs that it does not have. Compute it again.")
    for claim in certificate.claims:
        if not _fits(certificate, claim):
            raise CertificateError(
                f"certificate: the claim on row {claim.row} of input {claim.sample} is not a part of its statement, or "
                "its proof is for another one. Compute it again."
            )


def _fits(certificate: MarginCertificate, claim: MarginClaim) -> bool:
    batch, rows = certificate.rows.shape[:2]
    if not (0 <= claim.sample < batch and 0 <= claim.row < rows and claim.bound_method in (*BOUND_METHODS, CLAIMED)):
        return False
    if claim.method not in LIPSCHITZ_METHODS:
        return claim.method in (*BOUND_METHODS, "splitting", "sdp") and claim.lipschitz is None
    if claim.lipschitz is None or not 0 <= claim.lipschitz < len(certificate.lipschitz):
        return False
    proof = certificate.lipschitz[claim.lipschitz]
    same = proof.method == claim.method and torch.equal(proof.row, certificate.rows[claim.sample, claim.row])
    # a global constant is one of a norm, the others are one of a set
    if proof.method == "geolip":
        return same and proof.sample is None and _norms(certificate) == {certificate.sets[claim.sample].norm}
    return same and proof.sample == claim.sample and proof.bound_method in (*BOUND_METHODS, CLAIMED)


def _norms(certificate: MarginCertificate) -> set[Norm]:
    return {s.norm for s in certificate.sets}
