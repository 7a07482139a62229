"""``supports``, ``--name`` and ``--version``: the forms of the VNN-LIB 2.0 standard, and operators that are served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Command, require_error
from onnx import TensorProto, helper, numpy_helper

from geolip_lirpa.cli.exit_codes import ExitCode
from geolip_lirpa.cli.supports import CAPABILITIES, OPERATORS

PERMITTED = {
    "hidden-node-theories": {"NH", "H"},
    "multiple-input-output-theories": {"SIO", "MIO"},
    "multiple-network-theories": {"SNET", "MENET", "MINET", "MNET"},
    "multiple-node-comparison-theories": {"SNC", "MNC"},
    "arithmetic-complexity-theories": {"BND", "OUTC", "LIN", "POLY"},
    "optimised-disjunctive-reasoning": {"true", "false"},
    "serialise-assignments": {"true", "false"},
}


def test_name_and_version_stand_alone(run: Command) -> None:
    assert run("--name").out == "geolip-lirpa\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n|unknown\n", run("--version").out)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_capabilities(run: Command, capability: str) -> None:
    result = run("supports", f"--{capability}")
    assert (result.code, result.err) == (ExitCode.OK, "")
    lines = result.out.removesuffix("\n").split("\n")
    assert lines and all(lines)
    if capability in PERMITTED:
        assert set(lines) <= PERMITTED[capability]
    elif capability.endswith("versions"):
        low, high = (tuple(int(part) for part in line.split(".")) for line in lines)
        assert low <= high
    else:
        assert all(re.fullmatch(r"[A-Za-z0-9]+", line) for line in lines)


def test_all_capabilities_of_the_standard_are_there() -> None:
    standard = {"onnx-opset-versions", "onnx-element-types", "onnx-operators", "vnnlib-versions", *PERMITTED}
    assert set(CAPABILITIES) == standard


def test_unknown_capability(run: Command) -> None:
    require_error(run("supports", "--magic"), ExitCode.BAD_INPUT, "--magic", "--onnx-operators")
    require_error(run("supports"), ExitCode.BAD_INPUT, "CAPABILITY")


# --- operators --------------------------------------------------------------------------------------------------------

#: Inputs are images (1, 1, 2, 2); weights follow the input.
_ONE = np.ones((1, 1, 1, 1), np.float32)
_SPECIAL: dict[str, tuple[Sequence[np.ndarray], dict[str, Any]]] = {
    "Add": ([_ONE], {}),
    "Sub": ([_ONE], {}),
    "AveragePool": ([], {"kernel_shape": [2, 2]}),
    "MaxPool": ([], {"kernel_shape": [2, 2]}),
    "BatchNormalization": ([np.full(1, value, np.float32) for value in (2.0, 1.0, 0.5, 4.0)], {}),
    "Conv": ([np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)], {}),
    "ConvTranspose": ([np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)], {}),
    "Gemm": ([np.arange(8, dtype=np.float32).reshape(4, 2), np.ones(2, np.float32)], {}),
    "MatMul": ([np.arange(4, dtype=np.float32).reshape(2, 2)], {}),
    "Pad": ([np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64)], {}),
}


def _model(operator: str) -> onnx.ModelProto:
    """``Flatten(operator(2 x))``, or what the operator needs around it."""
    nodes = [helper.make_node("Conv", ["x", "scale"], ["scaled"])]
    weights = [numpy_helper.from_array(2 * _ONE, "scale")]
    value = "scaled"
    if operator == "Gemm":
        nodes.append(helper.make_node("Flatten", [value], ["flat"]))
        value = "flat"
    if operator in ("Constant", "ConstantOfShape", "Expand"):
        nodes += _constant_nodes(operator)
        nodes.append(helper.make_node("Add", [value, "made"], ["result"]))
    else:
        arrays, attributes = _SPECIAL.get(operator, ([], {}))
        names = [f"w{i}" for i in range(len(arrays))]
        weights += [numpy_helper.from_array(np.asarray(a), n) for a, n in zip(arrays, names, strict=True)]
        nodes.append(helper.make_node(operator, [value, *names], ["result"], **attributes))
    nodes.append(helper.make_node("Flatten", ["result"], ["y"]))
    graph = helper.make_graph(
        nodes, "one", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _constant_nodes(operator: str) -> list[onnx.NodeProto]:
    shape = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, 1, 2, 2])))
    if operator == "Constant":
        return [helper.make_node("Constant", [], ["made"], value=numpy_helper.from_array(3 * _ONE))]
    if operator == "ConstantOfShape":
        three = numpy_helper.from_array(np.array([3.0], np.float32))
        return [shape, helper.make_node("ConstantOfShape", ["shape"], ["made"], value=three)]
    one = helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(3 * _ONE))
    return [shape, one, helper.make_node("Expand", ["one", "shape"], ["made"])]


@pytest.mark.parametrize("operator", OPERATORS)
def test_listed_operators_are_served(run: Command, tmp_path: Path, operator: str) -> None:
    """The first output's range by sampling: beyond it unsat, inside it sat."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = _model(operator)
    onnx.save(model, str(tmp_path / "m.onnx"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    points = [rng.uniform(-1, 1, (1, 1, 2, 2)).astype(np.float32) for _ in range(2000)]
    values = [session.run(None, {"x": point})[0][0] for point in points]
    count, low, high = len(values[0]), min(v[0] for v in values), max(v[0] for v in values)
    assert high > low, "the test's own network is constant"
    for bound, verdict in ((high + 0.5 * (high - low) + 0.1, "unsat"), (high - 0.1 * (high - low), "sat")):
        path = tmp_path / f"{verdict}.vnnlib"
        lines = [
            f"(declare-const {n} Real)" for n in (*(f"X_{i}" for i in range(4)), *(f"Y_{j}" for j in range(count)))
        ]
        lines += [f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in range(4)]
        path.write_text("\n".join([*lines, f"(assert (>= Y_0 {bound:.6f}))"]))
        result = run("verify", path, "--network", tmp_path / "m.onnx", "--timeout", 120)
        assert result.out.split("\n")[0] == verdict, (operator, result.err)
