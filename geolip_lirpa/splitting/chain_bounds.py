r"""Proven linear bounds of a ReLU chain over many boxes at once.

Place in the data flow: level 7, ``ReluChain + boxes -> bounds of neurons and of rows of the outputs``. Trusted:
float64, every rounding error is charged. This is the arithmetic of `crown`, arranged for branch and bound: rows of many
boxes share one matrix product, and the charges cost a dot product instead of a second one.

**One step back.** For a row c of coefficients of :math:`v_l = W z + b` and the computed :math:`\hat c' = fl(c \hat W)`

.. math:: c v_l \;\ge\; \hat c' z + fl(c \hat b) - |c|\, q_l, \qquad
    q_l \ge (\gamma_n |\hat W| + E) \max |z| + r + \gamma_n |\hat b| + 4 u \max |v_l| ,

since :math:`|\hat c' - c \hat W| \le \gamma_n |c| |\hat W|`. q depends on the box alone. Its last term pays for the
products and the one difference by which c itself came from the coefficients of :math:`z_l = \max(0, v_l)`. With proven
:math:`l_i \le v_i \le u_i`, :math:`l_i < 0 < u_i`, and any :math:`\alpha \in [0, 1]`

.. math:: \alpha v_i \le z_i \le \kappa_i (v_i - l_i), \qquad \kappa_i \ge u_i / (u_i - l_i) .

**Signs that are assumed.** On the part of a box where :math:`s_i v_i \ge 0` for some neurons, :math:`s_i = \pm 1`, they
are linear there, and a term :math:`-\beta_i s_i v_i \le 0` with :math:`\beta_i \ge 0` may be added to every row: the
result is a lower bound on that part, although the last step minimises over the whole box (arXiv:2103.06624).

References:
    Zhang et al., arXiv:1811.00866; Xu et al., arXiv:2011.13824; Wang et al., arXiv:2103.06624 (beta-CROWN).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.rounding import UNIT_ROUNDOFF, gamma
from geolip_lirpa.splitting.relu_chain import Pair, ReluChain
from geolip_lirpa.splitting.relu_step import TINY, ReluLines, relu_lines

# numbers in one tensor of rows
_CHUNK = 2**19


@dataclass(frozen=True)
class Boxes:
    """Input boxes.

    Args:
        lower: (B, n0) float64.
        upper: (B, n0).
    """

    lower: Tensor
    upper: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    def __getitem__(self, index: Tensor) -> Boxes:
        return Boxes(self.lower[index], self.upper[index])

    @property
    def reach(self) -> Tensor:
        """Largest sizes of the inputs, (B, n0)."""
        return torch.maximum(self.lower.abs(), self.upper.abs())


@dataclass(frozen=True)
class _Free:
    """What may be chosen, layer by layer, see `ChainBounds.rows`."""

    slopes: Sequence[Tensor] | None = None
    shifts: Sequence[Tensor] | None = None
    columns: Sequence[Tensor] | None = None

    def back(self, l: int, lines: ReluLines, c: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of v_l and the constant."""
        columns = None if self.columns is None else self.columns[l]
        c, constant = lines.back(c, None if self.slopes is None else self.slopes[l], columns)
        if self.shifts is None:
            return c, constant
        shifts = self.shifts[l]
        return (c - shifts if columns is None else c.index_add(1, columns, -shifts)), constant

    def spread(self, l: int, c: Tensor) -> Tensor:
        """What rounding errors of v_l are multiplied by."""
        if self.shifts is None:
            return c.abs()
        sizes = self.shifts[l].abs()
        return c.abs() + sizes if self.columns is None else c.abs().index_add(1, self.columns[l], sizes)


