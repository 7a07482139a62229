"""Verdicts: true on small networks by linear programs, whatever the method; violations only where they are real."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.activations import Tanh
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.margin_types import METHODS
from geolip_lirpa.network import AffineOperator, Network, linear_operator, sequential
from geolip_lirpa.rounding import Array
from geolip_lirpa.specification import Case, InputBox, Polytope, Specification
from geolip_lirpa.unit_box import over_unit_box
from geolip_lirpa.verify import verify_network
from geolip_lirpa.verify_types import Verdict, VerifyOptions
from geolip_lirpa.violations import Judge
from tests.networks import random_mlp, random_residual
from tests.specification_cases import chain_of, dense_inputs, depth, random_specification

SEEDS = st.integers(0, 10_000)
EXACT = 1e-6


def line(slope: float = 1.0, shift: float = 0.0) -> Network:
    """One input, one output."""
    operator = linear_operator(torch.tensor([[slope]], dtype=torch.float64), torch.tensor([shift], dtype=torch.float64))
    return sequential((1,), [("linear", operator)])


def single(box: InputBox, matrix: list[list[float]], bound: list[float], strict: bool = False) -> Specification:
    numbers = np.array(bound)
    polytope = Polytope(np.array(matrix), numbers, numbers, np.full(len(bound), strict))
    return Specification(box.size, len(matrix[0]), (Case(box, (polytope,)),))


def require_true(network: Network, specification: Specification, method: str, true: float, timeout: float) -> None:
    result = verify_network(network, specification, VerifyOptions(method, timeout))
    if result.verdict is Verdict.UNSAT:
        assert true > -EXACT
    if result.verdict is Verdict.SAT:
        assert true < EXACT and result.witness is not None
        inputs = result.witness.inputs
        assert any(
            (case.box.lower <= inputs).all() and (inputs <= case.box.upper).all() for case in specification.cases
        )
    if result.bound is not None:
        assert result.bound <= true + EXACT
    if method == "combined" and abs(true) > 0.05:
        assert result.verdict is (Verdict.UNSAT if true > 0 else Verdict.SAT)


@given(SEEDS)
def test_verdicts_are_true(seed: int) -> None:
    network = random_mlp(seed, (3, 3, 2, 2))
    specification = random_specification(seed, 3, 2)
    true = depth(chain_of(network), specification)
    for method in METHODS:
        require_true(network, specification, method, true, 20.0)


@given(SEEDS)
def test_verdicts_with_many_inputs_are_true(seed: int) -> None:
    """More inputs than boxes are halved along: signs of neurons are split."""
    network = random_mlp(seed, (12, 4, 2))
    specification = random_specification(seed, 12, 2, reach=0.6)
    require_true(network, specification, "combined", depth(chain_of(network), specification), 20.0)


@pytest.mark.parametrize("network", [random_residual(3), random_mlp(1, (5, 6, 2), Tanh())])
def test_networks_that_are_no_chains(network: Network) -> None:
    decided = 0
    for seed in range(6):
        specification = random_specification(seed, 5, 2, reach=0.3)
        result = verify_network(network, specification, VerifyOptions(timeout=5.0))
        decided += result.verdict in (Verdict.SAT, Verdict.UNSAT)
        for case in specification.cases if result.verdict is Verdict.UNSAT else ():
            values = network.forward(dense_inputs(case.box, 3000))
            for p in case.unsafe:
                assert not (values @ torch.from_numpy(p.matrix).T <= torch.from_numpy(p.bound)).all(dim=1).any()
    assert decided >= 5


def test_the_methods_behind_a_proof_are_named() -> None:
    """Neither halving nor splitting serves a residual network with many inputs; the margins' methods do."""
    network, box = random_residual(0, width=12), InputBox.of(np.full(12, 0.1), np.full(12, 0.5))
    specification = single(box, [[1.0, 0.0]], [-1.6])
    assert verify_network(network, specification, VerifyOptions("crown")).verdict is Verdict.UNKNOWN
    result = verify_network(network, specification, VerifyOptions(timeout=60.0))
    assert result.verdict is Verdict.UNSAT and result.bound is not None and result.bound > 0
    assert result.proved_by and set(result.proved_by) <= set(METHODS) - {"combined"}


