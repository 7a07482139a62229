"""The only part of the package that touches auto_LiRPA.

Place in the data flow: level 4. Importing it works without auto_LiRPA; what needs it raises `HostUnavailableError` when
used. Where PyPI's version 0.3 is installed it is imported here, so that ``import auto_LiRPA`` works afterwards.
"""

from geolip_lirpa.lirpa.bounds import network_bounds, preactivation_bounds
from geolip_lirpa.lirpa.build import bounded_module
from geolip_lirpa.lirpa.compat import host_version, load_host, prepare_host
from geolip_lirpa.lirpa.graph import extract_network
from geolip_lirpa.lirpa.perturbation import Perturbation, bounded_input, perturbation_of

prepare_host()

__all__ = [
    "Perturbation",
    "bounded_input",
    "bounded_module",
    "extract_network",
    "host_version",
    "load_host",
    "network_bounds",
    "perturbation_of",
    "preactivation_bounds",
]
