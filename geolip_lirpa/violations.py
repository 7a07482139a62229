r"""Is a specification really violated at a point?

Place in the data flow: level 5, ``point + Network + Specification -> Witness or nothing``. Trusted: "sat" is said for
points that came through here and for no others. A point is accepted when all of this holds:

* each of its coordinates lies between the inner ends of its box (for a coordinate fixed at a decimal that no double
  equals: it is the nearest double, and all numbers between the outer ends take part in the next test);
* in real arithmetic the outputs lie in an unsafe polytope: the upper ends of an enclosure of :math:`A f(x)` are at
  most b, below b for strict rows; where b lies between the ends of the enclosure, small piecewise linear networks are
  asked in rational arithmetic (`exact_values`), so that points on the boundary of a closed polytope count;
* the same holds for the outputs of the replay (onnxruntime in the model's own precision), if there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from geolip_lirpa.exact_values import ExactNetwork, exact_network
from geolip_lirpa.interval import node_bounds
from geolip_lirpa.margin_values import combined
from geolip_lirpa.network import Network
from geolip_lirpa.rounding import Array
from geolip_lirpa.specification import InputBox, Polytope, Specification, contains, contains_exactly

#: Outputs (n_out,) of the model at inputs (n_in,); None where it fails.
Replay = Callable[[Array], Array | None]


@dataclass(frozen=True)
class Violation:
    """A point and the outputs there, (n_in,) and (n_out,) float64."""

    inputs: Array
    outputs: Array


class Judge:
    """Accepts or rejects points.

    Args:
        network: float64, on the CPU.
        specification: what must not happen.
        replay: the model itself; None believes the network.
    """

    def __init__(self, network: Network, specification: Specification, replay: Replay | None = None) -> None:
        self.network, self.specification, self.replay = network, specification, replay

    def accepted(self, point: Array, case: int) -> Violation | None:
        """The violation nearest to a point of some case's box, or None when it is none.

        Args:
            point: (n_in,) float64; moved into the box.
            case: number of the case.
        """
        box = self.specification.cases[case].box
        for inputs in _candidates(point, box):
            found = self._judged(inputs, case)
            if found is not None:
                return found
        return None

    def _judged(self, inputs: Array, case: int) -> Violation | None:
        box, unsafe = self.specification.cases[case].box, self.specification.cases[case].unsafe
        if not bool(((inputs >= box.inner_lower) & (inputs <= box.inner_upper)).all()):
            return None
        # where the box has no double inside, its decimal is anywhere between the outer ends
        between = _is_decimal(box)
        shape = (1, *self.network.input_shape)
        low = torch.from_numpy(np.where(between, box.lower, inputs)).reshape(shape)
        high = torch.from_numpy(np.where(between, box.upper, inputs)).reshape(shape)
        least, most = (end.reshape(1, -1) for end in node_bounds(self.network, low, high)[-1])
        outputs = (0.5 * least + 0.5 * most)[0].numpy() if self.replay is None else self.replay(inputs)
        if outputs is None or not bool(np.isfinite(outputs).all()):
            return None
        for polytope in unsafe:
            if self.replay is not None and not contains(polytope, outputs):
                continue
            ends = _ends(least, most, polytope)
            if _below(ends[1], polytope):
                return Violation(inputs, outputs)
            # the enclosure leaves it open; a decimal that is no double has no exact outputs
            if _below(ends[0], polytope) and not between.any() and self._exactly_inside(inputs, polytope):
                return Violation(inputs, outputs)
        return None

    @cached_property
    def _exact(self) -> ExactNetwork | None:
        return exact_network(self.network)

    def _exactly_inside(self, inputs: Array, polytope: Polytope) -> bool:
        return self._exact is not None and contains_exactly(polytope, self._exact.outputs(inputs))


def _candidates(point: Array, box: InputBox) -> list[Array]:
    """Points of the box near a point: with coordinates that float32 holds where there are any, then as it is."""
    exact = np.clip(point, box.inner_lower, box.inner_upper)
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
        above = np.nextafter(single, np.float32(np.inf)).astype(np.float64)
        below = np.nextafter(single, np.float32(-np.inf)).astype(np.float64)
    rounded = single.astype(np.float64)
    rounded = np.where(rounded < box.inner_lower, above, np.where(rounded > box.inner_upper, below, rounded))
    holds = (rounded >= box.inner_lower) & (rounded <= box.inner_upper)
    return [np.where(holds, rounded, exact), exact]


def _is_decimal(box: InputBox) -> NDArray[np.bool_]:
    """Coordinates fixed at a number that is no double."""
    return (box.inner_lower == box.inner_upper) & (box.lower < box.upper)


def _ends(least: torch.Tensor, most: torch.Tensor, polytope: Polytope) -> tuple[Array, Array]:
    """Between what the rows of a polytope lie for all outputs between two ends, (1, n_out), in real arithmetic."""
    rows, offsets = torch.from_numpy(polytope.matrix)[None], torch.zeros((1, len(polytope.bound)), dtype=torch.float64)
    lower, upper = combined(least, most, rows, offsets)
    return lower[0].numpy(), upper[0].numpy()


def _below(values: Array, polytope: Polytope) -> bool:
    bound = polytope.inner_bound
    return bool(np.where(polytope.strict, values < bound, values <= bound).all())
