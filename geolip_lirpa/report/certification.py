"""Certified images as tables, CSV and JSON.

Place in the data flow: level 11, ``ImageRecord -> rich table, CSV, dict``. docs/cli.md has the schema. Proven margins
and radii are shown rounded down, attacked ones rounded up.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from geolip_lirpa.margin_certificate import MarginCertificate
from geolip_lirpa.report.decimals import round_down, round_up
from geolip_lirpa.report.outcome import Subject


@dataclass(frozen=True)
class ImageRecord:
    """What is known of one image.

    Args:
        index: in the data file.
        label: of the image; the predicted class where the file has no labels.
        predicted: class that the model predicts.
        status: "proven", "attacked" (another class was found in the ball), "open", or "wrong" (not predicted right).
        lower: proven margin over the ball (`certify`), or proven radius (`radius`); None where nothing is proven.
        attacked: margin or radius that an attack attains; None where it found nothing.
        method: whose proofs were needed, joined by "+".
        seconds: spent on it.
        certificate: file with the proof, if one was written.
    """

    index: int
    label: int
    predicted: int
    status: str
    lower: float | None
    attacked: float | None
    method: str
    seconds: float
    certificate: str | None = None


STATUSES = ("proven", "attacked", "open", "wrong")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "index": (int,),
    "label": (int,),
    "predicted": (int,),
    "status": (str,),
    "lower": (int, float, type(None)),
    "attacked": (int, float, type(None)),
    "method": (str,),
    "seconds": (int, float),
    "certificate": (str, type(None)),
}


def is_record(fields: Any) -> bool:
    """Whether an object read from a file has the fields of an `ImageRecord`."""
    if not isinstance(fields, Mapping) or fields.keys() != _TYPES.keys():
        return False
    numbers = (value for value in fields.values() if isinstance(value, float))
    typed = all(
        isinstance(fields[name], kinds) and not isinstance(fields[name], bool) for name, kinds in _TYPES.items()
    )
    return typed and all(map(math.isfinite, numbers)) and fields["status"] in STATUSES


@dataclass(frozen=True)
class CertificationOutcome:
    """All images with their question.

    Args:
        subject: the model.
        question: what was asked: data file, norm, radius, method and so on.
        images: finished ones, in the order asked for.
        quantity: what the numbers of the images are: "margin" or "radius".
        versions: of the packages involved.
        seconds: of the whole command.
        interrupted: stopped before all images were finished.
        plot: path of the picture if one was written.
    """

    subject: Subject
    question: Mapping[str, Any]
    images: tuple[ImageRecord, ...]
    quantity: str
    versions: Mapping[str, str | None]
    seconds: float
    interrupted: bool = False
    plot: str | None = None

    def count(self, *statuses: str) -> int:
        """Number of images with one of the statuses."""
        return sum(image.status in statuses for image in self.images)


def certification_object(outcome: CertificationOutcome) -> dict[str, Any]:
    """The object printed by ``geolip-lirpa certify --json`` and ``radius --json``."""
    count = len(outcome.images)
    spent = sum(image.seconds for image in outcome.images)
    written = {} if outcome.plot is None else {"plot": outcome.plot}
    return {
        "model": outcome.subject.model,
        "model_sha256": outcome.subject.sha256,
        "logits": outcome.subject.logits,
        "final_node": outcome.subject.final_node,
        **outcome.question,
        "images": count,
        "correct": count - outcome.count("wrong"),
        "attacked": outcome.count("attacked"),
        "proven": outcome.count("proven"),
        "open": outcome.count("open"),
        "seconds_per_image": spent / count if count else None,
        "rows": [asdict(image) for image in outcome.images],
        "interrupted": outcome.interrupted,
        "seconds": outcome.seconds,
        "versions": dict(outcome.versions),
        **written,
    }


def certification_csv(outcome: CertificationOutcome) -> str:
    """A line for each image, with a header; without the last line break."""
    names = list(ImageRecord.__dataclass_fields__)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for image in outcome.images:
        writer.writerow(["" if v is None else v for v in asdict(image).values()])
    return text.getvalue().rstrip("\n")


def certification_table(outcome: CertificationOutcome) -> RenderableType:
    """A line for each image, and the counts."""
    table = Table(show_edge=False, pad_edge=False)
    for name in ("image", "label", "predicted"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in (f"proven {outcome.quantity}", f"attacked {outcome.quantity}"):
        table.add_column(name, justify="right", no_wrap=True, overflow="fold")
    table.add_column("method", overflow="fold")
    table.add_column("seconds", justify="right", no_wrap=True)
    for image in outcome.images:
        table.add_row(*(Text(cell) for cell in _cells(image)))
    above, below = certification_title(outcome), _summary(outcome)
    return Group(*map(Text, above), "", table, "", *map(Text, below))


def _cells(image: ImageRecord) -> tuple[str, ...]:
    lower = "-" if image.lower is None or not math.isfinite(image.lower) else round_down(image.lower)
    attacked = "-" if image.attacked is None or not math.isfinite(image.attacked) else round_up(image.attacked)
    return (
        str(image.index), str(image.label), str(image.predicted), image.status, lower, attacked,
        image.method.replace("+", " + "),
        f"{image.seconds:.2f}",
    )  # fmt: skip


def certification_title(outcome: CertificationOutcome) -> list[str]:
    """The function and the balls, two lines."""
    question = outcome.question
    ball = f"l_{question['norm']} balls around images of {question['data']}"
    if outcome.quantity == "margin":
        ball = f"{ball}, radius {question['eps']!r}"
    return [f"f: {outcome.subject.description}", ball]


def _summary(outcome: CertificationOutcome) -> Sequence[str]:
    count = len(outcome.images)
    correct = count - outcome.count("wrong")
    lines = [f"images {count}, correct {correct}"]
    if outcome.quantity == "margin":
        lines[0] += (
            f", proven {outcome.count('proven')}, attacked {outcome.count('attacked')}, open {outcome.count('open')}"
        )
    if count:
        lines.append(f"seconds for an image: {sum(i.seconds for i in outcome.images) / count:.2f}")
    written = [image.certificate for image in outcome.images if image.certificate is not None]
    if written:
        lines.append(f"certificates: {len(written)}, from {written[0]} on")
    if outcome.plot is not None:
        lines.append(f"plot: {outcome.plot}")
    if outcome.interrupted:
        lines.append("interrupted: the images above are finished, the others are not")
    return lines


@dataclass(frozen=True)
class CheckedMargins:
    """A margin certificate that was proven again, or refused.

    Args:
        subject: the function it was checked against; its digest is empty when the model was not read.
        path: the certificate's file.
        certificate: None when the file could not be read.
        lower: the proven margins (B, S); None when refused.
        reason: why it was refused; None when proven.
        versions: of the packages involved.
        seconds: of the whole command.
    """

    subject: Subject
    path: str
    certificate: MarginCertificate | None
    lower: Tensor | None
    reason: str | None
    versions: Mapping[str, str | None]
    seconds: float

    def timed(self, seconds: float) -> CheckedMargins:
        """The same with the time it took."""
        return replace(self, seconds=seconds)

    @property
    def other_file(self) -> bool:
        """Whether the certificate names another model file than the one it was checked against."""
        named = None if self.certificate is None else self.certificate.metadata.get("model_sha256")
        return named is not None and named != self.subject.sha256

    def margins(self) -> list[tuple[int, int, str, float]]:
        """Input, row of C, the row in words, and its proven margin, for all that is claimed."""
        if self.certificate is None or self.lower is None:
            return []
        claimed = sorted({(c.sample, c.row) for c in self.certificate.claims})
        rows, offsets = self.certificate.rows, self.certificate.offsets
        return [(b, i, functional(rows[b, i], float(offsets[b, i])), float(self.lower[b, i])) for b, i in claimed]


def functional(row: Tensor, offset: float) -> str:
    """``c f + d`` in words, like ``"f[3] - f[5]"``."""
    parts: list[str] = []
    # a leading minus is harder to read
    for number, value in sorted(enumerate(row.tolist()), key=lambda term: term[1] < 0):
        if value != 0:
            sign = ("-" if value < 0 else "") if not parts else (" - " if value < 0 else " + ")
            parts.append(f"{sign}{'' if abs(value) == 1 else f'{abs(value)!r} '}f[{number}]")
    if offset != 0 or not parts:
        parts.append(f"{' - ' if offset < 0 else ' + ' if parts else ''}{abs(offset)!r}")
    return "".join(parts)


def checked_margins_object(checked: CheckedMargins) -> dict[str, Any]:
    """The object printed by ``geolip-lirpa check --json`` for a margin certificate."""
    sets = () if checked.certificate is None or checked.lower is None else checked.certificate.sets
    return {
        "certificate": checked.path,
        "model": checked.subject.model,
        "model_sha256": checked.subject.sha256,
        "logits": checked.subject.logits,
        "final_node": checked.subject.final_node,
        "proven": checked.lower is not None,
        "reason": checked.reason,
        "inputs": [
            {"norm": s.norm.value, "eps": s.eps, "cut": s.lower is not None or s.upper is not None} for s in sets
        ],
        "rows": [{"input": b, "row": i, "functional": text, "lower": value} for b, i, text, value in checked.margins()],
        "seconds": checked.seconds,
        "versions": dict(checked.versions),
    }


def checked_margins_table(checked: CheckedMargins) -> RenderableType:
    """The statement that was proven again."""
    table = Table(show_edge=False, pad_edge=False)
    for name in ("input", "C f + d"):
        table.add_column(name, overflow="fold")
    table.add_column("proven margin", justify="right", no_wrap=True, overflow="fold")
    for b, _, text, value in checked.margins():
        table.add_row(Text(str(b)), Text(text), Text(round_down(value)))
    sets = () if checked.certificate is None else checked.certificate.sets
    lines = ["proven again:", f"f: {checked.subject.description}"]
    for b, s in enumerate(sets):
        cut = ", cut by a domain" if s.is_cut else ""
        lines.append(f"C f(x) + d >= margin for all x within {s.eps!r} (l_{s.norm.value}) of input {b}{cut}")
    lines.append("rests on the network in real arithmetic with its stored weights; every rounding error is counted")
    return Group(*(Text(line) for line in lines), "", table)
