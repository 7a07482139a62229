"""Small random networks and programs for tests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.activations import ReLU
from geolip_lirpa.activations.base import Activation, SlopeInterval
from geolip_lirpa.network import AffineOperator, Network, Node, linear_operator, sequential
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.slopes import global_slopes
from geolip_lirpa.types import Norm, OutputNorm


def random_linear(rows: int, columns: int, generator: torch.Generator) -> AffineOperator:
    """A linear layer with float32 entries of size 1/sqrt(columns)."""
    weight = torch.randn((rows, columns), generator=generator) / columns**0.5
    return linear_operator(weight, torch.randn(rows, generator=generator) / 4)


def random_mlp(seed: int, sizes: Sequence[int], activation: Activation | None = None) -> Network:
    """Layers of the given sizes (input, hidden .., output) with an activation between them."""
    generator = torch.Generator().manual_seed(seed)
    operations: list[tuple[str, AffineOperator | Activation]] = []
    for number, (columns, rows) in enumerate(itertools.pairwise(sizes)):
        operations.append((f"linear{number}", random_linear(rows, columns, generator)))
        if number < len(sizes) - 2:
            operations.append((f"activation{number}", activation or ReLU()))
    return sequential((sizes[0],), operations)


def random_convnet(
    seed: int = 0, channels: int = 3, size: int = 12, layers: int = 3, activation: Activation | None = None
) -> Network:
    """3x3 convolutions with padding, the second one with stride 2; then the mean of each channel, and two outputs."""
    generator = torch.Generator().manual_seed(seed)
    operations: list[tuple[str, AffineOperator | Activation]] = []
    for number in range(layers):
        weight = torch.randn((channels, channels if number else 1, 3, 3), generator=generator) / (3 * channels**0.5)
        stride = 2 if number == 1 else 1
        conv = affine.convolution(weight, None, stride=[stride] * 2, padding=[1, 1], dilation=[1, 1])
        operations += [(f"conv{number}", conv), (f"relu{number}", activation or ReLU())]
    network = sequential((1, size, size), operations)
    shape = network.nodes[-1].shape
    operations.append(("mean", affine.reduction([1, 2], shape, keepdim=False, mean=True)))
    operations.append(("head", random_linear(2, channels, generator)))
    return sequential((1, size, size), operations)


def signed_sum(first: float = 1.0, second: float = 1.0) -> AffineOperator:
    """``first x + second y`` of two branches."""
    signs = (torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    return AffineOperator("Add", lambda x, p: x[0] * p[0] + x[1] * p[1], signs, sum_roundings=3)


def random_residual(seed: int, width: int = 5, outputs: int = 2, activation: Activation | None = None) -> Network:
    """Input -> linear -> act -> linear -> act -> + skip connection -> linear."""
    generator = torch.Generator().manual_seed(seed)
    act = activation or ReLU()
    shape = (width,)
    return Network(
        (
            Node("input", shape),
            Node("linear0", shape, (0,), random_linear(width, width, generator)),
            Node("act0", shape, (1,), act),
            Node("linear1", shape, (2,), random_linear(width, width, generator)),
            Node("act1", shape, (3,), act),
            Node("add", shape, (4, 2), signed_sum(1.0, -1.0)),
            Node("linear2", (outputs,), (5,), random_linear(outputs, width, generator)),
        )
    )


def random_skip(seed: int, sizes: tuple[int, int, int], activation: Activation | None = None) -> Network:
    """One layer of activations beside a linear map from the input to the output."""
    generator = torch.Generator().manual_seed(seed)
    inputs, hidden, outputs = sizes
    return Network(
        (
            Node("input", (inputs,)),
            Node("linear0", (hidden,), (0,), random_linear(hidden, inputs, generator)),
            Node("act", (hidden,), (1,), activation or ReLU()),
            Node("linear1", (outputs,), (2,), random_linear(outputs, hidden, generator)),
            Node("linear2", (outputs,), (0,), random_linear(outputs, inputs, generator)),
            Node("add", (outputs,), (3, 4), signed_sum(1.0, -1.0)),
        )
    )


def with_random_slopes(instance: SdpInstance, seed: int) -> SdpInstance:
    """Other slope intervals: random ends of both signs, some fixed."""
    generator = torch.Generator().manual_seed(seed)
    slopes = []
    for interval in instance.slopes:
        ends = torch.rand((2, interval.lower.numel()), generator=generator, dtype=torch.float64) * 2 - 0.7
        lower, upper = ends.amin(0), ends.amax(0)
        fixed = torch.rand(lower.numel(), generator=generator) < 0.2
        slopes.append(SlopeInterval(lower, torch.where(fixed, lower, upper)))
    return replace(instance, slopes=tuple(slopes))


def lipschitz_instance(
    network: Network,
    row: int = 0,
    norm: Norm = Norm.LINF,
    output: OutputNorm = OutputNorm.ROWS,
    rows: Tensor | None = None,
    input_scale: Tensor | None = None,
    tie_input: bool = False,
    tie_layers: bool = False,
) -> SdpInstance:
    """The global program of one output row, or of given rows of C."""
    if rows is None:
        rows = torch.eye(network.output_size, dtype=torch.float64)
        rows = rows[row : row + 1] if output is OutputNorm.ROWS else rows
    scale = torch.ones(network.input_size, dtype=torch.float64) if input_scale is None else input_scale
    return SdpInstance(
        network, global_slopes(network), norm, scale, rows, output, tie_input=tie_input, tie_layers=tie_layers
    )
