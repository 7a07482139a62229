r"""The semidefinite program of an instance as sparse matrices, for general purpose solvers and for file export.

Place in the data flow: level 5, ``SdpInstance -> SparseSdp``; read by `solvers.cvxpy_backend` and `export`. Nothing is
solved or proven here.

**One pair, two forms.** With symmetric matrices :math:`A_i`, C and a vector b the pair is

.. math::
    \text{dual (matrix inequality):}\quad & \min_x\; b^T x \quad\text{s.t.}\quad \textstyle\sum_i x_i A_i - C \succeq 0,
    \quad x_i \ge 0 \;(i \in S), \\
    \text{natural (Gram matrix):}\quad & \max_X\; \langle C, X\rangle \quad\text{s.t.}\quad \langle A_i, X\rangle = b_i
    \;(i \notin S),\quad \langle A_i, X\rangle \le b_i \;(i \in S), \quad X \succeq 0 .

x are the multipliers in the order input, hidden, output (`SparseSdp.multipliers` arranges them), X is the Gram matrix
of the variables ``(w, t_1, .., t_L, u)``, and S are the hidden multipliers. The signs of the others follow: with
:math:`\sum x_i A_i - C = M \succeq 0` the diagonal of M gives :math:`\sigma \ge 0`, and for the vector p with
:math:`p_w = e_j` and all slopes in the middle of their intervals :math:`0 \le p^T M p = \tau_j - 2 \sum_i \lambda_i
(a_i p)(b_i p) \le \tau_j`, as both factors have the same sign there.

**Coordinates.** `sdp.Forms` has :math:`dz_i` as variables. Here :math:`t_i = dz_i - \alpha_i dv_i`, a congruence, after
which :math:`a_i = e_i` and :math:`b_i = (\beta_i - \alpha_i) V_i - e_i`, so that no matrix has a dense block
:math:`V^T V`. For ReLU over all inputs :math:`\alpha = 0` and t = dz. The multipliers do not change.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.forms import Forms
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.types import Norm, OutputNorm

Index = NDArray[np.int64]


class Form(enum.Enum):
    """How a program is stated; both have the same value.

    `DUAL`: the multipliers are the variables of a linear matrix inequality.
    `NATURAL`: the Gram matrix of unit vectors is the variable, and the multipliers are the constraints' dual values.
    """

    DUAL = "dual"
    NATURAL = "natural"

    @classmethod
    def parse(cls, value: Form | str) -> Form:
        """Read 'dual' or 'natural'.

        Raises:
            SpecificationError: anything else.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls(str(value).strip().lower())
        except ValueError:
            raise SpecificationError(f"form: got {value!r}; allowed are dual and natural. Pass one of these.") from None


@dataclass(frozen=True)
class Groups:
    """Which variable of the program holds the multiplier of which constraint.

    Args:
        input: per input that stays, its variable, (variables of block 0,).
        hidden: per activation, the variables of its free neurons.
        output: per row of C, (m,).
    """

    input: Index
    hidden: tuple[Index, ...]
    output: Index

    @property
    def hidden_variables(self) -> Index:
        """All variables that belong to neurons, ascending."""
        return np.unique(np.concatenate([*self.hidden, np.zeros(0, dtype=np.int64)]))


@dataclass(frozen=True)
class SparseMatrices:
    """A family of symmetric matrices in coordinate form.

    Args:
        index: (k,) which matrix; ascending.
        rows: (k,) positions in the lower triangle, ``rows >= cols``, each at most once in a matrix.
        cols: (k,).
        values: (k,) float64.
    """

    index: Index
    rows: Index
    cols: Index
    values: Array


@dataclass(frozen=True)
class SparseSdp:
    r"""A pair of semidefinite programs, see the module's docstring.

    Args:
        form: which of the two a file or a solver is asked to state.
        size: rows of X, ``n + m``.
        rhs: b, (p,).
        signed: the set S, (p,) bool.
        objective: C, one matrix of index 0.
        constraints: the matrices :math:`A_i`.
        groups: meaning of the p variables.
        multiplier_factor: the multipliers are this number times x. In the natural form X is a Gram matrix of vectors
            in the unit ball (b = 1, C halved), hence 2; otherwise 1.
    """

    form: Form
    size: int
    rhs: Array
    signed: NDArray[np.bool_]
    objective: SparseMatrices
    constraints: SparseMatrices
    groups: Groups
    multiplier_factor: float = 1.0

    @property
    def blocks(self) -> tuple[int, ...]:
        """Block sizes: the matrix, then minus the number of sign constraints (a diagonal block) if there are any."""
        count = int(self.signed.sum())
        return (self.size, -count) if count else (self.size,)

    def multipliers(self, x: Array, instance: SdpInstance) -> Multipliers:
        """Arrange a solution x, (p,), as multipliers of the instance; negative entries become 0."""
        values = np.maximum(np.asarray(x, dtype=np.float64) * self.multiplier_factor, 0.0)
        return arrange(values, self.groups, instance)


