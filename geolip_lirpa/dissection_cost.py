r"""What nested dissection of a network's matrix will take, from the shapes of its layers alone.

Place in the data flow: level 7, used by `proof_cost`. An estimate for choosing a method; no bound depends on it. A
region of the image is a rectangle; the line that separates its halves holds, for every layer, as many pixels in
thickness as the convolutions beside it reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from geolip_lirpa.block_elimination import EliminationCost
from geolip_lirpa.linear_maps import AveragePool, Convolution, TransposedConvolution
from geolip_lirpa.network import AffineOperator, Network
from geolip_lirpa.sdp import SdpInstance

# Variables below which a region is not divided.
_LEAF = 256


@dataclass(frozen=True)
class Image:
    """The variables of one layer that lie in the image.

    Args:
        channels: free variables for each pixel.
        height: of the layer.
        width: of the layer.
        reach: thickness of a line that separates both of its sides, in pixels.
    """

    channels: float
    height: int
    width: int
    reach: int


@dataclass
class _Regions:
    """Costs of rectangles with sides in parts of the image's, by which of their sides others lie."""

    images: list[Image]
    others: float
    known: dict[tuple[float, float, int, int], float]

    @cached_property
    def size(self) -> float:
        return sum(i.channels * i.height * i.width for i in self.images)

    @cached_property
    def upright(self) -> float:
        """Variables of a line from top to bottom."""
        return sum(i.channels * i.height * min(i.reach, i.width) for i in self.images)

    @cached_property
    def level(self) -> float:
        """Variables of a line from left to right."""
        return sum(i.channels * i.width * min(i.reach, i.height) for i in self.images)

    def operations(self, height: float, width: float, upright: int, level: int) -> float:
        """Multiplications for a region with that many upright and level lines around it."""
        key = (height, width, upright, level)
        if key not in self.known:
            self.known[key] = self._operations(*key)
        return self.known[key]

    def _operations(self, height: float, width: float, upright: int, level: int) -> float:
        border = self.upright * height * upright + self.level * width * level + self.others
        size = self.size * height * width
        # the shorter of both lines
        across = self.level * width < self.upright * height
        line = self.level * width if across else self.upright * height
        if size <= _LEAF or 2 * line >= size:
            return _elimination(size, border)
        if across:
            halves = self.operations(height / 2, width, upright, min(2, level + 1))
        else:
            halves = self.operations(height, width / 2, min(2, upright + 1), level)
        return 2 * halves + _elimination(line, border)


def _elimination(size: float, border: float) -> float:
    return size**3 / 3 + size**2 * border + size * border**2


def dissection_cost(instance: SdpInstance) -> EliminationCost | None:
    """Estimated cost of nested dissection; None for networks without an image."""
    images, others = _images(instance)
    if not images:
        return None
    regions = _Regions(images, others, {})
    line = min(regions.upright, regions.level)
    whole = regions.operations(1.0, 1.0, 0, 0) + others**3 / 3
    # the frontier: lines of a few levels with their borders, the rest that is left at the end, and the smallest regions
    frontier = 3.0 * line**2 + others * (others + 4.0 * line) + 2.0 * regions.size * _LEAF
    return EliminationCost((), whole, 8.0 * frontier)


def _images(instance: SdpInstance) -> tuple[list[Image], float]:
    """Layers that are images, and the number of variables of all others."""
    network, slopes = instance.network, instance.slopes
    shapes = [network.input_shape, *(network.nodes[i].shape for i in network.activations)]
    free = [int((instance.input_scale > 0).sum()), *(int((~s.fixed).sum()) for s in slopes)]
    reach = _reaches(network)
    images, others = [], float(instance.rows.shape[0])
    for shape, count, pixels in zip(shapes, free, reach, strict=True):
        if len(shape) not in (2, 3) or count == 0:
            others += count
            continue
        height, width = (1, *shape[1:])[-2:]
        images.append(Image(count / (height * width), height, width, pixels))
    return images, others


def _reaches(network: Network) -> list[int]:
    """For the input and each activation, how far along the image its variables are coupled, in its own pixels."""
    widths = [_width(network.nodes[i].shape) for i in (0, *network.activations)]
    reach = [1] * len(widths)
    flows: list[dict[int, float]] = [{0: 0.0}]
    number = 0
    for node in network.nodes[1:]:
        found: dict[int, float] = {}
        for i in node.inputs:
            own = _window(node.operation) / 2 / max(1, _width(network.nodes[i].shape))
            for source, distance in flows[i].items():
                found[source] = max(found.get(source, 0.0), distance + own)
        if isinstance(node.operation, AffineOperator):
            flows.append(found)
            continue
        number += 1
        for source, distance in found.items():
            for block in (source, number):
                reach[block] = max(reach[block], math.ceil(distance * widths[block] - 1e-9))
        flows.append({number: 0.0})
    return reach


def _width(shape: tuple[int, ...]) -> int:
    return shape[-1] if len(shape) in (2, 3) else 1


def _window(operation: object) -> float:
    """Extent of what one entry reads, in pixels of the input."""
    function = getattr(operation, "function", None)
    if isinstance(function, AveragePool):
        return max(function.kernel) - 1
    if isinstance(function, Convolution | TransposedConvolution) and isinstance(operation, AffineOperator):
        kernel = operation.parameters[0].shape[2:]
        spread = max(d * (k - 1) for d, k in zip(function.dilation, kernel, strict=True))
        return spread / max(function.stride) if isinstance(function, TransposedConvolution) else spread
    return 0.0
