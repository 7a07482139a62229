"""Refuse settings of torch's operators that its exporter drops without a word.

Place in the data flow: level 4, used by `build` before a module is handed to the host, whose graph shows them no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from geolip_lirpa.activations import Softplus
from geolip_lirpa.errors import UnsupportedOperatorError

# position of the argument divisor_override
_DIVISOR = 6
# positions of the arguments beta and threshold, and torch's defaults
_BETA, _THRESHOLD = (1, 1.0), (2, 20.0)


class DroppedAttributes(TorchDispatchMode):
    """Watches a forward pass, calls of functions as well as layers.

    Raises:
        UnsupportedOperatorError: an average pool with a divisor of its own; a softplus whose jump is visible.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name in ("avg_pool2d", "avg_pool3d") and len(args) > _DIVISOR and args[_DIVISOR] is not None:
            raise UnsupportedOperatorError(
                f"{name}: divisor_override={args[_DIVISOR]} is dropped when torch exports the model. "
                "Leave it out and multiply by a constant after the pool."
            )
        if name == "softplus":
            _require_smooth(*(args[i] if len(args) > i else default for i, default in (_BETA, _THRESHOLD)))
        return function(*args, **(kwargs or {}))


def _require_smooth(beta: float, threshold: float) -> None:
    """The function is the identity for ``beta v > threshold`` and jumps there by ``ln(1 + e^-threshold) / beta``."""
    if not beta > 0:
        raise UnsupportedOperatorError(f"softplus: beta={beta}; supported are positive numbers. Check the model.")
    if not threshold >= Softplus.SMALLEST_THRESHOLD:
        raise UnsupportedOperatorError(
            f"softplus: threshold={threshold}; supported is at least {Softplus.SMALLEST_THRESHOLD:g}, because torch's "
            "function jumps at the threshold and a visible jump has no slope. Use the default 20."
        )
