r"""A well scaled copy of an instance's program for interior-point and splitting methods, and the way back.

Place in the data flow: level 7, used by `cvxpy_backend` and `interior_point`. Exact equivalences, then rounding errors
only:

* *Fewer inputs.* With a single input multiplier (l_2, or tied l_inf) the program only sees the inputs through the row
  space of the forms on them: :math:`w = Q w'` with orthonormal columns Q.
* *Unit of the value.* The objective is divided by an estimate s of the value, so that the optimum is near 1; then all
  variables are s times larger.
* *Units of neurons,* dual form only: :math:`t_i = d_i t_i'` with :math:`d_i` near the size of :math:`t_i` at the
  optimum, so that the Gram matrix has a diagonal near 1; then :math:`\lambda_i = \lambda_i' / d_i^2`. In the natural
  form it has one anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from geolip_lirpa.forms import Forms
from geolip_lirpa.natural_form import NaturalSdp, bilinear, limits, natural_form, natural_program
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers, SdpInstance, input_diagonal
from geolip_lirpa.sparse_sdp import Form, Groups, SparseSdp, arrange, objective_weights, variable_groups
from geolip_lirpa.standard_form import dual_program, replace_blocks, shifted_forms
from geolip_lirpa.types import Norm, OutputNorm


class ConditionedSdp(Protocol):
    """A scaled program with what is needed to interpret its solution."""

    @property
    def sdp(self) -> SparseSdp:
        """The scaled program."""

    def multipliers(self, x: Array) -> Multipliers:
        """Multipliers of the original instance from a solution of the scaled program; never negative."""

    def feasible_value(self, gram: Array) -> float:
        """Value of a feasible point of the instance near an approximate solution X, (size, size)."""


def condition(instance: SdpInstance, form: Form = Form.DUAL) -> ConditionedSdp:
    """Reduce and scale the program of an instance whose output depends on its input.

    Raises:
        SpecificationError: the instance has no natural form, and it was asked for.
    """
    return _natural(instance) if form is Form.NATURAL else condition_dual(instance)


# --- natural form ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConditionedNatural:
    """The natural form: the original program, and its scaled copy.

    Args:
        instance: the original.
        original: its program.
        reduced: forms over fewer inputs.
        sdp: the program of these, objective scaled.
        value_scale: the original value is this times the scaled one.
    """

    instance: SdpInstance
    original: NaturalSdp
    reduced: Forms
    sdp: NaturalSdp
    value_scale: float

    def multipliers(self, x: Array) -> Multipliers:
        """See `ConditionedSdp`."""
        return self.original.multipliers(self.value_scale * x, self.instance)

    def feasible_value(self, gram: Array) -> float:
        """See `ConditionedSdp`; the best vectors of neurons and output follow from those of the inputs."""
        return _reached(self.instance, self.reduced, _factor(gram)[self.reduced.block(0)])


def _natural(instance: SdpInstance) -> ConditionedNatural:
    original = natural_form(instance)
    forms, groups = _fewer_inputs(instance)
    program = natural_program(forms, groups, limits(instance, variable_groups(instance)), instance.tie_layers)
    value_scale = _reached(instance, forms, np.eye(len(forms.kept[0]))) or 1.0
    scaled = replace(program.objective, values=program.objective.values / value_scale)
    return ConditionedNatural(instance, original, forms, replace(program, objective=scaled), value_scale)


def _reached(instance: SdpInstance, forms: Forms, inputs: Array) -> float:
    r""":math:`|g W| + \sum_i |K_i W|` for the rows of W projected; a tied layer counts :math:`|K W|_F`."""
    points = _project_input(instance, inputs)
    g, blocks, _ = bilinear(forms, instance.tie_layers)
    lengths = [np.linalg.norm(block @ points, axis=None if instance.tie_layers else 1) for block in blocks.values()]
    return float(np.linalg.norm(g @ points) + sum(np.sum(length) for length in lengths))


# --- dual form ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConditionedDual:
    """The dual form in scaled variables.

    Args:
        instance: the original.
        forms: scaled and shifted forms, slopes ``[0, upper]``.
        sdp: the program of these forms.
        value_scale: the original value is this times the scaled one.
        units: per variable, the original multiplier is this times the scaled one, (p,).
    """

    instance: SdpInstance
    forms: Forms
    sdp: SparseSdp
    value_scale: float
    units: Array

    def multipliers(self, x: Array) -> Multipliers:
        """See `ConditionedSdp`; negative entries become 0."""
        groups = variable_groups(self.instance)
        return arrange(np.maximum(x, 0.0) * self.units, groups, self.instance)

    def variables(self, multipliers: Multipliers) -> Array:
        r"""A point x of the scaled program from multipliers of the instance, with :math:`\sum\tau = \sum\sigma`."""
        groups, kept = variable_groups(self.instance), self.instance.forms.kept
        parts = [input_diagonal(self.instance.forms, multipliers)]
        parts += [values[k] for values, k in zip(multipliers.hidden, kept[1:], strict=True)]
        # tied multipliers are means over their members
        index, values = groups.diagonal, np.concatenate([*parts, multipliers.output])
        x = np.bincount(index, values, len(self.units)) / np.maximum(np.bincount(index, minlength=len(self.units)), 1)
        x /= self.units
        inputs, outputs = np.unique(groups.input), np.unique(groups.output)
        budget, weight = self.sdp.rhs[inputs] @ x[inputs], self.sdp.rhs[outputs] @ x[outputs]
        # (tau, lambda) times r and sigma over r prove the same
        ratio = np.sqrt(weight / budget) if weight > 0 and budget > 0 else 1.0
        scale = np.full(len(x), ratio)
        scale[outputs] = 1.0 / ratio
        return x * scale

    @property
    def one_output(self) -> bool:
        """Whether the output rows share one vector of length one."""
        return self.instance.output is OutputNorm.L2

    def project_input(self, vectors: Array) -> Array:
        """Vectors of the inputs of length 1, or of the length that they have together."""
        return _project_input(self.instance, vectors)

    def feasible_value(self, gram: Array) -> float:
        r"""See `ConditionedSdp`; :math:`2X` is near the Gram matrix of vectors ``(w, t, u)``.

        The rows of its factor are projected, layer by layer, onto the unit ball and onto the balls
        :math:`|t_i - \tfrac g2 dv_i| \le \tfrac g2 |dv_i|` of the slope interval [0, g].
        """
        vectors = _factor(2.0 * gram)
        points = {0: _project_input(self.instance, vectors[self.forms.block(0)])}
        for l in range(1, len(self.forms.kept)):
            moved = _image({s: b for (row, s), b in self.forms.hidden.items() if row == l}, points)
            points[l] = self._project_hidden(vectors[self.forms.block(l)], moved, self.forms.upper[l - 1])
        rows = np.linalg.norm(_image(self.forms.output, points), axis=1)
        total = np.linalg.norm(rows) if self.instance.output is OutputNorm.L2 else rows.sum()
        return float(total) * self.value_scale

    def _project_hidden(self, vectors: Array, moved: Array, slope: Array) -> Array:
        center = 0.5 * slope[:, None] * moved
        offset = vectors - center
        if self.instance.tie_layers:
            # one multiplier: only the sum of the constraints holds, one ball for the layer
            radius, length = np.linalg.norm(center), np.linalg.norm(offset)
        else:
            radius = np.linalg.norm(center, axis=1, keepdims=True)
            length = np.linalg.norm(offset, axis=1, keepdims=True)
        return center + offset * np.minimum(1.0, radius / np.maximum(length, _TINY))


_TINY = 1e-150
_UNCANCELLED = 1e-2


def condition_dual(instance: SdpInstance) -> ConditionedDual:
    """The dual form of an instance whose output depends on its input, reduced and scaled."""
    groups = variable_groups(instance)
    weights = objective_weights(instance, groups)
    forms, reduced = _fewer_inputs(instance)
    scales, value_scale = _estimate(instance, forms)
    scaled = _rescale(forms, scales, value_scale)
    units = np.full(len(weights), value_scale)
    for variables, scale in zip(groups.hidden, scales[1:], strict=True):
        units[variables] = value_scale / scale**2
    return ConditionedDual(instance, scaled, dual_program(scaled, reduced, weights), value_scale, units)


# --- both -----------------------------------------------------------------------------------------------------------


def _project_input(instance: SdpInstance, vectors: Array) -> Array:
    """Vectors of the inputs of length 1, or of the length that they have together."""
    if instance.input_norm is Norm.L2:
        return vectors / max(float(np.linalg.norm(vectors)), _TINY)
    if instance.tie_input:
        radius = np.sqrt(len(instance.forms.kept[0]))
        return vectors * (radius / max(float(np.linalg.norm(vectors)), _TINY))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)


def _fewer_inputs(instance: SdpInstance) -> tuple[Forms, Groups]:
    """Shifted forms over as few inputs as the program sees, with the variables of its rows."""
    groups = variable_groups(instance)
    forms = shifted_forms(instance.forms)
    if len(np.unique(groups.input)) == 1:
        forms = _row_space(forms)
    return forms, replace(groups, input=groups.input[: len(forms.kept[0])])


def _row_space(forms: Forms) -> Forms:
    """Rotate the inputs into the row space of all forms on them, when that has fewer dimensions."""
    blocks = [block for (_, s), block in forms.hidden.items() if s == 0]
    blocks += [block for s, block in forms.output.items() if s == 0]
    stacked = np.vstack([*blocks, np.zeros((1, len(forms.kept[0])))])
    if stacked.shape[0] >= stacked.shape[1]:
        return forms
    basis, _ = np.linalg.qr(stacked.T)
    hidden = {(l, s): (b @ basis if s == 0 else b) for (l, s), b in forms.hidden.items()}
    output = {s: (b @ basis if s == 0 else b) for s, b in forms.output.items()}
    kept = (np.arange(basis.shape[1]), *forms.kept[1:])
    rotated = replace_blocks(forms, hidden, output)
    return Forms(kept, hidden, {}, output, {}, rotated.lower, rotated.upper, forms.rows)


def _estimate(instance: SdpInstance, forms: Forms) -> tuple[list[Array], float]:
    r"""Sizes of all t_i and of the value, from the linear network with slopes :math:`g/\sqrt2`.

    :math:`\tfrac g2 |dv + |dv| u| = \tfrac{g}{\sqrt2} |dv|` for a unit vector u orthogonal to dv. Paths may cancel
    in the linear network; a fraction of what they give when they do not is the least.
    """
    points = {0: np.eye(len(forms.kept[0]))}
    for l in range(1, len(forms.kept)):
        rows = _image({s: b for (row, s), b in forms.hidden.items() if row == l}, points)
        # a layer that reads nothing has no neurons in the program
        shape = len(forms.kept[l]), len(forms.kept[0])
        points[l] = forms.upper[l - 1][:, None] / np.sqrt(2.0) * np.broadcast_to(rows, shape)
    final = _image(forms.output, points)
    strongest = final[np.argmax(np.linalg.norm(final, axis=1))]
    ball = instance.input_norm is Norm.L2
    direction = strongest / max(float(np.linalg.norm(strongest)), _TINY) if ball else np.sign(strongest)
    spread = 1.0 / np.sqrt(len(forms.kept[0])) if ball else 1.0
    sizes = {s: np.hypot(p @ direction, spread * np.linalg.norm(p, axis=1)) for s, p in points.items()}
    for l in range(1, len(forms.kept)):
        alone = forms.upper[l - 1] * _alone({s: b for (row, s), b in forms.hidden.items() if row == l}, sizes)
        sizes[l] = _clean(np.maximum(sizes[l], _UNCANCELLED * alone), instance.tie_layers)
    reached = np.hypot(final @ direction, spread * np.linalg.norm(final, axis=1))
    reached = np.maximum(reached, _UNCANCELLED * _alone(forms.output, sizes))
    total = np.linalg.norm(reached) if instance.output is OutputNorm.L2 else reached.sum()
    scales = [np.ones_like(sizes[0]), *(sizes[l] for l in range(1, len(forms.kept)))]
    return scales, float(total) if total > _TINY else 1.0


def _alone(blocks: dict[int, Array], sizes: dict[int, Array]) -> Array:
    """Sizes of forms when nothing cancels: root of the sum of squares."""
    return np.sqrt(np.asarray(sum(block**2 @ sizes[s] ** 2 for s, block in blocks.items())))


def _clean(scale: Array, uniform: bool) -> Array:
    """Positive scales of moderate ratio; one for the layer when its multipliers are tied."""
    if scale.size == 0:
        return scale
    top = max(float(scale.max()), _TINY)
    return np.full_like(scale, np.sqrt(np.mean(scale**2)) or 1.0) if uniform else np.maximum(scale, 1e-6 * top)


def _rescale(forms: Forms, scales: list[Array], value_scale: float) -> Forms:
    """Forms in the variables t' = t / d, with O divided by the value's scale."""
    hidden = {(l, s): b * scales[s] / scales[l][:, None] for (l, s), b in forms.hidden.items()}
    output = {s: b * (scales[s] / value_scale) for s, b in forms.output.items()}
    return replace_blocks(forms, hidden, output)


def _image(blocks: dict[int, Array], points: dict[int, Array]) -> Array:
    """Apply forms to one vector (a row of numbers) per variable."""
    return np.asarray(sum(block @ points[s] for s, block in blocks.items()))


def _factor(gram: Array) -> Array:
    """A matrix R with R R^T equal to the positive semidefinite part of a symmetric matrix."""
    try:
        return np.asarray(np.linalg.cholesky(gram), dtype=np.float64)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
