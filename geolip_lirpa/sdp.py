r"""The semidefinite program of a Lipschitz bound, as data: forms and multipliers.

Place in the data flow: level 4. ``Network + SlopeIntervals -> SdpInstance -> multipliers -> Certificate``. Nothing is
solved here; solvers (untrusted) and the checker (trusted) both build on this module and never import each other.

**The program.** Increments only, biases cancel. Inputs are normalised, :math:`dx_j = s_j w_j` with the scale
:math:`s_j \ge 0` of the instance, so that the input set is :math:`w_j^2 \le 1` (l_inf, one multiplier a coordinate) or
:math:`\sum_j w_j^2 \le 1` (l_2, one multiplier). With pre-activation increments :math:`dv_i = V_i y`, variables
:math:`y = (w, dz_1, .., dz_L)` and :math:`O = C\,\partial f` the output forms, the formal global Lipschitz constant is

.. math:: \max_y \|O y\|  \quad\text{s.t.}\quad (dz_i - \alpha_i dv_i)(\beta_i dv_i - dz_i) \ge 0 .

Its Shor dual (GeoLIP, arXiv 2203.01212; LipSDP, arXiv 1906.04893, for l_2) asks for multipliers
:math:`\tau, \lambda \ge 0` and output multipliers :math:`\sigma` with

.. math::
    M = \begin{pmatrix} M_{yy} & -O^T \\ -O & \mathrm{diag}(\sigma)\end{pmatrix} \succeq 0, \qquad
    M_{yy} = \mathrm{diag}(\tau) - \sum_i \lambda_i (a_i b_i^T + b_i a_i^T),\quad a_i = e_i - \alpha_i V_i,\;
    b_i = \beta_i V_i - e_i .

Proof of the bound: for feasible y and any unit-norm dual vector u of the output,
:math:`0 \le (y, u)^T M (y, u) = \sum_j \tau_j w_j^2 - 2\sum_i \lambda_i (a_i y)(b_i y) - 2 u^T O y + \sum_k \sigma_k
u_k^2`, the products are non-negative, hence :math:`2 u^T O y \le \sum_j \tau_j + \sigma^T u^2`. With
:math:`|u_k| \le 1` (output measured in l_1, or a single row) the last term is at most :math:`\sum_k \sigma_k`; with
:math:`|u|_2 \le 1` (output in l_2) it is at most :math:`\max_k \sigma_k`. Scaling ``(tau, lambda)`` by t and sigma by
1/t keeps M positive semidefinite, so the best scaling gives :math:`\sqrt{(\sum\tau)(\sum\sigma)}`. (The reference code
of GeoLIP calls the sum of its objective ``L_sq`` and reports ``L_sq / 2``: this is the same number.)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.forms import FormBlocks, Forms, build_blocks, build_forms
from geolip_lirpa.network import Network
from geolip_lirpa.rounding import Array
from geolip_lirpa.types import Norm, OutputNorm


@dataclass(frozen=True)
class Multipliers:
    """Dual variables of an instance, the whole content of a proof.

    Args:
        hidden: per activation, (N_l,) float64; entries of neurons that left the program are ignored.
        input: (n0,) for l_inf, (1,) for l_2.
        output: (m,), one for each row of C; only their proportions matter.
    """

    hidden: tuple[Array, ...]
    input: Array
    output: Array


@dataclass(frozen=True)
class SdpInstance:
    """One Lipschitz program: a network, slope intervals, an input set and output rows.

    Args:
        network: float64, on the CPU.
        slopes: per activation, vectors (N_l,).
        input_norm: `Norm.LINF` or `Norm.L2` (l_1 is a family of one-coordinate programs).
        input_scale: (n0,) float64, non-negative and finite; half widths of the box or semi-axes of the ball.
        rows: (m, n_out) float64, the rows of C.
        output: how ``C f`` is measured: `ROWS` (then m = 1), `L1` or `L2`.
        tie_input: one multiplier for all inputs (looser, cheaper; no effect for l_2).
        tie_layers: one multiplier for all neurons of an activation.
        family: a program that differs in its rows only; filled in by `with_rows`, nobody else.
    """

    network: Network
    slopes: tuple[SlopeInterval, ...]
    input_norm: Norm
    input_scale: Tensor
    rows: Tensor
    output: OutputNorm = OutputNorm.ROWS
    tie_input: bool = False
    tie_layers: bool = False
    family: SdpInstance | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.input_norm is Norm.L1:
            raise SpecificationError("SdpInstance: norm 1 is a family of one-coordinate l_inf programs; build those.")
        if self.output is OutputNorm.LINF or (self.output is OutputNorm.ROWS and self.rows.shape[0] != 1):
            raise SpecificationError("SdpInstance: build one instance for each row of C.")
        if self.rows.shape[1] != self.network.output_size:
            raise SpecificationError(
                f"C: got rows of length {self.rows.shape[1]}; the network has {self.network.output_size} outputs. "
                "Pass C with shape (batch, n_spec, n_out)."
            )

    @cached_property
    def forms(self) -> Forms:
        """Blocks of the forms V and O over the variables that stay in the program."""
        return build_forms(self._family_blocks, self.rows)

    @cached_property
    def _family_blocks(self) -> FormBlocks:
        family = self.family
        if family is not None and all(a is b for a, b in zip(family._origin, self._origin, strict=True)):
            return family._family_blocks
        return build_blocks(*self._origin)

    @property
    def _origin(self) -> tuple[Network, tuple[SlopeInterval, ...], Tensor]:
        return self.network, self.slopes, self.input_scale

    def with_rows(self, rows: Tensor, output: OutputNorm = OutputNorm.ROWS) -> SdpInstance:
        """The program of other rows of C; the blocks of the network are computed once for all, when needed."""
        return replace(self, rows=rows, output=output, family=self)

    def with_input_scale(self, input_scale: Tensor) -> SdpInstance:
        """The program of another input set."""
        return replace(self, input_scale=input_scale, family=None)


def input_diagonal(forms: Forms, multipliers: Multipliers) -> Array:
    """The multipliers tau of the inputs that stay in the program, (variables of block 0,)."""
    tau = multipliers.input
    return np.full(len(forms.kept[0]), tau[0]) if tau.shape == (1,) else tau[forms.kept[0]]
