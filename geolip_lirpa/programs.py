r"""The programs of a problem: one for each region, row and, for l_1 input, coordinate.

Place in the data flow: level 9, ``LipschitzProblem -> SdpInstance``, used by `network_lipschitz`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from geolip_lirpa.certificate import one_coordinate
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm, OutputNorm


@dataclass(frozen=True)
class Part:
    """One program: its place in the problem, and the group whose maximum it contributes to."""

    sample: int
    row: int | None
    coordinate: int | None
    group: int
    instance: SdpInstance


def make_parts(problem: LipschitzProblem, options: LipschitzOptions, whole: bool = True) -> list[Part]:
    together = options.output in (OutputNorm.L1, OutputNorm.L2)
    samples, count = problem.rows.shape[:2]
    parts: list[Part] = []
    for b in range(samples):
        family = family_of(problem, options, b)
        for j, scaled in _coordinates(problem, options, family, whole):
            if together:
                parts.append(Part(b, None, j, b, scaled.with_rows(problem.rows[b], options.output)))
                continue
            for row in range(count):
                group = b if options.output is OutputNorm.LINF else b * count + row
                parts.append(Part(b, row, j, group, scaled.with_rows(problem.rows[b, row : row + 1])))
    return parts


def family_of(problem: LipschitzProblem, options: LipschitzOptions, b: int) -> SdpInstance:
    norm = Norm.LINF if options.norm is Norm.L1 else options.norm
    return SdpInstance(
        problem.network, problem.slopes[b], norm, problem.input_scale, problem.rows[b, :1],
        tie_input=options.tie_input, tie_layers=options.tie_layers,
    )  # fmt: skip


def _coordinates(
    problem: LipschitzProblem, options: LipschitzOptions, family: SdpInstance, whole: bool
) -> list[tuple[int | None, SdpInstance]]:
    r"""For l_1 one program a coordinate: the unit ball is the hull of :math:`\pm s_j e_j`, the FGL convex in dx.

    Large networks are bounded over the l_2 ball at once, which contains it.
    """
    if options.norm is not Norm.L1:
        return [(None, family)]
    if not whole:
        return [(None, replace(family, input_norm=Norm.L2))]
    coordinates = torch.nonzero(problem.input_scale).flatten().tolist()
    return [(j, family.with_input_scale(one_coordinate(problem.input_scale, j))) for j in coordinates]
