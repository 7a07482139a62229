"""Reference ReLU networks as `Network`, read without the host."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from geolip_lirpa.activations import ReLU
from geolip_lirpa.activations.base import Activation
from geolip_lirpa.network import AffineOperator, Network, linear_operator, sequential
from geolip_lirpa.types import Norm


def reference_network(path: Path) -> Network:
    """A chain of Gemm and Relu nodes."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    operations: list[tuple[str, AffineOperator | Activation]] = []
    for node in graph.node:
        if node.op_type == "Relu":
            operations.append((node.name, ReLU()))
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        weight = tensors[node.input[1]]
        operations.append((node.name, linear_operator(weight if transposed else weight.T, tensors[node.input[2]])))
    first = operations[0][1]
    if not isinstance(first, AffineOperator):
        raise TypeError(f"{path}: expected a Gemm node first")
    return sequential((first.parameters[0].shape[1],), operations)


def reference_value(data: Path, name: str, norm: Norm) -> float:
    """Value of the semidefinite program of a network's output 0, from the table of reference values."""
    with (data / "networks" / "relu" / "reference.csv").open(newline="") as file:
        for record in csv.DictReader(file):
            if (record["network"], record["norm"], record["row"]) == (f"{name}.onnx", norm.value, "0"):
                return float(record["sdp_value"])
    raise LookupError(f"no reference value of {name}, norm {norm.value}")
