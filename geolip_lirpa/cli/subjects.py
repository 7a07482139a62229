"""The function a certificate is about, written to and read from its metadata.

Place in the data flow: level 12. `lipschitz` writes it, `check` reads it: without it nobody could tell from a
certificate whether it speaks of a network's probabilities or of its logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geolip_lirpa.errors import CertificateError
from geolip_lirpa.report.outcome import Subject


def subject_metadata(subject: Subject) -> dict[str, Any]:
    """Entries of a certificate's metadata."""
    return {
        "model": subject.model,
        "model_sha256": subject.sha256,
        "logits": subject.logits,
        "final_node": subject.final_node,
    }


def part_of_model(metadata: Mapping[str, Any]) -> tuple[bool, str | None]:
    """``(logits, final_node)`` as they were when the certificate was computed.

    Raises:
        CertificateError: not of the right type.
    """
    logits, final_node = metadata.get("logits", False), metadata.get("final_node")
    if not isinstance(logits, bool) or not isinstance(final_node, (str, type(None))):
        raise CertificateError("certificate: its metadata do not name a part of a model. Compute it again.")
    return logits, final_node
