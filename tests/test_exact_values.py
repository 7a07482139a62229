"""Outputs as fractions, and violations that lie on a bound exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa import affine
from geolip_lirpa.activations import Abs, Activation, ReLU, Tanh
from geolip_lirpa.exact_values import exact_network
from geolip_lirpa.interval import node_bounds
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.specification import Case, InputBox, Polytope, Specification
from geolip_lirpa.verify import verify_network
from geolip_lirpa.verify_types import Verdict, VerifyOptions
from geolip_lirpa.violations import Judge
from tests.networks import random_convnet, random_mlp, random_residual

SEEDS = st.integers(0, 10_000)


def two_layers(seed: int, activation: Activation) -> tuple[Network, list[np.ndarray]]:
    """Weights of all sizes, and the numbers they are made of."""
    rng = np.random.default_rng(seed)
    numbers = [rng.normal(size=shape) * 10.0 ** rng.integers(-20, 21, shape) for shape in ((4, 3), (4,), (2, 4), (2,))]
    w, b, v, c = (torch.from_numpy(a) for a in numbers)
    network = sequential((3,), [("a", linear_operator(w, b)), ("act", activation), ("b", linear_operator(v, c))])
    return network, numbers


def fractions(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(v)) for v in values]


@given(SEEDS, st.booleans())
def test_outputs_are_those_of_fractions(seed: int, absolute: bool) -> None:
    network, (w, b, v, c) = two_layers(seed, Abs() if absolute else ReLU())
    x = np.random.default_rng(seed + 1).normal(size=3)
    exact = exact_network(network)
    assert exact is not None
    hidden = [sum((p * q for p, q in zip(fractions(r), fractions(x), strict=True)), Fraction(float(d)))
              for r, d in zip(w, b, strict=True)]  # fmt: skip
    hidden = [abs(h) if absolute else max(h, Fraction(0)) for h in hidden]
    expected = [sum((p * q for p, q in zip(fractions(r), hidden, strict=True)), Fraction(float(d)))
                for r, d in zip(v, c, strict=True)]  # fmt: skip
    assert exact.outputs(x) == expected


@given(SEEDS)
def test_branches_lie_within_their_enclosures(seed: int) -> None:
    network = random_residual(seed)
    exact = exact_network(network)
    assert exact is not None
    x = np.random.default_rng(seed).normal(size=5)
    point = torch.from_numpy(x)[None]
    low, high = node_bounds(network, point, point)[-1]
    for value, least, most in zip(exact.outputs(x), low[0].tolist(), high[0].tolist(), strict=True):
        assert Fraction(least) <= value <= Fraction(most)
        assert most - least < 1e-12


def test_convolutions_are_served() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn((2, 1, 3, 3), generator=generator), torch.randn(2, generator=generator)
    operator = affine.convolution(weight, bias, stride=[2, 2], padding=[1, 1], dilation=[1, 1])
    network = sequential((1, 5, 5), [("conv", operator), ("relu", ReLU())])
    exact = exact_network(network)
    assert exact is not None
    x = torch.randn((1, 1, 5, 5), generator=generator, dtype=torch.float64)
    expected = network.forward(x)[0].tolist()
    assert [float(v) for v in exact.outputs(x.numpy().reshape(-1))] == pytest.approx(expected, abs=1e-13)


def test_networks_that_are_not_served() -> None:
    assert exact_network(random_mlp(0, (3, 4, 2), Tanh())) is None
    assert exact_network(random_convnet(0)) is None  # the coefficients of its means are rounded
    assert exact_network(random_mlp(0, (600, 600, 2))) is None


# --- violations on a bound --------------------------------------------------------------------------------------------


def touching(strict: bool = False, shift: float = 0.0) -> tuple[Network, Specification]:
    """``relu(x - 1) + 0.1 + shift`` over [-1, 1]: its smallest value is 0.1 + shift, the bound 0.1."""
    first = linear_operator(torch.tensor([[1.0]]), torch.tensor([-1.0]))
    last = linear_operator(torch.tensor([[1.0]]), torch.tensor([0.1 + shift], dtype=torch.float64))
    network = sequential((1,), [("first", first), ("relu", ReLU()), ("last", last)])
    bound = np.array([0.1])
    polytope = Polytope(np.ones((1, 1)), bound, bound, np.array([strict]))
    return network, Specification(1, 1, (Case(InputBox.of(-np.ones(1), np.ones(1)), (polytope,)),))


def test_outputs_on_the_bound_of_a_closed_polytope_violate() -> None:
    assert verify_network(*touching(), VerifyOptions(timeout=20)).verdict is Verdict.SAT


@pytest.mark.parametrize(("strict", "shift"), [(True, 0.0), (False, 2.0**-56)])
def test_outputs_on_an_open_bound_or_beside_it_do_not(strict: bool, shift: float) -> None:
    network, specification = touching(strict, shift)
    assert shift == 0.0 or 0.1 + shift > 0.1
    assert verify_network(network, specification, VerifyOptions(timeout=20)).verdict is not Verdict.SAT
    assert Judge(network, specification).accepted(np.zeros(1), 0) is None


def test_equalities_are_found() -> None:
    """An output of exactly one value."""
    network, _ = touching()
    matrix, bound = np.array([[1.0], [-1.0]]), np.array([0.1, -0.1])
    specification = Specification(1, 1, (Case(InputBox.of(-np.ones(1), np.ones(1)), (Polytope.of(matrix, bound),)),))
    assert verify_network(network, specification, VerifyOptions(timeout=20)).verdict is Verdict.SAT


def test_the_replay_may_not_miss_the_bound_by_a_rounding_error() -> None:
    network, specification = touching()
    point = np.zeros(1)
    assert Judge(network, specification, lambda x: np.array([0.1])).accepted(point, 0) is not None
    assert Judge(network, specification, lambda x: np.array([float(np.float32(0.1))])).accepted(point, 0) is None


def test_rows_of_the_replay_are_compared_exactly() -> None:
    """``y0 + y1 <= 1`` with outputs whose sum exceeds 1 by less than a rounding error."""
    operator = linear_operator(torch.zeros((2, 1)), torch.zeros(2))
    network = sequential((1,), [("linear", operator)])
    case = Case(InputBox.of(np.zeros(1), np.ones(1)), (Polytope.of(np.ones((1, 2)), np.ones(1)),))
    outputs = np.array([1.0, 2.0**-60])
    assert Judge(network, Specification(1, 2, (case,)), lambda x: outputs).accepted(np.zeros(1), 0) is None
    assert Judge(network, Specification(1, 2, (case,)), lambda x: outputs - [2.0**-52, 0]).accepted(np.zeros(1), 0)
