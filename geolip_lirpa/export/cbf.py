r"""Conic Benchmark Format, version 2 (``.cbf``).

Place in the data flow: level 7, ``SparseSdp -> file``. The dual form is a scalar program with a matrix inequality
(``PSDCON``), the natural form a program over a matrix variable (``PSDVAR``). Symmetric matrices are given by their
lower triangle; an inner product counts an entry off the diagonal twice.

References: H. A. Friberg, "CBLIB 2014: a benchmark library for conic mixed-integer and continuous optimization", Math.
Program. Comp. 8, 2016, and https://cblib.zib.de/format2.pdf.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np

from geolip_lirpa.export.files import number, replacing
from geolip_lirpa.sparse_sdp import Form, SparseMatrices, SparseSdp

_HEADER = """\
# Semidefinite relaxation of the Lipschitz constant of a neural network, written by geolip-lirpa ({form} form).
# The optimal value is the bound: no factor, no change of sign.
"""
_DUAL = "# Variables = multipliers: inputs, neurons (not negative), output.\n"
_NATURAL = """\
# Matrix variable = Gram matrix of vectors: inputs, neurons, output. Constraints = their squared lengths.
"""


def write_cbf(sdp: SparseSdp, path: Path) -> None:
    """Write a program as a text file.

    Raises:
        SpecificationError: the path cannot be written.
    """
    dual = sdp.form is Form.DUAL
    with replacing(path, ".cbf") as neighbour, neighbour.open("w", encoding="ascii", newline="\n") as file:
        file.write(_HEADER.format(form=sdp.form.value) + (_DUAL if dual else _NATURAL))
        file.write("\nVER\n2\n")
        file.writelines(_dual_sections(sdp) if dual else _natural_sections(sdp))


def _dual_sections(sdp: SparseSdp) -> list[str]:
    r""":math:`\min b^T x` with :math:`\sum x_i H_i + D \succeq 0`, H = A and D = -C."""
    weighted = np.flatnonzero(sdp.rhs)
    objective = [f"{j} {number(sdp.rhs[j])}\n" for j in weighted]
    return [
        "\nOBJSENSE\nMIN\n",
        _variables(sdp.signed),
        f"\nPSDCON\n1\n{sdp.size}\n",
        f"\nOBJACOORD\n{len(objective)}\n",
        *objective,
        f"\nHCOORD\n{len(sdp.constraints.values)}\n",
        *_lines(sdp.constraints, "0 {index} "),
        f"\nDCOORD\n{len(sdp.objective.values)}\n",
        *_lines(sdp.objective, "0 ", sign=-1.0),
    ]


def _natural_sections(sdp: SparseSdp) -> list[str]:
    r""":math:`\max \langle F_0, X\rangle` with :math:`\langle A_i, X\rangle - b_i = 0`; all b are positive."""
    count = len(sdp.rhs)
    return [
        "\nOBJSENSE\nMAX\n",
        f"\nPSDVAR\n1\n{sdp.size}\n",
        f"\nCON\n{count} 1\nL= {count}\n",
        f"\nOBJFCOORD\n{len(sdp.objective.values)}\n",
        *_lines(sdp.objective, "0 "),
        f"\nFCOORD\n{len(sdp.constraints.values)}\n",
        *_lines(sdp.constraints, "{index} 0 "),
        f"\nBCOORD\n{count}\n",
        *[f"{i} {number(-b)}\n" for i, b in enumerate(sdp.rhs)],
    ]


def _variables(signed: np.ndarray) -> str:
    """The section that names the cones of consecutive variables."""
    runs = [("L+" if flag else "F", len(list(run))) for flag, run in groupby(signed.tolist())]
    return f"\nVAR\n{len(signed)} {len(runs)}\n" + "".join(f"{cone} {count}\n" for cone, count in runs)


def _lines(matrices: SparseMatrices, prefix: str, sign: float = 1.0) -> list[str]:
    """Lines ``prefix row column value``, lower triangle, counted from 0."""
    columns = (matrices.index, matrices.rows, matrices.cols, sign * matrices.values)
    rows = zip(*(c.tolist() for c in columns), strict=True)
    if "{index}" in prefix:
        pattern = prefix.replace("{index}", "%d") + "%d %d %.17g\n"
        return [pattern % entry for entry in rows]
    return [prefix + "%d %d %.17g\n" % entry[1:] for entry in rows]  # noqa: UP031 (speed)
