"""Forms and the linear matrix inequality against their definitions, with exact rational arithmetic as the judge."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lmi import assemble_lmi, lipschitz_terms, matrix_error
from geolip_lirpa.network import AffineOperator, Network, linear_operator, sequential
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual

seeds = st.integers(0, 10_000)


def _random_multipliers(instance: SdpInstance, seed: int) -> Multipliers:
    rng = np.random.default_rng(seed)
    hidden = tuple(rng.uniform(0, 2, s.lower.numel()) for s in instance.slopes)
    size = 1 if instance.input_norm is Norm.L2 else instance.input_scale.numel()
    return Multipliers(hidden, rng.uniform(0, 2, size), np.ones(instance.rows.shape[0]))


def _random_slopes(network: Network, seed: int, fixed: float) -> tuple[SlopeInterval, ...]:
    """Intervals of which a share is a single number."""
    generator = torch.Generator().manual_seed(seed)
    slopes = []
    for position in network.activations:
        size = network.nodes[position].size
        ends = torch.rand((2, size), generator=generator, dtype=torch.float64) * 2 - 0.5
        lower, upper = ends.amin(0), ends.amax(0)
        same = torch.rand(size, generator=generator) < fixed
        slopes.append(SlopeInterval(lower, torch.where(same, lower, upper)))
    return tuple(slopes)


def _quadratic_form(instance: SdpInstance, multipliers: Multipliers, y: np.ndarray) -> float:
    """-2 sum lambda (dz - alpha dv)(beta dv - dz) + sum tau w^2, by running the network."""
    forms, network = instance.forms, instance.network
    w = torch.zeros(network.input_size, dtype=torch.float64)
    w[torch.as_tensor(forms.kept[0])] = torch.from_numpy(y[forms.block(0)])
    total = float((torch.as_tensor(multipliers.input) * w**2).sum())

    def activation(l: int, v: torch.Tensor) -> torch.Tensor:
        nonlocal total
        interval, flat = instance.slopes[l], v.reshape(-1)
        z = interval.lower * flat
        kept = torch.as_tensor(forms.kept[l + 1])
        z[kept] = torch.from_numpy(y[forms.block(l + 1)])
        product = (z - interval.lower * flat) * (interval.upper * flat - z)
        total -= 2 * float((torch.as_tensor(multipliers.hidden[l])[kept] * product[kept]).sum())
        return z.reshape(v.shape)

    network.propagate((w * instance.input_scale).reshape(1, *network.input_shape), activation)
    return total


@given(
    seed=seeds, norm=st.sampled_from([Norm.LINF, Norm.L2]), fixed=st.sampled_from([0.0, 0.4]), residual=st.booleans()
)
def test_lmi_is_the_sum_of_the_products(seed: int, norm: Norm, fixed: float, residual: bool) -> None:
    network = random_residual(seed) if residual else random_mlp(seed, (4, 6, 5, 2))
    scale = torch.rand(network.input_size, dtype=torch.float64) + 0.1
    slopes = _random_slopes(network, seed, fixed)
    instance = SdpInstance(network, slopes, norm, scale, torch.eye(2, dtype=torch.float64)[:1])
    multipliers = _random_multipliers(instance, seed)
    matrix = assemble_lmi(instance.forms, multipliers).to_dense()
    inner = matrix[: instance.forms.size, : instance.forms.size]
    y = np.random.default_rng(seed + 1).normal(size=instance.forms.size)
    expected = _quadratic_form(instance, multipliers, y)
    assert y @ inner @ y == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (matrix == matrix.T).all()


@given(seed=seeds)
def test_output_forms_are_the_network(seed: int) -> None:
    network = random_residual(seed)
    rows = torch.randn((2, 2), dtype=torch.float64)
    instance = lipschitz_instance(network, rows=rows, output=OutputNorm.L2)
    forms = instance.forms
    y = np.random.default_rng(seed).normal(size=forms.size)
    found = sum(block @ y[forms.block(s)] for s, block in forms.output.items())

    def activation(l: int, v: torch.Tensor) -> torch.Tensor:
        z = torch.zeros(v.numel(), dtype=torch.float64)
        z[torch.as_tensor(forms.kept[l + 1])] = torch.from_numpy(y[forms.block(l + 1)])
        return z.reshape(v.shape)

    w = torch.from_numpy(y[forms.block(0)]).reshape(1, -1)
    expected = (network.propagate(w, activation) @ rows.T)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def _exact(matrix: torch.Tensor) -> list[list[Fraction]]:
    return [[Fraction(v) for v in row] for row in matrix.tolist()]


def _product(a: list[list[Fraction]], b: list[list[Fraction]]) -> list[list[Fraction]]:
    return [
        [sum((x * y for x, y in zip(row, col, strict=True)), Fraction(0)) for col in zip(*b, strict=True)] for row in a
    ]


@given(seed=seeds, exponent=st.integers(-3, 3))
def test_error_bounds_hold_in_rational_arithmetic(seed: int, exponent: int) -> None:
    """Two affine layers in a row are multiplied in floating point; the declared error covers the difference."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn((5, 4), generator=generator) * 10.0**exponent
    second = torch.randn((3, 5), generator=generator)
    last = torch.randn((1, 3), generator=generator)
    scale = torch.rand(4, dtype=torch.float64, generator=generator) + 0.1
    network = sequential(
        (4,),
        [("a", linear_operator(first)), ("b", linear_operator(second)), ("r", ReLU()), ("c", linear_operator(last))],
    )
    forms = lipschitz_instance(network, input_scale=scale).forms
    exact = _product(
        _product(_exact(second), _exact(first)),
        [[Fraction(0)] * j + [Fraction(s)] + [Fraction(0)] * (3 - j) for j, s in enumerate(scale.tolist())],
    )
    error = forms.hidden_error[1, 0]
    for i, row in enumerate(exact):
        for j, value in enumerate(row):
            assert abs(Fraction(float(forms.hidden[1, 0][i, j])) - value) <= Fraction(float(error[i, j]))
    # and it is an error bound, not a license: a few units of rounding
    assert (error <= 1e-13 * np.abs(second.double().numpy()) @ np.abs(first.double().numpy())).all()


