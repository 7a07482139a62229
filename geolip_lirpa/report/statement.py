"""The statement that a certificate proves, in words, from what the checker used and nothing else.

Place in the data flow: level 11, ``Certificate -> text``. Free text of the file (its own list of what it rests
on, its model's name) is never repeated here, since the checker does not test it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geolip_lirpa.certificate import Certificate, LocalScope, rests_on
from geolip_lirpa.report.decimals import round_down, round_up
from geolip_lirpa.report.outcome import Subject
from geolip_lirpa.types import Norm, OutputNorm

_SHOWN_COEFFICIENTS = 4


def statement_lines(certificate: Certificate, subject: Subject) -> list[str]:
    """The certificate's statement about a function f, one sentence a line."""
    lines = [
        f"f is {subject.description} ({certificate.signature}).",
        f"For all {_inputs(certificate.local)}:",
        f"  {inequality(certificate.norm, certificate.output, is_weighted(certificate.input_scale))}",
    ]
    if is_weighted(certificate.input_scale):
        lines.append(_weights(certificate.input_scale))
    lines.append(f"This rests on: {'; '.join(foundations(certificate))}.")
    return lines


def foundations(certificate: Certificate) -> tuple[str, ...]:
    """What has to be believed beside the checker, from the statement's own scope."""
    return rests_on(certificate.local)


def inequality(norm: Norm, output: OutputNorm, weighted: bool) -> str:
    """The proven inequality; c stands for a row of C."""
    left = {
        OutputNorm.ROWS: "|c f(x) - c f(x')|",
        OutputNorm.L1: "|C f(x) - C f(x')|_1",
        OutputNorm.L2: "|C f(x) - C f(x')|_2",
        OutputNorm.LINF: "|C f(x) - C f(x')|_inf",
    }[output]
    distance = "(x - x') / s" if weighted else "x - x'"
    return f"{left} <= bound * |{distance}|_{norm.value}"


def is_weighted(scale: Tensor) -> bool:
    """Whether the input norm is a weighted one."""
    return not bool((scale == 1).all())


def _weights(scale: Tensor) -> str:
    fixed = int((scale == 0).sum())
    positive = scale[scale > 0]
    if positive.numel() == 0:
        return "with s = 0: x and x' are equal."
    low, high = float(positive.min()), float(positive.max())
    sizes = f"every s_j = {low!r}" if low == high else f"s_j from {low!r} to {high!r}"
    held = f"; {fixed} inputs with s_j = 0 are equal in x and x'" if fixed else ""
    return f"with weights s of {scale.numel()} inputs, {sizes}{held}."


def _inputs(local: LocalScope | None) -> str:
    if local is None:
        return "inputs x, x'"
    regions = [_region(local, b) for b in range(local.center.shape[0])]
    if len(regions) == 1:
        return f"inputs x, x' in {regions[0]}"
    return f"inputs x, x' in one of {len(regions)} regions, the first being {regions[0]}"


def _region(local: LocalScope, sample: int) -> str:
    if local.norm is Norm.LINF and local.lower is not None and local.upper is not None:
        # x' of a smaller box is certainly meant, so half widths are rounded down
        widths = (local.upper[sample] - local.lower[sample]).flatten() / 2
        low, high = float(widths.min()), float(widths.max())
        middle = (local.upper[sample] + local.lower[sample]) / 2
        size = round_down(low) if round_down(low) == round_down(high) else f"{round_down(low)} to {round_down(high)}"
        return f"the box with half widths {size} around {_point(middle)}"
    return f"the l_{local.norm.value} ball of radius {local.radius or 0.0!r} around {_point(local.center[sample])}"


def _point(center: Tensor) -> str:
    values = center.flatten().tolist()
    shown = ", ".join(f"{v:.4g}" for v in values[:3]) + (", .." if len(values) > 3 else "")
    return f"a centre of {len(values)} numbers from {min(values):.4g} to {max(values):.4g} ({shown})"


def row_labels(rows: Tensor) -> list[str]:
    """Names of the rows of C (m, n_out): ``"row 3"`` for the unit vector of output 3, else the coefficients."""
    return [row_label(row) for row in rows]


def row_label(row: Tensor) -> str:
    """One row of C (n_out,) in words."""
    positions = torch.nonzero(row).flatten().tolist()
    if not positions:
        return "c = 0"
    if len(positions) == 1 and float(row[positions[0]]) == 1.0:
        return f"row {positions[0]}"
    if len(positions) <= _SHOWN_COEFFICIENTS:
        return f"c = {' '.join(_terms([(j, float(row[j])) for j in positions]))}"
    low, high = round_down(float(row.min())), round_up(float(row.max()))
    return f"c with {len(positions)} coefficients from {low} to {high}"


def _terms(entries: Sequence[tuple[int, float]]) -> list[str]:
    terms = []
    for number, (j, value) in enumerate(entries):
        factor = "" if abs(value) == 1.0 else f"{abs(value)!r} "
        sign = "-" if value < 0 else "+" if number else ""
        terms.append(f"{sign} {factor}f_{j}" if number else f"{sign}{factor}f_{j}")
    return terms


def bound_labels(certificate: Certificate) -> list[list[str]]:
    """A label for each entry of the certificate's bounds, sample by sample."""
    samples = certificate.rows.shape[0]
    labels = []
    for b in range(samples):
        rows = row_labels(certificate.rows[b])
        names = rows if certificate.output is OutputNorm.ROWS else [_vector_label(certificate, rows)]
        labels.append([f"region {b}: {name}" if samples > 1 else name for name in names])
    return labels


def _vector_label(certificate: Certificate, rows: Sequence[str]) -> str:
    shown = ", ".join(rows[:10]) + (", .." if len(rows) > 10 else "")
    return f"l_{certificate.output.value} of {len(rows)} rows of C ({shown})"
