r"""Lower bounds of Lipschitz constants: of the true constant from real inputs, of the formal constant from patterns.

Place in the data flow: level 7, beside the solvers. ``SdpInstance -> LowerBound``. Together with a proven upper bound
every answer is an interval:

.. math:: \text{attained} \le \text{true constant} \le \text{formal constant} \le \text{upper}, \qquad
    \text{pattern} \le \text{formal constant}.

**Attained bounds** look for an input x whose derivative is large.

1. *Samples*, of several sizes when the whole space is allowed.
2. *Pattern following*: the slope pattern of the formal constant names a side for every neuron; the pre-activations of
   the first activation are affine in x, so ridge regression moves x to the wanted sides. With one hidden layer whose
   weight matrix has full row rank, every pattern and hence the formal constant is attained.
3. *Ascent.* The derivative of a piecewise linear network is piecewise constant, so each slope is replaced by the mean
   slope over a window, :math:`(\sigma(v + h) - \sigma(v - h)) / 2h`, which depends on x through v; the logarithm of
   :math:`u^T C J_h(x)\,d` is maximised by Adam steps in x while h shrinks, u and d following in closed form.

The best points are evaluated by `enclosures.attained_values`, rounded down; nothing else reaches the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geolip_lirpa.enclosures import LowerBound, best_attained
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.following import follow_patterns
from geolip_lirpa.increments import IncrementBatch
from geolip_lirpa.patterns import PatternBound, Vectors, pattern_lower_bound, pattern_lower_bounds
from geolip_lirpa.regions import Region
from geolip_lirpa.sdp import SdpInstance

__all__ = [
    "AscentOptions",
    "LowerBound",
    "PatternBound",
    "Vectors",
    "attained_lower_bound",
    "attained_lower_bounds",
    "pattern_lower_bound",
    "pattern_lower_bounds",
]


@dataclass(frozen=True)
class AscentOptions:
    """Settings of the search for attained bounds.

    Args:
        iterations: Adam steps; 0 leaves samples and pattern following.
        starts: points that climb for an instance; fewer, but at least 8, for many instances or large networks.
        samples: most random points looked at for each instance; fewer on large networks.
        first_window: half width h of the first window, relative to the spread of the pre-activations.
        last_window: that of the last.
        rate: length of a step, relative to the size of the point (or of the region).
        enough: an instance is finished when it has reached its pattern bound up to this relative distance.
    """

    iterations: int = 100
    starts: int = 32
    samples: int = 4096
    first_window: float = 1.0
    last_window: float = 0.02
    rate: float = 0.05
    enough: float = 1e-6


def attained_lower_bound(
    instance: SdpInstance,
    region: Region | None = None,
    pattern: PatternBound | None = None,
    options: AscentOptions | None = None,
    seed: int = 0,
) -> LowerBound:
    """Lower bound of the true Lipschitz constant of one instance; see `attained_lower_bounds`."""
    return attained_lower_bounds([instance], region, None if pattern is None else [pattern], options, seed)[0]


def attained_lower_bounds(
    instances: Sequence[SdpInstance],
    region: Region | None = None,
    patterns: Sequence[PatternBound] | None = None,
    options: AscentOptions | None = None,
    seed: int = 0,
) -> list[LowerBound]:
    r"""Lower bounds of the true Lipschitz constants of instances that share a network, in one batch.

    .. math:: \sup_{x \ne x'} \frac{\|C(f(x) - f(x'))\|_{out}}{\|(x - x') / s\|_{in}} \ge
        \frac{\|C J(x) d\|_{out}}{\|d / s\|_{in}}

    Args:
        instances: the batch.
        region: for local constants, the set that x and x' come from, the same for all instances; None for all inputs.
        patterns: pattern bounds of the instances, to follow and to know when to stop; computed when None.
        options: see `AscentOptions`.
        seed: of all random numbers.

    Returns:
        One bound for each instance, with its witness. Values are rounded down; 0.0 says that nothing was found.

    Raises:
        SpecificationError: instances do not fit together, or region or patterns do not fit them.
    """
    options = AscentOptions() if options is None else options
    _check(instances, region, patterns)
    batch = IncrementBatch(instances)
    if patterns is None:
        patterns = pattern_lower_bounds(instances, seed=seed, flips=0)
    targets = torch.tensor([p.value for p in patterns]).to(batch.scale) * (1.0 - options.enough)
    search = _Search(batch, region, options, targets, seed)
    search.start(follow_patterns(batch, patterns, region))
    search.climb()
    return [search.certify(p, instance) for p, instance in enumerate(instances)]


def _check(instances: Sequence[SdpInstance], region: Region | None, patterns: Sequence[PatternBound] | None) -> None:
    if patterns is not None and len(patterns) != len(instances):
        raise SpecificationError(
            f"attained_lower_bounds: got {len(patterns)} patterns for {len(instances)} instances; "
            "allowed is one for each instance, or None. Pass the list that pattern_lower_bounds returned."
        )
    if region is not None and instances and len(region.center) != instances[0].network.input_size:
        raise SpecificationError(
            f"attained_lower_bounds: got a region of {len(region.center)} coordinates; "
            f"the network has {instances[0].network.input_size} inputs. Build the region from one input."
        )


# Points that climb at the same time, over all instances, and values of nodes they may have in all.
_CROWD = 96
_NUMBERS = 60_000


class _Search:
    """Points of all instances: candidates (P, B, n0), the best place each of them has seen, and how to move them."""

    def __init__(
        self, batch: IncrementBatch, region: Region | None, options: AscentOptions, targets: Tensor, seed: int
    ) -> None:
        self.batch = batch
        self.region = region
        self.options = options
        self.targets = targets
        crowd = min(_CROWD, _NUMBERS // sum(node.size for node in batch.network.nodes))
        self.starts = max(min(8, options.starts), min(options.starts, crowd // batch.count))
        self.generator = torch.Generator().manual_seed(seed)
        self.value = torch.zeros((batch.count, 0)).to(batch.scale)
        self.point = torch.zeros((batch.count, 0, batch.network.input_size)).to(batch.scale)
        self.direction = self.point

    def finished(self) -> bool:
        """Whether every instance has reached its target."""
        return self.value.shape[1] > 0 and bool((self.value.amax(dim=1) >= self.targets).all())

    # -- starting points ---------------------------------------------------------------------------------------------

    def start(self, followed: Tensor | None) -> None:
        """Keep the best of the given points and of samples, in equal parts; samples only where they are needed."""
        if followed is not None:
            self._keep(self._project(followed), -(-self.starts // 2))
        if not self.finished():
            self._keep(self._sample(), self.starts - self.value.shape[1])

    def _keep(self, points: Tensor, count: int) -> None:
        value, direction = self.batch.gradients(points)
        value, order = value.sort(dim=1, descending=True)
        order = order[:, :count, None].expand(-1, -1, points.shape[2])
        self.value = torch.cat([self.value, value[:, :count]], dim=1)
        self.point = torch.cat([self.point, points.gather(1, order)], dim=1)
        self.direction = torch.cat([self.direction, direction.gather(1, order)], dim=1)

    def _sample(self) -> Tensor:
        """Random points: in the regions, or Gaussian with sizes between 0.1 and 30."""
        network = self.batch.network
        weights = sum(p.numel() for n in network.nodes for p in getattr(n.operation, "parameters", ()))
        # about as much work as a few steps of the ascent
        count = 20_000_000 // (self.batch.count * (weights + 10 * network.input_size + 1000))
        count = max(self.starts, min(self.options.samples, count))
        if self.region is not None:
            points = self.region.sample(count, self.generator)
            return points.to(self.batch.scale).expand(self.batch.count, -1, -1)
        shape = (self.batch.count, count, network.input_size)
        points = torch.randn(shape, dtype=torch.float64, generator=self.generator)
        size = 10.0 ** (-1.0 + 2.5 * torch.rand((*shape[:2], 1), dtype=torch.float64, generator=self.generator))
        return (points * size).to(self.batch.scale)

    def _project(self, points: Tensor) -> Tensor:
        return points if self.region is None else self.region.nearest(points)

    # -- ascent ------------------------------------------------------------------------------------------------------

    def climb(self) -> None:
        """Step 3, until every instance has reached its target or the iterations are used up."""
        options, point = self.options, self.point
        direction = self.direction
        first, second = torch.zeros_like(point), torch.zeros_like(point)
        spread = self._spread(point)
        for step in range(options.iterations):
            if self.finished():
                return
            window = options.first_window * (options.last_window / options.first_window) ** (step / options.iterations)
            slope, direction = self._smooth_gradient(point, direction, [window * s for s in spread])
            # Adam (arXiv 1412.6980): means of the gradient and of its square, corrected for their start at zero
            first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope.square()
            mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.99 ** (step + 1))
            move = mean / square.sqrt().clamp_min(1e-300)
            point = self._project(point + options.rate * self._step(point) * move)
            if step % 8 == 7 or step >= options.iterations - 4:
                self._offer(point)

    def _step(self, point: Tensor) -> Tensor:
        """Length of a full step: the point's own size, or that of the region."""
        return point.square().mean(dim=-1, keepdim=True).sqrt() if self.region is None else self.region.step

    def _spread(self, point: Tensor) -> list[Tensor]:
        """How far pre-activations vary: over neurons in the whole space, over the candidates within a region."""
        shape = point.shape[:2]
        flat = [v.reshape(*shape, -1) for v in self.batch.preactivations(point)]
        if self.region is None:
            return [v.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-12) for v in flat]
        return [v.std(dim=1, keepdim=True, correction=0).clamp_min(1e-12) for v in flat]

    def _smooth_gradient(self, point: Tensor, direction: Tensor, windows: list[Tensor]) -> tuple[Tensor, Tensor]:
        r"""Gradient of :math:`\log u^T C J_h(x) d` by x, and the next d."""
        x = point.detach().requires_grad_(True)
        d = direction.detach().requires_grad_(True)
        with torch.enable_grad():
            preactivations = self.batch.preactivations(x)
            slopes = [self._window_slope(l, v, windows[l]) for l, v in enumerate(preactivations)]
            increments = self.batch.outputs(d, lambda l, v: slopes[l])
            value = (self.batch.dual(increments.detach()) * increments).sum(-1)
            slope, gradient = torch.autograd.grad(
                value.clamp_min(1e-200).log().sum(), (x, d), allow_unused=True, materialize_grads=True
            )
        return slope.nan_to_num(0.0, 0.0, 0.0), self.batch.direction(gradient.nan_to_num(0.0, 0.0, 0.0))

    def _window_slope(self, l: int, v: Tensor, window: Tensor) -> Tensor:
        r""":math:`(\sigma(v + h) - \sigma(v - h)) / 2h`, (P, B, N_l)."""
        count, candidates = self.point.shape[:2]
        half = window.expand(count, candidates, v[0].numel()).reshape(v.shape)
        operation = self.batch.activation(l)
        return ((operation.value(v + half) - operation.value(v - half)) / (2 * half)).reshape(count, candidates, -1)

    def _offer(self, point: Tensor) -> None:
        value, direction = self.batch.gradients(point)
        better = value > self.value
        self.value = torch.where(better, value, self.value)
        self.point = torch.where(better[..., None], point, self.point)
        self.direction = torch.where(better[..., None], direction, self.direction)

    # -- the proven result -------------------------------------------------------------------------------------------

    def certify(self, p: int, instance: SdpInstance) -> LowerBound:
        """Evaluate the best few candidates of one instance with all rounding errors; keep the best proven value."""
        order = self.value[p].argsort(descending=True)[:8]
        return best_attained(instance, self.point[p, order], self.direction[p, order], self.region)
