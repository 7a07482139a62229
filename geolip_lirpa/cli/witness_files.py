"""Witnesses of ``sat`` as files.

Place in the data flow: level 12, ``Finished -> file``, used by `bench_run`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from geolip_lirpa.cli.bench_job import Finished
from geolip_lirpa.cli.paths import write_file


def write_witness(folder: Path, finished: Finished) -> Path:
    """Write the witness of a row, in the format of its specification; the name says which row.

    Raises:
        SpecificationError: the file cannot be written.
    """
    row = finished.row
    path = folder / f"{witness_name(row.onnx, row.vnnlib, row.method)}.counterexample"
    write_file("--witnesses", path, (finished.witness or "").encode())
    return path


def witness_name(onnx: str, vnnlib: str, method: str) -> str:
    """A readable name that no other instance has."""
    stems = [
        re.sub(r"\.(onnx|vnnlib)(\.gz)?$", "", path.replace("\\", "/").rpartition("/")[2])[:70]
        for path in (onnx, vnnlib)
    ]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", "-".join([*stems, method]))
    # no path has the separator
    return f"{plain}-{hashlib.sha256(chr(0).join((onnx, vnnlib, method)).encode()).hexdigest()[:8]}"
