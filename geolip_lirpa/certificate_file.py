"""Certificate files: one JSON object, written atomically and read back exactly.

Place in the data flow: level 8, ``Certificate <-> file``. Numbers that enter a proof are float64 arrays in base64
(little endian). The digest at the end of a file detects damage; it is not what makes a certificate sound: a file with
forged multipliers and a matching digest is refused by `certificate.check`, because its matrix is not positive
semidefinite.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.certificate import Certificate, Claim, LocalScope
from geolip_lirpa.composition import Composition, Front
from geolip_lirpa.errors import CertificateError, GeolipError
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.types import Norm, OutputNorm

FORMAT = "geolip-lirpa certificate"
VERSION = 1
_DEEPEST = 100
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def _encode(values: Array | Tensor) -> dict[str, Any]:
    array = values.numpy() if isinstance(values, Tensor) else values
    data = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(data.shape), "float64": base64.b64encode(data.tobytes()).decode("ascii")}


def _decode(record: Any) -> Array:
    data = np.frombuffer(base64.b64decode(record["float64"], validate=True), dtype="<f8")
    return np.asarray(data.reshape(record["shape"]), dtype=np.float64)


def _tensor(record: Any) -> Tensor:
    tensor = torch.from_numpy(_decode(record).copy())
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("NaN or infinity")
    return tensor


def _proof_record(m: Multipliers | None) -> dict[str, Any] | None:
    if m is None:
        return None
    return {"hidden": [_encode(h) for h in m.hidden], "input": _encode(m.input), "output": _encode(m.output)}


def _read_proof(record: Any) -> Multipliers | None:
    if record is None:
        return None
    hidden = tuple(_decode(h) for h in record["hidden"])
    return Multipliers(hidden, _decode(record["input"]), _decode(record["output"]))


def _front_record(front: Front) -> dict[str, Any]:
    return {
        "cuts": list(front.cuts),
        "weights": [_encode(w) for w in front.weights],
        "multipliers": [_proof_record(m) for m in front.proofs],
    }


def _read_front(record: Any) -> Front:
    return Front(
        tuple(int(c) for c in record["cuts"]),
        tuple(_decode(w) for w in record["weights"]),
        tuple(_read_proof(m) for m in record["multipliers"]),
    )


def _claim_record(claim: Claim, fronts: list[Front]) -> dict[str, Any]:
    """A claim; `fronts` collects what several of them may share."""
    record: dict[str, Any] = {
        "sample": claim.sample,
        "row": claim.row,
        "coordinate": claim.coordinate,
        "upper": claim.upper,
        "multipliers": _proof_record(claim.multipliers),
    }
    if claim.composition is not None:
        if claim.composition.front not in fronts:
            fronts.append(claim.composition.front)
        number = fronts.index(claim.composition.front)
        record["blocks"] = {"front": number, "multipliers": _proof_record(claim.composition.last)}
    return record


def _read_claim(record: Any, fronts: Sequence[Front]) -> Claim:
    upper = float(record["upper"])
    if not math.isfinite(upper):
        raise ValueError("a claim is not a finite number")
    blocks, composition = record.get("blocks"), None
    if blocks is not None:
        number = int(blocks["front"])
        if not 0 <= number < len(fronts):
            raise ValueError("front")
        composition = Composition(fronts[number], _read_proof(blocks["multipliers"]))
    row, coordinate = _index(record["row"]), _index(record["coordinate"])
    return Claim(int(record["sample"]), row, coordinate, upper, _read_proof(record["multipliers"]), composition)


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
    norm, center, method = Norm(record["norm"]), _tensor(record["center"]), str(record["bound_method"])
    radius = None if record["radius"] is None else float(record["radius"])
    if norm is Norm.LINF:
        lower, upper = _tensor(record["lower"]), _tensor(record["upper"])
        if lower.shape != center.shape or upper.shape != center.shape or not bool((lower <= upper).all()):
            raise ValueError("region")
        return LocalScope(norm, center, lower, upper, radius, method)
    # box and ball at once would leave open which of them the statement is about
    if record["lower"] is not None or record["upper"] is not None or radius is None or not 0 <= radius < math.inf:
        raise ValueError("region")
    return LocalScope(norm, center, None, None, radius, method)


def _digest(record: Mapping[str, Any]) -> str:
    content = {k: v for k, v in record.items() if k != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_certificate(certificate: Certificate, path: str | os.PathLike[str]) -> None:
    """Write a certificate; the file appears complete or not at all."""
    fronts: list[Front] = []
    claims = [_claim_record(c, fronts) for c in certificate.claims]
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
        "claims": claims,
    }
    if fronts:
        record["fronts"] = [_front_record(front) for front in fronts]
    record["digest"] = _digest(record)
    write_atomically(Path(path), json.dumps(record, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file through a temporary neighbour, so that no reader sees half of it.

    Raises:
        CertificateError: the folder does not exist or cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            # a plain file in it, unlike a temporary file, has the permissions that the user's files have
            neighbour = Path(folder) / path.name
            neighbour.write_text(text, encoding="utf-8")
            os.replace(neighbour, path)
    except OSError as error:
        raise CertificateError(
            f"{path}: cannot be written ({error.strerror}). Name a file in a writable folder."
        ) from None


def _is_deep(text: str) -> bool:
    """Whether JSON is nested deeper than any certificate.

    The parser recurses, and auto_LiRPA raises the interpreter's recursion limit so far that deep nesting would overflow
    the stack of the process.
    """
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _DEEPEST:
            return True
    return False


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate.

    Raises:
        CertificateError: unreadable, not a certificate, another version, or altered since it was written.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        record = None if _is_deep(text) else json.loads(text)
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
    if record["scope"] != ("global" if record["region"] is None else "local") or not record["claims"]:
        raise ValueError("scope, region or claims")
    fronts = [_read_front(front) for front in record.get("fronts", ())]
    return Certificate(
        signature=str(record["network"]),
        norm=Norm(record["norm"]),
        input_scale=_tensor(record["input_scale"]),
        rows=_tensor(record["rows"]),
        output=OutputNorm(record["output"]),
        scope=record["scope"],
        claims=tuple(_read_claim(c, fronts) for c in record["claims"]),
        local=None if record["region"] is None else _read_region(record["region"]),
        metadata=dict(record["metadata"]),
        rests_on=tuple(str(r) for r in record["rests_on"]),
    )
