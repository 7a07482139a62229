"""Witnesses of ``sat`` as files.

Place in the data flow: level 12, ``Finished -> file``, used by `bench_run`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from geolip_lirpa.cli.bench_job import Finished
from geolip_lirpa.cli.line_file import LineFile


def write_witness(folder: Path, finished: Finished) -> Path:
    """Write inputs and outputs of a witness; the name is made from the instance and the method.

    Raises:
        SpecificationError: the file cannot be written.
    """
    row = finished.row
    path = folder / f"{witness_name(row.onnx, row.vnnlib, row.method)}.json"
    inputs, outputs = finished.witness or ([], [])
    record = {
        "onnx": row.onnx, "vnnlib": row.vnnlib, "method": row.method, "inputs": inputs, "outputs": outputs
    }  # fmt: skip
    LineFile("--witnesses", path, "rows").rewrite([json.dumps(record, allow_nan=False) + "\n"])
    return path


def witness_name(onnx: str, vnnlib: str, method: str) -> str:
    """A readable name that no other instance has."""
    stems = [
        re.sub(r"\.(onnx|vnnlib)(\.gz)?$", "", path.replace("\\", "/").rpartition("/")[2]) for path in (onnx, vnnlib)
    ]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", "-".join([*stems, method]))[:150]
    return f"{plain}-{hashlib.sha256(f'{onnx} {vnnlib}'.encode()).hexdigest()[:8]}"
