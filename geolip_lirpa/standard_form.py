r"""The semidefinite program of an instance in the form asked for; here the dual form, for every network.

Place in the data flow: level 5, ``SdpInstance -> SparseSdp``; read by `solvers.cvxpy_backend` and `export`. Nothing is
solved or proven here. `sparse_sdp` says what a pair of programs is, `natural_form` builds the other form.

**Dual form.** The variables x are the multipliers themselves, :math:`\sum x_i A_i - C` is the matrix M of `sdp`, X is
half the Gram matrix of the variables ``(w, t_1, .., t_L, u)``, and S are the hidden multipliers. The signs of the
others follow: with :math:`M \succeq 0` the diagonal of M gives :math:`\sigma \ge 0`, and for the vector p with
:math:`p_w = e_j` and all slopes in the middle of their intervals :math:`0 \le p^T M p = \tau_j - 2 \sum_i \lambda_i
(a_i p)(b_i p) \le \tau_j`, as both factors have the same sign there.

**Coordinates.** `sdp.Forms` has :math:`dz_i` as variables. Here :math:`t_i = dz_i - \alpha_i dv_i`, a congruence, after
which :math:`a_i = e_i` and :math:`b_i = (\beta_i - \alpha_i) V_i - e_i`, so that no matrix has a dense block
:math:`V^T V`. For ReLU over all inputs :math:`\alpha = 0` and t = dz. The multipliers do not change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from geolip_lirpa.blocks import Block
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.forms import Forms
from geolip_lirpa.natural_form import natural_form
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.sparse_sdp import (
    Entries,
    Form,
    Groups,
    SparseSdp,
    arrange,
    collect,
    dense_entries,
    is_constant,
    objective_weights,
    variable_groups,
)


def standard_form(instance: SdpInstance, form: Form | str = Form.DUAL) -> SparseSdp:
    """The instance's program in one of its two forms; its optimal value is the bound.

    Raises:
        SpecificationError: unknown form, an instance without a natural form, or an output that does not depend on the
            input (the bound is 0 then).
    """
    chosen = Form.parse(form)
    if is_constant(instance.forms):
        raise SpecificationError(
            "standard form: the output rows do not depend on the input, so the bound is 0 and there is no program; "
            "allowed are rows that do. Check C, the input scale and dead neurons."
        )
    return natural_form(instance) if chosen is Form.NATURAL else dual_form(instance)


@dataclass(frozen=True)
class DualSdp(SparseSdp):
    """The dual form: x are the multipliers."""

    form: ClassVar[Form] = Form.DUAL

    def multipliers(self, x: Array, instance: SdpInstance) -> Multipliers:
        """Arrange a solution; negative entries become 0."""
        return arrange(np.maximum(np.asarray(x, dtype=np.float64), 0.0), self.groups, instance)


def dual_form(instance: SdpInstance) -> DualSdp:
    """The dual form of an instance whose output depends on its input."""
    groups = variable_groups(instance)
    return dual_program(shifted_forms(instance.forms), groups, objective_weights(instance, groups))


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
    blocks = dict[tuple[int, int], Block](hidden)
    return replace(forms, blocks=blocks, block_errors={}, output=output, output_error={}, lower=lower, upper=upper)


# --- building the matrices ------------------------------------------------------------------------------------------


def dual_program(forms: Forms, groups: Groups, weights: Array) -> DualSdp:
    """The dual form of forms with lower slopes 0 (`shifted_forms`) and given variables."""
    constraints = collect([_diagonal_entries(forms, groups), *_hidden_entries(forms, groups)])
    outputs = [dense_entries(block, forms.size, forms.block(s).start) for s, block in forms.output.items()]
    signed = np.zeros(len(weights), dtype=bool)
    signed[groups.hidden_variables] = True
    return DualSdp(forms.size + forms.rows, weights, signed, collect(outputs), constraints, groups)


def _diagonal_entries(forms: Forms, groups: Groups) -> Entries:
    """tau and sigma once, lambda twice on the diagonal."""
    variables = groups.diagonal
    positions = np.arange(len(variables))
    values = np.full(len(variables), 2.0)
    values[: len(groups.input)] = values[forms.size :] = 1.0
    return variables, positions, positions, values


def _hidden_entries(forms: Forms, groups: Groups) -> list[Entries]:
    r"""The part :math:`-(\beta_i - \alpha_i)(e_i V_i + V_i^T e_i^T)` of each neuron, lower triangle."""
    return [
        dense_entries(
            -forms.upper[l - 1][:, None] * block, forms.block(l).start, forms.block(s).start, groups.hidden[l - 1]
        )
        for (l, s), block in forms.hidden.items()
    ]
