"""The child process of ``geolip-lirpa verify``.

Place in the data flow: level 12, ``files -> VerifyResult -> VerifyAnswer``. Heavy packages are imported when it runs,
since its parent imports this module too.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from geolip_lirpa.cli.verify_request import VerifyAnswer, VerifyRequest
from geolip_lirpa.errors import SpecificationError

if TYPE_CHECKING:
    from geolip_lirpa.specification import Specification
    from geolip_lirpa.verify_types import VerifyResult, Witness

# Of the time that is left, the part that the engine does not get, to end in order; at most so many seconds.
_RESERVE, _LONGEST_RESERVE = 0.1, 1.0
# Seconds; later is never, and the system's counter might overflow.
_LONGEST_ALARM = 1e8
# Element types as version 2.0 writes them, with ONNX's numbers.
_ELEMENTS = {"float32": 1, "float64": 11}
_REAL = "real"


def verified(request: VerifyRequest, deadline: float) -> VerifyAnswer:
    """Verify, and stop at the deadline whatever happens: gently before it, by a signal at it.

    Args:
        request: what to do.
        deadline: by `time.monotonic`, which all processes share.

    Raises:
        GeolipError: bad input, or something that is needed is missing.
    """
    _alarm(deadline)
    from geolip_lirpa.verify_onnx import verify_files
    from geolip_lirpa.verify_types import Verdict, VerifyOptions
    from geolip_lirpa.vnnlib import read_specification

    specification = read_specification(request.specification)
    _require_fitting(request, specification)
    left = deadline - time.monotonic()
    soft = left - min(_RESERVE * left, _LONGEST_RESERVE) if math.isfinite(left) else left
    if not soft > 0:
        return VerifyAnswer(Verdict.TIMEOUT.value, version=specification.version)
    options = VerifyOptions(request.method, soft, request.seed)
    result = verify_files(request.model, request.specification, options)
    return _answer(request, specification, result)


def _alarm(deadline: float) -> None:
    """Let the kernel end this process at the deadline, also when native code hangs."""
    left = deadline - time.monotonic()
    if left < _LONGEST_ALARM and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))


def _require_fitting(request: VerifyRequest, specification: Specification) -> None:
    """Refuse a network of another name or type than the text declares, as the standard asks.

    Raises:
        SpecificationError: says which.
    """
    if request.assignments is not None and specification.tensors is None:
        raise SpecificationError(
            f"--serialise-assignments: {request.specification} is of version {specification.version}, which declares "
            "no tensors; allowed is version 2.0. Leave the option out."
        )
    if None not in (request.name, specification.network) and request.name != specification.network:
        raise SpecificationError(
            f"--network: got the name {request.name!r}; {request.specification} declares {specification.network!r}. "
            f"Give --network {specification.network}={request.model}."
        )
    for tensor, found in zip(specification.tensors or (), _element_types(request), strict=False):
        wanted = tensor.element_type
        if wanted.lower() != _REAL and _ELEMENTS.get(wanted) != found:
            names = {number: name for name, number in _ELEMENTS.items()}
            raise SpecificationError(
                f"{request.specification}: declares {tensor.name} of type {wanted}; {request.model} has "
                f"{names.get(found, f'ONNX type {found}')}, and real stands for every type. Correct the declaration."
            )


def _element_types(request: VerifyRequest) -> tuple[int, int]:
    """ONNX's numbers for the types of input and output."""
    from geolip_lirpa.onnx_model import element_types

    return element_types(request.model)


def _answer(request: VerifyRequest, specification: Specification, result: VerifyResult) -> VerifyAnswer:
    from geolip_lirpa.vnnlib import witness_text

    answer = VerifyAnswer(
        result.verdict.value,
        bound=result.bound,
        proved_by=result.proved_by,
        boxes=result.boxes,
        reason=result.reason,
        version=specification.version,
        notes=tuple(_notes(request, specification)),
    )
    found = result.witness
    if found is None:
        return answer
    return replace(
        answer,
        witness=witness_text(specification, found.inputs, found.outputs),
        inputs=tuple(found.inputs.tolist()),
        outputs=tuple(found.outputs.tolist()),
        tensors=() if request.assignments is None else tuple(_serialised(request, specification, found)),
    )


def _notes(request: VerifyRequest, specification: Specification) -> Iterator[str]:
    types = sorted({tensor.element_type for tensor in specification.tensors or ()})
    if any(name.lower() != _REAL for name in types):
        yield (
            f"{request.specification} declares {', '.join(types)}: unsat is proven for the network in real arithmetic, "
            "sat is confirmed by onnxruntime"
        )


def _serialised(request: VerifyRequest, specification: Specification, found: Witness) -> Iterator[tuple[str, bytes]]:
    """Name and content of a file for each tensor, of the model's own types."""
    import onnx

    for tensor, values, kind in zip(
        specification.tensors or (), (found.inputs, found.outputs), _element_types(request), strict=True
    ):
        array = values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)).reshape(tensor.shape)
        yield f"{tensor.name}.pb", onnx.numpy_helper.from_array(array, tensor.name).SerializeToString()