@given(SEEDS)
def test_a_network_over_the_unit_cube_covers_the_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = torch.from_numpy(rng.normal(size=4) * 10.0 ** rng.integers(-3, 4, 4))
    high = low + torch.from_numpy(rng.random(4) * 10.0 ** rng.integers(-20, 3, 4))
    low[0] = high[0]
    cube = over_unit_box(random_mlp(seed, (4, 3, 2)), low, high)
    operator = cube.nodes[1].operation
    assert isinstance(operator, AffineOperator) and operator.bias is not None
    half, middle = operator.parameters[0].tolist(), operator.bias.tolist()
    for h, c, a, b in zip(half, middle, low.tolist(), high.tolist(), strict=True):
        assert Fraction(c) - Fraction(h) <= Fraction(a) and Fraction(b) <= Fraction(c) + Fraction(h)


def test_weights_of_a_box_are_its_half_widths() -> None:
    """A cube around a thin box would not prove this with a Lipschitz constant."""
    operator = linear_operator(torch.tensor([[1.0, 100.0]]), torch.zeros(1))
    network = sequential((2,), [("linear", operator)])
    box = InputBox.of(np.array([-1.0, -0.001]), np.array([1.0, 0.001]))
    result = verify_network(network, single(box, [[1.0]], [-1.2]), VerifyOptions("geolip"))
    assert result.verdict is Verdict.UNSAT
    assert result.bound == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_cases_without_polytopes_hold(method: str) -> None:
    specification = Specification(1, 1, (Case(InputBox.of(np.zeros(1), np.ones(1)), ()),))
    assert verify_network(line(), specification, VerifyOptions(method)).verdict is Verdict.UNSAT


def test_many_inputs_and_no_neurons() -> None:
    """The row is positive, but by less than the rounding errors: there is no neuron that could be split."""
    operator = linear_operator(torch.full((1, 12), 0.1, dtype=torch.float64), torch.zeros(1))
    network = sequential((12,), [("linear", operator)])
    box = InputBox.of(np.zeros(12), np.ones(12))
    specification = single(box, [[1.0]], [0.0], strict=True)
    result = verify_network(network, specification, VerifyOptions(timeout=2.0))
    assert result.verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)


def test_rows_out_of_range_leave_a_case_open() -> None:
    """No bound by Lipschitz constants takes such rows; with all methods together this is no mistake of the user."""
    network = random_residual(3, width=12)
    specification = single(InputBox.of(-np.ones(12), np.ones(12)), [[1e70, 0.0]], [-2e70])
    with pytest.raises(SpecificationError, match="Scale the rows"):
        verify_network(network, specification, VerifyOptions("geolip"))
    result = verify_network(network, specification, VerifyOptions(timeout=60.0))
    assert (result.verdict, result.proved_by) == (Verdict.UNSAT, ("splitting inputs",))


def test_a_specification_without_cases_holds() -> None:
    result = verify_network(line(), Specification(1, 1, ()), VerifyOptions())
    assert (result.verdict, result.witness) == (Verdict.UNSAT, None)


def test_any_output_of_a_nonempty_box_is_reached() -> None:
    box = InputBox.of(np.zeros(1), np.ones(1))
    specification = Specification(1, 1, (Case(box, (Polytope.of(np.zeros((0, 1)), np.zeros(0)),)),))
    assert verify_network(line(), specification, VerifyOptions()).verdict is Verdict.SAT


def test_sizes_have_to_fit() -> None:
    with pytest.raises(SpecificationError, match="has 2 inputs and 1 outputs"):
        verify_network(line(), single(InputBox.of(np.zeros(2), np.ones(2)), [[1.0]], [0.0]), VerifyOptions())


