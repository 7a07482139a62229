r"""The formal Lipschitz constant by enumeration.

Place in the data flow: level 6, an oracle for small networks: exact up to float64 rounding, not rounded outward.

Why the ends of the slope intervals suffice. For fixed input direction w and output dual u the number
:math:`u^T C J(S) w` is affine in the slope of each neuron when all others are held (a path through the graph meets a
neuron at most once), so over the box of slopes its maximum is attained at a vertex: move one coordinate after the other
to the better end. The suprema over w, u and S may be taken in any order, hence

.. math:: \max_{S \in [\alpha, \beta]} \|C J(S)\|_{in \to out}
    = \max_{S_i \in \{\alpha_i, \beta_i\}} \|C J(S)\|_{in \to out} .

The operator norms, each exact: one row: dual norm of the gradient; l_2 to l_2: spectral norm; output l_1: maximum over
sign vectors u of the row :math:`u^T C J` (half of them, by symmetry); l_inf to l_2: maximum over sign vectors w of
:math:`\|C J w\|_2`, a convex function of w. Sign vectors count against the limit like neurons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.forms import Forms
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm, OutputNorm

# Numbers held at the same time for one batch of patterns.
_BATCH_NUMBERS = 4_000_000


def brute_force(instance: SdpInstance, max_neurons: int = 20) -> float:
    r"""The exact maximum of :math:`\|C J(S)\|_{in \to out}` over all slope patterns.

    Args:
        instance: any program with few free neurons.
        max_neurons: limit on free neurons plus sign bits (m - 1 for output l_1, inputs - 1 for l_inf to l_2).

    Raises:
        SpecificationError: there is more to enumerate than `max_neurons` allows.
    """
    forms = instance.forms
    neurons = forms.size - len(forms.kept[0])
    signs = _sign_bits(instance)
    if neurons + signs > max_neurons:
        raise SpecificationError(
            f"brute_force: got {neurons} hidden units with a free slope and {signs} signs to enumerate; allowed are "
            f"{max_neurons} in all (max_neurons). Use the semidefinite bound for networks of this size."
        )
    if len(forms.kept[0]) == 0:
        return 0.0
    vectors = _sign_vectors(signs)
    widest = max(len(k) for k in forms.kept) * forms.rows + len(vectors) * (forms.rows + 1)
    batch = max(1, _BATCH_NUMBERS // widest)
    best = 0.0
    for first in range(0, 2**neurons, batch):
        patterns = _patterns(forms, np.arange(first, min(first + batch, 2**neurons)))
        best = max(best, float(_operator_norms(instance, _jacobians(forms, patterns), vectors).max()))
    return best


def _sign_bits(instance: SdpInstance) -> int:
    if instance.output is OutputNorm.L1:
        return instance.rows.shape[0] - 1
    if instance.output is OutputNorm.L2 and instance.input_norm is Norm.LINF:
        return max(0, len(instance.forms.kept[0]) - 1)
    return 0


def _sign_vectors(bits: int) -> Array:
    """All sign vectors of length bits + 1 whose first entry is 1."""
    numbers = np.arange(2**bits)[:, None] >> np.arange(bits)[None, :] & 1
    return np.concatenate([np.ones((2**bits, 1)), 1.0 - 2.0 * numbers], axis=1)


def _patterns(forms: Forms, numbers: NDArray[np.int64]) -> list[Array]:
    """Slopes of every block for pattern numbers (B,): bit i of a number chooses the end of neuron i."""
    result = []
    first = 0
    for lower, upper in zip(forms.lower, forms.upper, strict=True):
        bits = numbers[:, None] >> np.arange(first, first + len(lower))[None, :] & 1
        result.append(np.where(bits == 1, upper, lower))
        first += len(lower)
    return result


def _jacobians(forms: Forms, patterns: list[Array]) -> Array:
    r"""C J(S) for every pattern, (B, m, inputs), by adjoints :math:`\bar z_s = O_s + \sum_l \bar z_l S_l V_{l,s}`."""
    count = patterns[0].shape[0] if patterns else 1
    sizes = [len(k) for k in forms.kept]
    adjoints = [np.zeros((count, forms.rows, n)) for n in sizes]
    for s, block in forms.output.items():
        adjoints[s] += block
    for l in range(len(sizes) - 1, 0, -1):
        back = adjoints[l] * patterns[l - 1][:, None, :]
        for s in range(l):
            if (l, s) in forms.hidden:
                adjoints[s] += back @ forms.hidden[l, s]
    return adjoints[0]


def _operator_norms(instance: SdpInstance, jacobians: Array, vectors: Array) -> Array:
    """Norms (B,) of the matrices C J."""
    box = instance.input_norm is Norm.LINF
    if instance.output is OutputNorm.L2 and box:
        moved = jacobians @ vectors.T
        return np.asarray(np.sqrt((moved * moved).sum(axis=1)).max(axis=1))
    if instance.output is OutputNorm.L2:
        return np.asarray(np.linalg.norm(jacobians, ord=2, axis=(1, 2)))
    best = np.zeros(len(jacobians))
    for u in vectors if instance.output is OutputNorm.L1 else np.ones((1, 1)):
        row = np.einsum("m,bmn->bn", u, jacobians)
        best = np.maximum(best, np.abs(row).sum(axis=1) if box else np.sqrt((row * row).sum(axis=1)))
    return best
