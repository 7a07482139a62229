r"""One ReLU layer on the way back, with its gradient.

Place in the data flow: level 7, a tool of `chain_bounds`. For coefficients c of :math:`z = \max(0, v)` and lines
:math:`\alpha_i v_i \le z_i \le \kappa_i v_i + t_i`

.. math:: \sum_i c_i z_i \ge \sum_{c_i > 0} c_i \alpha_i v_i + \sum_{c_i \le 0} c_i (\kappa_i v_i + t_i) ,

with one rounded product for each coefficient and each constant. The gradient is written down because the ascents spend
most of their time here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.rounding import UNIT_ROUNDOFF

# far above what products of one row may lose to underflow, for each term and unit of reach
TINY = 1e-250


@dataclass(frozen=True)
class ReluLines:
    """Lines around the ReLU of one layer, (B, n) each: ``lower v <= z <= upper v + intercept``.

    Args:
        lower: slopes.
        upper: slopes.
        intercept: of the upper lines, at least 0.
        unstable: neurons that may have both signs; any lower slope in [0, 1] is admissible for them.
    """

    lower: Tensor
    upper: Tensor
    intercept: Tensor
    unstable: Tensor

    def __getitem__(self, index: Tensor) -> ReluLines:
        return ReluLines(self.lower[index], self.upper[index], self.intercept[index], self.unstable[index])

    def back(self, c: Tensor, slopes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Coefficients (B, n) of v and constants (B,) from coefficients of z.

        Args:
            c: (B, n).
            slopes: (B, n) lower slopes of neurons that may have both signs; default: `lower`.
        """
        found: tuple[Tensor, Tensor] = _ReluStep.apply(c, slopes, self)  # type: ignore[no-untyped-call]
        return found


def relu_lines(low: Tensor, high: Tensor) -> ReluLines:
    """Proven lines; the lower one is that of smallest area."""
    unstable = (low < 0) & (high > 0)
    width = torch.where(unstable, high - low, 1.0)
    # one rounding in the width, one in the quotient, one here; relative ones, which a quotient that underflows has not
    slope = (high / width).clamp(min=TINY) * (1.0 + 8 * UNIT_ROUNDOFF)
    active = (low >= 0).to(low.dtype)
    upper = torch.where(unstable, slope, active)
    intercept = torch.where(unstable, slope * -low * (1.0 + 4 * UNIT_ROUNDOFF) + TINY, 0.0)
    lower = torch.where(unstable, (high > -low).to(low.dtype), active)
    return ReluLines(lower, upper, intercept, unstable)


class _ReluStep(torch.autograd.Function):
    """The formula above; what is no number stays none."""

    @staticmethod
    def forward(ctx: Any, c: Tensor, slopes: Tensor | None, lines: ReluLines) -> tuple[Tensor, Tensor]:
        positive = c > 0
        lower = lines.lower if slopes is None else torch.where(lines.unstable, slopes, lines.lower)
        factor = torch.where(positive, lower, lines.upper)
        offset = torch.where(positive, 0.0, lines.intercept)
        ctx.save_for_backward(c, factor, offset, positive & lines.unstable)
        return c * factor, (c * offset).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, constant: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        c, factor, offset, free = ctx.saved_tensors
        slopes = torch.where(free, gradient * c, 0.0) if ctx.needs_input_grad[1] else None
        return gradient * factor + constant[:, None] * offset, slopes, None
