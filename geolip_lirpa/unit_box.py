r"""A network over a box as a network over the unit cube.

Place in the data flow: level 4, ``Network + box -> Network``. With the middle c and half widths h of a box, rounded up,

.. math:: [l, u] \subseteq \{c + \mathrm{diag}(h) w : |w|_\infty \le 1\},

so that every method for balls serves boxes with their own half widths, Lipschitz constants too.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.network import Network, Node
from geolip_lirpa.rounding import gamma


def over_unit_box(network: Network, lower: Tensor, upper: Tensor) -> Network:
    r"""The network :math:`w \mapsto f(c + \mathrm{diag}(h) w)`.

    Args:
        network: float64, on the CPU.
        lower: (n0,) float64, smallest inputs.
        upper: (n0,), largest inputs.
    """
    middle = 0.5 * lower + 0.5 * upper
    half = torch.maximum(middle - lower, upper - middle) * (1.0 + gamma(4))
    # smaller ones would leave the range of proofs
    half = torch.where(half > 0, half.clamp(min=1e-90), half)
    shape = network.input_shape
    scaling = affine.scaling(half.reshape(shape), middle.reshape(shape))
    moved = [
        replace(node, inputs=tuple(i + 1 for i in node.inputs)) if node.operation is not None else node
        for node in network.nodes[1:]
    ]
    first = network.nodes[0]
    return Network((first, Node("unit box", shape, (0,), scaling), *moved))
