r"""The semidefinite program of a Lipschitz bound, as data: forms, multipliers and the linear matrix inequality.

Place in the data flow: level 3. ``Network + SlopeIntervals -> SdpInstance -> multipliers -> Certificate``. Nothing is
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

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.types import Norm, OutputNorm

Array = NDArray[np.float64]

UNIT_ROUNDOFF = 2.0**-53


def gamma(count: int) -> float:
    r""":math:`\gamma_n = n u / (1 - n u)`, relative error of n successive roundings (Higham, ASNA, Lemma 3.1)."""
    if count * UNIT_ROUNDOFF > 0.01:
        raise SpecificationError(f"rounding analysis: {count} operations in one sum are too many for float64.")
    # The factor covers the rounding of this very expression.
    return count * UNIT_ROUNDOFF / (1.0 - count * UNIT_ROUNDOFF) * (1.0 + 4.0 * UNIT_ROUNDOFF)


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
    """

    network: Network
    slopes: tuple[SlopeInterval, ...]
    input_norm: Norm
    input_scale: Tensor
    rows: Tensor
    output: OutputNorm = OutputNorm.ROWS
    tie_input: bool = False
    tie_layers: bool = False

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
        return build_forms(self)


@dataclass(frozen=True)
class Forms:
    """Dense affine forms over ``y = (w, dz_1, .., dz_L)``, block by block, with rounding error bounds.

    Block 0 holds the inputs with positive scale, block l >= 1 the neurons of activation l - 1 that are *free*: slope
    interval of positive width, a non-zero pre-activation form and an effect on the output. All other neurons are
    linear or irrelevant and have been substituted.

    Args:
        kept: per block, positions of its variables within the flattened input or activation.
        hidden: ``hidden[l, s]`` is V's block (free neurons of block l) x (variables of block s); absent means zero.
        hidden_error: entrywise error bounds of the same keys; absent means exact.
        output: ``output[s]``, (m, variables of block s); absent means zero.
        output_error: likewise.
        lower: per block l >= 1 (index l - 1), slopes alpha of its free neurons.
        upper: likewise beta.
    """

    kept: tuple[NDArray[np.int64], ...]
    hidden: dict[tuple[int, int], Array]
    hidden_error: dict[tuple[int, int], Array]
    output: dict[int, Array]
    output_error: dict[int, Array]
    lower: tuple[Array, ...]
    upper: tuple[Array, ...]
    rows: int
    offsets: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [len(k) for k in self.kept]
        object.__setattr__(self, "offsets", tuple(int(v) for v in np.concatenate([[0], np.cumsum(sizes)])))

    @property
    def size(self) -> int:
        """Number of variables y."""
        return self.offsets[-1]

    def block(self, s: int) -> slice:
        """Positions of block s within y."""
        return slice(self.offsets[s], self.offsets[s + 1])


# --- building the forms ---------------------------------------------------------------------------------------------


@dataclass
class _Flow:
    """Columns of one source block on their way through the graph.

    `value` and `magnitude` have shape (columns, \\*shape); `roundings` is None while every column is a signed unit
    vector, so that the next affine operator acts on it without any rounding of sums.
    """

    value: Tensor
    magnitude: Tensor
    roundings: int


def _is_selection(columns: Tensor) -> bool:
    flat = columns.flatten(1)
    return bool(((flat == 0) | (flat.abs() == 1)).all()) and bool(((flat != 0).sum(dim=1) <= 1).all())


def _apply(operator: AffineOperator, flows: tuple[_Flow, ...]) -> _Flow:
    values = tuple(f.value for f in flows)
    # A column with a single entry +-1 meets one coefficient in every sum: nothing is rounded but the coefficient.
    exact = len(flows) == 1 and _is_selection(values[0])
    roundings = max(f.roundings for f in flows) + operator.parameter_roundings + (0 if exact else operator.sum_roundings)
    return _Flow(operator.linear(values), operator.magnitude(tuple(f.magnitude for f in flows)), roundings)


