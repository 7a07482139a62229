"""The natural form against the forms, the matrix inequality and the dual form that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.activations import ReLU
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lmi import assemble_lmi
from geolip_lirpa.natural_form import has_natural_form
from geolip_lirpa.network import Network, Node
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.solvers.cvxpy_backend import CvxpySolver
from geolip_lirpa.sparse_sdp import Form
from geolip_lirpa.standard_form import standard_form
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import (
    lipschitz_instance,
    random_linear,
    random_mlp,
    random_residual,
    random_skip,
    signed_sum,
    with_random_slopes,
)
from tests.reference import reference_network, reference_value
from tests.test_standard_form import dense

NORMS = st.sampled_from([Norm.LINF, Norm.L2])


def _instance(seed: int, norm: Norm, skip: bool, tie_input: bool, tie_layers: bool) -> SdpInstance:
    network = random_skip(seed, (5, 6, 2)) if skip else random_mlp(seed, (5, 6, 2))
    scale = torch.tensor([1.0, 0.5, 0.0, 2.0, 3.0], dtype=torch.float64)
    plain = lipschitz_instance(
        network, row=1, norm=norm, input_scale=scale, tie_input=tie_input, tie_layers=tie_layers
    )  # fmt: skip
    return with_random_slopes(plain, seed)


@given(st.integers(0, 10_000), st.booleans())
def test_objective_is_the_output_for_slopes_within_their_intervals(seed: int, skip: bool) -> None:
    instance = _instance(seed, Norm.LINF, skip, False, False)
    sdp, forms = standard_form(instance, "natural"), instance.forms
    rng = np.random.default_rng(seed)
    w, t = rng.uniform(-1, 1, len(forms.kept[0])), rng.uniform(-1, 1, len(forms.kept[1]))
    c = forms.output[1][0]
    # the sign of t_i is free
    slope = forms.lower[0] + (forms.upper[0] - forms.lower[0]) * (1 + np.sign(c) * t) / 2
    moved = c @ (slope * (forms.hidden[1, 0] @ w)) + (forms.output[0][0] @ w if 0 in forms.output else 0)
    assert (0 in forms.output) or not skip
    point = np.concatenate([w, t, [1.0]])
    assert point @ dense(sdp.objective, 0, sdp.size) @ point == pytest.approx(moved, rel=1e-9, abs=1e-12)


def _reduced(matrix: np.ndarray, neurons: np.ndarray) -> np.ndarray:
    """The quadratic form minimised over the neurons."""
    rest = np.setdiff1d(np.arange(len(matrix)), neurons)
    cross = matrix[np.ix_(neurons, rest)]
    return matrix[np.ix_(rest, rest)] - cross.T @ np.linalg.solve(matrix[np.ix_(neurons, neurons)], cross)


@given(st.integers(0, 10_000), NORMS, st.booleans(), st.booleans(), st.booleans())
def test_multipliers_make_the_same_quadratic_form_and_the_same_bound(
    seed: int, norm: Norm, skip: bool, tie_input: bool, tie_layers: bool
) -> None:
    instance = _instance(seed, norm, skip, tie_input, tie_layers)
    sdp, forms = standard_form(instance, Form.NATURAL), instance.forms
    x = np.random.default_rng(seed).uniform(0.1, 2, len(sdp.rhs))
    multipliers = sdp.multipliers(x, instance)
    assert sdp.rhs @ x == pytest.approx((multipliers.input.sum() + multipliers.output.sum()) / 2)
    matrix = assemble_lmi(forms, multipliers).to_dense()
    natural = 2 * (np.diag(x[sdp.groups.diagonal]) - dense(sdp.objective, 0, sdp.size))
    neurons = np.arange(forms.size)[forms.block(1)]
    np.testing.assert_allclose(_reduced(natural, neurons), _reduced(matrix, neurons), rtol=1e-8, atol=1e-9)


def test_constraints_are_single_entries_and_nothing_else_is_stored() -> None:
    instance = lipschitz_instance(random_mlp(0, (30, 20, 1)))
    sdp = standard_form(instance, "natural")
    assert (sdp.size, len(sdp.rhs), sdp.blocks) == (51, 51, (51,))
    for column in (sdp.constraints.index, sdp.constraints.rows, sdp.constraints.cols):
        assert column.tolist() == list(range(51))
    assert set(sdp.constraints.values) == set(sdp.rhs) == {1.0}
    assert len(sdp.objective.values) == 21 * 30


def test_balls_and_ties_limit_a_sum_of_squared_lengths() -> None:
    network = random_mlp(0, (4, 5, 1))
    ball = standard_form(lipschitz_instance(network, norm=Norm.L2), "natural")
    assert ball.rhs.tolist() == [1.0] * 7 and (ball.constraints.index == 0).sum() == 4
    tied = standard_form(lipschitz_instance(network, tie_input=True, tie_layers=True), "natural")
    assert tied.rhs.tolist() == [4.0, 1.0, 1.0] and tied.constraints.index.tolist() == [0] * 4 + [1] * 5 + [2]


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("ties", [(), ("tie_input",), ("tie_layers",), ("tie_input", "tie_layers")])
@pytest.mark.parametrize("skip", [False, True])
def test_both_forms_prove_the_same_bound(norm: Norm, ties: tuple[str, ...], skip: bool) -> None:
    instance = _instance(3, norm, skip, "tie_input" in ties, "tie_layers" in ties)
    bounds = []
    for form in ("dual", "natural"):
        result = CvxpySolver(form=form).solve([instance])[0]
        bounds.append(prove(instance, result.multipliers).upper)
        assert result.value is not None
        assert bounds[-1] * (1 - 1e-6) <= result.value <= bounds[-1]
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-6)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_reference_values_are_proven(reference_data, norm: Norm) -> None:
    name = "digits_64-8-10"
    instance = lipschitz_instance(
        reference_network(reference_data / "networks" / "relu" / f"{name}.onnx"), norm=norm
    )  # fmt: skip
    result = CvxpySolver(form="natural").solve([instance])[0]
    upper = prove(instance, result.multipliers).upper
    assert upper == pytest.approx(reference_value(reference_data, name, norm), rel=1e-6)


# --- when it exists -------------------------------------------------------------------------------------------------


def _parallel(seed: int) -> Network:
    """Two activations side by side, added."""
    generator = torch.Generator().manual_seed(seed)
    return Network(
        (
            Node("input", (3,)),
            Node("linear0", (4,), (0,), random_linear(4, 3, generator)),
            Node("act0", (4,), (1,), ReLU()),
            Node("linear1", (4,), (0,), random_linear(4, 3, generator)),
            Node("act1", (4,), (3,), ReLU()),
            Node("add", (4,), (2, 4), signed_sum(1.0, -1.0)),
            Node("linear2", (1,), (5,), random_linear(1, 4, generator)),
        )
    )


def test_activations_side_by_side_are_one_layer() -> None:
    instance = with_random_slopes(lipschitz_instance(_parallel(2)), 2)
    bounds = [prove(instance, CvxpySolver(form=f).solve([instance])[0].multipliers).upper for f in ("dual", "natural")]
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-6)


def test_a_layer_of_fixed_slopes_does_not_count() -> None:
    deep = lipschitz_instance(random_mlp(1, (3, 4, 4, 1)))
    ends = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    fixed = type(deep.slopes[0])(ends, ends)
    for slopes in ((fixed, deep.slopes[1]), (deep.slopes[0], fixed)):
        instance = SdpInstance(deep.network, slopes, deep.input_norm, deep.input_scale, deep.rows)
        natural, dual = (CvxpySolver(form=form).solve([instance])[0].value for form in ("natural", "dual"))
        assert natural == pytest.approx(dual, rel=1e-6)


@pytest.mark.parametrize(
    ("instance", "words"),
    [
        (lipschitz_instance(random_mlp(0, (3, 4, 4, 1))), "activations that read other activations"),
        (lipschitz_instance(random_residual(0)), "activations that read other activations"),
        (lipschitz_instance(random_mlp(0, (3, 4, 2)), output=OutputNorm.L1), "2 output rows together"),
        (lipschitz_instance(random_mlp(0, (3, 4, 3)), output=OutputNorm.L2), "3 output rows together"),
    ],
)
def test_others_are_refused_and_told_of_the_dual_form(instance: SdpInstance, words: str) -> None:
    assert not has_natural_form(instance.forms)
    for attempt in (lambda: standard_form(instance, "natural"), lambda: CvxpySolver(form="natural").solve([instance])):
        with pytest.raises(SpecificationError, match=rf"form 'natural': got a program with {words}.*form='dual'"):
            attempt()


def _finite(multipliers: Multipliers) -> bool:
    parts = (*multipliers.hidden, multipliers.input, multipliers.output)
    return all(bool(np.isfinite(part).all() and (part >= 0).all()) for part in parts)


@pytest.mark.parametrize("x", [[0.0] * 10, [-1.0] * 10, [1.0] * 4 + [0.0, -1.0, 0.5, 0.5, 1e-300] + [1.0]])
def test_solutions_that_break_off_give_finite_multipliers(x: list[float]) -> None:
    instance = lipschitz_instance(random_mlp(0, (4, 5, 1)))
    assert _finite(standard_form(instance, "natural").multipliers(np.array(x), instance))
