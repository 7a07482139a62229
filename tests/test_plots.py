"""Pictures of bounds and radii: what they draw is what was found, in the formats that were promised."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from geolip_lirpa.cli.paths import PICTURES
from geolip_lirpa.lipschitz_types import LipschitzResult, RowBound
from geolip_lirpa.report.certification import CertificationOutcome, ImageRecord
from geolip_lirpa.report.lipschitz_plots import lipschitz_picture
from geolip_lirpa.report.outcome import LipschitzOutcome, Subject
from geolip_lirpa.report.plot_style import FORMATS
from geolip_lirpa.report.radius_plots import draw_accuracy, draw_radii, radius_picture
from geolip_lirpa.types import Norm, OutputNorm, Proof


def bounds(*ends: tuple[float, float], proof: Proof = Proof.RIGOROUS) -> LipschitzOutcome:
    """Outcome with these lower and upper bounds."""
    rows = tuple(RowBound(0, i, upper, lower, proof, "s", None, 0.0, None) for i, (lower, upper) in enumerate(ends))
    values = torch.tensor(ends, dtype=torch.float64).reshape(-1, 2)
    result = LipschitzResult(values[:, 1], values[:, 0], rows, None, 0.0)
    outputs = tuple(range(len(ends)))
    return LipschitzOutcome(
        Subject("net$_1$.onnx", ""), Norm.L2, OutputNorm.ROWS, "sdp", outputs, None, result, {}, 0.0
    )


def radii(*found: tuple[float | None, float | None]) -> CertificationOutcome:
    """Outcome with these proven and attacked radii; two None are an image that is predicted wrong."""
    images = []
    for i, (lower, attacked) in enumerate(found):
        status = "wrong" if lower is attacked is None else "proven" if lower else "open"
        images.append(ImageRecord(i, 0, int(status == "wrong"), status, lower, attacked, "crown", 0.1))
    question = {"norm": "2", "data": "images.npz"}
    return CertificationOutcome(Subject("net.onnx", ""), question, tuple(images), "radius", {}, 0.0)


PLOTS = [
    lambda suffix: lipschitz_picture(bounds((1.0, 2.0), (0.5, 0.7)), suffix),
    lambda suffix: radius_picture(radii((0.1, 0.2), (None, None), (0.3, None), (None, 0.4)), suffix),
]


def test_formats_are_those_that_the_command_line_checks() -> None:
    assert FORMATS == PICTURES


@pytest.mark.parametrize("plot", PLOTS)
def test_png_has_something_on_it_and_is_the_same_again(plot) -> None:
    content = plot(".png")
    pixels = matplotlib.image.imread(io.BytesIO(content), format="png")
    assert min(pixels.shape[:2]) > 300 and pixels[0, 0, :3].tolist() == [1, 1, 1]
    colours = {tuple(np.round(255 * pixel[:3]).astype(int)) for pixel in pixels[::2, ::2].reshape(-1, pixels.shape[2])}
    # what is proven and what is attained, in the colours that legends give them
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours
    assert plot(".png") == content


@pytest.mark.parametrize("plot", PLOTS)
def test_svg_is_one_element_with_a_title_and_the_same_again(plot) -> None:
    text = plot(".svg").decode()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and re.search(r"net(\$_1\$)?\.onnx", text)
    assert plot(".svg").decode() == text


@pytest.mark.parametrize(
    "outcome",
    [
        bounds((0.0, 3.0)),
        bounds((0.0, 0.0)),
        bounds((1.0, math.inf), (0.0, math.nan)),
        bounds((1e-9, 1e9), (1.0, 2.0)),
        bounds((1.0, 2.0), proof=Proof.NUMERICAL),
        replace(bounds((1.0, 2.0)), interrupted=True),
        bounds(*[(i + 1.0, i + 2.0) for i in range(300)]),
    ],
)
def test_all_bounds_can_be_drawn(outcome: LipschitzOutcome, recwarn: pytest.WarningsRecorder) -> None:
    height = matplotlib.image.imread(io.BytesIO(lipschitz_picture(outcome, ".png")), format="png").shape[0]
    assert height <= 2000 and not recwarn.list


@pytest.mark.parametrize(
    "outcome", [radii(), radii((None, None)), radii((0.1, None)), radii((None, 0.5)), radii((0.1, 0.1))]
)
def test_all_radii_can_be_drawn(outcome: CertificationOutcome, recwarn: pytest.WarningsRecorder) -> None:
    assert radius_picture(outcome, ".png").startswith(b"\x89PNG") and not recwarn.list


lengths = st.one_of(st.none(), st.floats(1e-3, 10.0))


@given(st.lists(st.tuples(lengths, st.floats(1.0, 3.0), st.booleans()), min_size=1, max_size=8))
def test_curves_count_images(drawn: list[tuple[float | None, float, bool]]) -> None:
    found = [(low, (low or 1.0) * factor if hit else None) for low, factor, hit in drawn]
    outcome = radii(*found)
    axes = Figure().subplots()
    draw_accuracy(axes, outcome.images, "radius")
    upper, lower = (line.get_xydata() for line in axes.lines)
    for x, share in lower:
        assert share == pytest.approx(100 * sum(low is not None and low >= x for low, _ in found) / len(found))
    for x, share in upper:
        wrong = sum(low is hit is None for low, hit in found)
        refuted = sum(hit is not None and hit < x for _, hit in found)
        assert share == pytest.approx(100 * (len(found) - wrong - refuted) / len(found))
    # between two jumps a curve has the value of the right one, which is the smaller
    assert all(axes.lines[i].get_drawstyle() == "steps-pre" for i in (0, 1))
    assert np.all(lower[:, 1] <= upper[:, 1] + 1e-9)


def test_points_are_the_radii() -> None:
    outcome = radii((0.1, 0.2), (0.3, None), (None, 0.4), (None, None))
    axes = Figure().subplots()
    draw_radii(axes, outcome.images)
    both, edge = (np.asarray(points.get_offsets()) for points in axes.collections)
    np.testing.assert_allclose(both, [[0.2, 0.1]])
    (right, proven), (attacked, bottom) = edge
    assert proven == 0.3 and attacked == 0.4 and right > 0.4 and bottom < 0.1


def test_interval_is_that_of_the_row() -> None:
    text = lipschitz_picture(replace(bounds((1.0, 2.0)), interrupted=True), ".svg").decode()
    assert "<!-- interrupted: bounds" in text and "<!-- upper: proven -->" in text
    assert "<!-- upper: estimated" in lipschitz_picture(bounds((1.0, 2.0), proof=Proof.NUMERICAL), ".svg").decode()
    assert "<!-- nothing proven above -->" in lipschitz_picture(bounds((1.0, math.inf)), ".svg").decode()
