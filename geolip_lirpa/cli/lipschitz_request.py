"""What ``geolip-lirpa lipschitz`` was asked for, checked as far as that is possible without the model.

Place in the data flow: level 12, between parsing and running. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geolip_lirpa.types import Norm, OutputNorm

# Names for help and completion; a test compares them with the library's own tables.
METHODS = ("sdp", "compositional", "norm-product", "entrywise", "sampled", "brute-force")
SOLVERS = ("auto", "low-rank", "interior-point", "clarabel", "scs", "mosek")


@dataclass(frozen=True)
class RegionRequest:
    """The region of a local bound: a ball around an image of a file.

    Args:
        data: npz file.
        index: of the image, not yet compared with the file.
        eps: radius, finite and non-negative.
        norm: of the ball.
        bound_method: how pre-activations are bounded.
    """

    data: Path
    index: int
    eps: float
    norm: Norm
    bound_method: str


@dataclass(frozen=True)
class LipschitzRequest:
    """The options of the command, see its help; `rows` is None for all outputs."""

    model: Path
    norm: Norm
    output: OutputNorm
    rows: tuple[range, ...] | None
    logits: bool
    final_node: str | None
    region: RegionRequest | None
    method: str
    solver: str
    form: str
    tie: tuple[str, ...]
    gap: float
    seed: int
    certificate: Path | None
    plot: Path | None
    json: bool
    quiet: bool
    debug: bool
