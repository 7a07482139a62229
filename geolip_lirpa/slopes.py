r"""Slope intervals of every neuron of a network: global, local or anchored at a centre.

Place in the data flow: level 3. ``Network -> SlopeIntervals -> SdpInstance``. The rules themselves belong to the
activations; this module checks the bounds it is given and puts the pieces in the order of the network's activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import Network, Node

SlopeIntervals = tuple[SlopeInterval, ...]
Bounds = Sequence[tuple[Tensor, Tensor]]


def global_slopes(network: Network) -> SlopeIntervals:
    r"""Slope intervals valid for any two inputs.

    .. math:: \alpha_i \Delta v_i \le \Delta z_i \le \beta_i \Delta v_i \quad (\Delta v_i \ge 0)

    Returns:
        One interval per activation in topological order, each (N_l,) float64.
    """
    result = []
    for position in network.activations:
        node = network.nodes[position]
        end = torch.full(node.shape, math.inf, dtype=torch.float64, device=_device(network))
        result.append(_flat(_activation(node).derivative_range(-end, end), node, batched=False))
    return tuple(result)


def local_slopes(network: Network, bounds: Bounds) -> SlopeIntervals:
    r"""Slope intervals valid for any two inputs whose pre-activations lie in the bounds.

    Args:
        network: the network.
        bounds: for each activation in topological order the pair (lower, upper) of its pre-activations, both
            (\*shape) or both (B, \*shape), cast to float64. They are taken as proven; infinite bounds say nothing.

    Returns:
        One interval per activation, each (N_l,), or (B, N_l) for batched bounds, float64.

    Raises:
        SpecificationError: number, shape, order or NaN in the bounds.
    """
    result = []
    for node, lower, upper in _checked_bounds(network, bounds):
        interval = _activation(node).derivative_range(lower, upper)
        result.append(_flat(interval, node, lower.ndim > len(node.shape)))
    return tuple(result)


def anchored_slopes(network: Network, centers: Sequence[Tensor], bounds: Bounds) -> SlopeIntervals:
    r"""Slope intervals valid for increments from one fixed input to any input whose pre-activations lie in the bounds.

    .. math:: \alpha_i \le \frac{\sigma(v_i) - \sigma(v_{0,i})}{v_i - v_{0,i}} \le \beta_i, \quad v_i \in [l_i, u_i]

    They certify a ball around that input and say nothing about a Lipschitz constant.

    Args:
        network: the network.
        centers: for each activation its pre-activations at the fixed input, finite, shaped like the bounds and within
            them.
        bounds: as in `local_slopes`.

    Returns:
        One interval per activation, each (N_l,), or (B, N_l) for batched bounds, float64.

    Raises:
        SpecificationError: number, shape, order or NaN in the bounds; a centre outside its bounds.
    """
    _check_count("centers", len(centers), network)
    result = []
    for (node, lower, upper), center in zip(_checked_bounds(network, bounds), centers, strict=True):
        checked = _checked_center(node, center, lower, upper)
        interval = _activation(node).secant_range(checked, lower, upper)
        result.append(_flat(interval, node, lower.ndim > len(node.shape)))
    return tuple(result)


def enclosed_anchored_slopes(network: Network, centers: Bounds, bounds: Bounds) -> SlopeIntervals:
    r"""Slope intervals for increments from one fixed input whose pre-activations are known up to rounding.

    With the true pre-activation :math:`v_0` of the fixed input in :math:`[a, b]` and :math:`v \in [l, u]`, the secant
    slope :math:`s(v, v_0)` lies in the hull of

    .. math:: \{s(v, a) : l \le v \le a\}, \qquad \{s(v, b) : b \le v \le u\}, \qquad
        \text{all secant slopes within } [a, b] .

    Proof: for :math:`v \ge b` the increment passes b,
    :math:`\sigma(v) - \sigma(v_0) = s(v, b) (v - b) + s(b, v_0) (b - v_0)` with both lengths non-negative, so
    :math:`s(v, v_0)` is a mean of the two slopes. Likewise over a for :math:`v \le a`. Otherwise v, too, lies within
    :math:`[a, b]`.

    Args:
        network: the network.
        centers: for each activation proven bounds (a, b) of its pre-activations at the fixed input, shaped like the
            bounds; cut with them, since the fixed input is one of the inputs that they hold for.
        bounds: as in `local_slopes`.

    Returns:
        One interval per activation, each (N_l,), or (B, N_l) for batched bounds, float64.

    Raises:
        SpecificationError: number, shape, order or NaN in the bounds; a centre outside its bounds.
    """
    _check_count("centers", len(centers), network)
    result = []
    for (node, lower, upper), pair in zip(_checked_bounds(network, bounds), centers, strict=True):
        low, high = _checked_pair(node, pair)
        a = _checked_center(node, torch.maximum(low, lower), lower, upper)
        b = _checked_center(node, torch.minimum(high, upper), lower, upper)
        activation = _activation(node)
        parts = (
            (activation.secant_range(a, lower, a), lower < a),
            (activation.secant_range(b, b, upper), b < upper),
            (activation.derivative_range(a, b), (a < b) | (lower == upper)),
        )
        least = torch.stack([part.lower.where(used, torch.inf) for part, used in parts]).amin(dim=0)
        most = torch.stack([part.upper.where(used, -torch.inf) for part, used in parts]).amax(dim=0)
        result.append(_flat(SlopeInterval(least, most), node, lower.ndim > len(node.shape)))
    return tuple(result)


def _device(network: Network) -> torch.device:
    """Where the network's parameters live; the CPU for a network without parameters."""
    for node in network.nodes:
        for parameter in getattr(node.operation, "parameters", ()):
            return torch.device(parameter.device)
    return torch.device("cpu")