class ChainBounds:
    """Bounds of a chain over some boxes, layer by layer.

    Args:
        chain: the network.
        boxes: B of them.

    Attributes:
        hidden: proven bounds of the pre-activations of the layers so far, (B, n_l) each.
    """

    def __init__(self, chain: ReluChain, boxes: Boxes) -> None:
        self.chain, self.boxes = chain, boxes
        self.hidden: list[Pair] = []
        self.lines: list[ReluLines] = []
        self._charges: list[Tensor] = []
        self._reach = boxes.reach
        self._sums = torch.zeros(len(boxes), dtype=torch.float64)

    @classmethod
    def refined(cls, chain: ReluChain, boxes: Boxes, known: Sequence[Pair] | None = None) -> ChainBounds:
        """Bounds by a backward pass for every neuron whose sign intervals leave open.

        Args:
            chain: the network.
            boxes: B of them.
            known: proven bounds of all layers, (B, n_l) each, of these boxes or larger ones; the result is never wider.
        """
        bounds = cls(chain, boxes)
        for number in range(len(chain.steps) - 1):
            found = bounds.interval(number)
            if known is not None:
                found = intersected(found, known[number])
            if number > 0:
                found = bounds.sharpened(number, found)
            bounds.add(found)
        bounds.close()
        return bounds

    @classmethod
    def given(cls, chain: ReluChain, boxes: Boxes, hidden: Sequence[Pair], *, rigorous: bool = True) -> ChainBounds:
        """Bounds that are known already, all layers; without charges, `rows` must not be asked for rigorous ones."""
        bounds = cls(chain, boxes)
        if not rigorous:
            bounds.hidden = list(hidden)
            bounds.lines = [relu_lines(*pair) for pair in hidden]
            return bounds
        for pair in hidden:
            bounds.charge(len(bounds.hidden))
            bounds.add(pair)
        bounds.close()
        return bounds

    def __len__(self) -> int:
        return len(self.boxes)

    # -- layers from the input on ------------------------------------------------------------------------------------

    def charge(self, number: int) -> Tensor:
        """q of a step without its last term, (B, n)."""
        step = self.chain.steps[number]
        count = 4 * (step.inputs + len(step.bias)) + 32
        lost = (step.size.forth(self._reach) + step.bias.abs()) * gamma(count) + step.bias_error
        if step.error is not None:
            lost = lost + step.error.forth(self._reach)
        # sums of products that underflow
        self._sums = self._sums + (step.inputs + len(step.bias)) * (1.0 + self._reach.sum(dim=1))
        self._charges.append(lost * (1.0 + gamma(count)) + TINY)
        return self._charges[-1]

    def interval(self, number: int) -> Pair:
        """Interval bounds of a step over the bounds of the layer before it."""
        step = self.chain.steps[number]
        low, high = self._values()
        middle, radius = 0.5 * low + 0.5 * high, 0.5 * high - 0.5 * low
        center = step.weight.forth(middle) + step.bias
        spread = step.size.forth(radius) + 2.0 * self.charge(number)
        return center - spread, center + spread

    def add(self, found: Pair) -> None:
        """Take the bounds of the next layer."""
        low, high = found
        self._charges[-1] = self._charges[-1] + 8 * UNIT_ROUNDOFF * torch.maximum(low.abs(), high.abs())
        # products of slopes that underflow meet the pre-activations
        self._sums = self._sums + (low.abs() + high.abs()).sum(dim=1)
        self.hidden.append(found)
        self.lines.append(relu_lines(low, high))
        self._reach = high.clamp(min=0)

    def close(self) -> None:
        """All layers are there: the charge of the outputs."""
        self.charge(len(self.chain.steps) - 1)

    def sharpened(self, number: int, found: Pair) -> Pair:
        """Bounds of a layer, with a backward pass for every neuron without a sign."""
        low, high = (end.clone() for end in found)
        box, neuron = ((low < 0) & (high > 0)).nonzero(as_tuple=True)
        # the last term of q: reach of this layer
        base = self._charges[-1]
        self._charges[-1] = base + 8 * UNIT_ROUNDOFF * torch.maximum(low.abs(), high.abs())
        weight = self.chain.steps[number].weight.matrix
        size = max(1, _CHUNK // max(self.chain.sizes[: number + 1]))
        for part in torch.arange(len(box)).split(size):
            b, n = box[part], neuron[part]
            for end, sign in ((low, 1.0), (high, -1.0)):
                value = sign * self.chain.steps[number].bias[n]
                charge = self._charges[-1][b, n]
                result, _ = self._descend(number, sign * weight[n], value, charge, b, _Free(), True)
                end[b, n] = torch.fmax(low[b, n], result) if sign > 0 else torch.fmin(high[b, n], -result)
        self._charges[-1] = base
        return low, high

    def _values(self) -> Pair:
        if not self.hidden:
            return self.boxes.lower, self.boxes.upper
        low, high = self.hidden[-1]
        return low.clamp(min=0), high.clamp(min=0)

    # -- back to the input -------------------------------------------------------------------------------------------

    def rows(
        self,
        matrix: Tensor,
        box: Tensor | None,
        slopes: Sequence[Tensor] | None = None,
        shifts: Sequence[Tensor] | None = None,
        *,
        columns: Sequence[Tensor] | None = None,
        rigorous: bool = True,
        trace: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Lower bounds of :math:`c f(x)` for rows c over boxes, and the linear function of x behind each.

        Args:
            matrix: (R, n_out), the rows.
            box: (R,) which box each row is for; None: one row for each box, in their order.
            slopes: of the lower lines, (R, k_l) for each layer; default: those of smallest area. Entries of neurons
                with a sign are ignored.
            shifts: :math:`\beta_i s_i`, (R, k_l) for each layer, see the module's docstring.
            columns: (k_l,) for each layer, which neurons slopes and shifts are for; default: all.
            rigorous: False leaves out the charges and keeps gradients.
            trace: takes the coefficients of :math:`z_l` on the way, (R, n_l) each, the last layer first.

        Returns:
            (R,), and (R, n0) coefficients.
        """
        last = len(self.chain.steps) - 1
        step = self.chain.steps[last]
        value, charge = matrix @ step.bias, torch.zeros(len(matrix), dtype=torch.float64)
        if rigorous:
            charge = (matrix.abs() * _of(self._charges[last], box)).sum(1)
        free = _Free(slopes, shifts, columns)
        return self._descend(last, step.weight.back(matrix), value, charge, box, free, rigorous, trace)

    def gradient_sizes(self, matrix: Tensor, box: Tensor) -> Tensor:
        r"""Largest sizes of the derivatives of :math:`c f` on boxes, up to rounding, (R, n0).

        Ends of intervals go back through the layers: a neuron without a sign has a slope in [0, 1].

        Args:
            matrix: (R, n_out), the rows c.
            box: (R,) which box each row is for.
        """
        low = high = self.chain.steps[-1].weight.back(matrix)
        for l in range(len(self.chain.steps) - 2, -1, -1):
            least, most = (end[box] for end in self.hidden[l])
            on, maybe = least >= 0, most > 0
            low = torch.where(on, low, torch.where(maybe, low.clamp(max=0), 0.0))
            high = torch.where(on, high, torch.where(maybe, high.clamp(min=0), 0.0))
            middle, radius = 0.5 * (low + high), 0.5 * (high - low)
            center = self.chain.steps[l].weight.back(middle)
            spread = self.chain.steps[l].size.back(radius)
            low, high = center - spread, center + spread
        return torch.maximum(low.abs(), high.abs())

    def _descend(
        self,
        number: int,
        c: Tensor,
        value: Tensor,
        charge: Tensor,
        box: Tensor | None,
        free: _Free,
        rigorous: bool,
        trace: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """From coefficients of the values z before step `number` down to the input."""
        size = value.abs()
        for l in range(number - 1, -1, -1):
            step = self.chain.steps[l]
            if trace is not None:
                trace.append(c)
            c, constant = free.back(l, self.lines[l] if box is None else self.lines[l][box], c)
            value, size = value + constant, size + constant.abs()
            if rigorous:
                charge = charge + (free.spread(l, c) * _of(self._charges[l], box)).sum(1)
            own = c @ step.bias
            value, size = value + own, size + own.abs()
            c = step.weight.back(c)
        ends = self.boxes if box is None else self.boxes[box]
        value = value + (c * torch.where(c > 0, ends.lower, ends.upper)).sum(1)
        if not rigorous:
            return value, c
        size = size + (c.abs() * ends.reach).sum(1)
        return self._lowered(number, value, size, charge, box), c

    def _lowered(self, number: int, value: Tensor, size: Tensor, charge: Tensor, box: Tensor | None) -> Tensor:
        # every sum over a layer, and those over the layers
        relative = gamma(4 * max(self.chain.sizes[: number + 2]) + 8 * len(self.chain.steps) + 64)
        return value - (relative * size + charge) * (1.0 + 8 * relative) - TINY * (1.0 + _of(self._sums, box))


def _of(values: Tensor, box: Tensor | None) -> Tensor:
    return values if box is None else values[box]


def intersected(found: Pair, known: Pair) -> Pair:
    """The smaller intervals; NaN says nothing."""
    return torch.fmax(found[0], known[0]), torch.fmin(found[1], known[1])