def _zero_like(network: Network, index: int, columns: int) -> _Flow:
    zero = torch.zeros((columns, *network.nodes[index].shape), dtype=torch.float64)
    return _Flow(zero, zero, 0)


def _push(
    network: Network, slopes: tuple[SlopeInterval, ...], source: int, columns: Tensor
) -> tuple[dict[int, _Flow], _Flow | None]:
    """Send the columns of one source node through the graph.

    Free neurons stop the flow (they are variables of their own); fixed slopes let it pass. Returns the flow at each
    activation's pre-activation, by activation number, and at the output.
    """
    flows: dict[int, _Flow] = {source: _Flow(columns, columns.abs(), 0)}
    reached: dict[int, _Flow] = {}
    for index in range(source + 1, len(network.nodes)):
        node = network.nodes[index]
        if not any(i in flows for i in node.inputs):
            continue
        parts = tuple(flows.get(i) or _zero_like(network, i, columns.shape[0]) for i in node.inputs)
        if isinstance(node.operation, AffineOperator):
            flows[index] = _apply(node.operation, parts)
            continue
        number = network.activations.index(index)
        reached[number] = parts[0]
        interval = slopes[number]
        slope = torch.where(interval.fixed, interval.lower, 0.0).reshape(node.shape)
        if bool((slope != 0).any()):
            passed = parts[0]
            flows[index] = _Flow(passed.value * slope, passed.magnitude * slope.abs(), passed.roundings + 1)
    return reached, flows.get(len(network.nodes) - 1)


def _unit_columns(shape: tuple[int, ...], kept: NDArray[np.int64]) -> Tensor:
    columns = torch.zeros((len(kept), int(np.prod(shape))), dtype=torch.float64)
    columns[torch.arange(len(kept)), torch.as_tensor(kept)] = 1.0
    return columns.reshape(len(kept), *shape)


def _block_and_error(
    flow: _Flow, scale: Tensor | None, rows: NDArray[np.int64] | None
) -> tuple[Array, Array | None]:
    """Transpose a flow into a form block (rows x columns), columns scaled, with its error bound, or None when exact."""
    value = flow.value.flatten(1).T
    magnitude = flow.magnitude.flatten(1).T
    roundings = flow.roundings
    if scale is not None:
        value, magnitude, roundings = value * scale, magnitude * scale, roundings + 1
    if rows is not None:
        select = torch.as_tensor(rows)
        value, magnitude = value[select], magnitude[select]
    block = np.ascontiguousarray(value.numpy())
    if roundings == 0:
        return block, None
    # The magnitude is itself rounded at most as often: doubling the count covers it.
    return block, np.ascontiguousarray(magnitude.numpy()) * gamma(2 * roundings + 2)


def build_forms(instance: SdpInstance) -> Forms:
    """Compute the dense forms of an instance, with fixed, dead and irrelevant neurons removed."""
    network, slopes = instance.network, instance.slopes
    scale = instance.input_scale.reshape(-1)
    kept: list[NDArray[np.int64]] = [np.flatnonzero(scale.numpy() > 0)]
    kept += [np.flatnonzero(~s.fixed.numpy()) for s in slopes]
    semi_axes = scale[torch.as_tensor(kept[0])]
    column_scale = None if bool((semi_axes == 1).all()) else semi_axes
    hidden: dict[tuple[int, int], Array] = {}
    hidden_error: dict[tuple[int, int], Array] = {}
    output: dict[int, Array] = {}
    output_error: dict[int, Array] = {}
    for s, variables in enumerate(kept):
        if len(variables) == 0:
            continue
        source = 0 if s == 0 else network.activations[s - 1]
        columns = _unit_columns(network.nodes[source].shape, variables)
        reached, final = _push(network, slopes, source, columns)
        factor = column_scale if s == 0 else None
        for number, flow in reached.items():
            block, error = _block_and_error(flow, factor, kept[number + 1])
            hidden[number + 1, s] = block
            if error is not None:
                hidden_error[number + 1, s] = error
        if final is not None:
            output[s], error = _output_block(final, factor, instance.rows)
            if error is not None:
                output_error[s] = error
    lower = tuple(s.lower.numpy()[k] for s, k in zip(slopes, kept[1:], strict=True))
    upper = tuple(s.upper.numpy()[k] for s, k in zip(slopes, kept[1:], strict=True))
    forms = Forms(tuple(kept), hidden, hidden_error, output, output_error, lower, upper, instance.rows.shape[0])
    return _prune(forms)


