r"""Does the network extracted from a host model move as the torch module does?

Place in the data flow: level 4, the last step of `build.bounded_module`. Both sides run in float64, so that every
output is judged by its own size: a float32 comparison leaves room for :math:`10^{-5}` of the largest one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geolip_lirpa.errors import ExtractionError, UnsupportedOperatorError
from geolip_lirpa.lirpa.graph import extract_network

_SCALES = (0.1, 1.0, 10.0, 100.0)
_POINTS = 4
# the host holds Python's numbers in float32, which tells at large inputs
_RELATIVE = 1e-6
_OF_VALUE = 1e-9


def require_faithful(bounded: Any, module: nn.Module, shape: tuple[int, ...]) -> None:
    r"""Compare increments, output by output and scale by scale.

    With :math:`d_k` the increment of output k between two random inputs of size s, the two may differ by
    :math:`10^{-6} (1 + s) \max |d_k| + 10^{-9} \max |f_k|`. Nothing is compared where no network can be extracted
    (whoever asks for it is told why) or where the module cannot run in float64.

    Args:
        bounded: the host's model.
        module: what it was made from.
        shape: of a batch.

    Raises:
        ExtractionError: they differ; names the output.
    """
    try:
        network = extract_network(bounded).to(torch.float64, "cpu")
    except (UnsupportedOperatorError, ExtractionError):
        return
    reference = copy.deepcopy(module).cpu().double()
    generator = torch.Generator().manual_seed(1)
    for scale in _SCALES:
        points = [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(_POINTS)]
        expected = _outputs(reference, points)
        if expected is not None:
            found = torch.stack([network.forward(x) for x in points])
            _require_close(expected, found, _RELATIVE * (1 + scale))


def _outputs(module: Callable[[Tensor], Tensor], points: list[Tensor]) -> Tensor | None:
    """(points, batch, outputs); None where float64 does not serve."""
    try:
        with torch.no_grad():
            values = torch.stack([module(x).reshape(x.shape[0], -1) for x in points])
    except Exception:
        return None
    return values if values.dtype == torch.float64 and bool(values.isfinite().all()) else None


def _require_close(expected: Tensor, found: Tensor, relative: float) -> None:
    if expected.shape != found.shape:
        raise ExtractionError(
            f"the module has outputs of shape {tuple(expected.shape[1:])} (batch, outputs), auto_LiRPA's model "
            f"{tuple(found.shape[1:])}. Pass the module's own input_shape with a batch of one."
        )
    steps, steps_found = expected[1:] - expected[:1], found[1:] - found[:1]
    largest = steps.abs().amax((0, 1))
    allowed = relative * largest + _OF_VALUE * expected.abs().amax((0, 1))
    error = (steps - steps_found).abs().amax((0, 1))
    # NaN compares false and must be refused too
    wrong = (~(error <= allowed)).nonzero().flatten().tolist()
    if wrong:
        k = wrong[0]
        raise ExtractionError(
            f"auto_LiRPA's model computes something else than the module it was made from: output {k} moves by up to "
            f"{float(largest[k]):.3g}, the extracted network differs from that by {float(error[k]):.3g} (allowed "
            f"{float(allowed[k]):.3g}). torch's exporter or auto_LiRPA ignores an attribute of a layer, or the module "
            "rounds inside (casts); replace such layers by plain ones."
        )
