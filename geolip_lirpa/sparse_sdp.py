r"""A pair of semidefinite programs as sparse matrices, for general purpose solvers and for file export.

Place in the data flow: level 5, ``SdpInstance -> SparseSdp``, the result of `standard_form`; read by
`solvers.cvxpy_backend` and `export`.

With symmetric matrices :math:`A_i`, C, a vector b and a set S of indices the pair is

.. math::
    & \min_x\; b^T x \quad\text{s.t.}\quad \textstyle\sum_i x_i A_i - C \succeq 0, \quad x_i \ge 0 \;(i \in S), \\
    & \max_X\; \langle C, X\rangle \quad\text{s.t.}\quad \langle A_i, X\rangle = b_i \;(i \notin S),\quad
    \langle A_i, X\rangle \le b_i \;(i \in S), \quad X \succeq 0 .

The variables x and the rows of X both come in the order input, hidden, output.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.forms import Forms
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.types import Norm, OutputNorm

Index = NDArray[np.int64]


class Form(enum.Enum):
    """Which program bounds an instance; both have the same value.

    `DUAL`: the linear matrix inequality of the multipliers, for every network (`standard_form`).
    `NATURAL`: the Gram matrix of unit vectors, like max-cut, for one row over one layer of activations
    (`natural_form`).
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
    """Which variable of the program belongs to which constraint of the instance.

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

    @property
    def diagonal(self) -> Index:
        """The variable of every row of X."""
        return np.concatenate([self.input, *self.hidden, self.output])


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
class SparseSdp(ABC):
    r"""A pair of semidefinite programs, see the module's docstring.

    Args:
        size: rows of X.
        rhs: b, (p,).
        signed: the set S, (p,) bool.
        objective: C, one matrix of index 0.
        constraints: the matrices :math:`A_i`.
        groups: meaning of the p variables.
    """

    form: ClassVar[Form]
    size: int
    rhs: Array
    signed: NDArray[np.bool_]
    objective: SparseMatrices
    constraints: SparseMatrices
    groups: Groups

    @property
    def blocks(self) -> tuple[int, ...]:
        """Block sizes: the matrix, then minus the number of sign constraints (a diagonal block) if there are any."""
        count = int(self.signed.sum())
        return (self.size, -count) if count else (self.size,)

    @abstractmethod
    def multipliers(self, x: Array, instance: SdpInstance) -> Multipliers:
        """The multipliers of the instance that a solution x, (p,), stands for; never negative."""


def arrange(values: Array, groups: Groups, instance: SdpInstance) -> Multipliers:
    """Spread multipliers, one for each variable, over full-length arrays; zeros where something left the program."""
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
    r"""The bound in terms of multipliers, :math:`\tfrac12(\sum_j \tau_j + \sum_k \sigma_k)`; a ball counts once."""
    count = int(groups.output[-1]) + 1
    weights = np.zeros(count)
    np.add.at(weights, groups.input, 0.5)
    np.add.at(weights, groups.output, 0.5)
    if instance.input_norm is Norm.L2:
        weights[groups.input] = 0.5
    if instance.output is OutputNorm.L2:
        weights[groups.output] = 0.5
    return weights


Entries = tuple[Index, Index, Index, Array]


def dense_entries(block: Array, top: int, left: int, variables: Index | None = None) -> Entries:
    """Entries of a dense block at a place below the diagonal; all of matrix 0, or each row of its own matrix."""
    row, col = (g.ravel() for g in np.indices(block.shape))
    index = np.zeros(block.size, dtype=np.int64) if variables is None else variables[row]
    return index, top + row, left + col, block.ravel()


def collect(entries: list[Entries]) -> SparseMatrices:
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
