r"""Proven lower bounds of the margins :math:`\min_{x \in \text{set}} c^T f(x) + d` of one sample, for many rows.

Place in the data flow: level 5, ``Network + MarginSet + rows -> lower bounds``. Nothing is solved here, so
whoever doubts a bound computes it again. Two families:

**Bound propagation** (`set_bounds`, then `ibp_margins` or `crown_margins`): the bounds of all nodes are computed once
for a set; the rows are appended as a last affine node :math:`f \mapsto C f + d` and share one backward pass. Bounds of
several methods may be intersected on the way.

**Lipschitz constants** (`margin_slopes`, then a solver and its proof, then `lipschitz_margins`): every x of the set has
:math:`|x - x_0|_p \le \varepsilon`, hence

.. math:: c^T f(x) + d \ge c^T f(x_0) + d - \varepsilon L_c, \qquad
    |c^T (f(x) - f(x_0))| \le L_c\, |x - x_0|_p .

:math:`L_c` comes from GeoLIP's program with slopes that hold for these increments: of all inputs (``"global"``, one
constant for all samples and radii), of all pairs in the set (``"local"``), or of pairs whose one end is the centre
(``"anchored"``, the tightest; module `slopes`). Nothing else about the increments is used: the argument serves every
norm, the l_1 ball by one program for each coordinate (module `programs`), since for fixed slopes the increment of the
output is linear in that of the input. The domain of a set enters through the bounds of the pre-activations alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.crown import crown_lower_bounds, crown_node_bounds
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.interval import Bounds, InputSet, node_bounds, preactivations
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_values import combined, margin_enclosures, required_margins
from geolip_lirpa.network import Network, Node, linear_operator
from geolip_lirpa.rounding import gamma
from geolip_lirpa.slopes import SlopeIntervals, enclosed_anchored_slopes, global_slopes, local_slopes

#: How `set_bounds` bounds the nodes.
BOUND_METHODS = ("ibp", "crown", "alpha-crown")
#: For which increments the slopes of `margin_slopes` hold.
SCOPES = ("global", "local", "anchored")
# far above what two products may lose to underflow
_TINY = 1e-290


def set_bounds(
    network: Network,
    inputs: InputSet,
    method: str = "crown",
    iterations: int = 20,
    known: Sequence[Bounds] | None = None,
) -> list[Bounds]:
    """Proven bounds of all nodes over an input set, for `ibp_margins`, `crown_margins` and `margin_slopes`.

    Args:
        network: float64.
        inputs: from `MarginSet.input_set`.
        method: see `BOUND_METHODS`.
        iterations: of alpha-crown, for each pre-activation.
        known: what an earlier call has found over the same set; the result is never wider.

    Returns:
        One pair (1, \\*shape) for each node.

    Raises:
        SpecificationError: an unknown method, or a set that does not fit the network.
    """
    _choice("method", method, BOUND_METHODS)
    given = None if known is None else dict(enumerate(known))
    if method == "ibp":
        return node_bounds(network, inputs.lower, inputs.upper, given)
    steps = iterations if method == "alpha-crown" else 0
    return crown_node_bounds(network, inputs, steps, output=False, known=given)


def ibp_margins(network: Network, bounds: Sequence[Bounds], rows: Tensor, offsets: Tensor) -> Tensor:
    """Lower bounds (S,) of the margins over the bounds of the outputs.

    Args:
        network: float64.
        bounds: from `set_bounds`, by any method.
        rows: (S, n_out).
        offsets: (S,).

    Raises:
        SpecificationError: rows that do not fit the network.
    """
    rows, offsets = required_margins(network, rows, offsets)
    low, high = (end.flatten(1) for end in bounds[-1])
    return combined(low, high, rows[None], offsets[None])[0][0]


def crown_margins(
    network: Network,
    inputs: InputSet,
    bounds: Sequence[Bounds],
    rows: Tensor,
    offsets: Tensor,
    iterations: int = 0,
) -> Tensor:
    """Lower bounds (S,) of the margins by one backward pass for all rows, never below those of `ibp_margins`.

    Args:
        network: float64.
        inputs: from `MarginSet.input_set`.
        bounds: from `set_bounds` over the same set, by any method.
        rows: (S, n_out).
        offsets: (S,).
        iterations: steps of gradient ascent on the slopes, apart for each row; 0 takes the lines of smallest area.

    Raises:
        SpecificationError: rows that do not fit the network.

    References:
        Zhang et al., arXiv:1811.00866; Xu et al., arXiv:2011.13824.
    """
    rows, offsets = required_margins(network, rows, offsets)
    whole = with_margins(network, rows, offsets)
    # a movement between the last node and the margins has the same bounds in another shape
    flat = tuple(end.flatten(1) for end in bounds[-1])
    known = [*bounds, *[(flat[0], flat[1])] * (len(whole.nodes) - len(bounds) - 1)]
    found = crown_lower_bounds(whole, inputs, known, iterations)[0]
    return torch.fmax(found, ibp_margins(network, bounds, rows, offsets))


def with_margins(network: Network, rows: Tensor, offsets: Tensor) -> Network:
    r"""The network :math:`x \mapsto C f(x) + d`.

    Args:
        network: float64.
        rows: (S, n_out).
        offsets: (S,).
    """
    nodes, size = list(network.nodes), network.output_size
    if nodes[-1].shape != (size,):
        movement = affine.movement("Flatten", torch.arange(size))
        nodes.append(Node("margins/flat", (size,), (len(nodes) - 1,), movement))
    nodes.append(Node("margins", (len(offsets),), (len(nodes) - 1,), linear_operator(rows, offsets)))
    return Network(tuple(nodes))


def margin_slopes(
    network: Network, margin_set: MarginSet, scope: str, bounds: Sequence[Bounds] | None = None
) -> SlopeIntervals:
    """Slope intervals of the increments from the centre of a set to its points, see `SCOPES`.

    Args:
        network: float64.
        margin_set: the set.
        scope: "global", "local" or "anchored".
        bounds: proven bounds of all nodes over the set, from `set_bounds`; by crown when None.

    Raises:
        SpecificationError: another scope, or bounds that do not fit.
    """
    _choice("scope", scope, SCOPES)
    if scope == "global":
        return global_slopes(network)
    bounds = set_bounds(network, margin_set.input_set()) if bounds is None else bounds
    over_set = _single(preactivations(network, bounds))
    if scope == "local":
        return local_slopes(network, over_set)
    point = margin_set.center[None]
    # where a pre-activation of the centre really lies is known up to rounding only
    anchors = _single(preactivations(network, node_bounds(network, point, point)))
    return enclosed_anchored_slopes(network, anchors, over_set)


def lipschitz_margins(
    network: Network, margin_set: MarginSet, rows: Tensor, offsets: Tensor, constants: Tensor
) -> Tensor:
    r"""Lower bounds (S,) of the margins, :math:`c^T f(x_0) + d - \varepsilon L`, rounded down.

    Args:
        network: float64.
        margin_set: the set.
        rows: (S, n_out).
        offsets: (S,).
        constants: (S,) proven constants L of the rows in the norm of the set, with slopes from `margin_slopes`.

    Raises:
        SpecificationError: rows that do not fit the network.
    """
    rows, offsets = required_margins(network, rows, offsets)
    center = margin_enclosures(network, margin_set.center[None], rows[None], offsets[None])[0][0]
    lost = constants * margin_set.eps * (1.0 + gamma(4)) + _TINY
    lower = center - lost - gamma(4) * (center.abs() + lost)
    return lower if margin_set.eps > 0 else center


def _choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise SpecificationError(f"{name}: got {value!r}; allowed are {', '.join(allowed)}. Choose one of these.")


def _single(bounds: Sequence[Bounds]) -> list[Bounds]:
    """Bounds of a batch of one, without the batch."""
    return [(low[0], high[0]) for low, high in bounds]
