"""Files of margin certificates: one JSON object, written atomically and read back exactly.

Place in the data flow: level 8, ``MarginCertificate <-> file``; `certificate_records` has the parts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from geolip_lirpa.bound_claims import BoundClaim
from geolip_lirpa.certificate_records import (
    claim_record,
    decode,
    encode,
    front_record,
    load_record,
    read_claim,
    read_front,
    require_format,
    save_record,
    tensor,
)
from geolip_lirpa.composition import Front
from geolip_lirpa.errors import CertificateError, GeolipError
from geolip_lirpa.margin_certificate import LipschitzProof, MarginCertificate, MarginClaim
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.pointwise import PointwiseMultipliers
from geolip_lirpa.types import Norm

FORMAT = "geolip-lirpa margin certificate"
VERSION = 2
# without claims on pre-activations
_FORMER_VERSION = 1
_GROUPS = ("complementarity", "positive", "above", "triangle", "interval")


def save_margins(certificate: MarginCertificate, path: str | os.PathLike[str]) -> None:
    """Write a certificate; the file appears complete or not at all.

    Raises:
        CertificateError: it is none, or the folder does not exist or cannot be written.
    """
    if not isinstance(certificate, MarginCertificate):
        raise CertificateError(
            f"certificate: got {type(certificate).__name__}; allowed is the MarginCertificate of a "
            "MarginResult, or of a row of radii that is proven. Lipschitz constants are written by save_certificate."
        )
    fronts: list[Front] = []
    lipschitz = [_lipschitz_record(p, fronts) for p in certificate.lipschitz]
    bounds = [_bound_record(c, fronts) for c in certificate.bounds]
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "network": certificate.signature,
        "inputs": [_set_record(s) for s in certificate.sets],
        "rows": encode(certificate.rows),
        "offsets": encode(certificate.offsets),
        "metadata": dict(certificate.metadata),
        "claims": [_margin_record(c) for c in certificate.claims],
        "lipschitz": lipschitz,
        "bounds": bounds,
        "fronts": [front_record(front) for front in fronts],
    }
    save_record(record, path)


def is_margin_certificate(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is one; damaged or other files do not."""
    try:
        return load_record(path).get("format") == FORMAT
    except CertificateError:
        return False


def load_margins(path: str | os.PathLike[str]) -> MarginCertificate:
    """Read a certificate.

    Raises:
        CertificateError: unreadable, not a margin certificate, another version, or altered since it was written.
    """
    record = load_record(path)
    require_format(record, path, FORMAT, _FORMER_VERSION, VERSION)
    try:
        return _read(record)
    except GeolipError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise CertificateError(f"{path}: incomplete or malformed ({error}). Compute it again.") from None


def _read(record: Mapping[str, Any]) -> MarginCertificate:
    fronts = [read_front(front) for front in record["fronts"]]
    if not record["claims"]:
        raise ValueError("no claims")
    return MarginCertificate(
        signature=str(record["network"]),
        sets=tuple(_read_set(s) for s in record["inputs"]),
        rows=tensor(record["rows"]),
        offsets=tensor(record["offsets"]),
        claims=tuple(_read_margin(c) for c in record["claims"]),
        lipschitz=tuple(_read_lipschitz(p, fronts) for p in record["lipschitz"]),
        bounds=() if record["version"] == _FORMER_VERSION else tuple(_read_bound(c, fronts) for c in record["bounds"]),
        metadata=dict(record["metadata"]),
    )


def _set_record(margin_set: MarginSet) -> dict[str, Any]:
    limits = {"lower": margin_set.lower, "upper": margin_set.upper}
    return {
        "center": encode(margin_set.center),
        "eps": margin_set.eps,
        "norm": margin_set.norm.value,
        **{name: None if limit is None else encode(limit) for name, limit in limits.items()},
    }


def _read_set(record: Any) -> MarginSet:
    lower, upper = (None if record[name] is None else tensor(record[name]) for name in ("lower", "upper"))
    return MarginSet(tensor(record["center"]), float(record["eps"]), Norm(record["norm"]), lower, upper)


def _margin_record(claim: MarginClaim) -> dict[str, Any]:
    return {
        "sample": claim.sample,
        "row": claim.row,
        "lower": claim.lower,
        "method": claim.method,
        "bound_method": claim.bound_method,
        "lipschitz": claim.lipschitz,
        "multipliers": _multipliers_record(claim.multipliers),
    }


def _read_margin(record: Any) -> MarginClaim:
    return MarginClaim(
        int(record["sample"]), int(record["row"]), _finite(record["lower"]), str(record["method"]),
        str(record["bound_method"]), _read_multipliers(record["multipliers"]),
        None if record["lipschitz"] is None else int(record["lipschitz"]),
    )  # fmt: skip


def _bound_record(claim: BoundClaim, fronts: list[Front]) -> dict[str, Any]:
    return {
        "sample": claim.sample,
        "node": claim.node,
        "neuron": claim.neuron,
        "side": claim.side,
        "value": claim.value,
        "lipschitz": [claim_record(c, fronts) for c in claim.lipschitz],
        "multipliers": _multipliers_record(claim.multipliers),
    }


def _read_bound(record: Any, fronts: list[Front]) -> BoundClaim:
    return BoundClaim(
        int(record["sample"]), int(record["node"]), int(record["neuron"]), str(record["side"]),
        _finite(record["value"]), tuple(read_claim(c, fronts) for c in record["lipschitz"]),
        _read_multipliers(record["multipliers"]),
    )  # fmt: skip


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a claim is not a finite number")
    return number


def _multipliers_record(m: PointwiseMultipliers | None) -> dict[str, Any] | None:
    if m is None:
        return None
    groups = {name: [encode(g) for g in group] for name, group in zip(_GROUPS, m.hidden(), strict=True)}
    return {"input": encode(m.input), **groups}


def _read_multipliers(record: Any) -> PointwiseMultipliers | None:
    if record is None:
        return None
    groups = {name: tuple(decode(g) for g in record[name]) for name in _GROUPS}
    return PointwiseMultipliers(**groups, input=decode(record["input"]))


def _lipschitz_record(proof: LipschitzProof, fronts: list[Front]) -> dict[str, Any]:
    return {
        "method": proof.method,
        "bound_method": proof.bound_method,
        "sample": proof.sample,
        "row": encode(proof.row),
        "claims": [claim_record(c, fronts) for c in proof.claims],
    }


def _read_lipschitz(record: Any, fronts: list[Front]) -> LipschitzProof:
    return LipschitzProof(
        str(record["method"]), str(record["bound_method"]),
        None if record["sample"] is None else int(record["sample"]), tensor(record["row"]),
        tuple(read_claim(c, fronts) for c in record["claims"]),
    )  # fmt: skip
