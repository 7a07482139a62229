"""Certificate files: write a proof down, read it back, prove it again from the network alone.

Place in the data flow: level 4, ``proven bound -> Certificate``. Trusted: `check` believes nothing that the file says
except the multipliers, which `proof.verify` tests.

A certificate is one JSON object. Numbers that enter the proof are float64 arrays in base64 (little endian), so that
reading them back is exact. The digest at its end detects damage; it is not what makes a certificate sound: a file with
forged multipliers and a matching digest is refused because its matrix is not positive semidefinite.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.baselines import entrywise_bound, norm_product
from geolip_lirpa.errors import CertificateError, GeolipError
from geolip_lirpa.network import Network
from geolip_lirpa.proof import verify
from geolip_lirpa.regions import Region
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.slopes import SlopeIntervals
from geolip_lirpa.types import Norm, OutputNorm

FORMAT = "geolip-lirpa certificate"
VERSION = 1


@dataclass(frozen=True)
class Claim:
    """One proven inequality, a part of the certificate's statement.

    Args:
        sample: position in the batch of input regions (0 for a global statement).
        row: position among the rows of C, or None when the rows are measured together (output l_1 or l_2).
        coordinate: input coordinate of a one-coordinate program (l_1 input), or None.
        upper: the claimed bound.
        multipliers: the proof; None where the bound is the product of norms, which the checker computes itself.
    """

    sample: int
    row: int | None
    coordinate: int | None
    upper: float
    multipliers: Multipliers | None


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
        bounds = [
            [max((found.get((b, row, j), math.inf) for j in coordinates), default=0.0) for row in parts]
            for b in range(samples)
        ]
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
    for claim in certificate.claims:
        proven = _prove_claim(claim_instance(certificate, claim, families[claim.sample]), claim)
        if proven is None or proven > claim.upper:
            raise CertificateError(
                f"certificate: the claim {_name(claim)} <= {claim.upper!r} is not proven by its multipliers "
                f"(proven: {proven}). The file was altered or belongs to a model with other weights."
            )
    bounds = certificate.bounds()
    if not bool(torch.isfinite(bounds).all()):
        raise CertificateError("certificate: some rows or input coordinates have no proof. Compute it again.")
    return bounds


def _prove_claim(instance: SdpInstance, claim: Claim) -> float | None:
    if claim.multipliers is not None:
        return verify(instance, claim.multipliers)
    return min(norm_product(instance), entrywise_bound(instance))


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
    if not (good and bool(torch.isfinite(rows).all())):
        raise CertificateError("certificate: its matrix C or input scale does not fit the network. Compute it again.")
    together = certificate.output in (OutputNorm.L1, OutputNorm.L2)
    for claim in certificate.claims:
        fits = 0 <= claim.sample < samples and (claim.row is None) == together
        fits = fits and (claim.row is None or 0 <= claim.row < rows.shape[1])
        fits = fits and (claim.coordinate is not None) == (certificate.norm is Norm.L1)
        if not (fits and (claim.coordinate is None or 0 <= claim.coordinate < network.input_size)):
            raise CertificateError(f"certificate: the claim {_name(claim)} is not a part of its statement.")


# --- files ------------------------------------------------------------------------------------------------------------


def _encode(values: Array | Tensor) -> dict[str, Any]:
    array = values.numpy() if isinstance(values, Tensor) else values
    data = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(data.shape), "float64": base64.b64encode(data.tobytes()).decode("ascii")}


def _decode(record: Any) -> Array:
    data = np.frombuffer(base64.b64decode(record["float64"], validate=True), dtype="<f8")
    return np.asarray(data.reshape(record["shape"]), dtype=np.float64)


def _tensor(record: Any) -> Tensor:
    return torch.from_numpy(_decode(record).copy())


def _claim_record(claim: Claim) -> dict[str, Any]:
    m = claim.multipliers
    proof = None
    if m is not None:
        hidden = [_encode(h) for h in m.hidden]
        proof = {"hidden": hidden, "input": _encode(m.input), "output": _encode(m.output)}
    return {
        "sample": claim.sample,
        "row": claim.row,
        "coordinate": claim.coordinate,
        "upper": claim.upper,
        "multipliers": proof,
    }


def _read_claim(record: Any) -> Claim:
    m, multipliers = record["multipliers"], None
    if m is not None:
        multipliers = Multipliers(tuple(_decode(h) for h in m["hidden"]), _decode(m["input"]), _decode(m["output"]))
    upper = float(record["upper"])
    if not math.isfinite(upper):
        raise ValueError("a claim is not a finite number")
    return Claim(int(record["sample"]), _index(record["row"]), _index(record["coordinate"]), upper, multipliers)


def _index(value: Any) -> int | None:
    return None if value is None else int(value)


def _region_record(region: LocalScope) -> dict[str, Any]:
    return {
        "norm": region.norm.value,
        "center": _encode(region.center),
        "lower": None if region.lower is None else _encode(region.lower),
        "upper": None if region.upper is None else _encode(region.upper),
        "radius": region.radius,
        "bound_method": region.bound_method,
    }


def _read_region(record: Any) -> LocalScope:
    optional = [None if record[k] is None else _tensor(record[k]) for k in ("lower", "upper")]
    radius = None if record["radius"] is None else float(record["radius"])
    return LocalScope(
        Norm(record["norm"]), _tensor(record["center"]), optional[0], optional[1], radius, str(record["bound_method"])
    )


def _digest(record: Mapping[str, Any]) -> str:
    content = {k: v for k, v in record.items() if k != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_certificate(certificate: Certificate, path: str | os.PathLike[str]) -> None:
    """Write a certificate; the file appears complete or not at all."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "network": certificate.signature,
        "norm": certificate.norm.value,
        "input_scale": _encode(certificate.input_scale),
        "rows": _encode(certificate.rows),
        "output": certificate.output.value,
        "scope": certificate.scope,
        "rests_on": list(certificate.rests_on),
        "metadata": dict(certificate.metadata),
        "region": None if certificate.local is None else _region_record(certificate.local),
        "claims": [_claim_record(c) for c in certificate.claims],
    }
    record["digest"] = _digest(record)
    write_atomically(Path(path), json.dumps(record, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file through a temporary neighbour, so that no reader sees half of it.

    Raises:
        CertificateError: the folder does not exist or cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written ({error.strerror}). Name a file in a writable folder.") from None


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate.

    Raises:
        CertificateError: unreadable, not a certificate, another version, or altered since it was written.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read ({error.strerror}). Name a certificate file.") from None
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise CertificateError(f"{path}: not a certificate (no JSON). Write one with --certificate.") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CertificateError(f"{path}: not a certificate of geolip-lirpa. Write one with --certificate.")
    if record.get("version") != VERSION:
        raise CertificateError(f"{path}: version {record.get('version')!r}; this release reads {VERSION}.")
    if record.get("digest") != _digest(record):
        raise CertificateError(f"{path}: altered or damaged (its digest does not match). Compute it again.")
    try:
        return _read(record)
    except GeolipError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CertificateError(f"{path}: incomplete or malformed ({error}). Compute it again.") from None


def _read(record: Mapping[str, Any]) -> Certificate:
    if record["scope"] not in ("global", "local") or not record["claims"]:
        raise ValueError("scope or claims")
    return Certificate(
        signature=str(record["network"]),
        norm=Norm(record["norm"]),
        input_scale=_tensor(record["input_scale"]),
        rows=_tensor(record["rows"]),
        output=OutputNorm(record["output"]),
        scope=record["scope"],
        claims=tuple(_read_claim(c) for c in record["claims"]),
        local=None if record["region"] is None else _read_region(record["region"]),
        metadata=dict(record["metadata"]),
        rests_on=tuple(str(r) for r in record["rests_on"]),
    )
