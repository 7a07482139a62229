"""Verification of auto_LiRPA models: the entry point for their users.

Place in the data flow: level 10. ``BoundedModule + Specification -> VerifyResult``.
"""

from __future__ import annotations

import math
from typing import Any

from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lirpa import extract_network
from geolip_lirpa.specification import Specification
from geolip_lirpa.verify import verify_network
from geolip_lirpa.verify_types import VerifyOptions, VerifyResult


def verify_specification(
    lirpa_model: Any,
    specification: Specification,
    *,
    method: str = "combined",
    timeout: float = math.inf,
    logits: bool = False,
    final_node_name: str | None = None,
    seed: int = 0,
) -> VerifyResult:
    """Prove that a model never violates a specification, or find an input at which it does.

    Args:
        lirpa_model: auto_LiRPA's `BoundedModule`, versions 0.3 to 0.7, in eval mode. Not changed.
        specification: from `read_specification`, or made by hand.
        method: "combined", or a single method of `compute_margins`, see `VerifyOptions`.
        timeout: seconds; looked at between steps.
        logits: leave out a trailing softmax.
        final_node_name: name of the host node to take as the output.
        seed: of random starts.

    Returns:
        `VerifyResult`. Its witness violates the specification in real arithmetic; unlike the command line, this call
        does not ask onnxruntime.

    Raises:
        ExtractionError: the model has parts that are not supported; names them.
        SpecificationError: it does not fit the model, or an argument is malformed.
    """
    if not isinstance(specification, Specification):
        raise SpecificationError(
            f"specification: got {type(specification).__name__}; allowed is a Specification. Read a file with "
            "read_specification(path), or verify it with verify_files(onnx, vnnlib)."
        )
    network = extract_network(lirpa_model, final_node_name=final_node_name, logits=logits)
    return verify_network(network, specification, VerifyOptions(method, timeout, seed))
