"""One table of activations with their real-number definition in mpmath; the tests of activations run over it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import torch
from mpmath import mp
from torch import nn

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

Real = Callable[[mpmath.mpf], mpmath.mpf]


@dataclass(frozen=True)
class Case:
    """An activation, its definition and derivative over the reals, torch's module, and the points where it bends."""

    label: str
    activation: Activation
    real: Real
    derivative: Real
    module: Callable[[torch.Tensor], torch.Tensor]
    kinks: tuple[float, ...] = ()


def two_pieces(below: float) -> tuple[Real, Real]:
    return (lambda v: v if v > 0 else mp.mpf(below) * v, lambda v: mp.mpf(1 if v > 0 else below))


def clip(low: float, high: float) -> tuple[Real, Real]:
    return (lambda v: min(max(v, mp.mpf(low)), mp.mpf(high)), lambda v: mp.mpf(1 if low < v < high else 0))


def logistic(v: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mp.exp(-v))


def bell(v: mpmath.mpf) -> mpmath.mpf:
    return mp.exp(-abs(v)) / (1 + mp.exp(-abs(v))) ** 2


def softplus(beta: float) -> tuple[Real, Real]:
    b = mp.mpf(beta)
    return (
        lambda v: (max(b * v, mp.mpf(0)) + mp.log1p(mp.exp(-abs(b * v)))) / b,
        lambda v: logistic(b * v),
    )


def elu(alpha: float) -> tuple[Real, Real]:
    a = mp.mpf(alpha)
    return (lambda v: v if v > 0 else a * mp.expm1(v), lambda v: mp.mpf(1) if v > 0 else a * mp.exp(v))


def tanh_gate(v: mpmath.mpf) -> tuple[mpmath.mpf, mpmath.mpf]:
    """Twice the argument of the tanh in GELU's tanh form, and its derivative."""
    k, c = mp.sqrt(8 / mp.pi), mp.mpf("0.044715")
    return k * v * (1 + c * v * v), k * (1 + 3 * c * v * v)


def gelu_tanh_derivative(v: mpmath.mpf) -> mpmath.mpf:
    argument, growth = tanh_gate(v)
    return logistic(argument) + v * growth * bell(argument)


def normal(v: mpmath.mpf) -> mpmath.mpf:
    return mp.erfc(-v / mp.sqrt(2)) / 2


def density(v: mpmath.mpf) -> mpmath.mpf:
    return mp.exp(-v * v / 2) / mp.sqrt(2 * mp.pi)


def prelu(weight: float) -> nn.Module:
    return nn.PReLU(init=weight, dtype=torch.float64)


CASES = (
    Case("relu", ReLU(), *two_pieces(0.0), nn.ReLU(), (0.0,)),
    Case("leaky", LeakyReLU(0.01), *two_pieces(0.01), nn.LeakyReLU(0.01), (0.0,)),
    Case("leaky-steep", LeakyReLU(3.0), *two_pieces(3.0), nn.LeakyReLU(3.0), (0.0,)),
    Case("prelu", PReLU(torch.tensor(0.25)), *two_pieces(0.25), prelu(0.25), (0.0,)),
    Case("prelu-negative", PReLU(torch.tensor(-1.5)), *two_pieces(-1.5), prelu(-1.5), (0.0,)),
    Case("abs", Abs(), abs, lambda v: mp.mpf(1 if v > 0 else -1), torch.abs, (0.0,)),
    Case("hardtanh", Clip(-1.0, 1.0), *clip(-1, 1), nn.Hardtanh(), (-1.0, 1.0)),
    Case("relu6", Clip(0.0, 6.0), *clip(0, 6), nn.ReLU6(), (0.0, 6.0)),
    Case("clip-above", Clip(-math.inf, 0.5), *clip(-math.inf, 0.5), lambda v: v.clamp(max=0.5), (0.5,)),
    Case("sigmoid", Sigmoid(), logistic, bell, nn.Sigmoid()),
    Case("tanh", Tanh(), mp.tanh, lambda v: 4 * bell(2 * v), nn.Tanh()),
    Case("atan", Atan(), mp.atan, lambda v: 1 / (1 + v * v), torch.atan),
    Case("softplus", Softplus(), *softplus(1.0), nn.Softplus()),
    Case("softplus-3", Softplus(3.0), *softplus(3.0), nn.Softplus(3.0)),
    Case("elu", ELU(), *elu(1.0), nn.ELU(), (0.0,)),
    Case("elu-2", ELU(2.0), *elu(2.0), nn.ELU(2.0), (0.0,)),
    Case("elu-half", ELU(0.5), *elu(0.5), nn.ELU(0.5), (0.0,)),
    Case("elu-negative", ELU(-0.7), *elu(-0.7), nn.ELU(-0.7), (0.0,)),
    Case("silu", SiLU(), lambda v: v * logistic(v), lambda v: logistic(v) + v * bell(v), nn.SiLU()),
    Case("gelu", GELU(), lambda v: v * normal(v), lambda v: normal(v) + v * density(v), nn.GELU()),
    Case(
        "gelu-tanh",
        GELU("tanh"),
        lambda v: v * logistic(tanh_gate(v)[0]),
        gelu_tanh_derivative,
        nn.GELU(approximate="tanh"),
    ),
    Case("sin", Sin(), mp.sin, mp.cos, torch.sin),
    Case("cos", Cos(), mp.cos, lambda v: -mp.sin(v), torch.cos),
)
