"""Reading ONNX files: the numbers of onnxruntime, and a clear error for everything broken."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from geolip_lirpa.errors import ModelError
from geolip_lirpa.exact_values import exact_network
from geolip_lirpa.lirpa import bounded_module, extract_network
from geolip_lirpa.network import AffineOperator
from geolip_lirpa.onnx_model import element_types, load_onnx


def small_model(
    nodes: list[Any] | None = None,
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    *,
    shape: tuple[Any, ...] = ("batch", 3),
    outputs: int = 1,
    element: int = TensorProto.FLOAT,
    opset: int = 13,
) -> Any:
    """``relu(x W) + b`` unless told otherwise."""
    dtype = np.float64 if element == TensorProto.DOUBLE else np.float32
    constants = weights or {"W": np.arange(6, dtype=dtype).reshape(3, 2) - 2, "b": np.ones(2, dtype=dtype)}
    body = nodes or [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Add", ["r", "b"], ["y0"]),
    ]
    graph = helper.make_graph(
        body,
        "small",
        [helper.make_tensor_value_info("x", element, list(shape))],
        [helper.make_tensor_value_info(f"y{i}", element, None) for i in range(outputs)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    for output in inferred.graph.output:
        if not output.type.tensor_type.HasField("shape"):
            output.type.tensor_type.shape.dim.add()
    return inferred


def saved(folder: Path, model: Any, name: str = "net.onnx") -> Path:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def judged(path: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What onnxruntime computes."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def reference_files(folder: Path) -> list[Path]:
    """All reference networks, one of the many that differ in weights alone."""
    found = [p for kind in ("networks", "sdp_l2", "vnncomp") for p in sorted((folder / kind).rglob("*.onnx"))]
    return [p for p in found if "_malformed" not in str(p) and ("ACASXU" not in p.name or "_1_1_" in p.name)]


def test_reference_networks_match_onnxruntime_and_become_networks(reference_data: Path) -> None:
    files = reference_files(reference_data)
    assert len(files) > 25
    rng = np.random.default_rng(0)
    for path in files:
        model = load_onnx(path)
        assert model.input_shape[0] == 1
        x = rng.random(model.input_shape, dtype=np.float32)
        given = len(onnx.load(path).graph.input[0].type.tensor_type.shape.dim)
        expected = judged(path, x if given == x.ndim else x[0]).reshape(-1)
        scale = np.abs(expected).max() + 1e-3
        found = model.module(torch.from_numpy(x)).detach().numpy().reshape(-1)
        assert np.abs(found - expected).max() < 2e-5 * scale, path
        network = extract_network(bounded_module(model), logits=True)
        if "sig" not in path.name:  # these two end with a softmax, which the network leaves out
            value = network.forward(torch.from_numpy(x).double()).numpy().reshape(-1)
            assert np.abs(value - expected).max() < 2e-5 * scale, path


def test_softmax_at_the_end_can_be_left_out(reference_data: Path) -> None:
    path = reference_data / "networks" / "tanh_sigmoid" / "tansig_200_50_onnx.onnx"
    with_softmax, without = load_onnx(path), load_onnx(path, logits=True)
    x = 100 * torch.rand(with_softmax.input_shape)
    assert torch.allclose(torch.softmax(without.module(x), dim=1), with_softmax.module(x), atol=1e-6)
    network = extract_network(bounded_module(without))
    assert torch.allclose(network.forward(x.double()), without.module(x).double(), atol=1e-4)


def test_malformed_reference_files_are_refused(reference_data: Path) -> None:
    files = sorted((reference_data / "vnncomp" / "_malformed_ACC" / "onnx").glob("*.onnx"))
    assert files
    for path in files:
        with pytest.raises(ModelError, match=rf"{path.name}: invalid ONNX model.*type"):
            load_onnx(path)


def test_small_model_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, small_model())
    model = load_onnx(path)
    x = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)
    assert model.input_shape == (1, 3)
    assert model.path == path
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not model.module.training
    assert np.allclose(model.module(torch.from_numpy(x)).numpy(), judged(path, x))
    assert load_onnx(str(path)).sha256 == model.sha256


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    plain = saved(tmp_path, small_model())
    packed = saved(tmp_path, gzip.compress(plain.read_bytes()), "net.onnx.gz")
    x = torch.randn(1, 3)
    assert torch.equal(load_onnx(packed).module(x), load_onnx(plain).module(x))
    assert load_onnx(packed).sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()


def test_double_models_stay_double(tmp_path: Path) -> None:
    model = load_onnx(saved(tmp_path, small_model(element=TensorProto.DOUBLE)))
    assert model.dtype is torch.float64
    network = extract_network(bounded_module(model))
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.allclose(network.forward(x), model.module(x), rtol=1e-14, atol=0)


@pytest.mark.parametrize("left", [False, True])
def test_vectors_get_a_batch_dimension(tmp_path: Path, left: bool) -> None:
    weights = {"W": np.arange(6, dtype=np.float32).reshape((2, 3) if left else (3, 2)) - 2, "b": np.ones(2, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["W", "x"] if left else ["x", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Add", ["r", "b"], ["y0"]),
    ]
    path = saved(tmp_path, small_model(nodes, weights, shape=(3,)))
    model = load_onnx(path)
    x = np.array([1.0, -2.0, 0.5], dtype=np.float32)
    assert model.input_shape == (1, 3)
    assert np.allclose(model.module(torch.from_numpy(x)[None])[0].numpy(), judged(path, x))
    assert extract_network(bounded_module(model)).output_size == 2


def test_old_opsets_are_upgraded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["y0"]),
    ]
    path = saved(tmp_path, small_model(nodes, shape=(1, 3, 1), opset=8))
    x = np.array([[[1.0], [-2.0], [0.5]]], dtype=np.float32)
    assert np.allclose(load_onnx(path).module(torch.from_numpy(x)).numpy(), judged(path, x))


def test_empty_padding_is_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Pad", ["x"], ["p"], pads=[0] * 4, mode="constant"),
        helper.make_node("MatMul", ["p", "W"], ["h"]),
        helper.make_node("Relu", ["h"], ["y0"]),
    ]
    path = saved(tmp_path, small_model(nodes, opset=9))
    x = torch.randn(1, 3)
    network = extract_network(bounded_module(load_onnx(path)))
    assert np.allclose(network.forward(x.double()).numpy(), judged(path, x.numpy()), atol=1e-6)


def two_outputs() -> Any:
    nodes = [helper.make_node("Relu", ["x"], ["y0"]), helper.make_node("Neg", ["x"], ["y1"])]
    return small_model(nodes, outputs=2)


def two_inputs() -> Any:
    model = small_model([helper.make_node("Add", ["x", "z"], ["y0"])])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def with_weight(value: float) -> Any:
    weight = np.ones((3, 2), dtype=np.float32)
    weight[1, 1] = value
    return small_model(weights={"W": weight, "b": np.ones(2, dtype=np.float32)})


def with_constant_node(value: float) -> Any:
    constant = numpy_helper.from_array(np.array([1.0, value], dtype=np.float32), "shift")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("Add", ["h", "c"], ["y0"]),
    ]
    return small_model(nodes)


def mixed_types() -> Any:
    model = small_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


BROKEN = {
    "cut off": (lambda: small_model().SerializeToString()[:-20], "not an ONNX model|invalid ONNX"),
    "garbage": (lambda: b"\x00\xff" * 50, "not an ONNX model"),
    "empty": (lambda: b"", "not an ONNX model"),
    "text": (lambda: b"(declare-const X_0 Real)", "not an ONNX model"),
    "broken gzip": (lambda: gzip.compress(small_model().SerializeToString())[:-30], "gzip"),
    "nan": (lambda: with_weight(float("nan")), "weight 'W' holds NaN"),
    "infinity": (lambda: with_weight(float("-inf")), "weight 'W' holds NaN or infinity"),
    "nan in a constant": (lambda: with_constant_node(float("nan")), "'shift' holds NaN"),
    "two outputs": (two_outputs, r"2 outputs \('y0', 'y1'\)"),
    "two inputs": (two_inputs, r"2 inputs \('x', 'z'\)"),
    "dynamic feature": (lambda: small_model(shape=("batch", "n")), r"shape \(batch, n\).*only the first dimension"),
    "integer input": (lambda: small_model([helper.make_node("Neg", ["x"], ["y0"])], element=7), "element type 7"),
    "mixed types": (mixed_types, "invalid ONNX model"),
    "unknown operator": (lambda: small_model([helper.make_node("Nonsense", ["x"], ["y0"])]), "Nonsense"),
    "wrong sizes": (lambda: small_model(shape=("batch", 4)), "invalid ONNX model"),
    "unserved operator": (lambda: small_model([helper.make_node("Det", ["x"], ["y0"])], shape=(1, 3, 3)), "Det"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path: Path, name: str) -> None:
    make, message = BROKEN[name]
    path = saved(tmp_path, make())
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value)


def ending(*kinds: str) -> Any:
    """A matrix product and these operators after it."""
    names = ["h", *(f"v{i}" for i in range(len(kinds) - 1)), "y0"]
    nodes = [helper.make_node("MatMul", ["x", "W"], ["h"])]
    for i, kind in enumerate(kinds):
        nodes.append(helper.make_node(kind, [names[i]], [names[i + 1]]))
    return small_model(nodes, {"W": np.arange(6, dtype=np.float32).reshape(3, 2) - 2})


@pytest.mark.parametrize(
    "kinds", [("Softmax",), ("LogSoftmax",), ("Softmax", "Identity"), ("Relu", "Softmax", "Flatten")]
)
def test_one_softmax_is_left_out(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    module = load_onnx(saved(tmp_path, ending(*kinds)), logits=True).module
    x = torch.randn(4, 3)
    logits = x @ (torch.arange(6.0).reshape(3, 2) - 2)
    assert torch.allclose(module(x), torch.relu(logits) if "Relu" in kinds else logits, atol=1e-6)


@pytest.mark.parametrize(
    "kinds", [("Softmax", "Softmax"), ("Softmax", "LogSoftmax"), ("Softmax", "Identity", "Softmax")]
)
def test_a_softmax_of_a_softmax_is_refused(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match=r"'y0' works on Softmax 'v0', a softmax again.*only one is left out"):
        load_onnx(saved(tmp_path, ending(*kinds)), logits=True)


@pytest.mark.parametrize(
    ("element", "narrow"),
    [
        (TensorProto.FLOAT, TensorProto.FLOAT16),
        (TensorProto.FLOAT, TensorProto.BFLOAT16),
        (TensorProto.FLOAT, TensorProto.INT32),
        (TensorProto.DOUBLE, TensorProto.FLOAT),
    ],
)
def test_casts_that_round_are_refused(tmp_path: Path, element: int, narrow: int) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=narrow, name="rounding"),
        helper.make_node("Cast", ["h"], ["y0"], to=element),
    ]
    with pytest.raises(ModelError, match=f"'rounding' rounds to ONNX element type {narrow}"):
        load_onnx(saved(tmp_path, small_model(nodes, element=element)))


def test_casts_that_widen_are_read(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["h"], ["y0"], to=TensorProto.FLOAT),
    ]
    x = torch.randn(2, 3)
    assert torch.equal(load_onnx(saved(tmp_path, small_model(nodes))).module(x), x)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_onnx(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="directory"):
        load_onnx(tmp_path)


def test_outputs_that_are_not_finite_are_refused_without_a_batch_too(tmp_path: Path) -> None:
    """A power with a negative exponent has none at negative inputs."""
    node = helper.make_node("Pow", ["x", "c"], ["y0"])
    model = small_model([node], {"c": np.array(-0.5, dtype=np.float32)}, shape=(1,))
    with pytest.raises(ModelError, match="outputs are not finite"):
        load_onnx(saved(tmp_path, model))


def test_first_dimension_that_is_mixed_is_refused(tmp_path: Path) -> None:
    """(4, 3) could be a batch of four or one sample: a sum over the first dimension tells."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceSum", ["r", "axes"], ["y0"], keepdims=0),
    ]
    model = small_model(nodes, {"axes": np.array([0], dtype=np.int64)}, shape=(4, 3))
    with pytest.raises(ModelError, match="no batch dimension and none can be added"):
        load_onnx(saved(tmp_path, model))


