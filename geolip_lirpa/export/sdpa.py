r"""SDPA sparse format (``.dat-s``), read by CSDP, DSDP, SDPA and others.

Place in the data flow: level 7, ``SparseSdp -> file``. The format holds a pair,

.. math:: \min c^T x \;:\; \textstyle\sum_i x_i F_i - F_0 \succeq 0 \qquad\text{and}\qquad
    \max \langle F_0, Y\rangle \;:\; \langle F_i, Y\rangle = c_i,\; Y \succeq 0,

so one file states a matrix inequality and a problem over Gram matrices at once. Sign constraints are a diagonal block:
:math:`x_i \ge 0` on the left, slack variables on the right.

References: K. Fujisawa, M. Kojima, K. Nakata and M. Yamashita, "SDPA (SemiDefinite Programming Algorithm) User's
Manual", Tokyo Institute of Technology, B-308.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geolip_lirpa.export.files import number, replacing
from geolip_lirpa.sparse_sdp import Form, SparseMatrices, SparseSdp

_PAIR = """\
"Semidefinite relaxation of the Lipschitz constant of a neural network, written by geolip-lirpa ({form} form).
"min c'x : sum x_i F_i - F_0 psd   and   max <F_0,Y> : <F_i,Y> = c_i, Y psd   have the same optimal value,
"and that value is the bound: no factor, no change of sign. (DSDP prints its negative as "DSDP Solution".)
"""
_DUAL = """\
"x = multipliers: {tau} of the input, then {lam} of the neurons, then {sigma} of the output.
"bound = (sum of input multipliers + sum of output multipliers) / 2, the c_i counting tied ones.
"""
_NATURAL = """\
"Y = Gram matrix of vectors: inputs, neurons, output; F_i and c_i give their squared lengths.
"x, doubled: {tau} numbers tau of the input, then {lam} numbers q of the neurons, then {sigma} number y of the output.
"Multipliers of the dual form: tau; c^2/(2 q) with the neuron's coefficient c in the output; y + sum of all q.
"""
_SIGNS = '"Block 2 (diagonal): multipliers of neurons are not negative; slack of the constraints of neurons in Y.\n'


def write_sdpa(sdp: SparseSdp, path: Path) -> None:
    """Write a program as a text file.

    Raises:
        SpecificationError: the path cannot be written.
    """
    with replacing(path, ".dat-s") as neighbour, neighbour.open("w", encoding="ascii", newline="\n") as file:
        file.write(header(sdp))
        file.write(f"{len(sdp.rhs)}\n{len(sdp.blocks)}\n{' '.join(map(str, sdp.blocks))}\n")
        file.write(" ".join(map(number, sdp.rhs)) + "\n")
        file.writelines(_entries(sdp.objective, 0))
        file.writelines(_constraint_entries(sdp))


def header(sdp: SparseSdp) -> str:
    """Comment lines that say how to read the file and a solution."""
    counts = {
        "tau": len(np.unique(sdp.groups.input)),
        "lam": len(sdp.groups.hidden_variables),
        "sigma": len(np.unique(sdp.groups.output)),
    }
    meaning = _DUAL if sdp.form is Form.DUAL else _NATURAL
    signs = _SIGNS if sdp.signed.any() else ""
    return _PAIR.format(form=sdp.form.value) + meaning.format(**counts) + signs


def _entries(matrices: SparseMatrices, shift: int) -> list[str]:
    """Lines ``matrix block row column value`` of block 1, upper triangle, counted from 1."""
    numbers = (matrices.index + shift).tolist(), (matrices.cols + 1).tolist(), (matrices.rows + 1).tolist()
    rows = zip(*numbers, matrices.values.tolist(), strict=True)
    return ["%d 1 %d %d %.17g\n" % entry for entry in rows]  # noqa: UP031 (speed)


def _constraint_entries(sdp: SparseSdp) -> list[str]:
    """The matrices A_i with the sign constraints of S, each matrix's lines together."""
    lines = _entries(sdp.constraints, 1)
    places = np.flatnonzero(sdp.signed)
    # behind the last line of each signed matrix
    behind = np.searchsorted(sdp.constraints.index, places, side="right")
    result: list[str] = []
    start = 0
    for position, (place, stop) in enumerate(zip(places.tolist(), behind.tolist(), strict=True), start=1):
        result += lines[start:stop]
        result.append(f"{place + 1} 2 {position} {position} 1\n")
        start = stop
    return result + lines[start:]
