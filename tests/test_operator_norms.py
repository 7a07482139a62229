"""Norms without matrices against dense matrices of small operators: never below the truth, and close to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.activations import ReLU
from geolip_lirpa.activations.base import Activation
from geolip_lirpa.baselines import entrywise_bound, norm_product
from geolip_lirpa.baselines.matrix_free import matrix_free_bound, matrix_free_gain
from geolip_lirpa.baselines.operator_norms import branch_bound, linear_part
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.network import AffineOperator, Network, Node, linear_operator, sequential
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.slopes import global_slopes
from geolip_lirpa.stencils import (
    Grid,
    Stencil,
    convolution_stencil,
    interpolation_factor,
    stencil_norm_bound,
    symbol_error,
)
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual, random_skip, with_random_slopes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def matrix(operator: AffineOperator, *shapes: Sequence[int]) -> Tensor:
    """The dense matrix over all inputs, one after another."""
    columns = []
    for chosen, shape in enumerate(shapes):
        size = math.prod(shape)
        units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        inputs = tuple(
            units if i == chosen else torch.zeros((size, *s), dtype=torch.float64) for i, s in enumerate(shapes)
        )
        columns.append(operator.linear(inputs).reshape(size, -1).T)
    return torch.cat(columns, dim=1)


def norm(operator: AffineOperator, *shapes: Sequence[int]) -> float:
    return float(torch.linalg.matrix_norm(matrix(operator, *shapes), 2))


def bound_of(operator: AffineOperator, shape: Sequence[int]) -> float:
    return linear_part(sequential(shape, [("map", operator)]), 1).norm_bound()


@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    dimensions=st.integers(1, 2),
    transposed=st.booleans(),
)
def test_convolutions(
    seed: int,
    sizes: tuple[int, int, int],
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    dimensions: int,
    transposed: bool,
) -> None:
    """On every finite grid the norm is below the bound; on a wide one it comes close."""
    outputs, inputs, groups = sizes
    options = {"stride": [stride] * dimensions, "padding": [padding] * dimensions, "dilation": [dilation] * dimensions}
    width = {1: 60, 2: 13}[dimensions]
    if transposed:
        weight = normal(groups * inputs, outputs, *[kernel] * dimensions, seed=seed)
        operator = affine.transposed_convolution(weight, output_padding=[0] * dimensions, groups=groups, **options)
        width = {1: 40, 2: 6}[dimensions]
    else:
        weight = normal(groups * outputs, inputs, *[kernel] * dimensions, seed=seed)
        operator = affine.convolution(weight, groups=groups, **options)
    shape = (groups * inputs, *[width] * dimensions)
    true, bound = norm(operator, shape), bound_of(operator, shape)
    assert true <= bound
    if dimensions == 1:
        assert bound <= 1.05 * true


def test_convolutions_of_image_size_are_sharp() -> None:
    weight = normal(8, 8, 3, 3)
    operator = affine.convolution(weight, stride=[1, 1], padding=[1, 1], dilation=[1, 1])
    x = normal(1, 8, 32, 32).double()
    for _ in range(200):
        x = x.requires_grad_(True)
        (g,) = torch.autograd.grad(operator.linear((x,)).square().sum() / 2, x)
        length = float(g.norm())
        x = (g / length).detach()
    assert math.sqrt(length) <= bound_of(operator, (8, 32, 32)) <= 1.02 * math.sqrt(length)


def test_large_matrices_are_sharp() -> None:
    """Where the largest eigenvalue is estimated by Lanczos iterations."""
    weight = normal(1100, 1200).double()
    bound = bound_of(linear_operator(weight), (1200,))
    assert 1.0 <= bound / float(torch.linalg.matrix_norm(weight, 2)) <= 1 + 1e-8


def test_interpolation_is_needed_and_enough() -> None:
    """A polynomial that is small on every point of a coarse grid and large between them."""
    stencil = Stencil({(0,): np.array([[1.0]]), (2,): np.array([[1.0]]), (1,): np.array([[2.0 * math.cos(0.3)]])}, {})
    fine = Grid((4096,))
    true = max(abs(fine.symbol(stencil, j)[0, 0]) for j in fine.frequencies())
    for size in (3, 4, 5, 8, 16):
        grid = Grid((size,))
        coarse = max(abs(grid.symbol(stencil, j)[0, 0]) for j in grid.frequencies())
        assert coarse * interpolation_factor(stencil.extents, (size,)) >= true * (1 - 1e-12)
    shifted = Stencil({(t[0] + 1,): k for t, k in stencil.taps.items()}, {})
    assert stencil_norm_bound(shifted) == pytest.approx(stencil_norm_bound(stencil), rel=1e-12)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 40))
def test_symbols_are_within_their_errors(seed: int, size: int) -> None:
    import mpmath

    generator = np.random.default_rng(seed)
    taps = {(int(t),): generator.normal(size=(2, 1)) for t in generator.integers(-50, 50, size=3)}
    stencil, grid = Stencil(taps, {}), Grid((size,))
    frequency = (int(generator.integers(size)),)
    with mpmath.workdps(40):
        for row in range(2):
            angle = 2 * mpmath.pi * frequency[0] / size
            true = sum(mpmath.mpf(float(k[row, 0])) * mpmath.expj(t[0] * angle) for t, k in taps.items())
            found = grid.symbol(stencil, frequency)[row, 0]
            error = float(symbol_error(stencil)[row, 0])
            assert abs(true.real - found.real) <= error and abs(true.imag - found.imag) <= error
            assert error <= 1e-12


def test_phases_only_sort_positions() -> None:
    """A convolution between fields sorted by phases is the convolution itself."""
    weight = normal(2, 3, 3).double()
    stencil = convolution_stencil(weight.numpy(), None, [2], [1], [2], [2])
    x = normal(1, 3, 40).double()
    x[:, :, :16], x[:, :, 24:] = 0.0, 0.0
    y = torch.nn.functional.conv1d(x, weight, stride=2, padding=1, dilation=2)[0]
    # channels of the input: (channel, phase of four); of the output: (channel, phase of two)
    cells = x[0].reshape(3, 10, 4).transpose(1, 2).reshape(12, 10)
    expected = y[:, :18].reshape(2, 9, 2).transpose(1, 2).reshape(4, 9)
    for p in range(2, 7):
        found = sum(torch.from_numpy(tap) @ cells[:, p + t[0]] for t, tap in stencil.taps.items())
        assert torch.allclose(torch.as_tensor(found), expected[:, p], atol=1e-12)


OTHERS: list[tuple[AffineOperator, list[tuple[int, ...]]]] = [
    (linear_operator(normal(4, 6)), [(6,)]),
    (linear_operator(normal(4, 6)), [(3, 6)]),
    (affine.matmul_right(normal(6, 4)), [(3, 6)]),
    (affine.matmul_right(normal(6, 4)), [(6,)]),
    (affine.matmul_right(normal(2, 6, 4)), [(2, 3, 6)]),
    (affine.matmul_right(normal(6)), [(3, 6)]),
    (affine.matmul_left(normal(4, 6)), [(6, 3)]),
    (affine.gemm_sum(normal(6, 4), -0.5), [(6,), (4,)]),
    (affine.gemm_sum(normal(6, 4), 0.5), [(3, 6), (1, 1)]),
    (affine.scaling(normal(5)), [(5,)]),
    (affine.scaling(normal(3, 1, 1), normal(3, 1, 1)), [(3, 4, 4)]),
    (affine.scaling(normal(7)), [(1,)]),
    (affine.division(normal(5) + 3), [(5,)]),
    (affine.shift(normal(5)), [(5,)]),
    (affine.shift(normal(3, 5)), [(5,)]),
    (affine.signed_sum([1.0, -1.0]), [(4,), (4,)]),
    (affine.signed_sum([1.0, -1.0, 1.0]), [(3, 4), (1, 4), (1, 1)]),
    (affine.signed_sum([-1.0]), [(4,)]),
    (affine.movement("Concat", torch.arange(7)), [(3,), (4,)]),
    (affine.movement("Gather", torch.tensor([2, 0, 2, 2, 1])), [(4,)]),
    (affine.movement("Pad", torch.tensor([-1, 0, 1, -1])), [(2,)]),
    (affine.average_pool([2], [2], [0]), [(3, 8)]),
    (affine.average_pool([3, 3], [1, 2], [1, 1]), [(1, 6, 6)]),
    (affine.reduction([1, 2], (3, 4, 4), keepdim=True, mean=True), [(3, 4, 4)]),
    (affine.reduction([0], (5,), keepdim=False, mean=False), [(5,)]),
    (affine.cumulative_sum(0, (6,)), [(6,)]),
]
# these rules are exact for one branch, or differ from the norm for a known reason
LOOSE = {"Sum", "Gemm", "CumSum", "AveragePool"}


@pytest.mark.parametrize(("operator", "shapes"), OTHERS)
def test_other_operators(operator: AffineOperator, shapes: list[tuple[int, ...]]) -> None:
    if len(shapes) == 1:
        network = sequential(shapes[0], [("map", operator)])
        bound = matrix_free_gain(network, (), Norm.L2)
        assert norm(operator, *shapes) <= bound
        part = linear_part(network, 1)
        direct = part.norm_bound() if part.source == 0 else branch_bound(operator, shapes, [1.0])
        assert norm(operator, *shapes) <= direct
        if operator.kind not in LOOSE and len(operator.parameters or (0,)) == 1 and shapes[0] != (1,):
            batched = operator.kind == "MatMul" and operator.parameters[0].ndim != 2
            assert bound <= (2.0 if batched else 1.001) * norm(operator, *shapes)
        return
    split = [matrix(operator, *shapes)[:, a:b] for a, b in _pieces(shapes)]
    lengths = [1.0 + i for i in range(len(shapes))]
    worst = sum(r * float(torch.linalg.matrix_norm(m, 2)) for r, m in zip(lengths, split, strict=True))
    together = torch.cat([r * m for r, m in zip(lengths, split, strict=True)], dim=1)
    bound = branch_bound(operator, shapes, lengths)
    assert bound <= worst * 1.0001
    # any vectors of these lengths
    for seed in range(20):
        unit = normal(together.shape[1], seed=seed).double()
        for a, b in _pieces(shapes):
            unit[a:b] /= unit[a:b].norm()
        assert float((together @ unit).norm()) <= bound


def _pieces(shapes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    ends = np.cumsum([0, *(math.prod(s) for s in shapes)]).tolist()
    return list(itertools.pairwise(ends))


@pytest.fixture
def coarse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms of convolutions from fewer frequencies: a little looser, and quick."""
    monkeypatch.setattr("geolip_lirpa.stencils._GRID_OPERATIONS", 1e9)


