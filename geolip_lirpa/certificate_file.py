"""Certificate files: one JSON object, written atomically and read back exactly.

Place in the data flow: level 8, ``Certificate <-> file``; `certificate_records` has the parts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from geolip_lirpa.certificate import Certificate, LocalScope
from geolip_lirpa.certificate_records import (
    claim_record,
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
from geolip_lirpa.types import Norm, OutputNorm

FORMAT = "geolip-lirpa certificate"
VERSION = 1


def _region_record(region: LocalScope) -> dict[str, Any]:
    return {
        "norm": region.norm.value,
        "center": encode(region.center),
        "lower": None if region.lower is None else encode(region.lower),
        "upper": None if region.upper is None else encode(region.upper),
        "radius": region.radius,
        "bound_method": region.bound_method,
    }


def _read_region(record: Any) -> LocalScope:
    norm, center, method = Norm(record["norm"]), tensor(record["center"]), str(record["bound_method"])
    radius = None if record["radius"] is None else float(record["radius"])
    if center.numel() == 0:
        raise ValueError("region")
    if norm is Norm.LINF:
        lower, upper = tensor(record["lower"]), tensor(record["upper"])
        if lower.shape != center.shape or upper.shape != center.shape or not bool((lower <= upper).all()):
            raise ValueError("region")
        return LocalScope(norm, center, lower, upper, radius, method)
    # box and ball at once would leave open which of them the statement is about
    if record["lower"] is not None or record["upper"] is not None or radius is None or not 0 <= radius < math.inf:
        raise ValueError("region")
    return LocalScope(norm, center, None, None, radius, method)


def save_certificate(certificate: Certificate, path: str | os.PathLike[str]) -> None:
    """Write a certificate; the file appears complete or not at all.

    Raises:
        CertificateError: it is none, or the folder does not exist or cannot be written.
    """
    if not isinstance(certificate, Certificate):
        raise CertificateError(
            f"certificate: got {type(certificate).__name__}; allowed is the Certificate of a LipschitzResult, which is "
            "None when a row is only numerical. Take a method that proves; margins are written by save_margins."
        )
    fronts: list[Front] = []
    claims = [claim_record(c, fronts) for c in certificate.claims]
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "network": certificate.signature,
        "norm": certificate.norm.value,
        "input_scale": encode(certificate.input_scale),
        "rows": encode(certificate.rows),
        "output": certificate.output.value,
        "scope": certificate.scope,
        "rests_on": list(certificate.rests_on),
        "metadata": dict(certificate.metadata),
        "region": None if certificate.local is None else _region_record(certificate.local),
        "claims": claims,
    }
    if fronts:
        record["fronts"] = [front_record(front) for front in fronts]
    save_record(record, path)


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate.

    Raises:
        CertificateError: unreadable, not a certificate, another version, or altered since it was written.
    """
    record = load_record(path)
    require_format(record, path, FORMAT, VERSION)
    try:
        return _read(record)
    except GeolipError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CertificateError(f"{path}: incomplete or malformed ({error}). Compute it again.") from None


def _read(record: Mapping[str, Any]) -> Certificate:
    if record["scope"] != ("global" if record["region"] is None else "local") or not record["claims"]:
        raise ValueError("scope, region or claims")
    fronts = [read_front(front) for front in record.get("fronts", ())]
    return Certificate(
        signature=str(record["network"]),
        norm=Norm(record["norm"]),
        input_scale=tensor(record["input_scale"]),
        rows=tensor(record["rows"]),
        output=OutputNorm(record["output"]),
        scope=record["scope"],
        claims=tuple(read_claim(c, fronts) for c in record["claims"]),
        local=None if record["region"] is None else _read_region(record["region"]),
        metadata=dict(record["metadata"]),
        rests_on=tuple(str(r) for r in record["rests_on"]),
    )
