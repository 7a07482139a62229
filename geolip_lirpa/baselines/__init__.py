"""Simple bounds to compare with: product of norms, entrywise radii, sampling, enumeration.

Place in the data flow: level 6, each takes an `SdpInstance`.
"""

from __future__ import annotations

from geolip_lirpa.baselines.best_norm import best_norm_bound
from geolip_lirpa.baselines.brute_force import brute_force
from geolip_lirpa.baselines.matrix_free import matrix_free_bound
from geolip_lirpa.baselines.norm_product import entrywise_bound, norm_product
from geolip_lirpa.baselines.sampling import sampled_lower_bound

__all__ = [
    "best_norm_bound",
    "brute_force",
    "entrywise_bound",
    "matrix_free_bound",
    "norm_product",
    "sampled_lower_bound",
]
