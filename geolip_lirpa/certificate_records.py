"""Parts of certificate files: numbers, multipliers and claims as JSON records, and reading and writing such files.

Place in the data flow: level 8, shared by `certificate_file` and `margin_file`. Numbers that enter a proof are float64
arrays in base64 (little endian). The digest at the end of a file detects damage; it is not what makes a certificate
sound: a file with forged multipliers and a matching digest is refused, because its matrix is not positive semidefinite.
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

from geolip_lirpa.certificate import Claim
from geolip_lirpa.composition import Composition, Front
from geolip_lirpa.errors import CertificateError
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers

_DEEPEST = 100
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def encode(values: Array | Tensor) -> dict[str, Any]:
    """Float64 numbers as a record."""
    array = values.numpy() if isinstance(values, Tensor) else values
    data = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(data.shape), "float64": base64.b64encode(data.tobytes()).decode("ascii")}


def decode(record: Any) -> Array:
    """The numbers of a record."""
    data = np.frombuffer(base64.b64decode(record["float64"], validate=True), dtype="<f8")
    return np.asarray(data.reshape(record["shape"]), dtype=np.float64)


def tensor(record: Any) -> Tensor:
    """Finite numbers of a record as a tensor."""
    tensor = torch.from_numpy(decode(record).copy())
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("NaN or infinity")
    return tensor


def proof_record(m: Multipliers | None) -> dict[str, Any] | None:
    """Multipliers as a record."""
    if m is None:
        return None
    return {"hidden": [encode(h) for h in m.hidden], "input": encode(m.input), "output": encode(m.output)}


def read_proof(record: Any) -> Multipliers | None:
    """Multipliers of a record."""
    if record is None:
        return None
    hidden = tuple(decode(h) for h in record["hidden"])
    return Multipliers(hidden, decode(record["input"]), decode(record["output"]))


def front_record(front: Front) -> dict[str, Any]:
    """Blocks that several claims share, as a record."""
    return {
        "cuts": list(front.cuts),
        "weights": [encode(w) for w in front.weights],
        "multipliers": [proof_record(m) for m in front.proofs],
    }


def read_front(record: Any) -> Front:
    """Inverse of `front_record`."""
    return Front(
        tuple(int(c) for c in record["cuts"]),
        tuple(decode(w) for w in record["weights"]),
        tuple(read_proof(m) for m in record["multipliers"]),
    )


def claim_record(claim: Claim, fronts: list[Front]) -> dict[str, Any]:
    """A claim; `fronts` collects what several of them may share."""
    record: dict[str, Any] = {
        "sample": claim.sample,
        "row": claim.row,
        "coordinate": claim.coordinate,
        "upper": claim.upper,
        "multipliers": proof_record(claim.multipliers),
    }
    if claim.composition is not None:
        if claim.composition.front not in fronts:
            fronts.append(claim.composition.front)
        number = fronts.index(claim.composition.front)
        record["blocks"] = {"front": number, "multipliers": proof_record(claim.composition.last)}
    return record


def read_claim(record: Any, fronts: Sequence[Front]) -> Claim:
    """Inverse of `claim_record`."""
    upper = float(record["upper"])
    if not math.isfinite(upper):
        raise ValueError("a claim is not a finite number")
    blocks, composition = record.get("blocks"), None
    if blocks is not None:
        number = int(blocks["front"])
        if not 0 <= number < len(fronts):
            raise ValueError("front")
        composition = Composition(fronts[number], read_proof(blocks["multipliers"]))
    row, coordinate = _index(record["row"]), _index(record["coordinate"])
    return Claim(int(record["sample"]), row, coordinate, upper, read_proof(record["multipliers"]), composition)


def _index(value: Any) -> int | None:
    return None if value is None else int(value)


def digest(record: Mapping[str, Any]) -> str:
    """Hash of everything but the digest itself."""
    content = {k: v for k, v in record.items() if k != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON object of a file.

    Raises:
        CertificateError: unreadable, or no JSON object.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        record = None if _is_deep(text) else json.loads(text)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read ({error.strerror}). Name a certificate file.") from None
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise CertificateError(f"{path}: not a certificate (no JSON). Write one with --certificate.") from None
    if not isinstance(record, dict):
        raise CertificateError(f"{path}: not a certificate of geolip-lirpa. Write one with --certificate.")
    return record


def require_format(record: Mapping[str, Any], path: str | os.PathLike[str], name: str, *versions: int) -> None:
    """Refuse a file of another kind or version, or one that was altered since it was written.

    Raises:
        CertificateError: it is not what it should be.
    """
    if record.get("format") != name:
        raise CertificateError(f"{path}: not a certificate of geolip-lirpa. Write one with --certificate.")
    if record.get("version") not in versions:
        read = " and ".join(str(v) for v in versions)
        raise CertificateError(f"{path}: version {record.get('version')!r}; this release reads {read}.")
    if record.get("digest") != digest(record):
        raise CertificateError(f"{path}: altered or damaged (its digest does not match). Compute it again.")


def save_record(record: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a record with its digest; the file appears complete or not at all.

    Raises:
        CertificateError: the folder does not exist or cannot be written.
    """
    write_atomically(Path(path), json.dumps({**record, "digest": digest(record)}, indent=1))


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
