r"""Proof of a block's gain: how much longer its output, weighted, can be than its input.

Place in the data flow: level 6, beside `proof`, used by `composition`; part of the trusted checker. A block with
pre-activations v at its end has the gain L when :math:`\|R\,dv\|_2 \le L` for all increments over its input set, R =
diag(r). Add a variable :math:`u_i` for every entry of v. If

.. math:: \sum_j \tau_j w_j^2 - 2 \sum_i \lambda_i (a_i y)(b_i y) + \sum_i (u_i^2 - 2 r_i u_i V_i y) \ge 0
    \quad\text{for all } y, u,

then :math:`u = R\,dv` shows :math:`\|R\,dv\|^2 \le \sum_j \tau_j w_j^2` for feasible increments, so L is the root
of what the right side can be at most. The last sum is the term of neurons with slopes :math:`[0, 2 r_i]` and the
multiplier 1/2: the matrix is that of an ordinary program with one more layer, and it stays sparse where v is a
convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geolip_lirpa.activations import Abs
from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.dissection import Arrangement, arrangement_of
from geolip_lirpa.errors import SolverError
from geolip_lirpa.forms import Forms
from geolip_lirpa.lmi import assemble, lipschitz_terms
from geolip_lirpa.network import Network, Node
from geolip_lirpa.proof import first_repair, is_feasible, is_plausible, objective, twice_the_rounding
from geolip_lirpa.rounding import Array, gamma
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.slopes import SlopeIntervals
from geolip_lirpa.types import Norm

# Multipliers are raised to this part of their layer's largest.
_SMALLEST_PART = 1e-10
# Attempts after a failure are larger by a ratio.
_LARGEST_REPAIR = 0.5
_RATIO = 16.0


@dataclass(frozen=True)
class GainProgram:
    """A block with a weighted output.

    Args:
        instance: the program of the block with one more layer, whose sum is its output.
    """

    instance: SdpInstance

    @classmethod
    def of(
        cls, network: Network, slopes: SlopeIntervals, norm: Norm, input_scale: Tensor, weights: Tensor
    ) -> GainProgram:
        """The program of a block.

        Args:
            network: the block.
            slopes: of its activations.
            norm: of its input, l_2 or l_inf.
            input_scale: the norm is that of the input divided by it.
            weights: (N,) non-negative, r.
        """
        last = network.nodes[-1]
        # what kind of activation it is does not matter: its slopes are given
        nodes = (*network.nodes, Node(f"{last.name}/weighted", last.shape, (len(network.nodes) - 1,), Abs()))
        slope = SlopeInterval(torch.zeros_like(weights), 2.0 * weights)
        rows = torch.ones((1, last.size), dtype=torch.float64)
        return cls(SdpInstance(Network(nodes), (*slopes, slope), norm, input_scale, rows))

    @cached_property
    def forms(self) -> Forms:
        """Without neurons and inputs that do not reach the last layer, and without an output."""
        return replace(self.instance.forms, output={}, output_error={})

    def completed(self, multipliers: Multipliers) -> Multipliers:
        """Multipliers of the block with those of the last layer and of the output."""
        size = self.instance.network.nodes[-1].size
        return replace(multipliers, hidden=(*multipliers.hidden, np.full(size, 0.5)), output=np.ones(1))


def verify_gain(
    program: GainProgram, multipliers: Multipliers, margin: float = 1.0, arrangement: Arrangement | None = None
) -> float | None:
    """Prove a gain from multipliers.

    Args:
        program: rebuilt from the network.
        multipliers: untrusted; of the block's activations and its input, the output's do not matter.
        margin: see `proof.verify`.
        arrangement: likewise.

    Returns:
        The proven gain, or None when the multipliers prove nothing.
    """
    whole = program.completed(multipliers)
    if not is_plausible(program.instance, whole):
        return None
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if not is_feasible(lipschitz_terms(program.forms, whole), margin, arrangement):
            return None
        bound = objective(program.instance, program.forms, whole) * (1.0 + (margin - 1.0) * gamma(256))
    return bound if np.isfinite(bound) else None


def prove_gain(program: GainProgram, multipliers: Multipliers) -> tuple[float, Multipliers]:
    """Repair a solver's multipliers, by grading as in `proof`, and prove the gain they give.

    Args:
        program: the block.
        multipliers: of its activations and its input, in units in which the last layer has 1/2.

    Raises:
        SolverError: no repair turns these multipliers into a proof.
    """
    multipliers = _raised(multipliers)
    terms = lipschitz_terms(program.forms, program.completed(multipliers))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        arrangement = arrangement_of(assemble(terms))
        rounding = twice_the_rounding(terms, arrangement)
    failed, repair = 0.0, first_repair(rounding, len(terms.layers))
    best: tuple[float, Multipliers] | None = None
    while repair <= _LARGEST_REPAIR:
        graded = _graded(multipliers, repair)
        upper = verify_gain(program, graded, 2.0, arrangement)
        if upper is not None:
            best = upper, graded
            if failed == 0.0 or repair <= 4.0 * failed:
                break
            repair = float(np.sqrt(repair * failed))
        elif best is not None:
            break
        else:
            failed, repair = repair, repair * _RATIO
    if best is None:
        raise SolverError("proof of a block: the solver's multipliers prove no finite gain. Raise its iterations.")
    return best


def _raised(multipliers: Multipliers) -> Multipliers:
    """Finite and positive, also where the solver found no use for an input or a neuron."""

    def raised(values: Array) -> Array:
        good = np.where(np.isfinite(values), np.maximum(values, 0.0), 0.0)
        return np.maximum(good, _SMALLEST_PART * (float(good.max(initial=0.0)) or 1.0))

    return replace(multipliers, hidden=tuple(raised(h) for h in multipliers.hidden), input=raised(multipliers.input))


def _graded(multipliers: Multipliers, repair: float) -> Multipliers:
    """Multiply layer l of L by (1 + eta)^(L + 1 - l); the last layer, number L + 1, stays."""
    depth = len(multipliers.hidden) + 1
    hidden = tuple(h * (1.0 + repair) ** (depth - l) for l, h in enumerate(multipliers.hidden, start=1))
    return replace(multipliers, hidden=hidden, input=multipliers.input * (1.0 + repair) ** depth)
