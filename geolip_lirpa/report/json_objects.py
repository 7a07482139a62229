"""Results as objects of strict JSON: no NaN, no infinity, every number with all its digits.

Place in the data flow: level 11, ``LipschitzOutcome, CheckOutcome -> dict``. docs/cli.md has the schema.
"""

from __future__ import annotations

from typing import Any

from geolip_lirpa.certificate import Certificate
from geolip_lirpa.lipschitz_types import RowBound

# also under its old place: whoever prints these objects needs their text
from geolip_lirpa.report.json_text import finite as finite
from geolip_lirpa.report.json_text import to_text as to_text
from geolip_lirpa.report.outcome import BallAroundImage, CheckOutcome, LipschitzOutcome, Subject
from geolip_lirpa.report.statement import bound_labels, foundations, is_weighted


def lipschitz_object(outcome: LipschitzOutcome) -> dict[str, Any]:
    """The object printed by ``geolip-lirpa lipschitz --json``."""
    record: dict[str, Any] = {
        **_subject(outcome.subject),
        "norm": outcome.norm.value,
        "output": outcome.output.value,
        "scope": outcome.scope,
        "method": outcome.method,
        "outputs": list(outcome.outputs),
        "region": None if outcome.region is None else _region(outcome.region),
        "rows": [_row(row, outcome.outputs) for row in outcome.result.rows],
        "interrupted": outcome.interrupted,
        "seconds": outcome.seconds,
        "versions": dict(outcome.versions),
    }
    files = {"certificate": outcome.certificate, "plot": outcome.plot}
    return record | {name: path for name, path in files.items() if path is not None}


def _subject(subject: Subject) -> dict[str, Any]:
    return {
        "model": subject.model,
        "model_sha256": subject.sha256,
        "logits": subject.logits,
        "final_node": subject.final_node,
    }


def _region(region: BallAroundImage) -> dict[str, Any]:
    return {
        "data": region.data,
        "index": region.index,
        "label": region.label,
        "norm": region.norm.value,
        "eps": region.eps,
        "bounds": region.bound_method,
    }


def _row(row: RowBound, outputs: tuple[int, ...]) -> dict[str, Any]:
    return {
        "row": None if row.row is None else outputs[row.row],
        "upper": finite(row.upper),
        "lower": finite(row.lower),
        "proof": row.proof.value,
        "solver": row.solver,
        "relative_gap": finite(row.relative_gap),
        "seconds": row.seconds,
    }


def check_object(outcome: CheckOutcome) -> dict[str, Any]:
    """The object printed by ``geolip-lirpa check --json``."""
    record: dict[str, Any] = {
        "certificate": outcome.path,
        **_subject(outcome.subject),
        "proven": outcome.bounds is not None,
        "reason": outcome.reason,
        "statement": None,
        "rows": [],
        "seconds": outcome.seconds,
        "versions": dict(outcome.versions),
    }
    if outcome.certificate is not None and outcome.bounds is not None:
        record["statement"] = _statement(outcome.certificate)
        record["rows"] = _proven_rows(outcome.certificate, outcome.bounds)
    return record


def _statement(certificate: Certificate) -> dict[str, Any]:
    local = certificate.local
    return {
        "network": certificate.signature,
        "norm": certificate.norm.value,
        "weighted": is_weighted(certificate.input_scale),
        "output": certificate.output.value,
        "scope": "global" if local is None else "local",
        "bounds": None if local is None else local.bound_method,
        "rests_on": list(foundations(certificate)),
    }


def _proven_rows(certificate: Certificate, bounds: tuple[tuple[float, ...], ...]) -> list[dict[str, Any]]:
    labels = bound_labels(certificate)
    return [
        {"region": b, "label": label, "upper": upper}
        for b, (names, values) in enumerate(zip(labels, bounds, strict=True))
        for label, upper in zip(names, values, strict=True)
    ]
