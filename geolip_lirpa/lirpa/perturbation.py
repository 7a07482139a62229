r"""The input set that a user has put on the model's input.

Place in the data flow: level 4, ``BoundedTensor -> Perturbation``. The host keeps norm and radius in the input's
`PerturbationLpNorm`; they are read there and never passed twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lirpa.compat import load_host, quiet_host
from geolip_lirpa.lirpa.host import kind_of, nodes_of, plain
from geolip_lirpa.types import Norm

_ADVICE = "Use BoundedTensor(x, PerturbationLpNorm(norm=..., eps=...)) with norm 1, 2 or inf."


@dataclass(frozen=True)
class Perturbation:
    r"""A ball :math:`\{x : |x - c|_p \le \rho\}` or a box :math:`l \le x \le u`.

    Args:
        norm: the ball's norm; `Norm.LINF` for a box.
        center: float64, (B, \*shape); the user's point, or the middle of the box when the point lies outside of it.
        lower: float64, (B, \*shape), rounded down; None for l_1 and l_2.
        upper: float64, (B, \*shape), rounded up; None for l_1 and l_2.
        radius: the ball's radius; None for a box whose half widths differ or that is not centred.
    """

    norm: Norm
    center: Tensor
    lower: Tensor | None
    upper: Tensor | None
    radius: float | None

    def box(self) -> tuple[Tensor, Tensor]:
        """The smallest box around the set, rounded outward."""
        if self.lower is not None and self.upper is not None:
            return self.lower, self.upper
        radius = torch.tensor(self.radius, dtype=torch.float64, device=self.center.device)
        return _sum_down(self.center, -radius), _sum_up(self.center, radius)


def perturbation_of(source: Any) -> Perturbation:
    """Read the input set.

    Args:
        source: a `BoundedTensor`, the tuple ``x=(bounded_x,)`` of `compute_bounds`, or a `BoundedModule` whose input
            was set before.

    Raises:
        SpecificationError: no perturbed input or several, another kind of perturbation, a norm other than 1, 2 and inf,
            a negative or unreadable radius, NaN, or lower bounds above upper bounds.
    """
    value, perturbation = _perturbed(source)
    if kind_of(perturbation) != "PerturbationLpNorm":
        raise SpecificationError(
            f"perturbation: got {kind_of(perturbation)}; supported is PerturbationLpNorm. {_ADVICE}"
        )
    norm = Norm.parse(perturbation.norm)
    center = plain(value).to(torch.float64)
    if not bool(center.isfinite().all()):
        raise SpecificationError("x: holds NaN or infinity. Pass finite inputs.")
    return _box(perturbation, center) if norm is Norm.LINF else _ball(norm, perturbation, center)


def bounded_input(perturbation: Perturbation) -> Any:
    """The float64 `BoundedTensor` with this input set; inverse of `perturbation_of`.

    Raises:
        HostUnavailableError: auto_LiRPA is missing.
    """
    host = load_host()
    norm = perturbation.norm.p
    # for norm 1 the host divides by zero to find the dual norm inf
    with quiet_host(), np.errstate(divide="ignore"):
        if perturbation.lower is None or perturbation.upper is None:
            ptb = host.PerturbationLpNorm(norm=norm, eps=perturbation.radius)
        else:
            ptb = host.PerturbationLpNorm(norm=norm, x_L=perturbation.lower.clone(), x_U=perturbation.upper.clone())
            ptb.eps = ptb.eps if perturbation.radius is None else perturbation.radius
    return host.BoundedTensor(perturbation.center.clone(), ptb)


def _perturbed(source: Any) -> tuple[Tensor, Any]:
    if hasattr(source, "compute_bounds"):
        roots = [node for node in nodes_of(source).values() if kind_of(node) == "BoundInput"]
        candidates = [(root.value, root.perturbation) for root in roots]
    else:
        values = source if isinstance(source, Sequence) else (source,)
        candidates = [(value, getattr(value, "ptb", None)) for value in values]
    found = [(value, ptb) for value, ptb in candidates if ptb is not None]
    if len(found) != 1:
        raise SpecificationError(
            f"x: {len(found)} of {len(candidates)} inputs are perturbed; exactly one must be. {_ADVICE}"
        )
    return found[0]


def _ball(norm: Norm, perturbation: Any, center: Tensor) -> Perturbation:
    # x_L and x_U are ignored by the host for these norms; the ball contains their intersection with it
    return Perturbation(norm, center, None, None, _scalar_radius(perturbation.eps))


def _scalar_radius(eps: Any) -> float:
    values = _radii(eps)
    if values.numel() != 1:
        raise SpecificationError(
            f"eps: got a tensor of shape {tuple(values.shape)}; for l_1 and l_2 one number is allowed. "
            "Call once for each radius."
        )
    return float(values)


def _radii(eps: Any) -> Tensor:
    try:
        values = plain(eps) if isinstance(eps, Tensor) else torch.tensor(eps, dtype=torch.float64)
        values = values.to(torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecificationError(f"eps: got {eps!r}; expected a number or a tensor. {_ADVICE}") from error
    if not bool((values >= 0).all()) or not bool(values.isfinite().all()):
        shown = float(values) if values.numel() == 1 else f"a tensor with values down to {float(values.min())}"
        raise SpecificationError(f"eps: got {shown}; it must be finite and at least 0. {_ADVICE}")
    return values


def _box(perturbation: Any, center: Tensor) -> Perturbation:
    given_lower, given_upper = _side(perturbation.x_L, center), _side(perturbation.x_U, center)
    radii = None
    if given_lower is None or given_upper is None:
        radii = _radii(perturbation.eps).to(center.device)
    lower = _sum_down(center, -_required(radii)) if given_lower is None else given_lower
    upper = _sum_up(center, _required(radii)) if given_upper is None else given_upper
    if not bool((lower <= upper).all()):
        raise SpecificationError("x_L: lies above x_U somewhere, or holds NaN. Pass x_L <= x_U.")
    radius = _centred_radius(perturbation.eps, center, lower, upper)
    if radius is not None:
        return Perturbation(Norm.LINF, center, lower, upper, radius)
    inside = (lower <= center) & (center <= upper)
    return Perturbation(Norm.LINF, torch.where(inside, center, lower / 2 + upper / 2), lower, upper, None)


def _centred_radius(eps: Any, center: Tensor, lower: Tensor, upper: Tensor) -> float | None:
    """The radius when the box is exactly the ball of one radius around the point."""
    try:
        radii = _radii(eps)
    except SpecificationError:
        return None
    if radii.numel() != 1:
        return None
    radius = radii.reshape(()).to(center.device)
    same = torch.equal(lower, _sum_down(center, -radius)) and torch.equal(upper, _sum_up(center, radius))
    return float(radius) if same else None


def _required(radii: Tensor | None) -> Tensor:
    return torch.tensor(math.nan) if radii is None else radii


def _side(values: Any, center: Tensor) -> Tensor | None:
    if values is None:
        return None
    if not isinstance(values, Tensor):
        raise SpecificationError(f"x_L, x_U: got {type(values).__name__}; expected tensors like x. {_ADVICE}")
    try:
        wide = plain(values).to(torch.float64).expand(center.shape)
    except RuntimeError as error:
        raise SpecificationError(
            f"x_L, x_U: shape {tuple(values.shape)} does not fit x of shape {tuple(center.shape)}. {_ADVICE}"
        ) from error
    if not bool(wide.isfinite().all()):
        raise SpecificationError("x_L, x_U: hold NaN or infinity. Pass finite bounds.")
    return wide


def _sum_down(x: Tensor, y: Tensor) -> Tensor:
    """A float64 number not above ``x + y``, equal to it when it is a float64 number."""
    total, error = _two_sum(x, y)
    return torch.where(error < 0, torch.nextafter(total, total.new_tensor(-math.inf)), total)


def _sum_up(x: Tensor, y: Tensor) -> Tensor:
    total, error = _two_sum(x, y)
    return torch.where(error > 0, torch.nextafter(total, total.new_tensor(math.inf)), total)


def _two_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Knuth's error-free sum: ``x + y = total + error`` exactly."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)