def _output_block(flow: _Flow, scale: Tensor | None, rows: Tensor) -> tuple[Array, Array | None]:
    """Multiply the network's output forms with C; exact when each row of C selects outputs."""
    selects = _is_selection(rows)
    combined = _Flow(
        flow.value.flatten(1) @ rows.T,
        flow.magnitude.flatten(1) @ rows.abs().T,
        flow.roundings + (0 if selects else rows.shape[1] + 1),
    )
    return _block_and_error(combined, scale, None)


def _nonzero_rows(forms: Forms, l: int) -> NDArray[np.bool_]:
    mask = np.zeros(len(forms.kept[l]), dtype=bool)
    for (row, _), block in forms.hidden.items():
        if row == l:
            mask |= (block != 0).any(axis=1)
    for (row, _), error in forms.hidden_error.items():
        if row == l:
            mask |= (error != 0).any(axis=1)
    return mask


def _nonzero_columns(forms: Forms, s: int) -> NDArray[np.bool_]:
    mask = np.zeros(len(forms.kept[s]), dtype=bool)
    for table in (forms.hidden, forms.hidden_error):
        for (_, column), block in table.items():
            if column == s:
                mask |= (block != 0).any(axis=0)
    for outputs in (forms.output, forms.output_error):
        if s in outputs:
            mask |= (outputs[s] != 0).any(axis=0)
    return mask


def _restrict(forms: Forms, l: int, mask: NDArray[np.bool_]) -> Forms:
    """Drop variables of block l, as rows of V and as columns everywhere."""

    def cut(table: dict[tuple[int, int], Array]) -> dict[tuple[int, int], Array]:
        rows = {k: (b[mask] if k[0] == l else b) for k, b in table.items()}
        return {k: (b[:, mask] if k[1] == l else b) for k, b in rows.items()}

    def cut_output(table: dict[int, Array]) -> dict[int, Array]:
        return {s: (b[:, mask] if s == l else b) for s, b in table.items()}

    kept = tuple(k[mask] if s == l else k for s, k in enumerate(forms.kept))
    lower = tuple(a[mask] if s == l - 1 else a for s, a in enumerate(forms.lower))
    upper = tuple(a[mask] if s == l - 1 else a for s, a in enumerate(forms.upper))
    return Forms(
        kept, cut(forms.hidden), cut(forms.hidden_error), cut_output(forms.output), cut_output(forms.output_error),
        lower, upper, forms.rows,
    )  # fmt: skip


def _prune(forms: Forms) -> Forms:
    """Remove neurons that cannot move (zero pre-activation form) and neurons nobody reads.

    A neuron with ``dv = 0`` has ``(dz - 0)(0 - dz) >= 0``, hence ``dz = 0``. A neuron without a reader does not occur
    in the objective or in other constraints; its own constraint can always be met by ``dz = alpha dv``.
    """
    blocks = range(1, len(forms.kept))
    for l in blocks:
        mask = _nonzero_rows(forms, l)
        if not mask.all():
            forms = _restrict(forms, l, mask)
    for l in reversed(blocks):
        mask = _nonzero_columns(forms, l)
        if not mask.all():
            forms = _restrict(forms, l, mask)
    return forms


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
