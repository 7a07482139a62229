"""How each class of host node becomes affine maps of a `Network`.

Place in the data flow: level 4, used by `graph`. `AFFINE` maps a class name to its builder, which adds nodes to the
network and returns the position of the node's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from geolip_lirpa import affine
from geolip_lirpa.activations import SiLU
from geolip_lirpa.lirpa.builder import Builder, View
from geolip_lirpa.lirpa.host import kind_of
from geolip_lirpa.lirpa.movements import MOVING

# v + eps, its root (which halves the error) and the quotient
_BATCH_NORM_ROUNDINGS = 4


def _identity(view: View) -> int:
    view.require_dependent([0])
    return view.position(0)


def _dropout(view: View) -> int:
    if view.node.training:
        raise view.refusal("dropout is active; call eval() on the model before it is wrapped")
    return _identity(view)


def _cast(view: View) -> int:
    if not view.output.is_floating_point():
        raise view.refusal(f"it casts to {view.output.dtype}; supported are float types")
    own = view.graph.sample.dtype
    if torch.finfo(view.output.dtype).eps > torch.finfo(own).eps:
        raise view.refusal(
            f"it rounds to {view.output.dtype}, narrower than the model's {own}: a step function without finite slopes"
        )
    return _identity(view)


def _gemm(view: View) -> int:
    view.require_dependent([0], [0, 2])
    if view.attribute("transA", 0):
        raise view.refusal("transA=1 mixes the samples of a batch")
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))
    weight = view.constant(1) if not view.attribute("transB", 0) else view.constant(1).transpose(-1, -2)
    roundings = view.roundings(1) + (alpha != 1.0)
    weight = weight if alpha == 1.0 else alpha * weight
    if view.depends(2):
        operator = affine.gemm_sum(weight, beta, parameter_roundings=roundings)
        return view.add(operator, (view.position(0), view.position(2)))
    bias = None
    if len(view.node.inputs) > 2:
        bias = view.sample_constant(2, 2) if beta == 1.0 else beta * view.sample_constant(2, 2)
        roundings = max(roundings, view.roundings(2) + (beta != 1.0))
    return view.add(affine.matmul_right(weight, bias, parameter_roundings=roundings), (view.position(0),))


def _matmul(view: View) -> int:
    view.require_dependent([0], [1])
    side = view.dependent()[0]
    rank = view.value(side).ndim
    weight = view.constant(1 - side)
    if weight.ndim > 2:
        weight = view.sample_constant(1 - side, rank)
    if side == 0:
        operator = affine.matmul_right(weight, parameter_roundings=view.roundings(1))
    elif rank < 3:
        raise view.refusal("a constant matrix on the left of a vector contracts the batch dimension")
    else:
        operator = affine.matmul_left(weight, parameter_roundings=view.roundings(0))
    return view.add(operator, (view.position(side),))


def _require_symmetric_pads(view: View) -> None:
    pads = list(view.attribute("pads", []))
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        raise view.refusal(f"pads {pads} differ between the two ends, which auto_LiRPA ignores")
    if view.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID", b"NOTSET", b"VALID"):
        raise view.refusal(f"auto_pad={view.attribute('auto_pad')} is ignored by auto_LiRPA; use explicit pads")


def _convolution(view: View) -> int:
    view.require_dependent([0])
    _require_symmetric_pads(view)
    node = view.node
    operator = affine.convolution(
        view.constant(1),
        view.optional(2),
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        groups=node.groups,
        parameter_roundings=max(view.roundings(i) for i in range(1, len(node.inputs))),
    )
    return view.add(operator, (view.position(0),))


def _transposed_convolution(view: View) -> int:
    view.require_dependent([0])
    _require_symmetric_pads(view)
    node = view.node
    operator = affine.transposed_convolution(
        view.constant(1),
        view.optional(2),
        stride=node.stride,
        padding=node.padding,
        output_padding=node.output_padding,
        dilation=node.dilation,
        groups=node.groups,
        parameter_roundings=max(view.roundings(i) for i in range(1, len(node.inputs))),
    )
    return view.add(operator, (view.position(0),))


def _batch_norm(view: View) -> int:
    r""":math:`\gamma (x - m) / \sqrt{v + \epsilon} + \beta` as two maps, each with one of the model's biases."""
    view.require_dependent([0])
    node = view.node
    if node.training or not (node.use_mean and node.use_var and node.use_affine):
        raise view.refusal("batch normalisation must run with its stored statistics; call eval() on the model")
    gamma, beta, mean, variance = (view.constant(i) for i in range(1, 5))
    shape = (-1, *([1] * (view.value(0).ndim - 2)))
    centred = view.add(affine.shift(-mean.reshape(shape)), (view.position(0),), "/centred")
    factor = gamma / (variance + node.eps).sqrt()
    operator = affine.scaling(factor.reshape(shape), beta.reshape(shape), parameter_roundings=_BATCH_NORM_ROUNDINGS)
    return view.add(operator, (centred,))


