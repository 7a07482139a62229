"""Certificates: statements about a network with their proofs, and their check from the network alone.

Place in the data flow: level 7, ``proven bound -> Certificate``. Trusted: `check` believes nothing that a certificate
says; the multipliers are tested by `proof.verify`, everything else is recomputed from the network and the statement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.baselines import best_norm_bound
from geolip_lirpa.baselines.matrix_free import NodeRadii
from geolip_lirpa.composition import Composition, Front, front_constant, last_block, product
from geolip_lirpa.errors import CertificateError
from geolip_lirpa.network import Network
from geolip_lirpa.proof import verify
from geolip_lirpa.regions import Region
from geolip_lirpa.rounding import STATEMENT_RANGE
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.slopes import SlopeIntervals
from geolip_lirpa.types import Norm, OutputNorm


@dataclass(frozen=True)
class Claim:
    """One proven inequality, a part of the certificate's statement.

    Args:
        sample: position in the batch of input regions (0 for a global statement).
        row: position among the rows of C, or None when the rows are measured together (output l_1 or l_2).
        coordinate: input coordinate of a one-coordinate program (l_1 input), or None. For l_1 input None says that
            the bound holds for all coordinates, since it is one over the l_2 ball.
        upper: the claimed bound.
        multipliers: the proof; None where the bound is the product of norms, which the checker computes itself.
        composition: the proof by blocks; None where `multipliers` or norms are the proof.
    """

    sample: int
    row: int | None
    coordinate: int | None
    upper: float
    multipliers: Multipliers | None
    composition: Composition | None = None


@dataclass(frozen=True)
class LocalScope:
    """The inputs for which a local statement holds, and how the pre-activation bounds were obtained.

    Args:
        norm: of the perturbation.
        center: (B, \\*input_shape) float64.
        lower: smallest inputs of a box, the same shape; None for a ball.
        upper: largest inputs of a box; None for a ball.
        radius: of the ball; None for a box.
        bound_method: ``"ibp"``, ``"crown"`` or ``"alpha-crown"``.
    """

    norm: Norm
    center: Tensor
    lower: Tensor | None
    upper: Tensor | None
    radius: float | None
    bound_method: str

    def region(self, sample: int) -> Region:
        """One sample's inputs as a set."""
        if self.lower is not None and self.upper is not None:
            return Region.box(self.lower[sample], self.upper[sample])
        return Region.ball(self.center[sample], self.radius or 0.0, self.norm)


@dataclass(frozen=True)
class Certificate:
    r"""A statement about one network, with the proofs of its parts.

    The statement: for every sample b, :math:`\|C_b(f(x) - f(x'))\| \le \text{bound}\;\|(x - x')/s\|` with s the
    input scale, for all inputs (scope global) or all inputs of region b (local). Bounds are per row of C (output
    "rows") or for the vector in the output norm.

    Args:
        signature: description of the network's structure, see `network_signature`.
        norm: of the input.
        input_scale: (n0,) float64.
        rows: (B, m, n_out) float64, the matrices C.
        output: how ``C f`` is measured.
        scope: ``"global"`` or ``"local"``.
        claims: see `Claim`.
        local: for local statements.
        metadata: model file, versions; for information only.
        rests_on: what has to be believed beside the checker.
    """

    signature: str
    norm: Norm
    input_scale: Tensor
    rows: Tensor
    output: OutputNorm
    scope: str
    claims: tuple[Claim, ...]
    local: LocalScope | None
    metadata: Mapping[str, Any]
    rests_on: tuple[str, ...]

    def bounds(self) -> Tensor:
        """Claimed bounds (B, m), or (B, 1) for a vector output; infinite where a part is not covered by claims."""
        samples, count = self.rows.shape[:2]
        together = self.output in (OutputNorm.L1, OutputNorm.L2)
        coordinates = torch.nonzero(self.input_scale).flatten().tolist() if self.norm is Norm.L1 else [None]
        found = {(c.sample, c.row, c.coordinate): c.upper for c in self.claims}
        parts: list[int | None] = [None] if together else list(range(count))

        def bound(b: int, row: int | None) -> float:
            # for l_1 input either one claim for all coordinates or one for each
            separate = max((found.get((b, row, j), math.inf) for j in coordinates), default=0.0)
            return min(separate, found.get((b, row, None), math.inf))

        bounds = [[bound(b, row) for row in parts] for b in range(samples)]
        result = torch.tensor(bounds, dtype=torch.float64)
        return result.amax(dim=1, keepdim=True) if self.output is OutputNorm.LINF else result


def network_signature(network: Network) -> str:
    """Sizes of input, activations and output with the activations' kinds, e.g. ``"784 relu:256 -> 10"``."""
    parts = [str(network.input_size)]
    for position in network.activations:
        node = network.nodes[position]
        parts.append(f"{getattr(node.operation, 'name', '?')}:{node.size}")
    return " ".join([*parts, "->", str(network.output_size)])


def claim_instance(certificate: Certificate, claim: Claim, family: SdpInstance) -> SdpInstance:
    """The program of a claim, from the sample's program (whose rows do not matter)."""
    rows = certificate.rows[claim.sample]
    if claim.row is not None:
        rows = rows[claim.row : claim.row + 1]
    output = OutputNorm.ROWS if claim.row is not None else certificate.output
    if claim.coordinate is not None:
        family = family.with_input_scale(one_coordinate(certificate.input_scale, claim.coordinate))
    elif certificate.norm is Norm.L1:
        # |x|_2 <= |x|_1: a bound over the l_2 ball holds for every coordinate
        family = replace(family, input_norm=Norm.L2)
    return family.with_rows(rows, output)


