r"""What is to be verified: boxes of inputs and, for each, polytopes of outputs that must not be reached.

Place in the data flow: level 2. ``VNN-LIB text -> Specification -> proofs and searches``. Knows numpy only.

A specification is a disjunction of cases. It is **violated** (VNN-LIB's ``sat``) when for one case there are

.. math:: x \in [l, u], \qquad y = f(x), \qquad A y \le b \text{ for one of its polytopes } (A, b),

and it **holds** (``unsat``) when there is no such case. Both numbers of a decimal text are kept: rounded outward for
proofs, which may only cover more, and inward for searches, which may only find less.

**Worked example.** ``X_0 in [0.1, 0.3]``, unsafe when ``Y_0 <= Y_1`` or ``Y_0 <= 2``, with two outputs: one `Case`
whose box has the doubles next to 0.1 below and next to 0.3 above, and two polytopes, ``A = [[1, -1]], b = [0]`` and
``A = [[1, 0]], b = [2]``. A proof shows for each polytope a row with :math:`A_i y > b_i` on the whole box.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.rounding import Array, gamma


@dataclass(frozen=True)
class InputBox:
    r"""Inputs :math:`l \le x \le u`, all (n_in,) float64, flat in C order.

    Args:
        lower: :math:`l` rounded down.
        upper: :math:`u` rounded up.
        inner_lower: :math:`l` rounded up, the smallest double of the box; one more where :math:`l` itself is excluded.
        inner_upper: :math:`u` rounded down, likewise. Where no double lies inside (an input fixed at a decimal that is
            none), both inner ends are the double nearest to a number inside, mostly :math:`l`; that number lies between
            `lower` and `upper`.

    Raises:
        SpecificationError: shapes differ, a number is not finite, or an end is on the wrong side of another.
    """

    lower: Array
    upper: Array
    inner_lower: Array
    inner_upper: Array

    def __post_init__(self) -> None:
        ends = (self.lower, self.inner_lower, self.inner_upper, self.upper)
        shapes = {end.shape for end in ends}
        if len(shapes) != 1 or self.lower.ndim != 1 or not all(bool(np.isfinite(end).all()) for end in ends):
            raise SpecificationError(
                f"input box: got ends of shapes {sorted(shapes)}, or numbers that are not finite; allowed are four "
                "finite vectors of one length. Give every input a lower and an upper end."
            )
        for low, high in itertools.pairwise(ends):
            if bool((low > high).any()):
                first = int((low > high).argmax())
                raise SpecificationError(
                    f"input box: input {first} has the ends {float(self.lower[first])!r} and "
                    f"{float(self.upper[first])!r}; allowed is lower <= upper. Exchange them."
                )

    @classmethod
    def of(cls, lower: Array, upper: Array) -> InputBox:
        """A box whose ends are doubles."""
        return cls(lower, upper, lower, upper)

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.lower)


@dataclass(frozen=True)
class Polytope:
    r"""Outputs :math:`A y \le b`, a conjunction.

    Args:
        matrix: A, (m, n_out) float64, exact.
        bound: b, (m,), rounded up.
        inner_bound: b rounded down.
        strict: (m,) bool, rows that say ``<``. A proof covers the closed polytope; a witness has to be inside.

    Raises:
        SpecificationError: shapes do not fit, or a number is not finite.
    """

    matrix: Array
    bound: Array
    inner_bound: Array
    strict: NDArray[np.bool_]

    def __post_init__(self) -> None:
        numbers = (self.matrix, self.bound, self.inner_bound)
        fit = self.matrix.ndim == 2 and all(
            v.shape == self.matrix.shape[:1] for v in (self.bound, self.inner_bound, self.strict)
        )
        if not fit or not all(bool(np.isfinite(v).all()) for v in numbers):
            raise SpecificationError(
                f"polytope: got a matrix {self.matrix.shape} with bounds {self.bound.shape}, or numbers that are not "
                "finite; allowed are (m, n_out) and (m,). Give each row one bound."
            )

    @classmethod
    def of(cls, matrix: Array, bound: Array) -> Polytope:
        """A closed polytope whose numbers are doubles."""
        return cls(matrix, bound, bound, np.zeros(len(bound), dtype=bool))


@dataclass(frozen=True)
class Case:
    """One box with the union of its unsafe polytopes."""

    box: InputBox
    unsafe: tuple[Polytope, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or output as a text declares it: element type such as "Real" or "float32"; () is a scalar."""

    name: str
    element_type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def element_name(self, index: int) -> str:
        """Name of an element by its place in C order."""
        if not self.shape:
            return self.name
        return f"{self.name}[{','.join(str(int(i)) for i in np.unravel_index(index, self.shape))}]"


