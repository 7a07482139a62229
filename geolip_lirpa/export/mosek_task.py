r"""MOSEK task files (``.task``, or JSON as ``.jtask``), through MOSEK's Python package.

Place in the data flow: level 7, ``SparseSdp -> file``. Building and writing a task needs no licence; optimising it
does. The natural form has a matrix variable, the dual form an affine conic constraint whose entries off the diagonal
carry MOSEK's factor :math:`\sqrt2` of scaled vectorisation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geolip_lirpa.errors import SolverUnavailableError, SpecificationError
from geolip_lirpa.export.files import replacing
from geolip_lirpa.rounding import Array
from geolip_lirpa.sparse_sdp import Form, Index, SparseMatrices, SparseSdp


def write_mosek_task(sdp: SparseSdp, path: Path) -> None:
    """Write a program as a task; as JSON when the name ends with ``.jtask``.

    Raises:
        SolverUnavailableError: the package ``mosek`` is not installed.
        SpecificationError: the path cannot be written.
    """
    mosek = _package()
    suffix = ".jtask" if path.suffix.lower() == ".jtask" else ".task"
    with replacing(path, suffix) as neighbour, mosek.Task() as task:
        task.puttaskname(f"Lipschitz bound, {sdp.form.value} form")
        task.putobjname("bound")
        _fill_dual(mosek, task, sdp) if sdp.form is Form.DUAL else _fill_natural(mosek, task, sdp)
        neighbour.touch()  # MOSEK would create it with permissions for its owner alone
        try:
            task.writedata(str(neighbour))
        except mosek.Error as error:
            raise SpecificationError(f"export: {path} cannot be written ({error}). Name another file.") from None


def _package() -> Any:
    try:
        import mosek
    except ImportError:
        raise SolverUnavailableError(
            "export, format mosek-task: the package 'mosek' is missing. Install it with: "
            "pip install 'geolip-lirpa[mosek]' (writing needs no licence), or use format cbf, which MOSEK reads."
        ) from None
    return mosek


def _fill_natural(mosek: Any, task: Any, sdp: SparseSdp) -> None:
    r""":math:`\max \langle C, \bar X\rangle` with :math:`\langle A_i, \bar X\rangle = b_i`."""
    count = len(sdp.rhs)
    task.appendbarvars([sdp.size])
    task.appendcons(count)
    task.putconboundlist(list(range(count)), [mosek.boundkey.fx] * count, sdp.rhs, sdp.rhs)
    zeros = np.zeros(len(sdp.objective.values), dtype=np.int32)
    task.putbarcblocktriplet(zeros, *_positions(sdp.objective), sdp.objective.values)
    matrices = sdp.constraints
    zeros = np.zeros(len(matrices.values), dtype=np.int32)
    task.putbarablocktriplet(matrices.index.astype(np.int32), zeros, *_positions(matrices), matrices.values)
    task.putobjsense(mosek.objsense.maximize)


def _positions(matrices: SparseMatrices) -> tuple[np.ndarray, np.ndarray]:
    return matrices.rows.astype(np.int32), matrices.cols.astype(np.int32)


def _fill_dual(mosek: Any, task: Any, sdp: SparseSdp) -> None:
    r""":math:`\min b^T x` with :math:`\mathrm{svec}(\sum x_i A_i - C)` in the cone, :math:`x_S \ge 0`."""
    count = len(sdp.rhs)
    task.appendvars(count)
    keys = [mosek.boundkey.lo if flag else mosek.boundkey.fr for flag in sdp.signed]
    lower = np.where(sdp.signed, 0.0, -np.inf)
    task.putvarboundslice(0, count, keys, lower, np.full(count, np.inf))
    task.putclist(np.arange(count, dtype=np.int32), sdp.rhs)
    entries = sdp.size * (sdp.size + 1) // 2
    task.appendafes(entries)
    rows, values = vectorised(sdp.constraints, sdp.size)
    task.putafefentrylist(rows, sdp.constraints.index.astype(np.int32), values)
    rows, values = vectorised(sdp.objective, sdp.size)
    task.putafeglist(rows, -values)
    domain = task.appendsvecpsdconedomain(entries)
    task.appendaccseq(domain, 0, np.zeros(entries))
    task.putobjsense(mosek.objsense.minimize)


def vectorised(matrices: SparseMatrices, size: int) -> tuple[Index, Array]:
    r"""Places and values of scaled vectorisation: lower triangle by columns, :math:`\sqrt2` off the diagonal."""
    rows, cols = matrices.rows, matrices.cols
    places = cols * size - cols * (cols - 1) // 2 + (rows - cols)
    return places, np.where(rows == cols, 1.0, np.sqrt(2.0)) * matrices.values
