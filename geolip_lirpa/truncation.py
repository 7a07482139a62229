"""A network up to one of its values.

Place in the data flow: level 3, ``Network + node -> Network``: for statements on values in the middle of a network.
"""

from __future__ import annotations

from dataclasses import replace

from geolip_lirpa.network import Network


def truncated(network: Network, position: int) -> tuple[Network, tuple[int, ...]]:
    """The network whose output is one node's value, without the nodes that this value does not depend on.

    Args:
        network: any.
        position: of the node.

    Returns:
        The smaller network, and the positions that its nodes have in the larger one, in order.
    """
    needed = {0, position}
    for i in range(position, 0, -1):
        if i in needed:
            needed.update(network.nodes[i].inputs)
    kept = tuple(sorted(needed))
    place = {old: new for new, old in enumerate(kept)}
    nodes = [replace(network.nodes[i], inputs=tuple(place[j] for j in network.nodes[i].inputs)) for i in kept]
    return Network(tuple(nodes)), kept
