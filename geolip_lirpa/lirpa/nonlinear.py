"""How each class of host activation becomes an `Activation` of the network.

Place in the data flow: level 4, used by `graph`. `NONLINEAR` maps a class name to its builder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from geolip_lirpa.activations import (
    ELU,
    GELU,
    Abs,
    Activation,
    Atan,
    Clip,
    Cos,
    LeakyReLU,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Tanh,
)
from geolip_lirpa.lirpa.builder import Builder, View


def _elementwise(make: Callable[[View], Activation]) -> Builder:
    def build(view: View) -> int:
        view.require_dependent([0])
        return view.add(make(view), (view.position(0),))

    return build


def _leaky_relu(view: View) -> Activation:
    slope = float(view.attribute("alpha", 0.01))
    if slope < 0:
        raise view.refusal(f"negative_slope={slope} is negative; supported are slopes of at least 0")
    return ReLU() if slope == 0 else LeakyReLU(slope)


def _prelu(view: View) -> Activation:
    return PReLU(view.sample_constant(1, view.value(0).ndim))


def _clip(view: View) -> Activation:
    minimum = _end(view, 1, -math.inf)
    maximum = _end(view, 2, math.inf)
    return Clip(minimum, maximum)


def _end(view: View, i: int, default: float) -> float:
    value: Tensor | None = view.optional(i)
    if value is None or value.numel() == 0:
        return default
    if value.numel() > 1:
        raise view.refusal("its limits must be single numbers")
    return float(value)


def _elu(view: View) -> Activation:
    return ELU(float(view.attribute("alpha", 1.0)))


def _gelu(view: View) -> Activation:
    if view.attribute("approximate", "none") not in ("none", b"none"):
        raise view.refusal("auto_LiRPA computes the erf form of GELU, not the tanh approximation the model asks for")
    return GELU()


NONLINEAR: Mapping[str, Builder] = MappingProxyType(
    {
        "BoundRelu": _elementwise(lambda view: ReLU()),
        "BoundLeakyRelu": _elementwise(_leaky_relu),
        "BoundPRelu": _elementwise(_prelu),
        "BoundAbs": _elementwise(lambda view: Abs()),
        "BoundHardTanh": _elementwise(_clip),
        "BoundClip": _elementwise(_clip),
        "BoundSigmoid": _elementwise(lambda view: Sigmoid()),
        "BoundTanh": _elementwise(lambda view: Tanh()),
        "BoundSoftplus": _elementwise(lambda view: Softplus()),
        "BoundElu": _elementwise(_elu),
        "BoundSilu": _elementwise(lambda view: SiLU()),
        "BoundGelu": _elementwise(_gelu),
        "BoundSin": _elementwise(lambda view: Sin()),
        "BoundCos": _elementwise(lambda view: Cos()),
        "BoundAtan": _elementwise(lambda view: Atan()),
    }
)
