"""Read an ONNX file as a torch module.

Place in the data flow: level 1, before everything: ``file -> OnnxModel -> BoundedModule``. Knows onnx and onnx2torch,
not auto_LiRPA.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geolip_lirpa.errors import ModelError
from geolip_lirpa.onnx_rewrite import (
    require_full_precision,
    with_explicit_padding,
    with_plain_average_pools,
    with_stored_weights,
    with_weights_right,
    without_empty_padding,
    without_softmax,
)

_OLDEST_OPSET = 9
_TARGET_OPSET = 13
_FLOATS = {1: torch.float32, 11: torch.float64}
_ADVICE = "Export the model again, for example with torch.onnx.export(model.eval(), x, path, opset_version=13)."


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file as a torch module.

    Args:
        module: the network in eval mode; one input, one output, both with a batch dimension.
        input_shape: shape of a batch of one, ``(1, *sample)``.
        path: the file.
        sha256: hexadecimal digest of the file's bytes as they lie on disk.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    path: Path
    sha256: str

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's numbers: float32 or float64."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.float32


def load_onnx(path: str | Path, logits: bool = False) -> OnnxModel:
    """Read an ``.onnx`` or ``.onnx.gz`` file.

    Inputs without a batch dimension get one in front, when the network maps a batch sample by sample.

    Args:
        path: the file; its graph must have one input and one output of type float32 or float64.
        logits: leave out the one softmax or log-softmax at the end.

    Raises:
        ModelError: the file is missing, unreadable, not a valid ONNX model, uses an operator or a shape that cannot be
            served, rounds to a narrower type inside, or holds NaN or infinity.
    """
    file = Path(path)
    content = _read(file)
    onnx = _import("onnx")
    model = _parse(onnx, file, _unpacked(file, content))
    _check_weights(onnx, file, model)
    require_full_precision(model, _graph_inputs(model)[0].type.tensor_type.elem_type)
    declared = _declared_shape(file, model)
    model = with_stored_weights(without_empty_padding(without_softmax(onnx, model) if logits else model))
    model = with_plain_average_pools(onnx, with_explicit_padding(onnx, model))
    if not _has_batch(declared):
        model = with_weights_right(onnx, model)
    module = _to_module(onnx, file, model)
    shape = _batched_shape(file, module, declared, _input_type(file, model))
    return OnnxModel(module, shape, file, hashlib.sha256(content).hexdigest())


def element_types(path: str | Path) -> tuple[int, int]:
    """ONNX's numbers for the element types of the first input and the first output; 0 for none.

    Raises:
        ModelError: the file is missing, unreadable, or no ONNX model.
    """
    file = Path(path)
    model = _loaded(_import("onnx"), file, _unpacked(file, _read(file)))
    kinds = [
        values[0].type.tensor_type.elem_type if values else 0 for values in (_graph_inputs(model), model.graph.output)
    ]
    return kinds[0], kinds[1]


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(
            f"reading ONNX files needs the package {name}, which cannot be imported ({error}). "
            "Install it with `pip install onnx onnx2torch`."
        ) from error


def _read(file: Path) -> bytes:
    if file.is_dir():
        raise ModelError(f"{file}: is a directory; expected an .onnx file. Name the file inside it.")
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; expected an .onnx or .onnx.gz file. Check the path.") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}). Check its permissions.") from error


def _unpacked(file: Path, content: bytes) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise ModelError(f"{file}: broken gzip data ({error}). Copy or compress the file again.") from error


def _parse(onnx: Any, file: Path, content: bytes) -> Any:
    """The checked model, its initializers no longer listed as inputs, at an opset that onnx2torch serves."""
    model = _loaded(onnx, file, content)
    if not model.graph.node:
        raise ModelError(f"{file}: not an ONNX model: its graph has no nodes. {_ADVICE}")
    _load_external_data(onnx, file, model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ModelError(f"{file}: invalid ONNX model: {_first_line(error)}. {_ADVICE}") from error
    _require_float(file, model)
    return _upgraded(onnx, file, model)


def _loaded(onnx: Any, file: Path, content: bytes) -> Any:
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:
        raise ModelError(f"{file}: not an ONNX model, or cut off ({_first_line(error)}). {_ADVICE}") from error


def _load_external_data(onnx: Any, file: Path, model: Any) -> None:
    if not any(onnx.external_data_helper.uses_external_data(t) for t in model.graph.initializer):
        return
    try:
        onnx.load_external_data_for_model(model, str(file.parent))
    except Exception as error:
        raise ModelError(
            f"{file}: weights in another file cannot be read ({_first_line(error)}). Keep it beside the model."
        ) from error


def _upgraded(onnx: Any, file: Path, model: Any) -> Any:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or versions[0] >= _OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, _TARGET_OPSET)
    except Exception as error:
        raise ModelError(
            f"{file}: opset {versions[0]} cannot be converted to {_TARGET_OPSET} ({_first_line(error)}). {_ADVICE}"
        ) from error


def _graph_inputs(model: Any) -> list[Any]:
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in initializers]


def _input_type(file: Path, model: Any) -> torch.dtype:
    return _FLOATS[_graph_inputs(model)[0].type.tensor_type.elem_type]


def _require_float(file: Path, model: Any) -> None:
    inputs, outputs = _graph_inputs(model), list(model.graph.output)
    for kind, values in (("input", inputs), ("output", outputs)):
        if len(values) != 1:
            names = ", ".join(repr(value.name) for value in values) or "none"
            raise ModelError(f"{file}: has {len(values)} {kind}s ({names}); exactly one is supported. {_ADVICE}")
        if values[0].type.tensor_type.elem_type not in _FLOATS:
            raise ModelError(
                f"{file}: {kind} {values[0].name!r} has ONNX element type {values[0].type.tensor_type.elem_type}; "
                f"supported are 1 (float32) and 11 (float64). {_ADVICE}"
            )


def _check_weights(onnx: Any, file: Path, model: Any) -> None:
    constants = [
        (attribute.t.name or node.output[0], attribute.t)
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    for name, tensor in [(t.name, t) for t in model.graph.initializer] + constants:
        values = torch.as_tensor(onnx.numpy_helper.to_array(tensor).copy()) if tensor.data_type in _FLOATS else None
        if values is not None and not bool(values.isfinite().all()):
            raise ModelError(
                f"{file}: weight {name!r} holds NaN or infinity; no bound exists for such a network. "
                "Train or export again."
            )


def _declared_shape(file: Path, model: Any) -> tuple[int, ...]:
    """The input's shape as declared, with 0 for a dynamic first dimension."""
    value = _graph_inputs(model)[0]
    if not value.type.tensor_type.HasField("shape"):
        raise ModelError(f"{file}: input {value.name!r} has no shape. {_ADVICE}")
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if any(size <= 0 for size in sizes[1:]):
        labels = [dim.dim_param or str(dim.dim_value or "?") for dim in value.type.tensor_type.shape.dim]
        raise ModelError(
            f"{file}: input {value.name!r} has shape ({', '.join(labels)}); only the first dimension (the batch) may "
            f"be dynamic. {_ADVICE}"
        )
    return tuple(max(size, 0) for size in sizes)


