"""The interface of an elementwise activation: its value and sound slope intervals.

Place in the data flow: level 1, used by `network` (values) and `slopes` (intervals).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class SlopeInterval:
    r"""Elementwise enclosure of slopes, :math:`\text{lower}_i \le s_i \le \text{upper}_i`.

    Args:
        lower: float64, any shape; finite.
        upper: float64, the same shape; finite, at least `lower`.
    """

    lower: Tensor
    upper: Tensor

    def flatten(self) -> SlopeInterval:
        """The same interval with both ends as vectors."""
        return SlopeInterval(self.lower.reshape(-1), self.upper.reshape(-1))

    @property
    def fixed(self) -> Tensor:
        """Boolean mask of the entries whose slope is a single number (the neuron is linear)."""
        return self.lower == self.upper


class Activation(abc.ABC):
    r"""An elementwise function :math:`\sigma` with slope-restricted increments.

    Subclasses are frozen dataclasses. All tensors are float64; shapes broadcast against the pre-activation shape
    (without batch dimension). Both range methods must return intervals that contain the *real-number* range: results
    of transcendental functions are rounded outward.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def value(self, preactivation: Tensor) -> Tensor:
        r""":math:`\sigma(v)` elementwise; differentiable by torch autograd; any dtype and any leading batch shape."""

    @abc.abstractmethod
    def derivative_range(self, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Range of secant slopes between any two points of ``[lower, upper]``.

        Equals the closed range of the (generalised) derivative there. ``lower = -inf``, ``upper = inf`` gives the
        global slope interval.
        """

    @abc.abstractmethod
    def secant_range(self, center: Tensor, lower: Tensor, upper: Tensor) -> SlopeInterval:
        r"""Range of :math:`(\sigma(v) - \sigma(v_0)) / (v - v_0)` for :math:`v \in [l, u]`, :math:`v_0 \in [l, u]`.

        Valid only for increments with one end fixed at the centre :math:`v_0`.
        """

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Activation:
        """The same activation with its parameters cast; the default has no parameters."""
        return self
