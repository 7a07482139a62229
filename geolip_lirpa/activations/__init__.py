"""Elementwise activations and their slope intervals.

Place in the data flow: level 1. `ACTIVATIONS` is the read-only table of everything that can be certified; one rule per
entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.activations.gated import GELU, SiLU
from geolip_lirpa.activations.periodic import Cos, Sin
from geolip_lirpa.activations.piecewise import Abs, Clip, LeakyReLU, PReLU, ReLU
from geolip_lirpa.activations.smooth import ELU, Atan, Sigmoid, Softplus, Tanh

_KINDS: tuple[type[Activation], ...] = (
    ReLU, LeakyReLU, PReLU, Abs, Clip, Sigmoid, Tanh, Softplus, ELU, SiLU, GELU, Sin, Cos, Atan
)  # fmt: skip

ACTIVATIONS: Mapping[str, type[Activation]] = MappingProxyType({kind.name: kind for kind in _KINDS})

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "GELU",
    "Abs",
    "Activation",
    "Atan",
    "Clip",
    "Cos",
    "LeakyReLU",
    "PReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Sin",
    "SlopeInterval",
    "Softplus",
    "Tanh",
]
