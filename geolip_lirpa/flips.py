r"""Single-neuron improvements of a slope pattern, with the best direction for every candidate.

Place in the data flow: level 5, a step of `patterns`. Let :math:`a = J^T C^T u` be the gradient of the current pattern
for a fixed output dual u. Changing the slope of neuron i by :math:`\delta_i` changes it by a rank-one term,

.. math:: a \mapsto a + \delta_i\, G_i\, \nabla v_i ,

:math:`G_i` the derivative by the neuron's increment and :math:`\nabla v_i` the gradient of its pre-activation. The dual
norms of all N candidates together cost one pass over the N x n0 matrix of the :math:`\nabla v_i`; the best one is taken
until none helps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.forms import Forms
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm

_PROGRESS = 1e-9
# Entries of the matrix of pre-activation gradients beyond which flips are not worth their time.
_LARGEST = 8_000_000


def improve_by_flips(instance: SdpInstance, slopes: list[Tensor], dual: Tensor, limit: int) -> list[Tensor]:
    """Flip slopes between the ends of their intervals while that raises the dual norm of the gradient.

    Args:
        instance: the program.
        slopes: per activation (N_l,), ends of the intervals.
        dual: (m,), the output dual u.
        limit: number of flips.

    Returns:
        The improved slopes; unchanged for networks that are too large.
    """
    inputs = int((instance.input_scale > 0).sum())
    if inputs * instance.network.hidden_size > _LARGEST or not slopes:
        return slopes
    forms = instance.forms
    pattern = [s.cpu().numpy()[kept].copy() for s, kept in zip(slopes, forms.kept[1:], strict=True)]
    weights = dual.cpu().numpy()
    for _ in range(limit):
        flip = _best_flip(forms, pattern, weights, instance.input_norm is Norm.LINF)
        if flip is None:
            break
        pattern[flip.layer][flip.neuron] = flip.slope
    result = [s.clone() for s in slopes]
    for s, kept, p in zip(result, forms.kept[1:], pattern, strict=True):
        s[torch.as_tensor(kept)] = torch.as_tensor(p).to(s)
    return result


@dataclass(frozen=True)
class _Flip:
    layer: int
    neuron: int
    slope: float


def _preactivation_gradient(forms: Forms, l: int, moved: list[Array]) -> Array:
    r""":math:`\nabla v_l = \sum_s V_{l,s} \nabla z_s`, (neurons, inputs); `moved` holds the :math:`\nabla z_s`."""
    total = np.zeros((len(forms.kept[l]), len(forms.kept[0])))
    for s in range(l):
        if (l, s) in forms.hidden:
            total += forms.hidden[l, s] if s == 0 else forms.hidden[l, s] @ moved[s]
    return total


def _adjoints(forms: Forms, pattern: list[Array], weights: Array) -> list[Array]:
    """Derivative of ``u^T O y`` by the increments of every block, block 0 included."""
    blocks = len(forms.kept)
    found = [weights @ forms.output[s] if s in forms.output else np.zeros(len(forms.kept[s])) for s in range(blocks)]
    for l in range(blocks - 1, 0, -1):
        back = pattern[l - 1] * found[l]
        for s in range(l):
            if (l, s) in forms.hidden:
                found[s] = found[s] + forms.hidden[l, s].T @ back
    return found


def _best_flip(forms: Forms, pattern: list[Array], weights: Array, box: bool) -> _Flip | None:
    adjoints = _adjoints(forms, pattern, weights)
    best, choice = float(_size(adjoints[0], box)) * (1 + _PROGRESS), None
    moved: list[Array] = [np.zeros((0, 0))]
    for l, slope in enumerate(pattern, start=1):
        gradient = _preactivation_gradient(forms, l, moved)
        moved.append(slope[:, None] * gradient)
        lower, upper = forms.lower[l - 1], forms.upper[l - 1]
        other = np.where(slope == lower, upper, lower)
        # a + delta_i G_i grad v_i, one row a neuron
        sizes = _size(adjoints[0] + ((other - slope) * adjoints[l])[:, None] * gradient, box)
        if sizes.size and sizes.max() > best:
            neuron = int(sizes.argmax())
            best, choice = float(sizes[neuron]), _Flip(l - 1, neuron, float(other[neuron]))
    return choice


def _size(gradient: Array, box: bool) -> Array:
    return np.asarray(np.abs(gradient).sum(-1) if box else np.sqrt((gradient * gradient).sum(-1)))