def arrange(values: Array, groups: Groups, instance: SdpInstance) -> Multipliers:
    """Spread the values of variables over full-length arrays, zeros where a neuron or input left the program."""
    forms = instance.forms
    hidden = []
    for slopes, kept, variables in zip(instance.slopes, forms.kept[1:], groups.hidden, strict=True):
        full = np.zeros(slopes.lower.numel())
        full[kept] = values[variables]
        hidden.append(full)
    if instance.input_norm is Norm.L2:
        return Multipliers(tuple(hidden), values[groups.input[:1]], values[groups.output])
    tau = np.zeros(instance.input_scale.numel())
    tau[forms.kept[0]] = values[groups.input]
    return Multipliers(tuple(hidden), tau, values[groups.output])


# --- coordinates ----------------------------------------------------------------------------------------------------


def shifted_forms(forms: Forms) -> Forms:
    r"""The forms over :math:`(w, t)` with :math:`t_i = dz_i - \alpha_i dv_i`, slopes :math:`[0, \beta_i - \alpha_i]`.

    The result carries no rounding error bounds: it is for solvers and files, not for proofs.
    """
    if not any((alpha != 0).any() for alpha in forms.lower):
        return replace_blocks(forms, forms.hidden, forms.output)
    # dz_l = t_l + alpha_l V_l(w, dz), block by block in topological order
    substitution: dict[int, dict[int, Array]] = {0: {0: np.eye(len(forms.kept[0]))}}
    hidden: dict[tuple[int, int], Array] = {}
    for l in range(1, len(forms.kept)):
        rows = _compose({s: block for (row, s), block in forms.hidden.items() if row == l}, substitution)
        hidden.update({(l, s): block for s, block in rows.items()})
        alpha = forms.lower[l - 1][:, None]
        # A block of zeros would fill the program with explicit zeros.
        substitution[l] = {s: alpha * block for s, block in rows.items() if (alpha != 0).any()}
        substitution[l][l] = np.eye(len(forms.kept[l]))
    return replace_blocks(forms, hidden, _compose(forms.output, substitution))


def _compose(blocks: dict[int, Array], substitution: dict[int, dict[int, Array]]) -> dict[int, Array]:
    """Insert the expressions of the dz into forms over (w, dz)."""
    result: dict[int, Array] = {}
    for s, block in blocks.items():
        for t, inner in substitution[s].items():
            part = block if s == t else block @ inner
            result[t] = result[t] + part if t in result else part
    return result


def replace_blocks(forms: Forms, hidden: dict[tuple[int, int], Array], output: dict[int, Array]) -> Forms:
    """Forms with lower slopes 0 and other blocks, without error bounds."""
    lower = tuple(np.zeros_like(alpha) for alpha in forms.lower)
    upper = tuple(beta - alpha for alpha, beta in zip(forms.lower, forms.upper, strict=True))
    return replace(forms, hidden=hidden, hidden_error={}, output=output, output_error={}, lower=lower, upper=upper)


# --- building the matrices ------------------------------------------------------------------------------------------


def variable_groups(instance: SdpInstance) -> Groups:
    """Number the variables: input, hidden by activation, output; tied multipliers share one."""
    kept = instance.forms.kept
    tied = instance.tie_input or instance.input_norm is Norm.L2
    current = 0

    def take(count: int, together: bool) -> Index:
        nonlocal current
        numbers = np.full(count, current, dtype=np.int64) if together else current + np.arange(count, dtype=np.int64)
        current += min(count, 1) if together else count
        return numbers

    inputs = take(len(kept[0]), tied)
    hidden = tuple(take(len(k), instance.tie_layers) for k in kept[1:])
    # |u|_2 <= 1 has one multiplier: the largest sigma counts, so all may be equal.
    return Groups(inputs, hidden, take(instance.forms.rows, instance.output is OutputNorm.L2))


