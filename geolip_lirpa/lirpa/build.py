"""Wrap a torch module or an ONNX model as auto_LiRPA's `BoundedModule`.

Place in the data flow: level 4, ``OnnxModel -> BoundedModule``.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geolip_lirpa.errors import ExtractionError, ModelError, UnsupportedOperatorError
from geolip_lirpa.lirpa.attributes import DroppedAttributes
from geolip_lirpa.lirpa.compat import load_host, quiet_host, register_exporter_symbols
from geolip_lirpa.lirpa.fidelity import require_faithful
from geolip_lirpa.onnx_model import OnnxModel

# matrix mode serves every graph and float64; patches mode is faster for deep convolutional networks only
_DEFAULT_OPTIONS: Mapping[str, Any] = {"conv_mode": "matrix"}
_TOLERANCE = 1e-5


def bounded_module(
    model: OnnxModel | nn.Module,
    input_shape: Sequence[int] | None = None,
    bound_opts: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Any:
    """A `BoundedModule` in eval mode that computes what the model computes.

    Args:
        model: an `OnnxModel`, or a torch module with one input and one output, both with a batch dimension; copied.
        input_shape: shape of a batch of one, ``(1, *sample)``; needed for a torch module.
        bound_opts: options of auto_LiRPA, over the default ``{"conv_mode": "matrix"}``.
        device: where the model is to live.

    Raises:
        HostUnavailableError: auto_LiRPA is missing.
        ExtractionError: auto_LiRPA cannot read the module, or computes something else.
        UnsupportedOperatorError: the module uses a setting that torch's exporter drops.
        ModelError: a parameter holds NaN or infinity, the outputs are not finite, or the module fails on that shape.
    """
    host = load_host()
    module, shape = _module_and_shape(model, input_shape)
    module = copy.deepcopy(module).eval().to(device)
    require_finite(module)
    probes = _probes(module, shape, device)
    expected = [_forward(module, x) for x in probes]
    bounded = _wrap(host, module, probes[0], {**_DEFAULT_OPTIONS, **(bound_opts or {})}, str(torch.device(device)))
    with quiet_host(), torch.no_grad():
        for x, y in zip(reversed(probes), reversed(expected), strict=True):
            _require_same(y, bounded(x))
        require_faithful(bounded, module, shape)
    return bounded


def _wrap(host: Any, module: nn.Module, dummy: Tensor, options: Mapping[str, Any], device: str) -> Any:
    messages: list[str] = []
    try:
        return _parse(host, module, dummy, options, device, messages)
    except Exception as error:
        if not register_exporter_symbols():
            raise ExtractionError(_unreadable(host, error, messages)) from error
    messages.clear()
    try:
        return _parse(host, module, dummy, options, device, messages)
    except Exception as error:
        raise ExtractionError(_unreadable(host, error, messages)) from error


def _parse(
    host: Any, module: nn.Module, dummy: Tensor, options: Mapping[str, Any], device: str, messages: list[str]
) -> Any:
    with quiet_host(messages):
        # the host may change the module's mode and its options
        bounded = host.BoundedModule(
            copy.deepcopy(module), dummy, bound_opts=copy.deepcopy(dict(options)), device=device
        )
        bounded.eval()
        bounded(dummy)
    return bounded


def require_finite(module: nn.Module) -> None:
    """Refuse NaN and infinity in parameters and buffers.

    Raises:
        ModelError: names the parameter.
    """
    for name, values in (*module.named_parameters(), *module.named_buffers()):
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise ModelError(
                f"parameter '{name}' holds NaN or infinity; no bound exists for such a network. Train or load it again."
            )


def _module_and_shape(
    model: OnnxModel | nn.Module, input_shape: Sequence[int] | None
) -> tuple[nn.Module, tuple[int, ...]]:
    if isinstance(model, OnnxModel):
        return model.module, tuple(input_shape or model.input_shape)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model: got {type(model).__name__}; expected a torch module or load_onnx(path).")
    if input_shape is None:
        raise ModelError(
            "input_shape: missing; a torch module does not tell it. Pass (1, *sample), e.g. (1, 3, 32, 32)."
        )
    return model, tuple(int(size) for size in input_shape)


def _probes(module: nn.Module, shape: tuple[int, ...], device: torch.device | str) -> list[Tensor]:
    """Inputs of a usual image's size first, then larger ones of both signs."""
    dtype = next((p.dtype for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), torch.float32)
    generator = torch.Generator().manual_seed(0)
    usual = torch.rand(shape, generator=generator, dtype=dtype)
    larger = [3 * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2)]
    return [x.to(device) for x in (usual, *larger)]


def _forward(module: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad(), DroppedAttributes():
            output = module(x)
    except UnsupportedOperatorError:
        raise
    except Exception as error:
        raise ModelError(
            f"the module fails on an input of shape {tuple(x.shape)}: {error}. Pass input_shape=(1, *sample)."
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(f"the module yields {type(output).__name__}; expected one tensor.")
    if not bool(output.isfinite().all()):
        raise ModelError(
            f"the module's outputs are not finite at inputs of size {float(x.abs().max()):.3g}: its weights overflow "
            f"{x.dtype}, or it leaves the domain of an operation. Rescale the weights, or convert it to float64."
        )
    return output


def _unreadable(host: Any, error: Exception, messages: Sequence[str]) -> str:
    found = (text.removeprefix("Name:").split("Attr:")[0] for text in messages if text.startswith("Name:"))
    named = [name.strip(" ,") for name in found]
    detail = str(error).strip().rstrip(".") or traceback.extract_tb(error.__traceback__)[-1].line
    reason = f"it does not know {', '.join(named)}" if named else f"{type(error).__name__}: {detail}"
    advice = "Replace it by supported operations, or use a later auto_LiRPA."
    if "onnx::LogSoftmax" in named:
        advice = "Bound the logits: leave the log-softmax out (load_onnx(path, logits=True), command line: --logits)."
    return f"auto_LiRPA {host.__version__} cannot read this module: {reason}. {advice}"


def _require_same(expected: Tensor, found: Tensor) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    if expected.shape != found.shape or not bool(((expected - found).abs() <= _TOLERANCE * (scale + 1e-6)).all()):
        raise ExtractionError(
            "auto_LiRPA's model computes something else than the module it was made from. It ignores some attributes "
            "(dilation of MaxPool, count_include_pad, ceil_mode, modes of padding); replace such layers by plain ones."
        )
