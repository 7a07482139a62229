"""What ``geolip-lirpa certify`` and ``radius`` were asked for, checked as far as that is possible without the model.

Place in the data flow: level 12, between parsing and running. Imports nothing heavy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geolip_lirpa.types import Norm

# Names for help and completion; a test compares them with the library's own tables.
METHODS = ("combined", "sdp", "geolip-anchored", "geolip-local", "geolip", "alpha-crown", "crown", "ibp")
BOUNDS = ("ibp", "crown", "alpha-crown", "geolip", "sdp")
SOLVERS = ("auto", "interior-point", "low-rank")
# Radii and images beyond it say nothing, and far beyond it bounds of the outputs overflow.
LARGEST = 1e30


@dataclass(frozen=True)
class CertifyRequest:
    """The options, see the commands' help; `eps` is None for ``radius``, `images` and `targets` are None for all.

    `timeout` is that of one image, infinite for none.

    `jobs` is the number of processes, `threads` that of each of them; neither changes any result.
    """

    model: Path
    data: Path
    norm: Norm
    eps: float | None
    images: tuple[range, ...] | None
    targets: tuple[range, ...] | None
    clip: tuple[float, float] | None
    method: str
    bounds: str
    solver: str
    gap: float
    logits: bool
    final_node: str | None
    resume: Path | None
    certificates: Path | None
    seed: int
    format: str
    quiet: bool
    debug: bool
    plot: Path | None = None
    timeout: float = math.inf
    jobs: int = 1
    threads: int = 1

    def classes(self) -> list[int]:
        """The targets, each once."""
        return list(dict.fromkeys(k for part in self.targets or () for k in part))

    def question(self) -> dict[str, Any]:
        """What identifies the run and appears in its results."""
        shared = {
            "data": str(self.data),
            "norm": self.norm.value,
            "method": self.method,
            "bounds": self.bounds,
            "solver": self.solver,
            "targets": None if self.targets is None else self.classes(),
            "clip": None if self.clip is None else list(self.clip),
            "seed": self.seed,
            "timeout": self.timeout if math.isfinite(self.timeout) else None,
        }
        return {**shared, "relative_gap": self.gap} if self.eps is None else {**shared, "eps": self.eps}
