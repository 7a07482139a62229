r"""Lower bounds of the true Lipschitz constant from random inputs.

Place in the data flow: level 6, the comparison GeoLIP (arXiv 2203.01212) calls sampling: the largest dual norm of the
gradient at random inputs. `lower_bounds` starts where this ends.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geolip_lirpa.enclosures import LowerBound, best_attained
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.increments import IncrementBatch
from geolip_lirpa.regions import Region
from geolip_lirpa.sdp import SdpInstance

# Numbers held at the same time for one batch of inputs, in units of the widest node.
_BATCH_NUMBERS = 4_000_000
_CANDIDATES = 8


def sampled_lower_bound(
    instance: SdpInstance, samples: int = 1000, seed: int = 0, region: Region | None = None
) -> LowerBound:
    r"""Largest gradient among random inputs, evaluated with all rounding errors.

    .. math:: \max_k \|C J(x_k)\|_{in \to out} \le \text{true constant}

    For several rows the operator norm is approached from below by alternating maximisation.

    Args:
        instance: any program; its slopes are not used.
        samples: number of inputs.
        seed: of the inputs.
        region: where inputs come from; standard normal inputs when None.

    Returns:
        The bound with its witness; rounded down.

    Raises:
        SpecificationError: `samples` is not positive.
    """
    if samples < 1:
        raise SpecificationError(f"sampled_lower_bound: got samples={samples}; allowed is 1 or more. Ask for a sample.")
    batch = IncrementBatch([instance])
    generator = torch.Generator().manual_seed(seed)
    size = max(1, _BATCH_NUMBERS // sum(node.size for node in instance.network.nodes))
    value = torch.zeros(0, dtype=torch.float64)
    point, direction = torch.zeros((2, 0, instance.network.input_size), dtype=torch.float64)
    for first in range(0, samples, size):
        points = _inputs(instance, min(size, samples - first), generator, region)
        values, directions = batch.gradients(points[None])
        value = torch.cat([value, values[0]])
        order = value.argsort(descending=True)[:_CANDIDATES]
        value = value[order]
        point, direction = torch.cat([point, points])[order], torch.cat([direction, directions[0]])[order]
    return best_attained(instance, point, direction, region)


def _inputs(instance: SdpInstance, count: int, generator: torch.Generator, region: Region | None) -> Tensor:
    if region is not None:
        return region.sample(count, generator)
    return torch.randn((count, instance.network.input_size), dtype=torch.float64, generator=generator)