@pytest.mark.usefixtures("coarse_grid")
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), channelwise=st.booleans(), stride=st.integers(1, 2))
def test_scalings_are_folded_into_the_convolution(seed: int, channelwise: bool, stride: int) -> None:
    shape = (3, 1, 1) if channelwise else (3, 8, 8)
    before = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 10 + 0.1
    after = torch.rand((4, 1, 1), generator=torch.Generator().manual_seed(seed + 1)) * 10 + 0.1
    core = affine.convolution(normal(4, 3, 3, 3, seed=seed), stride=[stride] * 2, padding=[1, 1], dilation=[1, 1])
    operations: list[tuple[str, AffineOperator | Activation]] = [
        ("before", affine.scaling(before)), ("conv", core), ("shift", affine.shift(normal(4, 1, 1))),
        ("after", affine.scaling(after, parameter_roundings=4)),
    ]  # fmt: skip
    network = sequential((3, 8, 8), operations)
    units = torch.eye(192, dtype=torch.float64).reshape(192, 3, 8, 8)
    columns = network.propagate(units, lambda l, v: v)
    true = float(torch.linalg.matrix_norm(columns, 2))
    part = linear_part(network, 4)
    separate = float(before.max()) * float(after.max()) * bound_of(core, (3, 8, 8))
    assert part.source == 0
    assert true <= part.norm_bound() <= separate * 1.0001


