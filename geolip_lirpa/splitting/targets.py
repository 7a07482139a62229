r"""What has to be shown of outputs, for many boxes at once: one positive row in every polytope.

Place in the data flow: level 7, ``Specification -> Targets``, read by the splitting procedures. An unsafe polytope
:math:`A y \le b` is missed on a box when one of its rows has :math:`A_i y - b_i > 0` there, or some combination
:math:`\sum_i w_i (A_i y - b_i) > 0` with :math:`w \ge 0`. Cases have different numbers of polytopes and rows: missing
rows count as never positive, missing polytopes as missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.rounding import UNIT_ROUNDOFF
from geolip_lirpa.specification import Case


@dataclass(frozen=True)
class Targets:
    r"""Rows of all cases, float64.

    Args:
        rows: (T, G, M, n_out), A of each polytope of each case.
        offsets: (T, G, M), :math:`-b`; minus infinity for a row that is none, plus infinity for a polytope that is
            none.
    """

    rows: Tensor
    offsets: Tensor

    @staticmethod
    def of(cases: Sequence[Case], outputs: int) -> Targets:
        """The targets of some cases, in their order."""
        groups = max((len(case.unsafe) for case in cases), default=0)
        count = max((len(p.bound) for case in cases for p in case.unsafe), default=0)
        rows = np.zeros((len(cases), groups, max(1, count), outputs))
        offsets = np.full(rows.shape[:3], np.inf)
        for t, case in enumerate(cases):
            for g, polytope in enumerate(case.unsafe):
                offsets[t, g] = -np.inf
                rows[t, g, : len(polytope.bound)] = polytope.matrix
                offsets[t, g, : len(polytope.bound)] = -polytope.bound
        return Targets(torch.from_numpy(rows), torch.from_numpy(offsets))

    def __getitem__(self, index: Tensor) -> Targets:
        return Targets(self.rows[index], self.offsets[index])

    @property
    def outputs(self) -> int:
        """n_out."""
        return self.rows.shape[3]

    def margins(self, lower: Tensor) -> Tensor:
        """Lower bounds (T, G, M) of rows with their offsets from those without; NaN becomes minus infinity."""
        total = lower + self.offsets
        total = total - 4 * UNIT_ROUNDOFF * (lower.abs() + self.offsets.abs().nan_to_num(0.0, 0.0, 0.0))
        total = torch.where(self.offsets.isinf(), self.offsets, total)
        return torch.where(total.isnan(), -torch.inf, total)

    def reached(self, outputs: Tensor) -> Tensor:
        """Which outputs (T, K, n_out), as computed, lie in an unsafe polytope of their case: (T, K)."""
        values = torch.einsum("tgmn,tkn->tkgm", self.rows, outputs) + self.offsets[:, None]
        return (values <= 0).all(dim=3).any(dim=2)