def test_single_layers_are_exact() -> None:
    forms = lipschitz_instance(random_mlp(0, (6, 8, 8, 2))).forms
    assert not forms.hidden_error and not forms.output_error


def _error(instance: SdpInstance, multipliers: Multipliers) -> np.ndarray:
    """All entries of the matrix of error bounds, column by column."""
    sizes = [len(k) for k in instance.forms.kept] + [instance.forms.rows]
    ends = np.cumsum(sizes)[:-1]
    unit = np.eye(sum(sizes))
    terms = lipschitz_terms(instance.forms, multipliers)
    return np.stack([np.concatenate(matrix_error(terms, np.split(e, ends))) for e in unit], axis=1)


@given(seed=seeds)
def test_matrix_error_bound_in_rational_arithmetic(seed: int) -> None:
    """LeakyReLU has alpha beta > 0, so M holds products V^T diag(q) V that are rounded."""
    network = random_mlp(seed, (3, 4, 2), LeakyReLU(0.1))
    instance = lipschitz_instance(network)
    multipliers = _random_multipliers(instance, seed)
    forms = instance.forms
    matrix, error = assemble_lmi(forms, multipliers).to_dense(), _error(instance, multipliers)
    v = _exact(torch.from_numpy(forms.hidden[1, 0]))
    for i in range(3):
        for j in range(3):
            exact = Fraction(float(multipliers.input[i])) if i == j else Fraction(0)
            for n, row in enumerate(v):
                alpha, beta = Fraction(float(forms.lower[0][n])), Fraction(float(forms.upper[0][n]))
                exact += 2 * Fraction(float(multipliers.hidden[0][n])) * alpha * beta * row[i] * row[j]
            assert abs(Fraction(float(matrix[i, j])) - exact) <= Fraction(float(error[i, j]))


def test_dead_and_unread_neurons_leave_the_program() -> None:
    weight = torch.randn((4, 3))
    weight[1] = 0.0  # cannot move
    out = torch.randn((1, 4))
    out[0, 2] = 0.0  # is not read
    network = sequential((3,), [("a", linear_operator(weight)), ("r", ReLU()), ("b", linear_operator(out))])
    assert lipschitz_instance(network).forms.kept[1].tolist() == [0, 3]


def test_other_slopes_never_reuse_blocks() -> None:
    from dataclasses import replace

    instance = lipschitz_instance(random_mlp(1, (3, 4, 1)))
    other = instance.with_rows(2 * instance.rows)
    fixed = tuple(SlopeInterval(s.upper, s.upper) for s in instance.slopes)
    assert replace(other, slopes=fixed).forms.size == 3
    assert other.forms.size == 7


def test_rows_must_fit() -> None:
    with pytest.raises(SpecificationError, match="rows of length 3"):
        lipschitz_instance(random_mlp(1, (3, 4, 2)), rows=torch.ones((1, 3), dtype=torch.float64))


def test_folded_constants_keep_their_rounding() -> None:
    """An operator that declares rounded coefficients leaves an error even on unit columns."""
    operator = AffineOperator(
        "Scale", lambda x, p: x[0] * p[0], (torch.tensor([3.0, 7.0], dtype=torch.float64),), None, 1, 4
    )
    network = sequential((2,), [("s", operator), ("r", ReLU()), ("o", linear_operator(torch.ones(1, 2)))])
    error = lipschitz_instance(network).forms.hidden_error[1, 0]
    assert (np.diag(error) > 4 * 2.0**-53 * np.array([3.0, 7.0])).all()
