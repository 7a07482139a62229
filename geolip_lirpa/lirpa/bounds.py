r"""Pre-activation bounds of a host model over the input set a user has put on it.

Place in the data flow: level 4, ``BoundedModule, input set -> bounds -> slope intervals``.

The bounds are those of the methods the host names IBP, CROWN and alpha-CROWN, computed on the extracted network by
`interval` and `crown` and proven there. The host's own intermediate bounds are not used: they are in float32, and for
l_1 and l_2 balls its interval steps forget the radius in front of the first matrix (a transposition, a normalisation of
the image, a slice), which gives bounds that exclude reachable values.
"""

from __future__ import annotations

from typing import Any

from geolip_lirpa.crown import crown_bounds
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.interval import Bounds, InputSet, ball_bounds, interval_bounds
from geolip_lirpa.lirpa.graph import extract_network
from geolip_lirpa.lirpa.perturbation import Perturbation, perturbation_of
from geolip_lirpa.network import Network
from geolip_lirpa.types import Norm

METHODS = ("ibp", "crown", "alpha-crown")


def preactivation_bounds(
    lirpa_model: Any,
    x: Any,
    method: str = "crown",
    *,
    final_node_name: str | None = None,
    logits: bool = False,
    iterations: int = 20,
) -> list[Bounds]:
    r"""Bounds :math:`l \le v \le u` of every pre-activation over the input set, in real arithmetic.

    Args:
        lirpa_model: auto_LiRPA's `BoundedModule`; left as it is.
        x: ``(bounded_x,)`` as for `compute_bounds`, batch B; norm and radius are read from it.
        method: "ibp", "crown" or "alpha-crown", in upper or lower case.
        final_node_name: as for `extract_network`.
        logits: as for `extract_network`.
        iterations: steps of alpha-CROWN for each pre-activation.

    Returns:
        Pairs of float64 tensors (B, \*shape), in the order of the activations of
        ``extract_network(lirpa_model, final_node_name, logits)``.

    Raises:
        SpecificationError: an unknown method, or an input set that cannot be read or does not fit the model.
        ExtractionError: the network cannot be extracted.
    """
    method = checked_method(method)
    inputs = perturbation_of(x)
    network = extract_network(lirpa_model, final_node_name, logits)
    return network_bounds(network, inputs, method, iterations)


def network_bounds(network: Network, inputs: Perturbation, method: str = "crown", iterations: int = 20) -> list[Bounds]:
    """As `preactivation_bounds`, for a network that was extracted before.

    Raises:
        SpecificationError: an unknown method, or an input set that does not fit the network.
    """
    method = checked_method(method)
    if tuple(inputs.center.shape[1:]) != network.input_shape:
        raise SpecificationError(
            f"x: got shape {tuple(inputs.center.shape)}; the model takes a batch of {network.input_shape}. "
            "Put the batch dimension in front."
        )
    if method == "ibp":
        return _interval(network, inputs)
    return crown_bounds(network, _input_set(inputs), iterations if method == "alpha-crown" else 0)


def checked_method(method: str) -> str:
    """The method in lower case.

    Raises:
        SpecificationError: it is none of `METHODS`.
    """
    lowered = method.strip().lower() if isinstance(method, str) else method
    if lowered not in METHODS:
        raise SpecificationError(f"method: got {method!r}; allowed are {', '.join(METHODS)}. Use 'crown' if unsure.")
    return str(lowered)


def _interval(network: Network, inputs: Perturbation) -> list[Bounds]:
    if inputs.norm is Norm.LINF or inputs.radius is None:
        return interval_bounds(network, *inputs.box())
    return ball_bounds(network, inputs.center, inputs.radius, inputs.norm)


def _input_set(inputs: Perturbation) -> InputSet:
    if inputs.norm is Norm.LINF or inputs.radius is None:
        return InputSet(*inputs.box())
    return InputSet(*inputs.box(), center=inputs.center, radius=inputs.radius, norm=inputs.norm)
