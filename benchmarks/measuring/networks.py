"""Networks by name: ONNX files, and random multilayer perceptrons such as ``random:64-32-10``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from geolip_lirpa import extract_network, load_onnx
from geolip_lirpa.lirpa import bounded_module
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import global_problem
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.types import Norm

RANDOM = "random:"


def load_module(name: str, seed: int = 0) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a name as a torch module, with the shape of a batch of one.

    Args:
        name: path of an ONNX file, or ``random:`` and the sizes of the layers, joined by ``-``.
        seed: of random weights.
    """
    if not name.startswith(RANDOM):
        model = load_onnx(name)
        return model.module, model.input_shape
    sizes = [int(size) for size in name.removeprefix(RANDOM).split("-")]
    return random_mlp(sizes, seed), (1, sizes[0])


def label(name: str) -> str:
    """How tables call a network."""
    return name if name.startswith(RANDOM) else Path(name).stem


def random_mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """ReLU layers of the given sizes (input, hidden .., output) with Kaiming's Gaussian weights and no biases.

    Biases do not enter global bounds.
    """
    generator = torch.Generator().manual_seed(seed)
    network = mlp(sizes)
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                layer.bias.zero_()
    return network


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, with torch's initial weights."""
    layers: list[nn.Module] = []
    for columns, rows in itertools.pairwise(sizes):
        layers += [nn.Linear(columns, rows), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def network_of(module: nn.Module, shape: Sequence[int]) -> Network:
    """The mathematical network of a module."""
    return extract_network(bounded_module(module, shape))


def row_instance(network: Network, row: int, norm: str) -> SdpInstance:
    """The global program of one output."""
    rows = torch.eye(network.output_size, dtype=torch.float64)[row : row + 1]
    problem = global_problem(network, rows)
    return SdpInstance(network, problem.slopes[0], Norm.parse(norm), problem.input_scale, rows)


def selection(row: int, outputs: int) -> Tensor:
    """C with one output as its only row, (1, 1, outputs)."""
    return torch.eye(outputs)[None, row : row + 1]


def weights(module: nn.Module, shape: Sequence[int]) -> list[Tensor] | None:
    """The matrices of a network of linear layers with ReLU between them, in float64; None for any other network."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if [layer.in_features for layer in layers[1:]] != [layer.out_features for layer in layers[:-1]]:
        return None
    x = torch.randn((8, *shape[1:]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        value = x.flatten(1)
        for i, layer in enumerate(layers):
            value = layer(value.relu() if i else value)
        same = value.shape == module(x).shape and torch.allclose(value, module(x), rtol=1e-4, atol=1e-5)
    return [layer.weight.detach().to(torch.float64) for layer in layers] if layers and same else None


def write_onnx(network: nn.Sequential, path: Path) -> None:
    """Write a chain of linear layers and ReLUs as an ONNX file."""
    nodes, constants = [], []
    value = "x"
    for i, layer in enumerate(network):
        inputs = [value]
        if isinstance(layer, nn.Linear):
            for kind in ("weight", "bias"):
                array = getattr(layer, kind).detach().to(torch.float32).numpy()
                constants.append(numpy_helper.from_array(array, f"{kind}{i}"))
                inputs.append(f"{kind}{i}")
        value = f"y{i}"
        linear = isinstance(layer, nn.Linear)
        node = (
            helper.make_node("Gemm", inputs, [value], transB=1) if linear else helper.make_node("Relu", inputs, [value])
        )
        nodes.append(node)
    sizes = [layer.weight.shape for layer in network if isinstance(layer, nn.Linear)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", sizes[0][1]), (value, sizes[-1][0]))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
