r"""Maxima and minima as affine maps and ReLU: :math:`\max(a, b) = a + \mathrm{ReLU}(b - a)`.

Place in the data flow: level 4, builders used by `graph`. A window of K entries becomes a balanced tree of
:math:`\lceil \log_2 K \rceil` ReLU layers; the rewriting is exact in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.activations import ReLU
from geolip_lirpa.linear_maps import Inputs, Parameters
from geolip_lirpa.lirpa.builder import Builder, View
from geolip_lirpa.lirpa.operators import reduced_axes
from geolip_lirpa.network import AffineOperator


def _max_pool(view: View) -> int:
    view.require_dependent([0])
    node = view.node
    if any(d != 1 for d in view.attribute("dilations", [1])) or view.attribute("ceil_mode", 0):
        raise view.refusal("dilation and ceil_mode=1 are ignored by auto_LiRPA; use a MaxPool without them")
    shape = tuple(view.value(0).shape[1:])
    windows = _pool_windows(shape, node.kernel_size, node.stride, node.padding)
    return _tree(view, windows, (view.position(0),), 1.0)


def _pool_windows(
    shape: tuple[int, ...], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Positions (K, \\*output) of the entries of every window; a window's padding repeats one of its entries."""
    # counted from one, so that zeros of the padding are recognised
    numbers = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64).reshape(shape[0], 1, *shape[1:])
    columns = F.unfold(numbers, tuple(kernel), padding=tuple(padding), stride=tuple(stride))
    sides = [(s + 2 * p - k) // t + 1 for s, k, p, t in zip(shape[1:], kernel, padding, stride, strict=True)]
    windows = columns.transpose(0, 1).reshape(columns.shape[1], shape[0], *sides).to(torch.int64) - 1
    # -inf of the padding never is the maximum; an entry of the same window twice changes nothing either
    return torch.where(windows < 0, windows.max(dim=0).values, windows)


def _pairwise(sign: float) -> Builder:
    def build(view: View) -> int:
        view.require_dependent([0, 1])
        shape = tuple(view.value(0).shape)
        if shape != tuple(view.value(1).shape):
            raise view.refusal("its two inputs have different shapes")
        size = torch.Size(shape[1:]).numel()
        windows = torch.arange(2 * size).reshape(2, *shape[1:])
        return _tree(view, windows, (view.position(0), view.position(1)), sign)

    return build


def _reduced(sign: float) -> Builder:
    def build(view: View) -> int:
        view.require_dependent([0])
        axes = reduced_axes(view)
        shape = tuple(view.value(0).shape[1:])
        numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
        kept = [axis for axis in range(len(shape)) if axis not in axes]
        windows = numbers.permute(*axes, *kept).reshape(-1, *(shape[axis] for axis in kept))
        if view.attribute("keepdims", 1):
            windows = windows.reshape(-1, *(1 if axis in axes else s for axis, s in enumerate(shape)))
        return _tree(view, windows, (view.position(0),), sign)

    return build


def _tree(view: View, windows: Tensor, inputs: Sequence[int], sign: float) -> int:
    """Maximum (sign 1) or minimum (sign -1) over the first dimension of the windows."""
    if windows.shape[0] == 1:
        return view.add(affine.movement(view.kind, windows[0]), inputs)
    values = view.add(affine.movement(view.kind, windows), inputs, "/windows")
    count, level = windows.shape[0], 0
    while count > 1:
        half = count // 2
        difference = view.add(_difference(half, sign), (values,), f"/difference{level}")
        step = view.add(ReLU(), (difference,), f"/relu{level}")
        last = count <= 2
        values = view.add(_combine(half, sign, last), (values, step), "" if last else f"/level{level}")
        count, level = count - half, level + 1
    return values


def _difference(half: int, sign: float) -> AffineOperator:
    """``sign (second half - first half)``."""
    signs = (torch.tensor(sign, dtype=torch.float64), torch.tensor(-sign, dtype=torch.float64))
    return AffineOperator("Difference", partial(_subtract_halves, half=half), signs, None, 1)


def _combine(half: int, sign: float, last: bool) -> AffineOperator:
    """``first half + sign relu``, and what had no partner."""
    signs = (torch.tensor(sign, dtype=torch.float64),)
    return AffineOperator("Combine", partial(_add_steps, half=half, last=last), signs, None, 1)


def _subtract_halves(inputs: Inputs, parameters: Parameters, *, half: int) -> Tensor:
    values = inputs[0]
    return parameters[0] * values[:, half : 2 * half] + parameters[1] * values[:, :half]


def _add_steps(inputs: Inputs, parameters: Parameters, *, half: int, last: bool) -> Tensor:
    values, steps = inputs
    result = torch.cat([values[:, :half] + parameters[0] * steps, values[:, 2 * half :]], dim=1)
    return result[:, 0] if last else result


MAXIMUM: Mapping[str, Builder] = MappingProxyType(
    {
        "BoundMaxPool": _max_pool,
        "BoundMax": _pairwise(1.0),
        "BoundMin": _pairwise(-1.0),
        "BoundReduceMax": _reduced(1.0),
        "BoundReduceMin": _reduced(-1.0),
    }
)
