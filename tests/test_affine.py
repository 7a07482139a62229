"""Constructors of affine maps against torch's own modules, and the contract that error bounds rest on."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.network import AffineOperator
from geolip_lirpa.rounding import UNIT_ROUNDOFF

Maker = Callable[[], tuple[AffineOperator, list[tuple[int, ...]], Callable[..., Tensor]]]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(prod(shape) + len(shape)))


def wide(*shape: int) -> Tensor:
    return normal(*shape).double()


def conv(
    shape: tuple[int, ...], weight: tuple[int, ...], function: Callable[..., Tensor], transposed: bool, **options: int
) -> Maker:
    def make() -> tuple[AffineOperator, list[tuple[int, ...]], Callable[..., Tensor]]:
        dimensions = len(weight) - 2
        groups = options.get("groups", 1)
        outputs = weight[1] * groups if transposed else weight[0]
        w, b = normal(*weight), normal(outputs)
        names = ("stride", "padding", "dilation", *(("output_padding",) if transposed else ()))
        neutral = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
        full = {name: [options.get(name, neutral[name])] * dimensions for name in names}
        constructor = affine.transposed_convolution if transposed else affine.convolution
        operator = constructor(w, b, **full, groups=groups)  # type: ignore[operator]
        return operator, [shape], lambda x: function(x, w.double(), b.double(), **full, groups=groups)

    return make


MAPS: dict[str, Maker] = {
    "linear": lambda: (affine.matmul_right(wide(4, 3), wide(3)), [(4,)], lambda x: x @ wide(4, 3) + wide(3)),
    "matmul right": lambda: (affine.matmul_right(wide(2, 4, 3)), [(2, 5, 4)], lambda x: x @ wide(2, 4, 3)),
    "matmul vector": lambda: (affine.matmul_right(wide(4)), [(5, 4)], lambda x: x @ wide(4)),
    "matmul left": lambda: (affine.matmul_left(wide(3, 4)), [(4, 2)], lambda x: wide(3, 4) @ x),
    "gemm of two": lambda: (
        affine.gemm_sum(wide(4, 3), -0.5),
        [(4,), (3,)],
        lambda x, c: x @ wide(4, 3) - 0.5 * c,
    ),
    "conv1d": conv((2, 7), (4, 2, 3), F.conv1d, False, stride=2, padding=1),
    "conv2d": conv((2, 6, 5), (4, 2, 3, 3), F.conv2d, False, padding=1),
    "conv2d grouped": conv((4, 6, 5), (6, 2, 3, 3), F.conv2d, False, groups=2, dilation=2, padding=2),
    "conv3d": conv((2, 4, 4, 4), (3, 2, 2, 2, 2), F.conv3d, False),
    "transposed conv2d": conv((3, 4, 4), (3, 2, 3, 3), F.conv_transpose2d, True, stride=2, output_padding=1),
    "transposed conv1d": conv((4, 5), (4, 3, 2), F.conv_transpose1d, True, groups=2),
    "scaling": lambda: (affine.scaling(wide(3, 1), wide(3, 2)), [(3, 2)], lambda x: x * wide(3, 1) + wide(3, 2)),
    "scaling that widens": lambda: (affine.scaling(wide(3, 4)), [(4,)], lambda x: x[:, None] * wide(3, 4)),
    "division": lambda: (affine.division(wide(4) + 3), [(2, 4)], lambda x: x / (wide(4) + 3)),
    "shift": lambda: (affine.shift(wide(3, 1)), [(3, 2)], lambda x: x + wide(3, 1)),
    "shift that widens": lambda: (affine.shift(wide(3, 4)), [(1, 4)], lambda x: x + wide(3, 4)),
    "difference": lambda: (affine.signed_sum((1.0, -1.0)), [(3, 2), (3, 1)], lambda x, y: x - y),
    "sum of three": lambda: (
        affine.signed_sum((1.0, -1.0, 1.0), wide(3)),
        [(3,), (3,), (3,)],
        lambda x, y, z: x - y + z + wide(3),
    ),
    "average pool": lambda: (
        affine.average_pool((3, 2), (2, 1), (1, 0)),
        [(2, 5, 5)],
        lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 0)),
    ),
    "average pool 1d": lambda: (affine.average_pool((2,), (2,), (1,)), [(2, 5)], lambda x: F.avg_pool1d(x, 2, 2, 1)),
    "mean": lambda: (
        affine.reduction((1, 2), (2, 3, 4), keepdim=False, mean=True),
        [(2, 3, 4)],
        lambda x: x.mean((2, 3)),
    ),
    "sum": lambda: (
        affine.reduction((0,), (2, 3), keepdim=True, mean=False),
        [(2, 3)],
        lambda x: x.sum(1, keepdim=True),
    ),
    "running sum": lambda: (affine.cumulative_sum(0, (5,)), [(5,)], lambda x: x.cumsum(1)),
    "gather with constants": lambda: (
        affine.movement("Gather", torch.tensor([[4, 0], [-1, 0]]), torch.tensor([[0.0, 0.0], [7.0, 0.0]])),
        [(2,), (3,)],
        lambda x, y: torch.stack([y[:, 2], x[:, 0], torch.full_like(x[:, 0], 7.0), x[:, 0]], 1).reshape(-1, 2, 2),
    ),
    "reshape": lambda: (
        affine.movement("Reshape", torch.arange(6).reshape(3, 2)),
        [(6,)],
        lambda x: x.reshape(-1, 3, 2),
    ),
    "leading entries": lambda: (affine.movement("Slice", torch.arange(3)), [(5,)], lambda x: x[:, :3]),
}


@pytest.mark.parametrize("name", MAPS)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 3))
def test_contract(name: str, seed: int, batch: int) -> None:
    operator, shapes, function = MAPS[name]()
    generator = torch.Generator().manual_seed(seed)
    x, y = (tuple(torch.randn((batch, *s), generator=generator, dtype=torch.float64) for s in shapes) for _ in range(2))
    assert torch.allclose(operator.affine(x), function(*x), rtol=1e-12, atol=1e-12)
    both = operator.linear(tuple(3 * a - b for a, b in zip(x, y, strict=True)))
    assert torch.allclose(both, 3 * operator.linear(x) - operator.linear(y), rtol=1e-11, atol=1e-11)
    magnitude = operator.magnitude(tuple(a.abs() for a in x))
    assert bool((operator.linear(x).abs() <= magnitude * (1 + 1e-13)).all())
    larger = operator.magnitude(tuple(a.abs() + b.abs() for a, b in zip(x, y, strict=True)))
    assert bool((larger >= magnitude * (1 - 1e-13)).all())
    single = operator.to(torch.float32).affine(tuple(a.float() for a in x))
    assert single.dtype is torch.float32
    assert torch.allclose(single.double(), operator.affine(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MAPS)
def test_roundings_are_honest(name: str) -> None:
    """The float64 result differs from the exact one by at most n u |A| |x|, shown with rational arithmetic."""
    operator, shapes, _ = MAPS[name]()
    count = operator.sum_roundings + operator.parameter_roundings
    generator = torch.Generator().manual_seed(0)
    x = tuple(torch.randn((1, *s), generator=generator, dtype=torch.float64) for s in shapes)
    computed = operator.affine(x).reshape(-1).tolist()
    size = operator.magnitude(tuple(a.abs() for a in x))
    size = size if operator.bias is None else size + operator.bias.abs()
    for j, exact in enumerate(exact_value(operator, x)):
        allowed = Fraction(count * UNIT_ROUNDOFF * 1.0001) * Fraction(size.reshape(-1)[j].item())
        assert abs(Fraction(computed[j]) - exact) <= allowed


def exact_value(operator: AffineOperator, x: tuple[Tensor, ...]) -> list[Fraction]:
    """Entries of the map from its columns: each column is one product, or a quotient, of single numbers."""
    total: list[Fraction] | None = None
    for i, part in enumerate(x):
        flat = part.reshape(-1)
        for k in range(flat.numel()):
            unit = [torch.zeros_like(p) for p in x]
            unit[i].reshape(-1)[k] = 1.0
            column = [rational(value, operator) for value in operator.linear(tuple(unit)).reshape(-1).tolist()]
            entry = Fraction(flat[k].item())
            terms = [c * entry for c in column]
            total = terms if total is None else [t + s for t, s in zip(total, terms, strict=True)]
    assert total is not None
    if operator.bias is None:
        return total
    shape = operator.affine(x).shape[1:]
    return [t + Fraction(b) for t, b in zip(total, operator.bias.expand(shape).reshape(-1).tolist(), strict=True)]


def rational(value: float, operator: AffineOperator) -> Fraction:
    """The coefficient behind its float64 value: means and quotients are not float64 numbers themselves."""
    if operator.kind in ("AveragePool", "ReduceMean"):
        return Fraction(value).limit_denominator(1000)
    if operator.kind == "Div" and value:
        return 1 / min(
            (Fraction(p) for p in operator.parameters[0].reshape(-1).tolist()),
            key=lambda p: abs(1 / p - Fraction(value)),
        )
    return Fraction(value)


def test_parameters_are_copies() -> None:
    weight = wide(4, 3)
    operator = affine.matmul_right(weight)
    weight.zero_()
    assert bool((operator.parameters[0] != 0).any())


def test_coefficients_that_are_quotients_are_rounded() -> None:
    """A column of the unit matrix meets one coefficient, and 1/3 is no float64."""
    operators = [
        affine.division(torch.tensor([3.0])),
        affine.average_pool((3,), (3,), (0,)),
        affine.reduction((0,), (3,), keepdim=True, mean=True),
    ]
    assert all(operator.parameter_roundings >= 1 for operator in operators)
    assert affine.reduction((0,), (3,), keepdim=True, mean=False).parameter_roundings == 0
