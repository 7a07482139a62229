"""The best product of norms that a network's size allows.

Place in the data flow: level 6, ``SdpInstance -> proven bound``; trusted.
"""

from __future__ import annotations

from geolip_lirpa.baselines.matrix_free import NodeRadii, matrix_free_bound
from geolip_lirpa.baselines.norm_product import entrywise_bound, norm_product
from geolip_lirpa.sdp import SdpInstance

#: Most inputs and neurons for which the network's linear maps are put together to dense blocks.
DENSE_VARIABLES = 4000


def best_norm_bound(instance: SdpInstance, radii: NodeRadii | None = None) -> float:
    """The smallest of all products of norms, of dense blocks as well where the network is small.

    Args:
        instance: any program; whoever checks a claim and whoever makes it call this function.
        radii: see `matrix_free_bound`.
    """
    bounds = [matrix_free_bound(instance, radii)]
    if instance.network.input_size + instance.network.hidden_size <= DENSE_VARIABLES:
        bounds += [norm_product(instance), entrywise_bound(instance)]
    return min(bounds)