def test_methods_that_do_not_serve_are_named() -> None:
    specification = random_specification(0, 3, 2)
    with pytest.raises(SpecificationError, match="pointwise program knows ReLU only"):
        verify_network(random_mlp(0, (3, 4, 2), Tanh()), specification, VerifyOptions("sdp"))


@pytest.mark.parametrize("fields", [{"method": "magic"}, {"timeout": 0.0}, {"timeout": math.nan}, {"seed": -1}])
def test_bad_options_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(SpecificationError):
        VerifyOptions(**fields)  # type: ignore[arg-type]


def test_the_time_ends_the_search() -> None:
    """x1 + x2 touches its bound along a line: halving never ends."""
    operator = linear_operator(torch.ones((1, 2)), torch.zeros(1))
    network = sequential((2,), [("linear", operator)])
    box = InputBox.of(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    touching = single(box, [[1.0], [-1.0]], [1e-18, 1e-18], strict=True)
    judge: list[Array] = []

    def reject(x: Array) -> Array:
        judge.append(x)
        return np.array([5.0])

    # a quick machine comes to boxes between neighbouring doubles before
    result = verify_network(network, touching, VerifyOptions(timeout=1.0), reject)
    assert result.verdict in (Verdict.TIMEOUT, Verdict.UNKNOWN) and result.seconds < 10.0
    assert judge
    assert verify_network(network, touching, VerifyOptions(timeout=1e-9), reject).verdict is Verdict.TIMEOUT


# --- violations -------------------------------------------------------------------------------------------------------


def test_strict_rows_have_to_be_strict() -> None:
    box = InputBox.of(np.array([0.5]), np.array([0.5]))
    point = np.array([0.5])
    assert Judge(line(), single(box, [[1.0]], [0.5])).accepted(point, 0) is not None
    assert Judge(line(), single(box, [[1.0]], [0.6], strict=True)).accepted(point, 0) is not None
    assert Judge(line(), single(box, [[1.0]], [0.5], strict=True)).accepted(point, 0) is None


def test_the_replay_has_the_last_word() -> None:
    box = InputBox.of(np.array([0.0]), np.array([1.0]))
    specification = single(box, [[1.0]], [0.6])
    point = np.array([0.25])
    assert Judge(line(), specification, lambda x: x + 1.0).accepted(point, 0) is None
    assert Judge(line(), specification, lambda x: x * math.nan).accepted(point, 0) is None
    assert Judge(line(), specification, lambda x: None).accepted(point, 0) is None
    found = Judge(line(), specification, lambda x: x + 0.1).accepted(point, 0)
    assert found is not None
    assert found.outputs == pytest.approx(0.35)


def test_what_only_the_replay_sees_is_no_violation() -> None:
    box = InputBox.of(np.array([0.9]), np.array([1.0]))
    assert Judge(line(), single(box, [[1.0]], [0.6]), lambda x: x * 0.0).accepted(np.array([1.0]), 0) is None


def test_points_are_moved_into_the_box_and_to_single_precision() -> None:
    low, high = 0.1, 0.1 + 1e-6
    box = InputBox.of(np.array([low]), np.array([high]))
    found = Judge(line(), single(box, [[1.0]], [1.0])).accepted(np.array([3.0]), 0)
    assert found is not None
    assert low <= found.inputs[0] <= high
    assert float(np.float32(found.inputs[0])) == found.inputs[0]


def test_inputs_fixed_at_a_decimal() -> None:
    """0.1 is no double: the outputs have to be unsafe for all numbers between its neighbours."""
    below, above = np.nextafter(0.1, 0.0), np.nextafter(0.1, 1.0)
    box = InputBox(np.array([below]), np.array([above]), np.array([0.1]), np.array([0.1]))
    assert Judge(line(), single(box, [[1.0]], [0.2])).accepted(np.array([0.1]), 0) is not None
    assert Judge(line(1e16), single(box, [[1.0]], [1e15])).accepted(np.array([0.1]), 0) is None
