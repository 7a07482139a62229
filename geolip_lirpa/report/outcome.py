"""What a report is made from: a result together with what was asked.

Place in the data flow: level 11, ``LipschitzResult -> LipschitzOutcome -> table, JSON``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from geolip_lirpa.certificate import Certificate
from geolip_lirpa.lipschitz_types import LipschitzResult
from geolip_lirpa.types import Norm, OutputNorm


@dataclass(frozen=True)
class Subject:
    """The function that a statement is about.

    Args:
        model: path of the model file as the user wrote it.
        sha256: of the file.
        logits: a softmax at the end was left out.
        final_node: name of the node taken as the output; None for the model's own.
    """

    model: str
    sha256: str
    logits: bool = False
    final_node: str | None = None

    @property
    def description(self) -> str:
        """The function in words, e.g. ``"net.onnx, the values before its last softmax"``."""
        parts = [self.model]
        if self.final_node is not None:
            parts.append(f"up to the node {self.final_node!r}")
        if self.logits:
            parts.append("without the softmax at its end")
        return ", ".join(parts)


@dataclass(frozen=True)
class BallAroundImage:
    """The region of a local bound, as it was asked for.

    Args:
        data: path of the npz file.
        index: of the image.
        label: of the image, if the file has labels.
        norm: of the ball.
        eps: its radius.
        bound_method: how pre-activations were bounded.
    """

    data: str
    index: int
    label: int | None
    norm: Norm
    eps: float
    bound_method: str


@dataclass(frozen=True)
class LipschitzOutcome:
    """A computed (or interrupted) bound with its question.

    Args:
        subject: the function.
        norm: of the input.
        output: how outputs are measured.
        method: see `lipschitz_types.METHODS`.
        outputs: selected outputs of the network; row i of the result belongs to ``outputs[i]``.
        region: None for a global bound.
        result: the bounds.
        versions: of the packages involved.
        seconds: of the whole command.
        certificate: path of the certificate if one was written.
        plot: path of the picture if one was written.
        interrupted: stopped before all bounds were as good as asked for.
    """

    subject: Subject
    norm: Norm
    output: OutputNorm
    method: str
    outputs: tuple[int, ...]
    region: BallAroundImage | None
    result: LipschitzResult
    versions: Mapping[str, str | None]
    seconds: float
    certificate: str | None = None
    plot: str | None = None
    interrupted: bool = False

    @property
    def scope(self) -> str:
        """``"global"`` or ``"local"``."""
        return "global" if self.region is None else "local"


@dataclass(frozen=True)
class CheckOutcome:
    """A certificate that was proven again, or refused.

    Args:
        subject: the function it was checked against; its digest is empty when the model was not read.
        path: the certificate's file.
        certificate: None when the file could not be read.
        bounds: the proven bounds (B, n_spec) as rows; None when refused.
        reason: why it was refused; None when proven.
        versions: of the packages involved.
        seconds: of the whole command.
    """

    subject: Subject
    path: str
    certificate: Certificate | None
    bounds: tuple[tuple[float, ...], ...] | None
    reason: str | None
    versions: Mapping[str, str | None]
    seconds: float

    def timed(self, seconds: float) -> CheckOutcome:
        """The same outcome with the time it took."""
        return replace(self, seconds=seconds)

    @property
    def other_file(self) -> bool:
        """Whether the certificate names another model file than the one it was checked against."""
        named = None if self.certificate is None else self.certificate.metadata.get("model_sha256")
        return named is not None and named != self.subject.sha256