# --- networks ----------------------------------------------------------------------------------------------------


def small_residual(seed: int, channels: int = 2, size: int = 4) -> Network:
    """Convolution, ReLU, a residual block with batch normalisation, ReLU, mean, linear."""
    shape = (channels, size, size)

    def conv(number: int) -> AffineOperator:
        weight = normal(channels, channels, 3, 3, seed=seed + number) / 3
        return affine.convolution(weight, normal(channels), stride=[1, 1], padding=[1, 1], dilation=[1, 1])

    return Network(
        (
            Node("input", shape),
            Node("conv0", shape, (0,), conv(0)),
            Node("relu0", shape, (1,), ReLU()),
            Node("conv1", shape, (2,), conv(1)),
            Node("scale", shape, (3,), affine.scaling(torch.linspace(0.5, 2, channels).reshape(-1, 1, 1))),
            Node("relu1", shape, (4,), ReLU()),
            Node("conv2", shape, (5,), conv(2)),
            Node("add", shape, (6, 2), affine.signed_sum([1.0, 1.0])),
            Node("relu2", shape, (7,), ReLU()),
            Node("mean", (channels,), (8,), affine.reduction([1, 2], shape, keepdim=False, mean=True)),
            Node("linear", (3,), (9,), linear_operator(normal(3, channels, seed=seed + 9))),
        )
    )