def _additive(second_sign: float) -> Builder:
    def build(view: View) -> int:
        view.require_dependent([0], [1], [0, 1])
        if len(view.dependent()) == 2:
            _require_equal_rank(view)
            return view.add(affine.signed_sum((1.0, second_sign)), (view.position(0), view.position(1)))
        side = view.dependent()[0]
        constant = view.sample_constant(1 - side, view.value(side).ndim)
        roundings = view.roundings(1 - side)
        if side == 0:
            shift = affine.shift(second_sign * constant, parameter_roundings=roundings)
            return view.add(shift, (view.position(0),))
        if second_sign == 1.0:
            return view.add(affine.shift(constant, parameter_roundings=roundings), (view.position(1),))
        negated = affine.scaling(constant.new_tensor(-1.0), constant, parameter_roundings=roundings)
        return view.add(negated, (view.position(1),))

    return build


def _require_equal_rank(view: View) -> None:
    if view.value(0).ndim != view.value(1).ndim:
        shapes = f"{tuple(view.value(0).shape)} and {tuple(view.value(1).shape)}"
        raise view.refusal(f"its inputs of shapes {shapes} align the batch of one with a sample of the other")


def _negative(view: View) -> int:
    view.require_dependent([0])
    return view.add(affine.signed_sum((-1.0,)), (view.position(0),))


def _product(view: View) -> int:
    dependent = view.dependent()
    if len(dependent) == 2:
        return _silu(view)
    side = dependent[0]
    factor = view.sample_constant(1 - side, view.value(side).ndim)
    operator = affine.scaling(factor, parameter_roundings=view.roundings(1 - side))
    return view.add(operator, (view.position(side),))


def _silu(view: View) -> int:
    """``x * sigmoid(x)``, the only product of two branches that is an activation."""
    first, second = view.node.inputs
    for x, gate in ((first, second), (second, first)):
        if kind_of(gate) == "BoundSigmoid" and gate.inputs[0].name == x.name:
            return view.add(SiLU(), (view.positions[x.name],))
    raise view.refusal("the product of two values that both depend on the input is neither affine nor an activation")


def _quotient(view: View) -> int:
    view.require_dependent([0])
    divisor = view.sample_constant(1, view.value(0).ndim)
    if bool((divisor == 0).any()):
        raise view.refusal("it divides by zero")
    return view.add(affine.division(divisor), (view.position(0),))


def _average_pool(view: View) -> int:
    view.require_dependent([0])
    _require_symmetric_pads(view)
    node = view.node
    if not view.attribute("count_include_pad", 0) and any(node.padding):
        raise view.refusal("count_include_pad=0 with padding is ignored by auto_LiRPA; pad with zeros before it")
    if view.attribute("ceil_mode", 0):
        raise view.refusal("ceil_mode=1 is ignored by auto_LiRPA; pad the input instead")
    return view.add(affine.average_pool(node.kernel_size, node.stride, node.padding), (view.position(0),))


def _global_average_pool(view: View) -> int:
    view.require_dependent([0])
    shape = tuple(view.value(0).shape[1:])
    operator = affine.reduction(range(1, len(shape)), shape, keepdim=True, mean=True)
    return view.add(operator, (view.position(0),))


def reduced_axes(view: View) -> list[int]:
    """Axes of one sample over which a reducing node works, from its attribute or its second input."""
    axes = view.attribute("axes")
    if axes is None and len(view.node.inputs) > 1:
        axes = view.constant(1).reshape(-1).tolist()
    if not axes:
        raise view.refusal("it reduces over all axes, the batch among them; name the axes")
    return [view.require_batch(int(axis)) for axis in axes]


def _reduction(mean: bool) -> Builder:
    def build(view: View) -> int:
        view.require_dependent([0])
        keepdim = bool(view.attribute("keepdims", 1))
        operator = affine.reduction(reduced_axes(view), view.value(0).shape[1:], keepdim=keepdim, mean=mean)
        return view.add(operator, (view.position(0),))

    return build


def _cumulative_sum(view: View) -> int:
    view.require_dependent([0])
    if view.attribute("exclusive", 0) or view.attribute("reverse", 0):
        raise view.refusal("exclusive and reverse are ignored by auto_LiRPA")
    axis = view.require_batch(int(view.constant(1).reshape(-1)[0]))
    return view.add(affine.cumulative_sum(axis, view.value(0).shape[1:]), (view.position(0),))


AFFINE: Mapping[str, Builder] = MappingProxyType(
    {
        "BoundIdentity": _identity,
        "BoundDropout": _dropout,
        "BoundCast": _cast,
        "BoundLinear": _gemm,
        "BoundMatMul": _matmul,
        "BoundConv": _convolution,
        "BoundConvTranspose": _transposed_convolution,
        "BoundBatchNormalization": _batch_norm,
        "BoundAdd": _additive(1.0),
        "BoundSub": _additive(-1.0),
        "BoundNeg": _negative,
        "BoundMul": _product,
        "BoundDiv": _quotient,
        "BoundAveragePool": _average_pool,
        "BoundGlobalAveragePool": _global_average_pool,
        "BoundReduceMean": _reduction(mean=True),
        "BoundReduceSum": _reduction(mean=False),
        "BoundCumSum": _cumulative_sum,
        **MOVING,
    }
)
