"""The pointwise program: its matrix is the sum of its products, and what is proven holds at every point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa.activations import Tanh
from geolip_lirpa.crown import crown_bounds
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.interval import InputSet
from geolip_lirpa.lmi import assemble
from geolip_lirpa.margin_proof import _terms, prove_margin, verify_margin, zeros
from geolip_lirpa.network import Network
from geolip_lirpa.pointwise import PointwiseFamily, PointwiseInstance, PointwiseMultipliers, triangle_slope
from geolip_lirpa.types import Norm
from tests.networks import random_mlp, random_residual

seeds = st.integers(0, 10_000)
norms = st.sampled_from([Norm.LINF, Norm.L2])


def family(network: Network, seed: int, radius: float, norm: Norm) -> PointwiseFamily:
    generator = torch.Generator().manual_seed(seed + 1)
    center = torch.randn(network.input_shape, generator=generator, dtype=torch.float64)
    box = (center[None] - radius, center[None] + radius)
    inputs = InputSet(*box) if norm is Norm.LINF else InputSet(*box, center[None], radius, norm)
    bounds = tuple((low[0], high[0]) for low, high in crown_bounds(network, inputs))
    scale = torch.full((network.input_size,), radius, dtype=torch.float64)
    return PointwiseFamily(network, bounds, center, scale, norm)


def instance(seed: int, norm: Norm, radius: float = 0.5, residual: bool = False) -> PointwiseInstance:
    network = random_residual(seed) if residual else random_mlp(seed, (4, 7, 6, 2))
    row = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return PointwiseInstance(family(network, seed, radius, norm), row, 0.25)


def random_multipliers(program: PointwiseInstance, seed: int) -> PointwiseMultipliers:
    rng = np.random.default_rng(seed)
    empty = zeros(program)
    hidden = [tuple(rng.uniform(0, 2, g.shape) for g in group) for group in empty.hidden()]
    return empty.with_hidden(hidden, rng.uniform(0, 2, empty.input.shape))


def points(program: PointwiseInstance, count: int, seed: int) -> torch.Tensor:
    """Normalised inputs w (count, n0) in the set."""
    generator = torch.Generator().manual_seed(seed)
    size = program.family.network.input_size
    if program.family.input_norm is Norm.LINF:
        return 2 * torch.rand((count, size), generator=generator, dtype=torch.float64) - 1
    w = torch.randn((count, size), generator=generator, dtype=torch.float64)
    return (
        w / w.norm(dim=1, keepdim=True) * torch.rand((count, 1), generator=generator, dtype=torch.float64) ** (1 / size)
    )


def margins(program: PointwiseInstance, w: torch.Tensor) -> torch.Tensor:
    base = program.family
    x = base.center.reshape(-1) + base.input_scale * w
    return base.network.forward(x.reshape(-1, *base.network.input_shape)) @ program.row + program.offset


def quadratic_form(
    program: PointwiseInstance, m: PointwiseMultipliers, w: torch.Tensor, z: list[torch.Tensor], b: float
):
    """q(y) from the products, for any w and any values z of the unstable neurons."""
    base, forms = program.family, program.forms
    products = torch.zeros(w.shape[0], dtype=torch.float64)
    values: list[torch.Tensor] = []
    number = 0
    for node in base.network.nodes:
        if node.operation is None:
            x = base.center.reshape(-1) + base.input_scale * w
            values.append(x.reshape(-1, *node.shape))
        elif number < len(base.network.activations) and base.network.nodes[base.network.activations[number]] is node:
            v = values[node.inputs[0]].reshape(w.shape[0], -1)
            kept = torch.as_tensor(forms.kept[number + 1])
            out = torch.where(base.slopes[number].lower > 0, v, 0.0)
            out[:, kept] = z[number]
            lower, upper = (torch.from_numpy(e) for e in base.limits(number + 1))
            lam, mu, eta, t, iota = (torch.from_numpy(g[number])[kept] for g in m.hidden())
            u, own = v[:, kept], z[number]
            kappa = torch.from_numpy(triangle_slope(lower.numpy(), upper.numpy()))
            terms = lam * own * (u - own) + mu * own + eta * (own - u) + t * (kappa * (u - lower) - own)
            products = products + (terms + iota * (u - lower) * (upper - u)).sum(1)
            values.append(out.reshape(-1, *node.shape))
            number += 1
        else:
            values.append(node.operation.affine(tuple(values[i] for i in node.inputs)))
    margin = values[-1].reshape(w.shape[0], -1) @ program.row + program.offset
    tau = torch.from_numpy(m.input)
    inputs = (tau * (1 - w**2)).sum(1) if base.input_norm is Norm.LINF else tau[0] * (1 - (w**2).sum(1))
    return 2 * (margin - b) - 2 * products - inputs


@settings(max_examples=40)
@given(seed=seeds, norm=norms, residual=st.booleans())
def test_the_matrix_is_the_sum_of_the_products(seed: int, norm: Norm, residual: bool) -> None:
    program = instance(seed, norm, residual=residual)
    multipliers = random_multipliers(program, seed)
    terms, rest = _terms(program, multipliers)
    b = 0.3
    whole = assemble(replace(terms, output=np.array([2.0 * (rest - b)]))).to_dense()
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn((3, program.family.network.input_size), generator=generator, dtype=torch.float64)
    z = [torch.randn((3, len(k)), generator=generator, dtype=torch.float64) for k in program.forms.kept[1:]]
    expected = quadratic_form(program, multipliers, w, z, b)
    y = torch.cat([w, *z, torch.ones((3, 1), dtype=torch.float64)], dim=1).numpy()
    found = np.einsum("bi,ij,bj->b", y, whole, y)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(seed=seeds, norm=norms, residual=st.booleans(), size=st.sampled_from([0.01, 0.1, 1.0, 5.0]))
def test_whatever_is_proven_holds_at_every_point(seed: int, norm: Norm, residual: bool, size: float) -> None:
    program = instance(seed, norm, 0.3, residual)
    multipliers = random_multipliers(program, seed)
    hidden = [tuple(size * g for g in group) for group in multipliers.hidden()]
    proven = prove_margin(program, multipliers.with_hidden(hidden, multipliers.input + 10 * size))
    if proven is None:
        return
    assert verify_margin(program, proven.multipliers, proven.lower)
    sampled = margins(program, points(program, 2000, seed)).min()
    assert proven.lower <= float(sampled)
    assert not verify_margin(program, proven.multipliers, float(sampled) + 1e-9)


def test_multipliers_that_do_not_fit_prove_nothing() -> None:
    program = instance(1, Norm.L2)
    good = random_multipliers(program, 1)
    assert not verify_margin(program, replace(good, input=np.ones(2)), -1e9)
    assert not verify_margin(program, replace(good, input=-good.input), -1e9)
    assert not verify_margin(program, replace(good, positive=good.positive[:1]), -1e9)
    assert not verify_margin(program, replace(good, input=good.input * np.nan), -1e9)
    assert not verify_margin(program, replace(good, input=np.array([1e-300])), -1e9)


def test_other_activations_and_norms_are_refused() -> None:
    with pytest.raises(SpecificationError, match="ReLU only"):
        family(random_mlp(0, (3, 4, 2), Tanh()), 0, 0.1, Norm.L2)
    base = family(random_mlp(0, (3, 4, 2)), 0, 0.1, Norm.L2)
    with pytest.raises(SpecificationError, match="norm 1"):
        replace(base, input_norm=Norm.L1)
