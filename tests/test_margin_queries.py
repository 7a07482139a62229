"""Margins and radii of auto_LiRPA's models: the same questions as to `compute_bounds`, and answers that hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from geolip_lirpa import check_margin_certificate, compute_margins, compute_radius
from geolip_lirpa.errors import CertificateError, ExtractionError, SpecificationError
from geolip_lirpa.lirpa import load_host
from geolip_lirpa.lirpa.compat import compute_bounds
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_types import METHODS
from geolip_lirpa.types import Norm
from tests.margin_cases import NORMS, dense_points

norms = st.sampled_from(NORMS)
seeds = st.integers(0, 1000)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def inputs(seed: int = 0, batch: int = 3) -> Tensor:
    return torch.rand((batch, 4), generator=torch.Generator().manual_seed(seed))


def bounded(module: nn.Module, x: Tensor) -> Any:
    return load_host().BoundedModule(module, torch.zeros_like(x))


def ball(x: Tensor, norm: Norm = Norm.LINF, eps: float = 0.1, **limits: Tensor) -> Any:
    host = load_host()
    return host.BoundedTensor(x, host.PerturbationLpNorm(norm=norm.p, eps=eps, **limits))


def outputs(module: nn.Module, points: Tensor) -> Tensor:
    """In float64, so that only the bounds are in question."""
    found = points
    for layer in module:  # type: ignore[attr-defined]
        found = found.relu() if isinstance(layer, nn.ReLU) else found @ layer.weight.double().T + layer.bias.double()
    return found.detach()


def least(module: nn.Module, sets: list[MarginSet], rows: Tensor) -> Tensor:
    """Smallest sampled values of rows (B, S, n_out) over sets."""
    found = [(outputs(module, dense_points(s)) @ c.T).amin(dim=0) for s, c in zip(sets, rows, strict=True)]
    return torch.stack(found)


def sets_of(x: Tensor, norm: Norm, eps: float, low: float | None = None, high: float | None = None) -> list[MarginSet]:
    ends = (None if end is None else torch.tensor(end).double() for end in (low, high))
    limits = tuple(ends)
    return [MarginSet(center.double(), eps, norm, *limits) for center in x]


def below(lower: Tensor, values: Tensor) -> bool:
    return bool((lower <= values + 1e-9 * (1 + values.abs())).all())


# --- margins ----------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(seed=seeds, norm=norms, method=st.sampled_from(["ibp", "crown", "combined"]))
def test_margins_have_the_host_s_shape_and_are_below_the_minimum(seed: int, norm: Norm, method: str) -> None:
    module, x = network(seed), inputs(seed)
    model = bounded(module, x)
    found = compute_margins(model, (ball(x, norm),), method=method)
    theirs, _ = compute_bounds(model, x=(ball(x, norm),), method="backward", bound_upper=False)
    assert found.lower.shape == found.attacked.shape == theirs.shape == (3, 3)
    assert found.lower.dtype is torch.float64
    values = least(module, sets_of(x, norm, 0.1), torch.eye(3).double().expand(3, 3, 3))
    assert below(found.lower, values) and below(theirs.detach().double() - 1e-5, values)
    assert bool((found.lower <= found.attacked).all())
    if method == "combined":
        # it contains linear bounds like the host's, and better ones
        assert below(theirs.detach().double() - 1e-5, found.lower)
    assert torch.equal(check_margin_certificate(found.certificate, model), found.lower)


@settings(max_examples=8)
@given(seed=seeds, norm=norms, shared=st.booleans())
def test_rows_and_offsets(seed: int, norm: Norm, shared: bool) -> None:
    module, x = network(seed), inputs(seed)
    model = bounded(module, x)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn((1 if shared else 3, 2, 3), generator=generator)
    offsets = torch.randn((1 if shared else 3, 2), generator=generator)
    found = compute_margins(model, (ball(x, norm),), rows, offsets=offsets, method="crown")
    plain = compute_margins(model, (ball(x, norm),), rows, method="crown", attack=False)
    assert found.lower.shape == (3, 2) and found.points is not None and found.points.shape == (3, 2, 4)
    torch.testing.assert_close(found.lower, plain.lower + offsets, rtol=1e-6, atol=1e-6)
    assert plain.points is None and bool(plain.attacked.isinf().all())
    values = least(module, sets_of(x, norm, 0.1), rows.double().expand(3, 2, 3)) + offsets
    assert below(found.lower, values)
    theirs, _ = compute_bounds(
        model, x=(ball(x, norm),), C=rows.expand(3, 2, 3).contiguous(), method="backward", bound_upper=False
    )
    assert theirs.shape == found.lower.shape


def test_attacked_points_attain_their_margins() -> None:
    module, x = network(), inputs()
    found = compute_margins(bounded(module, x), (ball(x, Norm.L2, 0.2),), method="crown")
    assert found.points is not None
    for b in range(3):
        assert bool(((found.points[b] - x[b]).norm(dim=1) <= 0.2 * (1 + 1e-9)).all())
        torch.testing.assert_close(outputs(module, found.points[b]).diagonal(), found.attacked[b], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_domain_cuts_the_set(norm: Norm) -> None:
    module, x = network(1), inputs(1)
    model = bounded(module, x)
    whole = compute_margins(model, (ball(x, norm, 1.0),), method="crown").lower
    cut = compute_margins(model, (ball(x, norm, 1.0),), method="crown", domain=(0.0, 1.0)).lower
    assert below(cut, least(module, sets_of(x, norm, 1.0, 0.0, 1.0), torch.eye(3).double().expand(3, 3, 3)))
    assert bool((cut > whole).any())
    with pytest.raises(SpecificationError, match="domain"):
        compute_margins(model, (ball(x, norm),), domain=(0.5, 1.0))


@pytest.mark.parametrize("method", ["ibp", "crown", "combined"])
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
def test_boxes_with_sides_of_their_own(method: str, domain: tuple[float, float] | None) -> None:
    module, x = network(2), inputs(2)
    model = bounded(module, x)
    room = torch.rand((2, 3, 4), generator=torch.Generator().manual_seed(5))
    low, high = x - 0.3 * room[0], x + 0.6 * room[1]
    found = compute_margins(model, (ball(x, x_L=low, x_U=high),), method=method, domain=domain)
    if domain is not None:
        low, high = low.clamp(*domain), high.clamp(*domain)
    share = torch.rand((4000, 3, 4), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    share = torch.where(torch.rand(share.shape, generator=torch.Generator().manual_seed(7)) < 0.6, share.round(), share)
    points = low.double() + share * (high.double() - low.double())
    assert below(found.lower, outputs(module, points).amin(dim=0))
    assert torch.equal(check_margin_certificate(found.certificate, model), found.lower)
    # the sets are the boxes, not balls around them
    tight = compute_margins(model, (ball(x, x_L=x.clone(), x_U=x.clone()),), method=method)
    torch.testing.assert_close(tight.lower, outputs(module, x.double()), rtol=1e-6, atol=1e-6)


def test_a_point_outside_of_its_box_does_not_matter() -> None:
    module, x = network(2), inputs(2, batch=1)
    model = bounded(module, x)
    low, high = x + 0.5, x + 1.0
    found = compute_margins(model, (ball(x, x_L=low, x_U=high),), method="crown")
    middle = compute_margins(model, (ball((low + high) / 2, eps=0.25),), method="crown")
    torch.testing.assert_close(found.lower, middle.lower, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_serves_a_host_model(method: str) -> None:
    module, x = network(3), inputs(3, batch=2)
    model = bounded(module, x)
    seen: list[tuple[int, int]] = []
    found = compute_margins(
        model, (ball(x, Norm.L2),), method=method, bound_method="ibp", progress=lambda *done: seen.append(done)
    )
    assert below(found.lower, least(module, sets_of(x, Norm.L2, 0.1), torch.eye(3).double().expand(2, 3, 3)))
    assert torch.equal(check_margin_certificate(found.certificate, model), found.lower)
    assert seen == [(1, 2), (2, 2)]


def test_enough_leaves_the_rest_undone() -> None:
    module, x = network(3), inputs(3, batch=1)
    model = bounded(module, x)
    everything = compute_margins(model, (ball(x, Norm.L2, 0.5),))
    some = compute_margins(model, (ball(x, Norm.L2, 0.5),), enough=-1e6)
    assert {row.method for row in some.rows} == {"crown"}
    assert bool((everything.lower >= some.lower).all()) and bool((everything.lower > some.lower).any())


def test_softmax_can_be_left_out() -> None:
    module, x = network(), inputs()
    with_softmax = nn.Sequential(*module, nn.Softmax(dim=1))  # type: ignore[arg-type]
    model = bounded(with_softmax, x)
    with pytest.raises(ExtractionError, match="logits"):
        compute_margins(model, (ball(x),))
    found = compute_margins(model, (ball(x),), method="crown", logits=True)
    plain = compute_margins(bounded(module, x), (ball(x),), method="crown")
    torch.testing.assert_close(found.lower, plain.lower, rtol=0, atol=0)
    assert torch.equal(check_margin_certificate(found.certificate, model, logits=True), found.lower)


def test_certificates_are_for_one_model() -> None:
    x = inputs()
    found = compute_margins(bounded(network(1), x), (ball(x),), method="crown")
    with pytest.raises(CertificateError):
        check_margin_certificate(found.certificate, bounded(network(2), x))


# --- radii ------------------------------------------------------------------------------------------------------------


@settings(max_examples=3)
@given(seed=seeds, norm=norms)
def test_radii_enclose_the_change_of_class(seed: int, norm: Norm) -> None:
    module, x = network(seed), inputs(seed)
    labels = module(x).argmax(dim=1)
    model = bounded(module, x)
    found = compute_radius(model, x, labels, norm, method="crown", relative_gap=0.1)
    assert found.lower.shape == found.upper.shape == (3,)
    assert bool((found.lower > 0).all()) and bool((found.lower <= found.upper).all())
    for center, label, radius in zip(x, labels, found.inputs, strict=True):
        points = dense_points(MarginSet(center.double(), radius.lower, norm))
        assert bool((outputs(module, points).argmax(dim=1) == label).all())
        assert radius.certificate is not None
        assert bool((check_margin_certificate(radius.certificate, model) > 0).all())


@pytest.mark.parametrize("norm", NORMS)
def test_loose_proofs_do_not_hide_attacks(norm: Norm) -> None:
    """Intervals prove so little that no radius tried for a proof can be attacked: larger ones are."""
    module, x = network(5), inputs(5)
    labels = module(x).argmax(dim=1)
    model = bounded(module, x)
    found = compute_radius(model, x, labels, norm, method="ibp", relative_gap=0.1)
    tight = compute_radius(model, x, labels, norm, method="crown", relative_gap=0.1)
    assert bool((found.upper >= tight.lower).all())
    points = dense_points(MarginSet(torch.zeros(4).double(), 50.0, norm))
    for center, label, upper in zip(x.double(), labels, found.upper, strict=True):
        changed = (outputs(module, center + points).argmax(dim=1) != label).any()
        assert bool(upper.isfinite()) or not bool(changed)
    assert bool(found.upper.isfinite().any())
    limited = compute_radius(model, x, labels, norm, method="ibp", largest=float(found.lower.min()) * 1.01)
    assert bool((limited.upper.isinf() | (limited.upper <= float(found.lower.min()) * 1.02)).all())


def test_fewer_targets_and_smaller_domains_allow_larger_radii() -> None:
    module, x = network(4), inputs(4, batch=1)
    label = [int(module(x).argmax())]
    other = next(k for k in range(3) if k != label[0])
    model = bounded(module, x)
    options: dict[str, Any] = {"method": "crown", "relative_gap": 0.1}
    all_classes = float(compute_radius(model, x, label, **options).lower)
    assert float(compute_radius(model, x, label, targets=[other], **options).lower) >= all_classes / 1.2
    assert float(compute_radius(model, x, label, domain=(0.0, 1.0), **options).lower) >= all_classes / 1.2
    assert float(compute_radius(model, x, label, largest=1e-3, **options).lower) <= 1e-3


def test_wrong_labels_have_no_radius() -> None:
    module, x = network(), inputs()
    found = compute_radius(bounded(module, x), x, (module(x).argmax(dim=1) + 1) % 3, method="crown")
    assert found.lower.tolist() == [0.0] * 3 == found.upper.tolist()
    assert all(not radius.correct and radius.certificate is None for radius in found.inputs)


# --- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"C": torch.zeros(3, 2, 4)}, "C"),
        ({"C": torch.zeros(2, 2, 3)}, "C"),
        ({"C": torch.zeros(3)}, "C"),
        ({"C": torch.full((1, 1, 3), math.nan)}, "C"),
        ({"C": [[1.0]]}, "C"),
        ({"offsets": torch.zeros(3, 2)}, "offsets"),
        ({"offsets": torch.tensor(1.0)}, "offsets"),
        ({"offsets": torch.full((3, 3), math.inf)}, "offsets"),
        ({"offsets": 1.0}, "offsets"),
        ({"method": "magic"}, "method"),
        ({"bound_method": "magic"}, "bound_method"),
        ({"domain": (0.9, 1.0)}, "domain"),
        ({"domain": (math.nan, 1.0)}, "NaN"),
        ({"domain": (0.0,)}, "domain"),
        ({"domain": (torch.zeros(5), 1.0)}, "shape"),
        ({"enough": math.nan}, "enough"),
        ({"final_node_name": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_arguments_of_margins(options: dict[str, Any], word: str) -> None:
    x = inputs()
    with pytest.raises((SpecificationError, ExtractionError), match=word):
        compute_margins(bounded(network(), x), (ball(x),), **options)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"y": [0, 1]}, "y"),
        ({"y": [0, 1, 3]}, "y"),
        ({"y": [0, 1, -1]}, "y"),
        ({"y": torch.tensor([0.5, 1.0, 2.0])}, "y"),
        ({"y": torch.zeros((3, 1), dtype=torch.int64)}, "y"),
        ({"norm": 3}, "norm"),
        ({"targets": [7]}, "targets"),
        ({"targets": []}, "targets"),
        ({"relative_gap": 0.0}, "relative_gap"),
        ({"largest": -1.0}, "largest"),
        ({"method": "magic"}, "method"),
        ({"x": torch.zeros(3, 5)}, "x"),
        ({"x": torch.full((3, 4), math.nan)}, "NaN"),
        ({"domain": (0.0, 1e-9)}, "domain"),
    ],
)
def test_wrong_arguments_of_radii(options: dict[str, Any], word: str) -> None:
    given: dict[str, Any] = {"x": inputs(), "y": [0, 0, 0], **options}
    with pytest.raises(SpecificationError, match=word):
        compute_radius(bounded(network(), inputs()), **given)
