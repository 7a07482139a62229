r"""The semidefinite program of a Lipschitz bound, as data: forms, multipliers and the linear matrix inequality.

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
from geolip_lirpa.rounding import UNDERFLOW, Array, gamma
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
        blocks: filled in by `with_rows`, nobody else.
    """

    network: Network
    slopes: tuple[SlopeInterval, ...]
    input_norm: Norm
    input_scale: Tensor
    rows: Tensor
    output: OutputNorm = OutputNorm.ROWS
    tie_input: bool = False
    tie_layers: bool = False
    blocks: FormBlocks | None = field(default=None, repr=False, compare=False)

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
        """Dense blocks of the forms V and O over the variables that stay in the program."""
        return build_forms(self._family_blocks, self.rows)

    @cached_property
    def _family_blocks(self) -> FormBlocks:
        origin = (self.network, self.slopes, self.input_scale)
        if self.blocks is not None and self.blocks.belong_to(*origin):
            return self.blocks
        return build_blocks(*origin)

    def with_rows(self, rows: Tensor, output: OutputNorm = OutputNorm.ROWS) -> SdpInstance:
        """The program of other rows of C; the dense blocks of the network are computed once for all of them."""
        return replace(self, rows=rows, output=output, blocks=self._family_blocks)

    def with_input_scale(self, input_scale: Tensor) -> SdpInstance:
        """The program of another input set."""
        return replace(self, input_scale=input_scale, blocks=None)


# --- the linear matrix inequality -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lmi:
    """The matrix M_yy and the output forms, computed in float64, with entrywise error bounds.

    Args:
        matrix: (n, n), symmetric to the last bit.
        error: (n, n) non-negative, ``|matrix - M_yy| <= error`` for the real-number M_yy.
        output: (m, n), the forms O; error likewise.
        output_error: (m, n).
    """

    matrix: Array
    error: Array
    output: Array
    output_error: Array


def input_diagonal(forms: Forms, multipliers: Multipliers) -> Array:
    """The multipliers tau of the inputs that stay in the program, (variables of block 0,)."""
    tau = multipliers.input
    return np.full(len(forms.kept[0]), tau[0]) if tau.shape == (1,) else tau[forms.kept[0]]


def assemble_lmi(forms: Forms, multipliers: Multipliers, with_error: bool = True) -> Lmi:
    r"""Form M_yy from multipliers (float64, already non-negative), in the order of `Forms.block`.

    In blocks: :math:`2\lambda_i` on the diagonal of each neuron, :math:`-(\alpha_i + \beta_i)\lambda_i V_i` beside it,
    and :math:`V^T \mathrm{diag}(2\lambda\alpha\beta) V` on the earlier blocks, since
    :math:`-(ab^T + ba^T) = 2 e e^T - (\alpha+\beta)(e V + V^T e^T) + 2\alpha\beta V^T V`.
    """
    n = forms.size
    matrix = np.zeros((n, n))
    error = np.zeros((n, n) if with_error else (0, 0))
    inputs = forms.block(0)
    diagonal = np.zeros(n)
    diagonal[inputs] = input_diagonal(forms, multipliers)
    for l in range(1, len(forms.kept)):
        lam = multipliers.hidden[l - 1][forms.kept[l]]
        diagonal[forms.block(l)] = 2.0 * lam
        _add_hidden(forms, l, lam, matrix, error if with_error else None)
    matrix[np.diag_indices(n)] += diagonal
    if with_error:
        error[np.diag_indices(n)] += gamma(len(forms.kept) + 1) * diagonal
        error += UNDERFLOW
    output = np.zeros((forms.rows, n))
    output_error = np.zeros((forms.rows, n))
    for s, block in forms.output.items():
        output[:, forms.block(s)] = block
    for s, block in forms.output_error.items():
        output_error[:, forms.block(s)] = block
    return Lmi(matrix, error, output, output_error)


def _add_hidden(forms: Forms, l: int, lam: Array, matrix: Array, error: Array | None) -> None:
    """Add the off-diagonal and quadratic parts of block l's constraints, and their error bounds."""
    alpha, beta = forms.lower[l - 1], forms.upper[l - 1]
    sources = [s for (row, s) in forms.hidden if row == l]
    rows = forms.block(l)
    linear = (alpha + beta) * lam
    quadratic = 2.0 * lam * (alpha * beta)
    curved = bool((quadratic != 0).any())
    for s in sources:
        block = forms.hidden[l, s]
        # -(alpha_i + beta_i) lambda_i V_i: three roundings, then at most len(kept) additions
        part = linear[:, None] * block
        matrix[rows, forms.block(s)] -= part
        matrix[forms.block(s), rows] -= part.T
        if error is not None:
            bound = gamma(4 + len(forms.kept)) * np.abs(part)
            if (l, s) in forms.hidden_error:
                bound += np.abs(linear)[:, None] * forms.hidden_error[l, s] * (1.0 + gamma(8))
            error[rows, forms.block(s)] += bound
            error[forms.block(s), rows] += bound.T
    if curved:
        _add_quadratic(forms, l, sources, quadratic, matrix, error)


def _add_quadratic(
    forms: Forms, l: int, sources: list[int], quadratic: Array, matrix: Array, error: Array | None
) -> None:
    r"""Add :math:`V^T \mathrm{diag}(q) V` for block l; symmetric by construction."""
    size = len(quadratic)
    for s in sources:
        for t in sources:
            if t < s:
                continue
            left, right = forms.hidden[l, s], forms.hidden[l, t]
            part = left.T @ (quadratic[:, None] * right)
            if s == t:
                part = 0.5 * (part + part.T)
            matrix[forms.block(s), forms.block(t)] += part
            if s != t:
                matrix[forms.block(t), forms.block(s)] += part.T
            if error is None:
                continue
            bound = _quadratic_error(forms, l, s, t, np.abs(quadratic), size)
            error[forms.block(s), forms.block(t)] += bound
            if s != t:
                error[forms.block(t), forms.block(s)] += bound.T


def _quadratic_error(forms: Forms, l: int, s: int, t: int, weight: Array, size: int) -> Array:
    r"""Bound of :math:`|fl(V_s^T q V_t) - V_s^T q V_t|`: gamma |V||q||V| plus what the errors of V contribute."""
    left, right = np.abs(forms.hidden[l, s]), np.abs(forms.hidden[l, t])
    left_error = forms.hidden_error.get((l, s), np.zeros((0, 0)))
    right_error = forms.hidden_error.get((l, t), np.zeros((0, 0)))
    weighted = weight[:, None] * right
    bound = gamma(size + 8 + len(forms.kept)) * (left.T @ weighted)
    if right_error.size:
        bound += left.T @ (weight[:, None] * right_error)
    if left_error.size:
        bound += left_error.T @ (weighted + (weight[:, None] * right_error if right_error.size else 0.0))
    # All terms are non-negative sums of `size` products: their own rounding is covered by one more factor.
    return bound * (1.0 + gamma(size + 16))
