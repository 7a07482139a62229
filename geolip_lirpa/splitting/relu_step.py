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

    def back(self, c: Tensor, slopes: Tensor | None = None, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Coefficients (B, n) of v and constants (B,) from coefficients of z.

        Args:
            c: (B, n).
            slopes: (B, k) lower slopes of neurons that may have both signs, others are ignored; default: `lower`.
            columns: (k,) neurons that the slopes are for; default: all.
        """
        found: tuple[Tensor, Tensor] = _ReluStep.apply(c, slopes, columns, self)  # type: ignore[no-untyped-call]
        return found

    def chosen(self, slopes: Tensor | None, columns: Tensor | None) -> Tensor:
        """Slopes (B, n) of the lower lines, see `back`."""
        if slopes is None:
            return self.lower
        if columns is None:
            return torch.where(self.unstable, slopes, self.lower)
        lower = self.lower.clone()
        lower[:, columns] = torch.where(self.unstable[:, columns], slopes, lower[:, columns])
        return lower


def relu_lines(low: Tensor, high: Tensor) -> ReluLines:
    """Proven lines; the lower one is that of smallest area."""
    unstable = (low < 0) & (high > 0)
    width = torch.where(unstable, high - low, 1.0)
    # one rounding in the width, one in the quotient, one here; relative ones, which a quotient that underflows has not
    slope = (high / width).clamp(min=TINY) * (1.0 + 8 * UNIT_ROUNDOFF)
    # a width that overflows says nothing about the slope: what rests on it shall be no number
    slope = torch.where(width.isinf(), torch.nan, slope)
    active = (low >= 0).to(low.dtype)
    upper = torch.where(unstable, slope, active)
    intercept = torch.where(unstable, slope * -low * (1.0 + 4 * UNIT_ROUNDOFF) + TINY, 0.0)
    lower = torch.where(unstable, (high > -low).to(low.dtype), active)
    return ReluLines(lower, upper, intercept, unstable)


class _ReluStep(torch.autograd.Function):
    """The formula above; what is no number stays none."""

    @staticmethod
    def forward(
        ctx: Any, c: Tensor, slopes: Tensor | None, columns: Tensor | None, lines: ReluLines
    ) -> tuple[Tensor, Tensor]:
        positive = c > 0
        factor = torch.where(positive, lines.chosen(slopes, columns), lines.upper)
        offset = torch.where(positive, 0.0, lines.intercept)
        ctx.save_for_backward(c, factor, offset)
        ctx.unstable, ctx.columns = lines.unstable, columns
        return c * factor, (c * offset).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, constant: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        c, factor, offset = ctx.saved_tensors
        slopes = None
        if ctx.needs_input_grad[1]:
            at, slope, unstable = (
                t if ctx.columns is None else t[:, ctx.columns] for t in (c, gradient, ctx.unstable)
            )  # fmt: skip
            slopes = torch.where(unstable & (at > 0), slope * at, 0.0)
        return gradient * factor + constant[:, None] * offset, slopes, None, None
