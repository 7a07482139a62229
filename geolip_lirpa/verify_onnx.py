"""Verification from files: a model, a specification, a verdict.

Place in the data flow: level 10. ``.onnx + .vnnlib -> VerifyResult``; used by the command line and the benchmark
runner.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from geolip_lirpa.lirpa import bounded_module, extract_network
from geolip_lirpa.onnx_model import load_onnx
from geolip_lirpa.onnx_replay import OnnxReplay
from geolip_lirpa.verify import verify_network
from geolip_lirpa.verify_types import VerifyOptions, VerifyResult
from geolip_lirpa.vnnlib import read_specification


def verify_files(onnx: Path, vnnlib: Path, options: VerifyOptions) -> VerifyResult:
    """Verify the specification of a file for the model of another one.

    A violation is reported only when onnxruntime confirms it on the model's file.

    Args:
        onnx: the model, may be compressed by gzip.
        vnnlib: the specification, VNN-LIB 1.0 or 2.0, may be compressed.
        options: see `VerifyOptions`; the time for reading counts.

    Returns:
        `VerifyResult`; its seconds include reading.

    Raises:
        ModelError, ExtractionError: the model cannot be read.
        VnnlibError: the specification cannot be read.
        SpecificationError: they do not fit each other, or the method does not serve the model.
    """
    begin = time.monotonic()
    # small and quick: mistakes in it are found first
    specification = read_specification(vnnlib)
    network = extract_network(bounded_module(load_onnx(onnx)))
    replay = OnnxReplay(onnx)
    used = time.monotonic() - begin
    left = replace(options, timeout=max(1e-3, options.timeout - used))
    result = verify_network(network, specification, left, replay)
    return replace(result, seconds=result.seconds + used)