def test_weights_in_another_file(tmp_path: Path) -> None:
    model = small_model()
    onnx.save_model(model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    x = torch.randn(1, 3)
    plain = load_onnx(saved(tmp_path, small_model(), "plain.onnx"))
    assert torch.equal(load_onnx(tmp_path / "net.onnx").module(x), plain.module(x))
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match="weights in another file"):
        load_onnx(tmp_path / "net.onnx")


def test_broken_torchvision_does_not_matter_and_nothing_is_left(tmp_path: Path) -> None:
    path = saved(tmp_path, small_model())
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from geolip_lirpa.onnx_model import load_onnx;"
        f"print(load_onnx({str(path)!r}).input_shape);"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'torchvision']"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 3)"


@pytest.mark.parametrize("opset", [13, 19, 20])
@pytest.mark.parametrize("dilations", [None, (1, 1), (2, 2)])
def test_average_pools_of_later_opsets(tmp_path: Path, opset: int, dilations: tuple[int, int] | None) -> None:
    """Those without dilation are read as the operator of opset 11 that they are; others are refused by name."""
    if dilations is not None and opset < 19:
        pytest.skip("no such attribute")
    shape = [1, 2, 6, 6]
    extra = {} if dilations is None else {"dilations": dilations}
    pool = onnx.helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], **extra)
    size = 6 if dilations != (2, 2) else 4
    ends = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 2, s, s]) for n, s in (("x", 6), ("y", size))
    ]
    graph = onnx.helper.make_graph([pool], "pool", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    path = tmp_path / "pool.onnx"
    onnx.save(model, path)
    if dilations == (2, 2):
        with pytest.raises(ModelError, match="AveragePool"):
            load_onnx(path)
        return
    x = torch.randn(shape)
    expected = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(load_onnx(path).module(x), expected)


def padded_model(path: Path, kind: str, kernel: int, stride: int, auto: str, **extra: Any) -> Any:
    """A layer with padding by name; the answer of onnxruntime at one input, and that input."""
    runtime = pytest.importorskip("onnxruntime")
    weight = np.random.default_rng(0).standard_normal((2, 2, kernel, kernel)).astype(np.float32)
    weights = [numpy_helper.from_array(weight, "w")] if kind == "Conv" else []
    sizes = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "auto_pad": auto}
    layer = helper.make_node(kind, ["x", *(w.name for w in weights)], ["h"], **sizes, **extra)
    nodes = [layer, helper.make_node("Relu", ["h"], ["r"]), helper.make_node("Flatten", ["r"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 2, 5, 6]), ("y", [1, "n"]))]
    graph = helper.make_graph(nodes, "padded", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    x = np.random.default_rng(1).standard_normal((1, 2, 5, 6)).astype(np.float32)
    (expected,) = runtime.InferenceSession(str(path)).run(None, {"x": x})
    return torch.from_numpy(x), torch.from_numpy(expected)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize(
    ("kind", "kernel", "stride"),
    [("Conv", 3, 1), ("Conv", 3, 2), ("Conv", 2, 1), ("MaxPool", 2, 2), ("MaxPool", 3, 1), ("AveragePool", 2, 2)],
)
def test_padding_by_name(tmp_path: Path, auto: str, kind: str, kernel: int, stride: int) -> None:
    """As other frameworks export it; odd numbers of zeros fall on one side."""
    path = tmp_path / "padded.onnx"
    x, expected = padded_model(path, kind, kernel, stride, auto)
    if kind == "AveragePool" and auto.startswith("SAME"):
        # zeros on one side of a mean are refused, never read as something else
        with pytest.raises(ModelError, match="AveragePool"):
            load_onnx(path)
        return
    found = load_onnx(path)
    torch.testing.assert_close(found.module(x), expected, rtol=1e-4, atol=1e-5)
    if auto == "SAME_UPPER" and (kind, kernel) == ("Conv", 3):
        value = extract_network(bounded_module(found)).forward(x.double()).float().reshape(1, -1)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("kind", "kernel", "stride", "dilation"), [("MaxPool", 2, 1, 2), ("Conv", 1, 3, 1)])
