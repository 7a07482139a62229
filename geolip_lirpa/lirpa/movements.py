"""Host nodes that only move entries: reshaping, transposing, slicing, concatenating, padding, gathering.

Place in the data flow: level 4, part of the table in `operators`. What a node does is read off its own forward, applied
to the numbers of the entries instead of their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from geolip_lirpa import affine
from geolip_lirpa.lirpa.builder import Builder, View
from geolip_lirpa.lirpa.host import evaluate

# which inputs are data where it is not the first alone; the rest are shapes and indices
_DATA_INPUTS = {"BoundPad": (0, 2), "BoundWhere": (1, 2)}


def _movement(view: View) -> int:
    """An operator that only moves entries: its host forward is applied to the entries' numbers.

    Entries count from one, and zero stands for every constant, which is also what padding leaves behind.
    """
    data = _DATA_INPUTS.get(view.kind, tuple(range(len(view.node.inputs))) if view.kind == "BoundConcat" else (0,))
    dependent = view.dependent()
    if not dependent or not set(dependent) <= set(data):
        raise view.refusal("a shape or an index depends on the network's input")
    if view.attribute("mode", b"constant") not in ("constant", b"constant", "nearest", b"nearest"):
        raise view.refusal(f"mode={view.attribute('mode')!r} is not supported, only constant padding and nearest")
    positions = _moved_positions(view, dependent, data)
    if len(dependent) == 1 and _is_unchanged(view, positions):
        return view.position(dependent[0])
    bias = _moved_constants(view, dependent) if bool((positions == affine.NOWHERE).any()) else None
    return view.add(affine.movement(view.kind, positions, bias), [view.position(i) for i in dependent])


def _is_unchanged(view: View, positions: Tensor) -> bool:
    shape = view.builder.nodes[view.position(view.dependent()[0])].shape
    plain = torch.arange(positions.numel(), device=positions.device).reshape(positions.shape)
    return tuple(positions.shape) == shape and torch.equal(positions, plain)


def _moved_positions(view: View, dependent: Sequence[int], data: Sequence[int]) -> Tensor:
    batch = view.graph.batch
    sizes = {i: view.value(i)[0].numel() for i in dependent}
    total = sum(sizes.values())
    inputs: list[Tensor] = []
    offset = 1
    for i in range(len(view.node.inputs)):
        value = view.value(i)
        if i in sizes:
            numbers = torch.arange(sizes[i], dtype=torch.float64, device=value.device) + offset
            rows = total * torch.arange(batch, dtype=torch.float64, device=value.device)
            inputs.append((numbers + rows[:, None]).reshape(value.shape))
            offset += sizes[i]
        else:
            inputs.append(torch.zeros_like(view.constant(i)) if i in data else view.constant(i))
    return _samplewise(view, evaluate(view.node, inputs).round().to(torch.int64), total)


def _samplewise(view: View, numbers: Tensor, total: int) -> Tensor:
    """Positions within one sample, after a check that no sample reads another one."""
    batch = view.graph.batch
    if numbers.ndim == 0 or numbers.shape[0] != batch:
        raise view.refusal(f"it moves the batch dimension: its output has shape {tuple(numbers.shape)}")
    rows = torch.arange(batch, device=numbers.device).reshape(-1, *([1] * (numbers.ndim - 1)))
    local = torch.where(numbers > 0, numbers - 1 - total * rows, affine.NOWHERE)
    if not bool((local == local[:1]).all()) or int(local.max()) >= total:
        raise view.refusal("it mixes the samples of a batch")
    return local[0]


def _moved_constants(view: View, dependent: Sequence[int]) -> Tensor:
    inputs = [
        torch.zeros_like(view.value(i), dtype=torch.float64) if i in dependent else view.constant(i)
        for i in range(len(view.node.inputs))
    ]
    moved = evaluate(view.node, inputs)
    if not bool((moved == moved[:1]).all()):
        raise view.refusal("its constants differ between the samples of a batch")
    return moved[0]


_KINDS = (
    "BoundFlatten", "BoundReshape", "BoundATenUnflatten", "BoundTranspose", "BoundSqueeze", "BoundUnsqueeze",
    "BoundConcat", "BoundSlice", "BoundSplit", "BoundGather", "BoundGatherElements", "BoundExpand", "BoundTile",
    "BoundPad", "BoundWhere", "BoundResize", "BoundUpsample",
)  # fmt: skip

MOVING: Mapping[str, Builder] = MappingProxyType(dict.fromkeys(_KINDS, _movement))