@pytest.mark.usefixtures("coarse_grid")
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**5),
    norm_=st.sampled_from([Norm.L2, Norm.LINF]),
    output=st.sampled_from([OutputNorm.ROWS, OutputNorm.L1, OutputNorm.L2]),
    kind=st.sampled_from(["chain", "residual", "skip", "convolutional"]),
)
def test_bounds_hold_for_every_slope_pattern_that_was_tried(
    seed: int, norm_: Norm, output: OutputNorm, kind: str
) -> None:
    makers = {
        "chain": lambda: random_mlp(seed, (4, 6, 5, 3)),
        "residual": lambda: random_residual(seed),
        "skip": lambda: random_skip(seed, (3, 5, 2)),
        "convolutional": lambda: small_residual(seed),
    }
    network = makers[kind]()
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(network.input_size, generator=generator, dtype=torch.float64) + 0.1
    instance = lipschitz_instance(network, norm=norm_, output=output, input_scale=scale)
    if kind != "convolutional":
        instance = with_random_slopes(instance, seed)
    bound = matrix_free_bound(instance)
    assert bound >= sampled(instance, generator) * (1 - 1e-12)
    if output is OutputNorm.L2:
        rows = torch.eye(network.output_size, dtype=torch.float64)
        assert torch.equal(instance.rows, rows)
        assert matrix_free_gain(network, instance.slopes, norm_, scale) >= sampled(instance, generator) * (1 - 1e-12)


def sampled(instance: SdpInstance, generator: torch.Generator) -> float:
    """Largest output over random slopes and the worst of some inputs."""
    network, best = instance.network, 0.0
    for _ in range(20):
        slopes = []
        for s in instance.slopes:
            ends = torch.rand(s.lower.numel(), generator=generator, dtype=torch.float64).round()
            slopes.append(s.lower + (s.upper - s.lower) * ends)
        units = torch.eye(network.input_size, dtype=torch.float64).reshape(-1, *network.input_shape)
        derivative = network.propagate(units, lambda l, v, s=slopes: v * s[l].reshape(v.shape[1:]))
        jacobian = instance.rows @ derivative.T * instance.input_scale
        if instance.input_norm is Norm.LINF:
            signs = torch.rand((200, network.input_size), generator=generator).round().double() * 2 - 1
            inputs = torch.cat([signs, jacobian.sign()])
        else:
            inputs = torch.linalg.svd(jacobian).Vh
        outputs = inputs @ jacobian.T
        p = {OutputNorm.ROWS: 2, OutputNorm.L2: 2, OutputNorm.L1: 1}[instance.output]
        best = max(best, float(outputs.norm(p=p, dim=1).max()))
    return best


@pytest.mark.parametrize("norm_", [Norm.L2, Norm.LINF])
def test_chains_agree_with_the_products_of_dense_norms(norm_: Norm) -> None:
    instance = lipschitz_instance(random_mlp(3, (6, 8, 7, 4)), norm=norm_)
    dense = min(norm_product(instance), entrywise_bound(instance))
    assert matrix_free_bound(instance) <= dense * (1 + 1e-9)


def test_residual_radii_add() -> None:
    """x + W x with |W| = 2 has the radius 3."""
    nodes = (
        Node("input", (2,)),
        Node("double", (2,), (0,), linear_operator(torch.tensor([[0.0, 2.0], [-2.0, 0.0]]))),
        Node("add", (2,), (0, 1), affine.signed_sum([1.0, 1.0])),
    )
    assert matrix_free_gain(Network(nodes), (), Norm.L2) == pytest.approx(3.0, rel=1e-9)


def test_affine_maps_at_the_end_are_put_together() -> None:
    """Four rotations by 45 degrees turn a box into itself."""
    angle = torch.tensor(math.pi / 4, dtype=torch.float64)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    network = sequential((2,), [(f"turn{i}", linear_operator(rotation)) for i in range(4)])
    assert matrix_free_gain(network, (), Norm.L2) == pytest.approx(1.0, rel=1e-6)
    row = lipschitz_instance(network, norm=Norm.LINF)
    assert matrix_free_bound(row) == pytest.approx(1.0, rel=1e-6)
    assert matrix_free_gain(network, (), Norm.LINF) == pytest.approx(math.sqrt(2), rel=1e-6)