def test_padding_on_which_engines_disagree(
    tmp_path: Path, auto: str, kind: str, kernel: int, stride: int, dilation: int
) -> None:
    """Dilated windows, and strides that skip entries at the end: refused by name, not guessed."""
    path = tmp_path / "padded.onnx"
    padded_model(path, kind, kernel, stride, auto, dilations=[dilation, dilation])
    with pytest.raises(ModelError, match="auto_pad"):
        load_onnx(path)


def test_convolution_weights_in_constant_nodes(tmp_path: Path) -> None:
    """They are read as initializers, also where another node shares them; NaN in them is found all the same."""
    weight = np.random.default_rng(0).standard_normal((2, 2, 1, 1)).astype(np.float32)
    path = tmp_path / "conv.onnx"
    onnx.save(_constant_convolution(weight), path)
    x = torch.randn(1, 2, 3, 3)
    expected = torch.nn.functional.conv2d(x, torch.from_numpy(weight)) + torch.from_numpy(weight).reshape(1, 4).sum()
    torch.testing.assert_close(load_onnx(path).module(x), expected)
    weight[0, 0] = np.nan
    onnx.save(_constant_convolution(weight), path)
    with pytest.raises(ModelError, match="NaN"):
        load_onnx(path)


def _constant_convolution(weight: np.ndarray) -> onnx.ModelProto:
    """The convolution of x plus the sum of its weights."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceSum", ["w"], ["s"], keepdims=1),
        helper.make_node("Add", ["c", "s"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 3, 3]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "conv", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_element_types(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(_constant_convolution(np.ones((2, 2, 1, 1), np.float32)), path)
    assert element_types(path) == (TensorProto.FLOAT, TensorProto.FLOAT)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"small\.onnx"):
        element_types(path)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Gemm"])
def test_biases_that_are_computed_from_constants_are_rounded(tmp_path: Path, operator: str) -> None:
    """The sum of two of the model's numbers is no double: whoever computes exactly has to know."""
    weights = {"W": np.eye(3, dtype=np.float32), "a": np.float32([0.1, 0.2, 0.3]), "b": np.float32([1e9, 2e9, 3e9])}
    last = {"Add": ["x", "c"], "Sub": ["c", "x"], "Gemm": ["x", "W", "c"]}[operator]
    nodes = [helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node(operator, last, ["y0"])]
    network = extract_network(bounded_module(load_onnx(saved(tmp_path, small_model(nodes, weights, shape=(1, 3))))))
    operations = [node.operation for node in network.nodes[1:]]
    assert any(isinstance(o, AffineOperator) and o.parameter_roundings > 0 for o in operations)
    assert exact_network(network) is None
