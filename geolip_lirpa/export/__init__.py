"""Files that hold an instance's semidefinite program, for other solvers.

Place in the data flow: level 7, ``SdpInstance -> SparseSdp -> file``. All formats are written from the same
`geolip_lirpa.sparse_sdp.SparseSdp`. What another solver makes of a file is an estimate like any solver's: only
multipliers that the checker accepts prove a bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.export.cbf import write_cbf
from geolip_lirpa.export.mosek_task import write_mosek_task
from geolip_lirpa.export.sdpa import write_sdpa
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.sparse_sdp import Form, SparseSdp
from geolip_lirpa.standard_form import standard_form

#: What writes each format.
WRITERS: Mapping[str, Callable[[SparseSdp, Path], None]] = MappingProxyType(
    {"sdpa": write_sdpa, "cbf": write_cbf, "mosek-task": write_mosek_task}
)

#: Names of the formats.
FORMATS = tuple(WRITERS)


def export_instance(
    instance: SdpInstance, path: str | os.PathLike[str], format: str, form: Form | str = Form.DUAL
) -> SparseSdp:
    """Write the program of an instance; its optimal value is the bound. The file appears complete or not at all.

    Args:
        instance: any; its ties, norms and rows are in the file.
        path: file to write, replaced when it exists.
        format: ``"sdpa"`` (SDPA sparse), ``"cbf"`` (Conic Benchmark Format 2) or ``"mosek-task"`` (JSON when the name
            ends with ``.jtask``).
        form: ``"dual"``, or ``"natural"`` for one row over one layer of activations (smaller and much sparser), see
            `geolip_lirpa.standard_form` and `geolip_lirpa.natural_form`.

    Returns:
        The program that was written; its `SparseSdp.multipliers` reads a solver's variables back.

    Raises:
        SpecificationError: unknown format or form, an instance without a natural form, a path that cannot be written,
            or an output that does not depend on the input.
        SolverUnavailableError: the format needs a package that is missing.
    """
    key = str(format).strip().lower()
    if key not in WRITERS:
        raise SpecificationError(f"format: got {format!r}; allowed are {', '.join(FORMATS)}. Pass one of these.")
    sdp = standard_form(instance, form)
    WRITERS[key](sdp, Path(path))
    return sdp


__all__ = ["FORMATS", "WRITERS", "Form", "SparseSdp", "export_instance", "standard_form"]