def _activation(node: Node) -> Activation:
    """The node's operation, which `Network.activations` guarantees to be an activation."""
    if isinstance(node.operation, Activation):
        return node.operation
    raise TypeError(f"node {node.name!r} is not an activation")


def _flat(interval: SlopeInterval, node: Node, batched: bool) -> SlopeInterval:
    """Both ends as (N,) or (B, N)."""
    shape = (interval.lower.shape[0], node.size) if batched else (node.size,)
    return SlopeInterval(interval.lower.reshape(shape), interval.upper.reshape(shape))


def _check_count(what: str, count: int, network: Network) -> None:
    if count != len(network.activations):
        raise SpecificationError(
            f"{what}: got {count} entries; allowed is one for each of the network's {len(network.activations)} "
            "activations, in topological order. Read the order from network.activations."
        )


def _checked_bounds(network: Network, bounds: Bounds) -> list[tuple[Node, Tensor, Tensor]]:
    """Nodes of the activations with validated float64 bounds."""
    _check_count("bounds", len(bounds), network)
    nodes = [network.nodes[i] for i in network.activations]
    checked = [(node, *_checked_pair(node, pair)) for node, pair in zip(nodes, bounds, strict=True)]
    batches = {lower.shape[0] if lower.ndim > len(node.shape) else None for node, lower, _ in checked}
    if len(batches) > 1:
        sizes = ", ".join("none" if size is None else str(size) for size in sorted(batches, key=lambda b: b or -1))
        raise SpecificationError(
            f"bounds: got different batch sizes ({sizes}); allowed is one batch size for all activations. "
            "Take all bounds from one computation."
        )
    return checked


def _checked_pair(node: Node, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """One activation's bounds in float64, refused when they enclose nothing."""
    where = f"bounds of node {node.name!r}"
    if not isinstance(pair, Sequence) or len(pair) != 2:
        kind = f"{len(pair)} entries" if isinstance(pair, Sequence) else type(pair).__name__
        raise SpecificationError(f"{where}: got {kind}; allowed is a pair (lower, upper) of tensors. Pass both bounds.")
    lower, upper = _checked_tensor(where, node, pair[0]), _checked_tensor(where, node, pair[1])
    if lower.shape != upper.shape:
        raise SpecificationError(
            f"{where}: got lower of shape {tuple(lower.shape)} and upper of shape {tuple(upper.shape)}; "
            "allowed are equal shapes. Expand both to the batch."
        )
    bad = (lower > upper) | (lower == math.inf) | (upper == -math.inf)
    if bad.any():
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise SpecificationError(
            f"{where}: got lower={lower[first].item()!r}, upper={upper[first].item()!r} at index {first} "
            f"({int(bad.sum())} such entries); allowed is lower <= upper with lower < inf and upper > -inf. "
            "Check that the pair is (lower, upper), or that the input set is not empty."
        )
    return lower, upper


def _checked_tensor(where: str, node: Node, value: Tensor) -> Tensor:
    """A real tensor of the node's shape, with or without batch, in float64 and free of NaN."""
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise SpecificationError(f"{where}: got {kind}; allowed are real tensors. Convert with torch.as_tensor.")
    shape = tuple(value.shape)
    if shape != node.shape and shape[1:] != node.shape:
        raise SpecificationError(
            f"{where}: got shape {shape}; allowed are {node.shape} and (batch, *{node.shape}). "
            "Reshape it to the pre-activation's shape."
        )
    result = value.detach().to(torch.float64)
    if torch.isnan(result).any():
        raise SpecificationError(
            f"{where}: got {int(torch.isnan(result).sum())} NaN entries; allowed are numbers and -inf, inf. "
            "Check the model's weights and the input, or pass infinite bounds."
        )
    return result


def _checked_center(node: Node, center: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Pre-activations of the fixed input, which must lie within their bounds."""
    where = f"centers of node {node.name!r}"
    result = _checked_tensor(where, node, center)
    if result.shape != lower.shape:
        raise SpecificationError(
            f"{where}: got shape {tuple(result.shape)}; allowed is the shape of the bounds, {tuple(lower.shape)}. "
            "Expand it to the batch."
        )
    bad = (result < lower) | (result > upper) | torch.isinf(result)
    if bad.any():
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise SpecificationError(
            f"{where}: got {result[first].item()!r} outside [{lower[first].item()!r}, {upper[first].item()!r}] at "
            f"index {first} ({int(bad.sum())} such entries); allowed are finite values within the bounds. "
            "Compute bounds over a set that contains the centre, with slack for rounding."
        )
    return result