def objective_weights(instance: SdpInstance, groups: Groups) -> Array:
    r"""b of the dual form, :math:`\tfrac12(\sum_j \tau_j + \sum_k \sigma_k)`; balls count their multiplier once."""
    count = int(groups.output[-1]) + 1
    weights = np.zeros(count)
    np.add.at(weights, groups.input, 0.5)
    np.add.at(weights, groups.output, 0.5)
    if instance.input_norm is Norm.L2:
        weights[groups.input] = 0.5
    if instance.output is OutputNorm.L2:
        weights[groups.output] = 0.5
    return weights


def program(forms: Forms, groups: Groups, weights: Array) -> SparseSdp:
    """The dual form of forms with lower slopes 0 (`shifted_forms`) and given variables."""
    entries = [*_diagonal_entries(forms, groups), *_hidden_entries(forms, groups)]
    constraints = _collect(entries)
    outputs = [
        (np.zeros(block.size, dtype=np.int64), forms.size + row, forms.block(s).start + col, block.ravel())
        for s, block in forms.output.items()
        for row, col in [(g.ravel() for g in np.indices(block.shape))]
    ]
    signed = np.zeros(len(weights), dtype=bool)
    signed[groups.hidden_variables] = True
    size = forms.size + forms.rows
    return SparseSdp(Form.DUAL, size, weights, signed, _collect(outputs), constraints, groups)


_Entries = tuple[Index, Index, Index, Array]


def _diagonal_entries(forms: Forms, groups: Groups) -> list[_Entries]:
    """tau and sigma once, lambda twice on the diagonal."""
    variables = np.concatenate([groups.input, *groups.hidden, groups.output])
    positions = np.arange(len(variables))
    values = np.full(len(variables), 2.0)
    values[: len(groups.input)] = values[forms.size :] = 1.0
    return [(variables, positions, positions, values)]


def _hidden_entries(forms: Forms, groups: Groups) -> list[_Entries]:
    r"""The part :math:`-(\beta_i - \alpha_i)(e_i V_i + V_i^T e_i^T)` of each neuron, lower triangle."""
    entries = []
    for (l, s), block in forms.hidden.items():
        row, col = (g.ravel() for g in np.indices(block.shape))
        values = (-forms.upper[l - 1][:, None] * block).ravel()
        entries.append((groups.hidden[l - 1][row], forms.block(l).start + row, forms.block(s).start + col, values))
    return entries


def _collect(entries: list[_Entries]) -> SparseMatrices:
    """Join, drop zeros, sort by matrix, row and column. Entries meet at most once: each has its own row and column."""
    if not entries:
        empty = np.zeros(0, dtype=np.int64)
        return SparseMatrices(empty, empty, empty, np.zeros(0))
    index, rows, cols, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    present = values != 0
    index, rows, cols, values = index[present], rows[present], cols[present], values[present]
    order = np.lexsort((cols, rows, index))
    return SparseMatrices(index[order], rows[order], cols[order], values[order])


def is_constant(forms: Forms) -> bool:
    """Whether the output rows do not depend on the input at all; the bound is 0 then."""
    return not any((block != 0).any() for block in forms.output.values())


def standard_form(instance: SdpInstance, form: Form | str = Form.DUAL) -> SparseSdp:
    """The instance's program in one of its two forms; its optimal value is the bound.

    Raises:
        SpecificationError: unknown form, or the output does not depend on the input (the bound is 0 then).
    """
    chosen = Form.parse(form)
    if is_constant(instance.forms):
        raise SpecificationError(
            "standard form: the output rows do not depend on the input, so the bound is 0 and there is no program; "
            "allowed are rows that do. Check C, the input scale and dead neurons."
        )
    groups = variable_groups(instance)
    dual = program(shifted_forms(instance.forms), groups, objective_weights(instance, groups))
    if chosen is Form.DUAL:
        return dual
    # X = 2 Y is the Gram matrix of unit vectors: <C, Y> = <C / 2, X>, <A, Y> = b  <=>  <A, X> = 2 b (both exact)
    halved = replace(dual.objective, values=0.5 * dual.objective.values)
    return replace(dual, form=chosen, rhs=2.0 * dual.rhs, objective=halved, multiplier_factor=2.0)
