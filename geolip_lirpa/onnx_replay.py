"""What onnxruntime answers at one input: the last word on a violation.

Place in the data flow: level 1, ``file -> outputs at a point``. Knows onnxruntime, not torch.
"""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from geolip_lirpa.errors import ModelError
from geolip_lirpa.rounding import Array

_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64}
_ERRORS_ONLY = 3


class OnnxReplay:
    """A model in onnxruntime, one thread.

    Args:
        path: ``.onnx`` file, may be compressed by gzip.

    Raises:
        ModelError: onnxruntime is missing, or refuses the model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise ModelError(
                f"replaying violations needs the package onnxruntime, which cannot be imported ({error}). Install it "
                "with `pip install onnxruntime`."
            ) from error
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            content = path.read_bytes()
            # a path lets weights lie in another file
            model: Any = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else str(path)
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise ModelError(f"{path}: onnxruntime refuses the model ({first}). Export the model again.") from error
        self._input = self._session.get_inputs()[0]
        # a free dimension is that of the batch
        self._shape = [size if isinstance(size, int) and size > 0 else 1 for size in self._input.shape]

    def __call__(self, inputs: Array) -> Array | None:
        """Outputs (n_out,) float64 at inputs (n_in,), which are rounded to the model's type; None where it fails."""
        values = inputs.astype(_TYPES.get(self._input.type, np.float32)).reshape(self._shape)
        try:
            found = self._session.run(None, {self._input.name: values})[0]
        except Exception:
            return None
        return np.asarray(found, dtype=np.float64).reshape(-1)
