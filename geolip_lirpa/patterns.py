r"""Lower bounds of the formal constant from slope patterns.

Place in the data flow: level 6. ``SdpInstance (+ low-rank vectors) -> PatternBound``.

The formal constant is the maximum of :math:`u^T C J(S) d` over output duals u, slopes :math:`S_i \in \{\alpha_i,
\beta_i\}` and unit directions d. Three steps, each of which can only raise the value:

1. **Start.** With vectors of the relaxation, a random hyperplane g turns :math:`w_j \in R^k` into :math:`d_j = s_j
   \mathrm{sign}(w_j g)` and :math:`dz_i = m_i dv_i + r_i |dv_i| u_i` into the slope :math:`m_i + r_i\,\mathrm{sign}(u_i
   g)\,\mathrm{sign}(dv_i)`. Without them g is a random vector for each neuron: the same formula.
2. **Sweeps.** With everything else held, the value is :math:`\mathrm{const} + \sum_i S_i\,G_i\,dv_i` in the slopes of
   one activation, G the derivative by its increments: take :math:`\beta_i` where :math:`G_i dv_i > 0`, else
   :math:`\alpha_i`. G depends on later slopes only and dv on earlier ones only, so one forward pass with the G of the
   last backward pass updates all activations one after the other; u and d follow in closed form.
3. **Flips.** `flips` tries every single neuron with the best d for the changed pattern, until none helps.

What is found is evaluated by `enclosures.pattern_values` and rounded down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.enclosures import pattern_values
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.flips import improve_by_flips
from geolip_lirpa.increments import IncrementBatch, Pushed
from geolip_lirpa.sdp import SdpInstance

# A sweep that gains less is the last one.
_PROGRESS = 1e-9
# After a few sweeps only the most promising candidates go on.
_TRIAL_SWEEPS = 5
_SURVIVORS = 16


@dataclass(frozen=True)
class PatternBound:
    r"""A lower bound of the formal constant and the slopes that attain it.

    Args:
        value: rounded down.
        slopes: per activation (N_l,), each the lower or the upper end of its interval.
        direction: (n0,), d with :math:`\|d / s\| \le 1`.
    """

    value: float
    slopes: tuple[Tensor, ...]
    direction: Tensor


@dataclass(frozen=True)
class Vectors:
    """Low-rank vectors of one instance: inputs (n0, k), and unit vectors (N_l, k) per activation."""

    inputs: Tensor
    activations: tuple[Tensor, ...]


def pattern_lower_bound(
    instance: SdpInstance,
    inputs: Tensor | None = None,
    activations: Sequence[Tensor] | None = None,
    starts: int = 64,
    seed: int = 0,
) -> PatternBound:
    """Lower bound of the formal constant of one instance; see `pattern_lower_bounds`.

    Args:
        instance: the program.
        inputs: (n0, k) vectors of the inputs, with `activations` or not at all.
        activations: per activation (N_l, k) unit vectors.
        starts: random hyperplanes.
        seed: of the hyperplanes.
    """
    if (inputs is None) != (activations is None):
        raise SpecificationError(
            "pattern_lower_bound: got only one of inputs and activations; allowed are both or none. "
            "Pass the two parts of one low-rank factor."
        )
    vectors = None if inputs is None or activations is None else [Vectors(inputs, tuple(activations))]
    return pattern_lower_bounds([instance], vectors, starts, seed)[0]


def pattern_lower_bounds(
    instances: Sequence[SdpInstance],
    vectors: Sequence[Vectors] | None = None,
    starts: int = 64,
    seed: int = 0,
    sweeps: int = 60,
    flips: int = 20,
) -> list[PatternBound]:
    r"""Lower bounds of the formal constants of instances that share a network, in one batch.

    .. math:: \|C J(S) d\|_{out} \le \max_{S \in [\alpha, \beta]} \|C J(S)\|

    Args:
        instances: the batch.
        vectors: one `Vectors` for each instance, or None for a random start.
        starts: candidates for each instance.
        seed: of the random hyperplanes.
        sweeps: limit of step 2.
        flips: limit of step 3, for the best candidate of each instance; 0 skips it (it builds the dense forms).

    Raises:
        SpecificationError: instances do not fit together, or vectors do not fit them.
    """
    batch = IncrementBatch(instances)
    _check_vectors(instances, vectors)
    gradient, adjoints = _random_start(batch, vectors, starts, seed)
    best = _sweep(batch, gradient, adjoints, sweeps)
    found = [_pick(best, p, int(best.value[p].argmax())) for p in range(batch.count)]
    if flips > 0:
        flipped = [improve_by_flips(i, slopes, dual, flips) for i, (slopes, dual) in zip(instances, found, strict=True)]
        found = _settle(batch, found, flipped, sweeps)
    directions = _best_directions(batch, found)
    return [
        PatternBound(float(pattern_values(i, [s[None] for s in slopes], d[None])[0]), tuple(slopes), d)
        for i, (slopes, _), d in zip(instances, found, directions, strict=True)
    ]


Found = tuple[list[Tensor], Tensor]


def _check_vectors(instances: Sequence[SdpInstance], vectors: Sequence[Vectors] | None) -> None:
    if vectors is None:
        return
    if len(vectors) != len(instances):
        raise SpecificationError(
            f"vectors: got {len(vectors)} for {len(instances)} instances; allowed is one for each. "
            "Pass them in the order of the instances."
        )
    for number, (instance, v) in enumerate(zip(instances, vectors, strict=True)):
        sizes = [instance.network.input_size] + [len(s.lower) for s in instance.slopes]
        got = [t.shape[0] for t in (v.inputs, *v.activations)]
        if got != sizes:
            raise SpecificationError(
                f"vectors of instance {number}: got {got} rows; allowed are {sizes} (inputs, then each activation). "
                "Pass the factor of the same instance."
            )


def _random_start(
    batch: IncrementBatch, vectors: Sequence[Vectors] | None, starts: int, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """Stand-ins for the gradient (P, B, n0) and the adjoints (P, B, N_l): projections on random hyperplanes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [batch.network.input_size] + [l.shape[-1] for l in batch.lower]
    if vectors is None:
        parts = [torch.randn((1, starts, n), dtype=torch.float64, generator=generator) for n in sizes]
        parts = [part.expand(batch.count, -1, -1).to(batch.scale) for part in parts]
        return parts[0], parts[1:]
    normals = [torch.randn((v.inputs.shape[1], starts), dtype=torch.float64, generator=generator) for v in vectors]
    factors = [(v.inputs, *v.activations) for v in vectors]
    stacked = [
        torch.stack([(f[k].cpu() @ g).T for f, g in zip(factors, normals, strict=True)]).to(batch.scale)
        for k in range(len(sizes))
    ]
    return stacked[0] / batch.scale.where(batch.scale > 0, torch.ones_like(batch.scale)), stacked[1:]