@dataclass(frozen=True)
class Specification:
    """A disjunction of cases, see the module's docstring.

    Args:
        inputs: number of inputs, n_in.
        outputs: number of outputs, n_out.
        cases: at least none; without any the specification holds.
        version: of VNN-LIB, "1.0" or "2.0".
        network: name that a version 2.0 text declares; None for 1.0.
        tensors: input and output that a version 2.0 text declares; None for 1.0.

    Raises:
        SpecificationError: a case or a tensor of other sizes.
    """

    inputs: int
    outputs: int
    cases: tuple[Case, ...]
    version: str = "1.0"
    network: str | None = None
    tensors: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.tensors is not None and tuple(t.size for t in self.tensors) != (self.inputs, self.outputs):
            shapes = [list(tensor.shape) for tensor in self.tensors]
            raise SpecificationError(
                f"specification: got tensors of the shapes {shapes} for {self.inputs} inputs and {self.outputs} "
                "outputs; allowed are shapes with as many elements. Correct them."
            )
        for number, case in enumerate(self.cases):
            widths = {p.matrix.shape[1] for p in case.unsafe} | {self.outputs}
            if case.box.size != self.inputs or widths != {self.outputs}:
                raise SpecificationError(
                    f"specification: case {number} has {case.box.size} inputs and polytopes over {sorted(widths)} "
                    f"outputs; allowed are {self.inputs} and {self.outputs}. Declare the variables that are used."
                )


def violates(specification: Specification, inputs: Array, outputs: Array) -> bool:
    r"""Whether a point is in the box of a case, and its outputs in one of that case's polytopes.

    Inner ends and bounds are used, and each row is compared exactly: :math:`A_i y \le b_i` in rational arithmetic, with
    < where the row is strict. What is not finite violates nothing. Whether the outputs are those of the network is
    not asked here.

    Args:
        specification: the cases.
        inputs: x, (n_in,) float64.
        outputs: y, (n_out,) float64.

    Raises:
        SpecificationError: shapes do not fit.
    """
    if inputs.shape != (specification.inputs,) or outputs.shape != (specification.outputs,):
        raise SpecificationError(
            f"point: got {inputs.shape} inputs and {outputs.shape} outputs; allowed are ({specification.inputs},) and "
            f"({specification.outputs},). Flatten them."
        )
    if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
        return False
    return any(
        bool(((case.box.inner_lower <= inputs) & (inputs <= case.box.inner_upper)).all())
        and any(contains(polytope, outputs) for polytope in case.unsafe)
        for case in specification.cases
    )


def contains(polytope: Polytope, outputs: Array) -> bool:
    """Whether outputs (n_out,) float64 are in a polytope: each row in rational arithmetic, with its inner bound."""
    # rows that fail by more than any rounding error need no rational numbers; NaN after an overflow excludes nothing
    with np.errstate(over="ignore", invalid="ignore"):
        error = 2 * gamma(len(outputs) + 2) * (np.abs(polytope.matrix) @ np.abs(outputs) + np.abs(polytope.inner_bound))
        excess = polytope.matrix @ outputs - polytope.inner_bound
        if bool((excess > error + np.finfo(np.float64).tiny * (len(outputs) + 2)).any()):
            return False
    return contains_exactly(polytope, [Fraction(float(value)) for value in outputs])


def contains_exactly(polytope: Polytope, outputs: Sequence[Fraction]) -> bool:
    """Whether rational outputs, n_out of them, are in a polytope with its inner bounds."""
    for row, bound, strict in zip(polytope.matrix, polytope.inner_bound, polytope.strict, strict=True):
        value = sum((Fraction(float(row[j])) * outputs[j] for j in row.nonzero()[0]), Fraction(0))
        if value > Fraction(float(bound)) or (strict and value == Fraction(float(bound))):
            return False
    return True
