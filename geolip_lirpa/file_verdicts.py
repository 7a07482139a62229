"""Verification from files: a model, a specification, a verdict.

Place in the data flow: level 10. ``.onnx + .vnnlib -> VerifyResult``; used by the command line and the benchmark
runner.
"""

from __future__ import annotations

import time
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from geolip_lirpa.errors import ModelError
from geolip_lirpa.lirpa import bounded_module, extract_network
from geolip_lirpa.network import Network
from geolip_lirpa.onnx_model import load_onnx
from geolip_lirpa.onnx_replay import OnnxReplay
from geolip_lirpa.rounding import Array
from geolip_lirpa.specification import Specification
from geolip_lirpa.verify import verify_network
from geolip_lirpa.verify_types import VerifyOptions, VerifyResult
from geolip_lirpa.vnnlib import read_specification

# Outputs that differ by more than this part of the largest one, and by more than single precision explains, are others.
_SAME, _NOISE = 1e-3, 100.0


def verify_files(
    onnx: str | PathLike[str], vnnlib: str | PathLike[str], options: VerifyOptions | None = None
) -> VerifyResult:
    """Verify the specification of a file for the model of another one.

    A violation is reported only when onnxruntime confirms it on the model's file.

    Args:
        onnx: the model, may be compressed by gzip.
        vnnlib: the specification, VNN-LIB 1.0 or 2.0, may be compressed.
        options: see `VerifyOptions`, whose defaults are taken without it; the time for reading counts.

    Returns:
        `VerifyResult`; its seconds include reading.

    Raises:
        ModelError, ExtractionError: the model cannot be read.
        VnnlibError: the specification cannot be read.
        SpecificationError: they do not fit each other, or the method does not serve the model.
    """
    begin = time.monotonic()
    options = options or VerifyOptions()
    # small and quick: mistakes in it are found first
    specification = read_specification(vnnlib)
    network = extract_network(bounded_module(load_onnx(Path(onnx))))
    replay = OnnxReplay(Path(onnx))
    _require_same_function(Path(onnx), network, replay, specification)
    used = time.monotonic() - begin
    left = replace(options, timeout=max(1e-3, options.timeout - used))
    result = verify_network(network, specification, left, replay)
    return replace(result, seconds=result.seconds + used)


def _require_same_function(file: Path, network: Network, replay: OnnxReplay, specification: Specification) -> None:
    """Refuse a model that was read as another function than onnxruntime computes: proofs would be about that one.

    Violations are replayed; for proofs this looks at two inputs, at which a layer with attributes that a reader ignores
    shows.

    Raises:
        ModelError: names both outputs.
    """
    for case in specification.cases[:1]:
        for point in (0.5 * case.box.lower + 0.5 * case.box.upper, case.box.lower):
            x = point.astype(np.float32).astype(np.float64)
            # sizes that do not fit are found by the verification
            expected = replay(x) if len(x) == network.input_size else None
            if expected is None or not np.isfinite(expected).all():
                continue
            found, single = _outputs(network, x, torch.float64), _outputs(network, x, torch.float32)
            if len(found) != len(expected) or not _is_close(found, expected, single):
                raise ModelError(
                    f"{file}: is read as a function with the outputs {_some(found)} where onnxruntime computes "
                    f"{_some(expected)}. A layer has attributes that the reader ignores; replace it by a plain one."
                )


def _outputs(network: Network, x: Array, dtype: torch.dtype) -> Array:
    values = torch.from_numpy(x).to(dtype).reshape(1, *network.input_shape)
    found: Array = network.to(dtype).forward(values).to(torch.float64).reshape(-1).numpy()
    return found


def _is_close(found: Array, expected: Array, single: Array) -> bool:
    allowed = _SAME * float(np.abs(expected).max()) + _NOISE * float(np.abs(found - single).max()) + 1e-30
    return bool((np.abs(found - expected) <= allowed).all())


def _some(values: Array) -> str:
    return f"({len(values)}) {values[:4].round(6).tolist()}"