def _sweep(batch: IncrementBatch, gradient: Tensor, adjoints: list[Tensor], limit: int) -> Pushed:
    """Step 2; the value of the result is the dual norm of its gradient."""
    value = torch.zeros(gradient.shape[:2]).to(gradient)
    for number in range(max(1, limit)):
        if number == _TRIAL_SWEEPS and value.shape[1] > _SURVIVORS:
            value, gradient, adjoints = _narrow(value, gradient, adjoints)
        held = adjoints

        def rule(l: int, v: Tensor, held: list[Tensor] = held) -> Tensor:
            return torch.where(held[l] * v > 0, batch.upper[l], batch.lower[l])

        pushed = batch.push(batch.direction(gradient), rule)
        gradient, adjoints = pushed.gradient, pushed.adjoints
        gain = batch.gain(gradient)
        if bool((gain <= value * (1 + _PROGRESS)).all()):
            break
        value = gain
    return Pushed(batch.gain(gradient), pushed.dual, gradient, adjoints, pushed.slopes)


def _narrow(value: Tensor, gradient: Tensor, adjoints: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The best candidates of each instance."""
    value, order = value.topk(_SURVIVORS, dim=1)

    def take(part: Tensor) -> Tensor:
        return part.gather(1, order[..., None].expand(-1, -1, part.shape[2]))

    return value, take(gradient), [take(a) for a in adjoints]


def _pick(pushed: Pushed, p: int, b: int) -> Found:
    return [s[p, b] for s in pushed.slopes], pushed.dual[p, b]


def _settle(batch: IncrementBatch, before: list[Found], after: list[list[Tensor]], limit: int) -> list[Found]:
    """Sweep on from the flipped patterns, and keep the better of both."""
    pairs = [(found, (slopes, found[1])) for found, slopes in zip(before, after, strict=True)]
    start = _with_slopes(batch, pairs)
    swept = _sweep(batch, start.gradient, start.adjoints, limit)
    return [_pick(swept, p, int(swept.value[p].argmax())) for p in range(batch.count)]


def _with_slopes(batch: IncrementBatch, found: Sequence[Sequence[Found]]) -> Pushed:
    """Gradient and adjoints for fixed slopes; with several rows u and d are improved in turn."""
    layers = range(len(batch.lower))
    slopes = [torch.stack([torch.stack([f[0][l] for f in candidates]) for candidates in found]) for l in layers]
    dual = torch.stack([torch.stack([f[1] for f in candidates]) for candidates in found])

    def rule(l: int, v: Tensor) -> Tensor:
        return slopes[l]

    pushed = batch.push(batch.scale.expand(-1, dual.shape[1], -1), rule, dual)
    for _ in range(0 if batch.rows.shape[1] == 1 else 10):
        pushed = batch.push(batch.direction(pushed.gradient), rule)
    return pushed


def _best_directions(batch: IncrementBatch, found: list[Found]) -> list[Tensor]:
    directions = batch.direction(_with_slopes(batch, [[f] for f in found]).gradient)
    return [directions[p, 0] for p in range(batch.count)]