def one_coordinate(input_scale: Tensor, coordinate: int) -> Tensor:
    """The input scale with all coordinates but one held fixed."""
    scale = torch.zeros_like(input_scale)
    scale[coordinate] = input_scale[coordinate]
    return scale


def check(certificate: Certificate, network: Network, slopes: Sequence[SlopeIntervals]) -> Tensor:
    """Prove all claims again.

    Args:
        certificate: as read by `load_certificate`.
        network: extracted anew from the model.
        slopes: slope intervals of each sample, computed anew from the model (and the region, for local statements).

    Returns:
        The proven bounds, see `Certificate.bounds`: what the certificate claims, confirmed.

    Raises:
        CertificateError: made for another network, incomplete, or a claim that its multipliers do not prove.
    """
    _check_statement(certificate, network, len(slopes))
    norm = Norm.LINF if certificate.norm is Norm.L1 else certificate.norm
    first = certificate.rows[0, :1]
    families = [SdpInstance(network, s, norm, certificate.input_scale, first) for s in slopes]
    shared = _Shared()
    for claim in certificate.claims:
        proven = _prove_claim(claim_instance(certificate, claim, families[claim.sample]), claim, shared)
        # comparisons with NaN are false
        if proven is None or not proven <= claim.upper:
            raise CertificateError(
                f"certificate: the claim {_name(claim)} <= {claim.upper!r} is not proven by its multipliers "
                f"(proven: {proven}). The file was altered or belongs to a model with other weights."
            )
    bounds = certificate.bounds()
    if not bool(torch.isfinite(bounds).all()):
        raise CertificateError("certificate: some rows or input coordinates have no proof. Compute it again.")
    return bounds


@dataclass
class _Shared:
    """What several claims of one sample have in common, proven once: fronts, and the radii of the network's nodes."""

    constants: dict[tuple[int, int | None, Front], float | None] = field(default_factory=dict)
    radii: dict[tuple[int, int | None], NodeRadii] = field(default_factory=dict)

    def constant(self, instance: SdpInstance, claim: Claim, front: Front) -> float | None:
        # programs of another coordinate (or of all) have other inputs, hence another first block
        key = (claim.sample, claim.coordinate, front)
        if key not in self.constants:
            self.constants[key] = front_constant(instance, front)
        return self.constants[key]

    def norm_bound(self, instance: SdpInstance, claim: Claim) -> float:
        # rows have no part in them; a coordinate has a scale of its own
        key = (claim.sample, claim.coordinate)
        if key not in self.radii:
            norm, scale = instance.input_norm, instance.input_scale
            self.radii[key] = NodeRadii(instance.network, instance.slopes, norm, scale)
        return best_norm_bound(instance, self.radii[key])


def _prove_claim(instance: SdpInstance, claim: Claim, shared: _Shared) -> float | None:
    if claim.composition is not None:
        front = claim.composition.front
        first = shared.constant(instance, claim, front)
        last = None if first is None else last_block(instance, front).constant(claim.composition.last)
        return None if first is None or last is None else product([first, last])
    if claim.multipliers is not None:
        return verify(instance, claim.multipliers)
    return shared.norm_bound(instance, claim)


def _name(claim: Claim) -> str:
    row = "of the output vector" if claim.row is None else f"of row {claim.row} of C"
    return f"{row} (input {claim.sample}" + ("" if claim.coordinate is None else f", x[{claim.coordinate}]") + ")"


def _check_statement(certificate: Certificate, network: Network, samples: int) -> None:
    """The statement fits the network, and every claim fits the statement."""
    if network_signature(network) != certificate.signature:
        raise CertificateError(
            f"certificate: made for a network {certificate.signature!r}, this model is {network_signature(network)!r}. "
            "Check it against the model it was computed for."
        )
    scale, rows = certificate.input_scale, certificate.rows
    good = scale.shape == (network.input_size,) and rows.ndim == 3 and rows.shape[2] == network.output_size
    good = good and rows.shape[0] == samples and bool((scale >= 0).all() and torch.isfinite(scale).all())
    if not (good and STATEMENT_RANGE.holds(rows) and STATEMENT_RANGE.holds(scale)):
        raise CertificateError("certificate: its matrix C or input scale does not fit the network. Compute it again.")
    together = certificate.output in (OutputNorm.L1, OutputNorm.L2)
    for claim in certificate.claims:
        fits = 0 <= claim.sample < samples and (claim.row is None) == together
        fits = fits and (claim.row is None or 0 <= claim.row < rows.shape[1])
        fits = fits and (claim.coordinate is None or certificate.norm is Norm.L1)
        fits = fits and (claim.multipliers is None or claim.composition is None)
        if not (fits and (claim.coordinate is None or 0 <= claim.coordinate < network.input_size)):
            raise CertificateError(f"certificate: the claim {_name(claim)} is not a part of its statement.")


def rests_on(local: LocalScope | None) -> tuple[str, ...]:
    """What has to be believed beside the checker."""
    base = ("the network in real arithmetic with its stored weights",)
    if local is None:
        return base
    return (*base, f"pre-activation bounds ({local.bound_method}) in float64 with every rounding error counted")
