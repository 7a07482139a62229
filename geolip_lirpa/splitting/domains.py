r"""Parts of input boxes on which the signs of some neurons are assumed.

Place in the data flow: level 7, the data of `neurons`. A domain is :math:`\{x \in \text{box} :
s_i v_i(x) \ge 0\}` for some neurons i; both signs of a neuron together cover what was there before. It carries proven
bounds of the pre-activations that hold on it, and the parameters of the last lower bound, from which the next one
starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geolip_lirpa.splitting.relu_chain import Pair


@dataclass(frozen=True)
class Domains:
    """D domains, tensors with D rows.

    Args:
        task: which polytope of which case, (D,).
        hidden: bounds of the pre-activations, (D, n_l) each.
        signs: -1, 0 (nothing assumed) or 1, (D, n_l) each.
        slopes: of the lower lines, (D, n_l) each.
        forces: beta, (D, n_l) each, at least 0, zero where nothing is assumed.
        weights: of the polytope's rows, (D, M), at least 0.
    """

    task: Tensor
    hidden: list[Pair]
    signs: list[Tensor]
    slopes: list[Tensor]
    forces: list[Tensor]
    weights: Tensor

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, index: Tensor) -> Domains:
        return Domains(
            self.task[index],
            [(low[index], high[index]) for low, high in self.hidden],
            [t[index] for t in self.signs],
            [t[index] for t in self.slopes],
            [t[index] for t in self.forces],
            self.weights[index],
        )

    @staticmethod
    def start(task: Tensor, hidden: Sequence[Pair], weights: Tensor) -> Domains:
        """Whole boxes."""
        zeros = [torch.zeros_like(low) for low, _ in hidden]
        slopes = [(high > -low).to(low.dtype) for low, high in hidden]
        return Domains(task, list(hidden), zeros, slopes, [z.clone() for z in zeros], weights)

    @staticmethod
    def joined(parts: Sequence[Domains]) -> Domains:
        """All domains of several collections."""
        if len(parts) == 1:
            return parts[0]
        layers = range(len(parts[0].hidden))
        return Domains(
            torch.cat([p.task for p in parts]),
            [
                (torch.cat([p.hidden[l][0] for p in parts]), torch.cat([p.hidden[l][1] for p in parts]))
                for l in layers
            ],
            [torch.cat([p.signs[l] for p in parts]) for l in layers],
            [torch.cat([p.slopes[l] for p in parts]) for l in layers],
            [torch.cat([p.forces[l] for p in parts]) for l in layers],
            torch.cat([p.weights for p in parts]),
        )  # fmt: skip

    @property
    def undecided(self) -> Tensor:
        """Which neurons may have both signs, all layers beside each other: (D, N)."""
        if not self.hidden:
            return torch.zeros((len(self), 0), dtype=torch.bool)
        return torch.cat([(low < 0) & (high > 0) for low, high in self.hidden], dim=1)

    @property
    def shifts(self) -> list[Tensor]:
        r""":math:`\beta_i s_i`."""
        return [f * s for f, s in zip(self.forces, self.signs, strict=True)]

    def halves(self, neuron: Tensor) -> Domains:
        """Both signs of one neuron of each domain: first all with the positive one, then all with the negative one.

        Args:
            neuron: (D,), numbers as in `undecided`.
        """
        count = len(self)
        both = self[torch.arange(count).repeat(2)]
        places = torch.arange(count)
        hidden, signs, first = [], [], 0
        for (low, high), sign in zip(both.hidden, both.signs, strict=True):
            size = low.shape[1]
            here = ((neuron >= first) & (neuron < first + size)).nonzero()[:, 0]
            own = neuron[here] - first
            low[places[here], own], sign[places[here], own] = low[places[here], own].clamp(min=0), 1.0
            high[count + places[here], own] = high[count + places[here], own].clamp(max=0)
            sign[count + places[here], own] = -1.0
            hidden.append((low, high))
            signs.append(sign)
            first += size
        return replace(both, hidden=hidden, signs=signs)