def _to_module(onnx: Any, file: Path, model: Any) -> nn.Module:
    with warnings.catch_warnings(record=True), _torchvision_stand_in():
        convert = _import("onnx2torch").convert
        try:
            module: nn.Module = convert(model)
        except NotImplementedError as error:
            raise ModelError(f"{file}: unsupported operator: {_first_line(error)}. {_served(model)}") from error
        except Exception as error:
            raise ModelError(
                f"{file}: cannot be turned into a torch module: {_first_line(error)}. {_ADVICE}"
            ) from error
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _served(model: Any) -> str:
    found = sorted({node.op_type for node in model.graph.node})
    return f"The graph uses {', '.join(found)}. Replace the operator by ones that onnx2torch serves, or cut the graph."


def _has_batch(declared: tuple[int, ...]) -> bool:
    return len(declared) >= 2 and declared[0] <= 1


def _batched_shape(file: Path, module: nn.Module, declared: tuple[int, ...], dtype: torch.dtype) -> tuple[int, ...]:
    if _has_batch(declared):
        shape = (1, *declared[1:])
        _run(file, module, torch.zeros(shape, dtype=dtype))
        return shape
    _require_samplewise(file, module, declared, dtype)
    return (1, *declared)


def _require_samplewise(file: Path, module: nn.Module, sample: tuple[int, ...], dtype: torch.dtype) -> None:
    """Two samples in one batch must give what they give alone."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand((2, *sample), generator=generator, dtype=dtype) - 0.5
    alone = [_run(file, module, x) for x in batch]
    advice = f"{file}: its input, shape {sample}, has no batch dimension and none can be added. {_ADVICE}"
    try:
        together = module(batch)
    except Exception as error:
        raise ModelError(advice) from error
    expected = torch.stack([y.reshape(-1) for y in alone])
    if together.shape[0] != 2 or together.numel() != expected.numel():
        raise ModelError(advice)
    if not bool(expected.isfinite().all()):
        raise ModelError(
            f"{file}: its outputs are not finite at inputs between -0.5 and 0.5; allowed are networks that are finite "
            "everywhere. Replace powers and roots outside of their domains, or weights that overflow."
        )
    if not torch.allclose(together.reshape(2, -1), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max() + 1)):
        raise ModelError(advice)


def _run(file: Path, module: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            output = module(x)
    except Exception as error:
        raise ModelError(
            f"{file}: fails on an input of shape {tuple(x.shape)}: {_first_line(error)}. {_ADVICE}"
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(f"{file}: yields {type(output).__name__}; expected one tensor. {_ADVICE}")
    return output


@contextlib.contextmanager
def _torchvision_stand_in() -> Iterator[None]:
    """Supply ``torchvision.ops`` while onnx2torch is imported, when the real one is missing or broken.

    onnx2torch imports it for two detection operators that no network here has. The stand-in leaves `sys.modules`
    again, so that the caller's process sees what it saw before.
    """
    if "onnx2torch" in sys.modules or _torchvision_works():
        yield
        return
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "torchvision"}
    package, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    for module in (package, operators):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    for name in ("nms", "roi_align", "box_convert"):
        setattr(operators, name, _missing_operator)
    package.ops = operators  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": package, "torchvision.ops": operators})
    try:
        _import("onnx2torch")
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]
        sys.modules.update(hidden)


def _torchvision_works() -> bool:
    try:
        importlib.import_module("torchvision.ops")
    except Exception:
        return False
    return True


def _missing_operator(*_: Any, **__: Any) -> Any:
    raise ModelError("NonMaxSuppression and RoiAlign need a working torchvision. Remove them from the graph.")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
