"""Train the small networks of this folder on scikit-learn's handwritten digits and write them as ONNX files.

Run ``python vnnlib_specs/make_networks.py`` from the repository's root; it takes ten seconds and overwrites the files.
Training runs in float64 on one thread from a fixed seed, and the weights are rounded to float32 at the end, so that
another machine finds the same weights up to the tolerance that README.md states.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, nn

SEED = 20220304
OPSET = 13
IR_VERSION = 8
TEST_SAMPLES = 100
_TRAINING_SAMPLES = 1437
_STEPS = 400
_BATCH = 128
_WEIGHT_DECAY = 3e-3


@dataclass(frozen=True)
class Digits:
    """The data set, images (n, 64) with values in [0, 1], in training and test part."""

    training_images: Tensor
    training_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.branch(x)
        return result


def load_data() -> Digits:
    """Scikit-learn's copy of the UCI digits, shuffled by the seed."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = torch.from_numpy(digits.data[order] / 16.0)
    labels = torch.from_numpy(digits.target[order].astype(np.int64))
    cut = _TRAINING_SAMPLES
    return Digits(images[:cut], labels[:cut], images[cut:], labels[cut:])


def architectures() -> dict[str, nn.Sequential]:
    """Untrained networks by file name, float64; every layer is one that `Graph` can write."""
    return {
        "digits_32-32.onnx": nn.Sequential(
            nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
        ),
        "digits_tanh.onnx": nn.Sequential(
            nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 10)
        ),
        "digits_residual.onnx": nn.Sequential(
            nn.Linear(64, 24),
            nn.ReLU(),
            Residual(nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24))),
            nn.ReLU(),
            nn.Linear(24, 10),
        ),
        "digits_conv.onnx": nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 10),
        ),
    }


def input_shape(network: nn.Sequential) -> tuple[int, ...]:
    """Shape of one sample for this network."""
    first = network[0]
    return (first.in_features,) if isinstance(first, nn.Linear) else (1, 8, 8)


def train(network: nn.Sequential, data: Digits, generator: torch.Generator) -> None:
    """Adam with decoupled weight decay, in float64."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    images = data.training_images.reshape(-1, *input_shape(network))
    for _ in range(_STEPS):
        chosen = torch.randint(len(images), (_BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(network(images[chosen]), data.training_labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def accuracy(network: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    """Fraction of images whose largest output is their label."""
    with torch.no_grad():
        outputs = network(images.reshape(-1, *input_shape(network)))
    return float((outputs.argmax(dim=1) == labels).double().mean())


class Graph:
    """Nodes and weights of an ONNX graph as it grows."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add_layers(self, layers: Iterable[nn.Module], value: str, prefix: str) -> str:
        """Append layers that read `value`; returns the name of the last result."""
        for number, layer in enumerate(layers):
            value = self._add(layer, value, f"{prefix}{number}")
        return value

    def _add(self, layer: nn.Module, value: str, name: str) -> str:
        if isinstance(layer, Residual):
            branch = self.add_layers(layer.branch, value, f"{name}_")
            return self._node("Add", [value, branch], name)
        if isinstance(layer, nn.Linear):
            return self._node("Gemm", [value, *self._parameters(layer, name)], name, transB=1)
        if isinstance(layer, nn.Conv2d):
            return self._node(
                "Conv", [value, *self._parameters(layer, name)], name,
                kernel_shape=list(layer.kernel_size), strides=list(layer.stride), pads=2 * list(layer.padding),
            )  # fmt: skip
        kinds = {nn.ReLU: "Relu", nn.Tanh: "Tanh", nn.Flatten: "Flatten"}
        return self._node(kinds[type(layer)], [value], name)

    def _parameters(self, layer: nn.Module, name: str) -> list[str]:
        names = []
        for kind in ("weight", "bias"):
            array = getattr(layer, kind).detach().to(torch.float32).numpy()
            self.weights.append(numpy_helper.from_array(array, f"{name}_{kind}"))
            names.append(f"{name}_{kind}")
        return names

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        result = f"{name}_{kind.lower()}"
        self.nodes.append(helper.make_node(kind, inputs, [result], name=f"{kind}_{name}", **attributes))
        return result


def to_onnx(
    network: nn.Sequential, name: str, input_name: str = "image", script: str = "make_networks.py"
) -> onnx.ModelProto:
    """The network as an ONNX model with float32 weights and a free batch size; it names the script that made it."""
    graph = Graph()
    result = graph.add_layers(network, input_name, "layer")
    width = len(list(network.parameters())[-1])
    sample = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", *input_shape(network)])
    outputs = helper.make_tensor_value_info(result, TensorProto.FLOAT, ["batch", width])
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, [sample], [outputs], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name=f"geolip-lirpa vnnlib_specs/{script}",
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def make_network(name: str, data: Digits) -> tuple[nn.Sequential, onnx.ModelProto]:
    """Train one network of `architectures`; it does not depend on the others."""
    torch.manual_seed(SEED)
    network = architectures()[name].double()
    train(network, data, torch.Generator().manual_seed(SEED))
    return network, to_onnx(network, name.removesuffix(".onnx"))


def write_all(folder: Path) -> None:
    """Train every network and write it and the test images into `folder`."""
    data = load_data()
    for name in architectures():
        network, model = make_network(name, data)
        (folder / name).write_bytes(model.SerializeToString())
        found = accuracy(network, data.test_images, data.test_labels)
        print(f"{name}: {found:.1%} of {len(data.test_labels)} test images")
    np.savez_compressed(
        folder / "digits_test.npz",
        images=data.test_images[:TEST_SAMPLES].to(torch.float32).numpy(),
        labels=data.test_labels[:TEST_SAMPLES].numpy(),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train and write the example networks.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where to write (default: here)")
    torch.set_num_threads(1)
    write_all(parser.parse_args().folder)
