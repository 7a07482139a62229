"""Load a model file for a command.

Place in the data flow: level 12, ``path -> OnnxModel -> BoundedModule``. Imported when a command runs, since it imports
torch and auto_LiRPA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geolip_lirpa.cli.paths import require_file
from geolip_lirpa.lirpa import bounded_module
from geolip_lirpa.onnx_model import load_onnx


@dataclass(frozen=True)
class LoadedModel:
    """A model file as the library wants it.

    Args:
        bounded: auto_LiRPA's `BoundedModule`.
        input_shape: one sample's shape.
        sha256: of the file.
    """

    bounded: Any
    input_shape: tuple[int, ...]
    sha256: str


def load_model(path: Path, logits: bool) -> LoadedModel:
    """Read an ONNX file.

    Args:
        path: the file.
        logits: leave out the softmax at the end; done here, so that nothing else may cut another one.

    Raises:
        ModelError: unreadable or invalid.
        ExtractionError: auto_LiRPA cannot read the graph.
        HostUnavailableError: auto_LiRPA is missing.
    """
    require_file("MODEL", path)
    model = load_onnx(path, logits=logits)
    return LoadedModel(bounded_module(model), tuple(model.input_shape[1:]), model.sha256)
