r"""The project's own interior point solver of Lipschitz programs.

Place in the data flow: level 7, ``SdpInstance -> multipliers``; untrusted. Needs numpy and scipy only.

`conditioning` scales the program, this module states it as a `ProductSdp`, `interior_start` finds a start, and
`path_following` solves it. In the coordinates :math:`t_i = dz_i - \alpha_i dv_i` every matrix is one product:
:math:`a = e_i, b = (\beta_i - \alpha_i) V_i - e_i` for a neuron, :math:`a = e_j, b = -\tfrac12 e_j` for the
multiplier of an input or an output. One iteration costs as much as a dozen products of dense matrices with as many rows
as there are inputs, neurons and outputs; four to fifteen iterations are needed, and the memory of about thirty such
matrices. Blocks that are diagonal, like that of the inputs, save little: X is dense there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse

from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.base import SolverResult, Status, constant_multipliers
from geolip_lirpa.solvers.conditioning import ConditionedDual, condition_dual
from geolip_lirpa.solvers.interior_start import interior_start
from geolip_lirpa.solvers.path_following import PathFollowing
from geolip_lirpa.solvers.product_sdp import ProductSdp
from geolip_lirpa.sparse_sdp import is_constant


@dataclass(frozen=True)
class InteriorPointSolver:
    """Primal-dual interior point method on dense matrices, one instance after the other.

    Args:
        tolerance: relative gap of the scaled program.
        max_iterations: for each instance.
        power_iterations: for the start, at most.
    """

    name: ClassVar[str] = "interior-point"
    tolerance: float = 5e-9
    max_iterations: int = 100
    power_iterations: int = 500

    def solve(
        self, instances: Sequence[SdpInstance], starts: Sequence[Multipliers] | None = None
    ) -> list[SolverResult]:
        """Solve instances in order.

        Args:
            instances: any.
            starts: multipliers to start from, one for each instance, for example the low-rank solver's.

        Raises:
            SolverError: numbers overflow.
        """
        given = [None] * len(instances) if starts is None else starts
        # overflow shows as NaN, which no factorisation accepts
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return [self._solve_one(i, start) for i, start in zip(instances, given, strict=True)]

    def _solve_one(self, instance: SdpInstance, multipliers: Multipliers | None) -> SolverResult:
        begin = time.perf_counter()
        if is_constant(instance.forms):
            seconds = time.perf_counter() - begin
            return SolverResult(constant_multipliers(instance), 0.0, Status.CONVERGED, 0, seconds, self.name)
        program = condition_dual(instance)
        sdp = product_sdp(program)
        theta = None if multipliers is None else program.variables(multipliers)
        start = interior_start(program, sdp, theta, self.power_iterations)
        path = PathFollowing(self.tolerance, self.max_iterations).solve(sdp, start.theta, start.gram)
        found = program.multipliers(path.theta)
        value = program.feasible_value(path.gram)
        return SolverResult(found, value, path.status, path.iterations, time.perf_counter() - begin, self.name)


def product_sdp(program: ConditionedDual) -> ProductSdp:
    """A scaled program as products over ``(w, t, u)``."""
    forms, groups = program.forms, program.sdp.groups
    size = forms.size + forms.rows
    unit = sparse.csr_array(sparse.identity(size, format="csr"))
    hidden = np.arange(forms.block(0).stop, forms.size)
    others = np.concatenate([np.arange(forms.block(0).stop), np.arange(forms.size, size)])
    return ProductSdp(
        left=sparse.csr_array(sparse.vstack([unit[hidden], unit[others]], format="csr")),
        right=sparse.csr_array(sparse.vstack([_right_forms(program), -0.5 * unit[others]], format="csr")),
        variables=np.concatenate([*groups.hidden, groups.input, groups.output]),
        constant=_constant(program),
        weights=program.sdp.rhs,
        signed=program.sdp.signed,
    )


def _right_forms(program: ConditionedDual) -> sparse.csr_array:
    r""":math:`g_i V_i - e_i` of all neurons."""
    forms = program.forms
    first = forms.block(0).stop
    rows = np.zeros((forms.size - first, forms.size + forms.rows))
    for (l, s), block in forms.hidden.items():
        rows[forms.block(l).start - first : forms.block(l).stop - first, forms.block(s)] = (
            forms.upper[l - 1][:, None] * block
        )
    rows[:, first : forms.size] -= np.eye(forms.size - first)
    return sparse.csr_array(rows)


def _constant(program: ConditionedDual) -> Array:
    """The arrow: -O beside the output rows."""
    forms = program.forms
    constant = np.zeros((forms.size + forms.rows, forms.size + forms.rows))
    for s, block in forms.output.items():
        constant[forms.size :, forms.block(s)] = -block
    return constant + constant.T
