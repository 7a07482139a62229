r"""The natural form: a program like max-cut, for one row over one layer of activations.

Place in the data flow: level 5, ``SdpInstance -> SparseSdp``, called by `standard_form`. Nothing is solved or proven.

**When.** One output row, and no neuron that stays in the program reads another one, so that :math:`dv = V w` and
:math:`O y = c_0 w + c\,dz` with vectors :math:`c_0, c`. With :math:`m = (\alpha + \beta)/2`,
:math:`r = (\beta - \alpha)/2` a slope in :math:`[\alpha_i, \beta_i]` is :math:`m_i + r_i t_i` with
:math:`|t_i| \le 1`, and the formal constant is the largest value of :math:`g w + t^T K w`,

.. math:: g = c_0 + c\,\mathrm{diag}(m) V, \qquad K = \mathrm{diag}(|c_i| r_i) V .

**The pair.** A sign u makes the objective bilinear, and X is the Gram matrix of vectors :math:`w_j, t_i, u` in the
place of numbers:

.. math::
    \max_X\; \langle C, X\rangle = \sum_j g_j X_{u w_j} + \sum_{ij} K_{ij} X_{t_i w_j} \quad\text{s.t.}\quad
    X_{uu} = X_{t_i t_i} = X_{w_j w_j} = 1,\; X \succeq 0;

in l_2 the last condition is :math:`\sum_j X_{w_j w_j} = 1`, with tied inputs :math:`\sum_j X_{w_j w_j} = n`. The dual
is :math:`\min b^T x` with :math:`\mathrm{diag}(x) \succeq C`, which has :math:`x \ge 0` without asking, so the
equations may as well be inequalities. Every constraint is on the diagonal of X, and C has no entries but g and K.

**The value is that of the dual form.** Let :math:`(q, \tau, y_u) = 2x`; the matrix inequality says that

.. math:: y_u u^2 + \sum_i q_i t_i^2 + \sum_j \tau_j w_j^2 - 2 u\,g w - 2 \sum_i K_i w\, t_i \ge 0 .

Minimised over t this is :math:`y_u u^2 - 2 u\,g w + \sum \tau_j w_j^2 - \sum_i (K_i w)^2/q_i \ge 0`. The matrix M of
`sdp`, in the coordinates :math:`d_i = dz_i - m_i dv_i` where :math:`(a_i y)(b_i y) = r_i^2 dv_i^2 - d_i^2`, is the form

.. math:: \sigma u^2 + \sum_j \tau_j w_j^2 - 2 \sum_i \lambda_i (r_i^2 (V_i w)^2 - d_i^2) - 2 u\,(g w + c\,d) ,

and minimised over d: :math:`(\sigma - \sum_i c_i^2/(2\lambda_i)) u^2 - 2 u\,g w + \sum \tau_j w_j^2 - \sum_i 2\lambda_i
r_i^2 (V_i w)^2`. The two are the same for

.. math:: \lambda_i = \frac{c_i^2}{2 q_i}, \qquad \sigma = y_u + \sum_i q_i,

so feasible points correspond and :math:`\tfrac12(\sum\tau + \sigma)` is the same number. Tied layers have one
:math:`\lambda = |c|^2/(2q)` for the layer: K has :math:`|c|_2` in the place of :math:`|c_i|`, and the condition is
:math:`\sum_i X_{t_i t_i} = 1`, with one q.

References: GeoLIP, arXiv 2203.01212 (natural and dual relaxation of two layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.forms import Forms
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.sparse_sdp import (
    Form,
    Groups,
    SparseSdp,
    arrange,
    collect,
    dense_entries,
    objective_weights,
    variable_groups,
)

# A q below this share of all x comes from a solver that stopped early. Raising it keeps diag(x) - C semidefinite.
_SMALLEST_SHARE = 1e-12


@dataclass(frozen=True)
class NaturalSdp(SparseSdp):
    """The natural form: X is the Gram matrix of unit vectors.

    Args:
        strengths: per activation, :math:`|c_i|` of its free neurons (:math:`|c|_2` in a tied layer).
    """

    form: ClassVar[Form] = Form.NATURAL
    strengths: tuple[Array, ...]

    def multipliers(self, x: Array, instance: SdpInstance) -> Multipliers:
        r""":math:`\tau, \lambda_i = c_i^2/(2 q_i)` and :math:`\sigma = y_u + \sum q` of a solution x."""
        values = 2.0 * np.maximum(np.asarray(x, dtype=np.float64), 0.0)
        used = self.groups.hidden_variables
        values[used] = np.maximum(values[used], _SMALLEST_SHARE * float(values.sum()) or 1.0)
        values[self.groups.output] += values[used].sum()
        for variables, strength in zip(self.groups.hidden, self.strengths, strict=True):
            values[variables] = strength**2 / (2.0 * values[variables])
        return arrange(values, self.groups, instance)


def natural_form(instance: SdpInstance) -> NaturalSdp:
    """The natural form of an instance whose output depends on its input.

    Raises:
        SpecificationError: the instance has none, see `has_natural_form`.
    """
    if not has_natural_form(instance.forms):
        rows = instance.forms.rows
        found = f"{rows} output rows together" if rows > 1 else "activations that read other activations"
        raise SpecificationError(
            f"form 'natural': got a program with {found}; allowed are programs of one output row over one layer of "
            "activations. Use form='dual' (--form dual)."
        )
    groups = variable_groups(instance)
    return natural_program(instance.forms, groups, limits(instance, groups), instance.tie_layers)


def has_natural_form(forms: Forms) -> bool:
    """Whether there is one row, and no neuron of the program reads another."""
    return forms.rows == 1 and not any(s > 0 and (block != 0).any() for (_, s), block in forms.hidden.items())


def limits(instance: SdpInstance, groups: Groups) -> Array:
    """b: the squared lengths that the vectors of each variable have together."""
    weights = 2.0 * objective_weights(instance, groups)
    weights[groups.hidden_variables] = 1.0
    return weights


def bilinear(forms: Forms, tied: bool) -> tuple[Array, dict[int, Array], tuple[Array, ...]]:
    """g, (n,); K by activation; and the strengths that K contains."""
    g = forms.output[0][0] if 0 in forms.output else np.zeros(len(forms.kept[0]))
    blocks: dict[int, Array] = {}
    strengths = []
    for l in range(1, len(forms.kept)):
        c = forms.output[l][0] if l in forms.output else np.zeros(len(forms.kept[l]))
        strengths.append(np.full_like(c, np.linalg.norm(c)) if tied else np.abs(c))
        if (l, 0) in forms.hidden:
            alpha, beta = forms.lower[l - 1], forms.upper[l - 1]
            # g = c_0 + c diag(m) V,  K = diag(|c| r) V
            g = g + (c * (0.5 * (alpha + beta))) @ forms.hidden[l, 0]
            blocks[l] = (strengths[-1] * (0.5 * (beta - alpha)))[:, None] * forms.hidden[l, 0]
    return g, blocks, tuple(strengths)


def natural_program(forms: Forms, groups: Groups, rhs: Array, tied: bool) -> NaturalSdp:
    """The natural form of forms that have one (`has_natural_form`), with given variables and limits."""
    g, blocks, strengths = bilinear(forms, tied)
    # <C, X> counts an entry off the diagonal twice
    entries = [dense_entries(0.5 * block, forms.block(l).start, 0) for l, block in blocks.items()]
    objective = collect([*entries, dense_entries(0.5 * g[None], forms.size, 0)])
    positions = np.arange(forms.size + 1)
    constraints = collect([(groups.diagonal, positions, positions, np.ones(len(positions)))])
    unsigned = np.zeros(len(rhs), dtype=bool)
    return NaturalSdp(forms.size + 1, rhs, unsigned, objective, constraints, groups, strengths)
