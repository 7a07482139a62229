r"""Margins :math:`c^T f(x) + d` at single points, enclosed with all rounding errors.

Place in the data flow: level 4, ``Network + points -> intervals``. The upper end at a point of a set is an upper bound
of the smallest margin over the set; the lower end at the centre is where bounds with Lipschitz constants start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.interval import Bounds, node_bounds
from geolip_lirpa.network import Network
from geolip_lirpa.rounding import gamma

# far above what a sum of products may lose to underflow
_TINY = 1e-290


def required_margins(network: Network, rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (.., n_out) and offsets (..) in float64.

    Raises:
        SpecificationError: shapes that do not fit each other or the network, NaN or infinity.
    """
    if rows.ndim < 1 or rows.shape[-1] != network.output_size or rows.shape[:-1] != offsets.shape:
        raise SpecificationError(
            f"rows, offsets: got shapes {tuple(rows.shape)} and {tuple(offsets.shape)}; allowed are "
            f"(.., {network.output_size}) and (..), one row and one number for each margin c f(x) + d."
        )
    if not bool(rows.isfinite().all()) or not bool(offsets.isfinite().all()):
        raise SpecificationError("rows, offsets: hold NaN or infinity. Pass finite numbers.")
    return rows.detach().to(torch.float64), offsets.detach().to(torch.float64)


def margin_enclosures(network: Network, points: Tensor, rows: Tensor, offsets: Tensor) -> Bounds:
    r"""Ends of the intervals in which :math:`c_i^T f(x_i) + d_i` lies in real arithmetic, (N,) each.

    Args:
        network: in float64.
        points: (N, \*input_shape) float64.
        rows: (N, n_out) or (N, S, n_out).
        offsets: (N,) or (N, S), the shape of the result.
    """
    low, high = (end.flatten(1) for end in node_bounds(network, points, points)[-1])
    return combined(low, high, rows, offsets)


def combined(low: Tensor, high: Tensor, rows: Tensor, offsets: Tensor) -> Bounds:
    """Bounds of ``c y + d`` over ``low <= y <= high``, (N, n_out), rounded outward; shaped like `offsets`."""
    if rows.ndim == low.ndim + 1:
        low, high = low[:, None], high[:, None]
    positive, negative = rows.clamp(min=0), rows.clamp(max=0)
    least, most = positive * low + negative * high, positive * high + negative * low
    # an infinite end times zero says nothing
    least, most = _known(least, -torch.inf), _known(most, torch.inf)
    size = (rows.abs() * torch.maximum(low.abs(), high.abs())).sum(-1) + offsets.abs()
    slack = gamma(2 * rows.shape[-1] + 16) * size + _TINY
    found = least.sum(-1) + offsets - slack, most.sum(-1) + offsets + slack
    return _known(found[0], -torch.inf), _known(found[1], torch.inf)


def _known(values: Tensor, nothing: float) -> Tensor:
    """NaN as the infinite end that says nothing."""
    return torch.where(values.isnan(), nothing, values)
