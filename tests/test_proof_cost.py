"""The estimate of a proof's cost against the matrix that is built in the end."""

from __future__ import annotations

import pytest
import torch

from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.affine import convolution, movement
from geolip_lirpa.block_elimination import Pattern, elimination_cost
from geolip_lirpa.lmi import assemble_lmi
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.proof_cost import estimated_pattern, proof_cost, proof_fits
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.types import Norm
from tests.networks import lipschitz_instance, random_mlp, random_residual, with_random_slopes


def _actual(instance: SdpInstance) -> Pattern:
    hidden = tuple(torch.ones_like(s.lower).numpy() for s in instance.slopes)
    inputs = torch.ones(1 if instance.input_norm is Norm.L2 else instance.input_scale.numel()).double().numpy()
    multipliers = Multipliers(hidden, inputs, torch.ones(instance.rows.shape[0]).double().numpy())
    return Pattern.of(assemble_lmi(instance.forms, multipliers))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.1)])
def test_the_estimate_covers_what_is_built(seed: int, activation: ReLU) -> None:
    network = random_residual(seed, activation=activation) if seed % 2 else random_mlp(seed, (4, 6, 5, 2), activation)
    instance = lipschitz_instance(network)
    for tried in (instance, with_random_slopes(instance, seed)):
        estimate, actual = estimated_pattern(tried), _actual(tried)
        assert len(estimate.sizes) == len(actual.sizes)
        assert all(e >= a for e, a in zip(estimate.sizes, actual.sizes, strict=True))
        assert estimate.flat <= actual.flat
        assert all(estimate.entries.get(key, 0) >= count for key, count in actual.entries.items())


def _convolutional(channels: int, size: int, layers: int) -> Network:
    generator = torch.Generator().manual_seed(0)
    geometry = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    operations = []
    for l in range(layers):
        weight = torch.randn((channels, channels if l else 1, 3, 3), generator=generator)
        operations += [(f"conv{l}", convolution(weight, **geometry)), (f"relu{l}", ReLU())]
    flatten = movement("Flatten", torch.arange(channels * size * size))
    last = linear_operator(torch.randn((2, channels * size * size), generator=generator))
    return sequential((1, size, size), [*operations, ("flatten", flatten), ("out", last)])


def test_the_estimate_of_a_convolutional_network_is_near() -> None:
    network = _convolutional(4, 12, 3)
    instance = lipschitz_instance(network)
    estimate, actual = estimated_pattern(instance), _actual(instance)
    assert estimate.sizes[:-1] == actual.sizes[:-1]
    for key, count in actual.entries.items():
        assert count <= estimate.entries[key] <= 1.5 * count
    assert elimination_cost(estimate).operations <= 3 * elimination_cost(actual).operations


def test_what_fits() -> None:
    assert proof_fits(lipschitz_instance(random_mlp(0, (784, 2048, 2048, 10))))
    wide = sequential(
        (4,),
        [("a", linear_operator(torch.ones(60_000, 4))), ("r", ReLU()), ("o", linear_operator(torch.ones(1, 60_000)))],
    )
    # the wide layer is diagonal, and coupled with four inputs and one output only
    assert proof_fits(lipschitz_instance(wide))
    deep = lipschitz_instance(_convolutional(64, 24, 4))
    assert proof_cost(deep).operations > 2e12 and not proof_fits(deep)