# --- extreme numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-95, 1e-38, 1e30, 1e59])
@pytest.mark.parametrize("norm_", [Norm.L2, Norm.LINF])
def test_tiny_and_huge_weights(size: float, norm_: Norm) -> None:
    """Bounds scale with the weights as long as float64 holds them, and never fall below the truth."""
    weight = normal(2, 2, 3, 3).double()
    options = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1]}
    networks = []
    for factor in (1.0, size):
        maps = [("conv", affine.convolution(weight * factor, **options)), ("relu", ReLU())]
        networks.append(sequential((2, 4, 4), maps))
    plain, scaled = (matrix_free_gain(n, global_slopes(n), norm_) for n in networks)
    assert scaled >= plain * size * (1 - 1e-12)
    assert scaled <= plain * size * 1.001


def test_products_that_underflow_are_no_zeros() -> None:
    """Three layers of 1e-99 and one of 1e59 have a constant below what float64 holds: it is rounded up, not to zero."""
    layers = [linear_operator(torch.tensor([[w]], dtype=torch.float64)) for w in (1e-99, 1e-99, 1e-99, 1e-99, 1e59)]
    network = sequential((1,), [(f"w{i}", w) for i, w in enumerate(layers)])
    for norm_ in (Norm.L2, Norm.LINF):
        assert 0 < matrix_free_bound(lipschitz_instance(network, norm=norm_)) < 1e-80


def test_zero_weights_give_zero_and_overflow_gives_infinity() -> None:
    zero = sequential(
        (2, 4), [("conv", affine.convolution(torch.zeros(2, 2, 3), stride=[1], padding=[1], dilation=[1]))]
    )
    big = [("w", linear_operator(torch.full((1, 1), 1e59, dtype=torch.float64)))] * 6
    for norm_ in (Norm.L2, Norm.LINF):
        assert matrix_free_bound(lipschitz_instance(zero, norm=norm_)) == 0.0
        assert matrix_free_bound(lipschitz_instance(sequential((1,), big), norm=norm_)) == math.inf


def test_coefficients_out_of_range_are_refused() -> None:
    network = sequential((1,), [("w", linear_operator(torch.tensor([[5e-324]], dtype=torch.float64)))])
    with pytest.raises(SpecificationError, match="Rescale"):
        matrix_free_bound(lipschitz_instance(network))


@pytest.mark.parametrize("kind", ["dense", "conv", "pool"])
@pytest.mark.parametrize("where", ["before", "behind"])
def test_scalings_whose_product_underflows_are_no_zeros(kind: str, where: str) -> None:
    """A core between diagonal maps that make 1e-400 together, in a network whose constant is 1e80."""
    one = torch.ones(1, dtype=torch.float64)
    grow = [("grow", affine.scaling(one * 1e60)), ("relu", ReLU())]
    shrink = [(f"shrink{i}", affine.scaling(one * 1e-100)) for i in range(4)]
    if kind == "dense":
        core: AffineOperator = linear_operator(torch.ones(1, 1, dtype=torch.float64))
    elif kind == "conv":
        core = affine.convolution(torch.ones(1, 1, 1), stride=[1], padding=[0], dilation=[1])
    else:
        core = affine.average_pool([1], [1], [0])
    middle = [*shrink, ("core", core)] if where == "before" else [("core", core), *shrink]
    network = sequential((1,) if kind == "dense" else (1, 1), [*grow * 5, *middle, ("relu", ReLU()), *grow * 3])
    for norm_ in (Norm.L2, Norm.LINF):
        assert matrix_free_gain(network, global_slopes(network), norm_) >= 1e80 * (1 - 1e-12)


def test_tiny_inputs_of_a_ball_are_no_zeros() -> None:
    """Semi-axes of 1e-60, three maps of 1e-100 and six of 1e60: the constant is one."""
    small = torch.tensor([1e-100], dtype=torch.float64)
    maps = [("s0", affine.scaling(small)), ("s1", affine.scaling(small)), ("w", linear_operator(small[None]))]
    large = [("g", linear_operator(torch.tensor([[1e60]], dtype=torch.float64))), ("relu", ReLU())]
    network = sequential((1,), [*maps, ("relu", ReLU()), *large * 6])
    scale = torch.tensor([1e-60], dtype=torch.float64)
    for norm_ in (Norm.L2, Norm.LINF):
        assert matrix_free_gain(network, global_slopes(network), norm_, scale) >= 1 - 1e-12
