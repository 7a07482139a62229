"""The networks that the repository ships: readable, accurate, equal in two runtimes, and made by their script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from geolip_lirpa.onnx_model import load_onnx

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
NETWORKS = sorted(path.name for path in FOLDER.glob("digits_*.onnx"))
CONTROLLERS = sorted({path.name for path in FOLDER.glob("*.onnx")} - set(NETWORKS))

# a machine with other vector instructions trains slightly different weights, see vnnlib_specs/README.md
TRAINING_TOLERANCE = 2e-3


def _images(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    with np.load(FOLDER / "digits_test.npz") as data:
        return data["images"].reshape(-1, *shape[1:]), data["labels"]


def test_folder_holds_the_networks_its_readme_lists() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert NETWORKS == ["digits_32-32.onnx", "digits_conv.onnx", "digits_residual.onnx", "digits_tanh.onnx"]
    assert CONTROLLERS == ["cart_pole.onnx", "pendulum.onnx"]
    assert all(f"`{name}`" in text for name in NETWORKS + CONTROLLERS)
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 500_000


def test_images_are_one_hundred_of_all_digits() -> None:
    images, labels = _images((1, 64))
    assert images.shape == (100, 64) and images.dtype == np.float32
    assert labels.shape == (100,) and labels.dtype == np.int64
    assert images.min() == 0.0 and images.max() == 1.0
    assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_accurate_and_agrees_with_onnxruntime(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load_onnx(FOLDER / name)
    images, labels = _images(model.input_shape)
    with torch.no_grad():
        outputs = model.module(torch.from_numpy(images)).numpy()
    session = onnxruntime.InferenceSession(str(FOLDER / name), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"image": images})[0]
    assert outputs.shape == (100, 10)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    assert (outputs.argmax(axis=1) == labels).mean() >= 0.9


@pytest.mark.parametrize("name", ["digits_residual.onnx", "pendulum.onnx"])
def test_script_makes_the_same_network_again(name: str) -> None:
    pytest.importorskip("sklearn")
    import make_controllers
    import make_networks

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if name in CONTROLLERS:
            made = make_controllers.make_controller(name)
        else:
            made = make_networks.make_network(name, make_networks.load_data())[1]
    finally:
        torch.set_num_threads(threads)
    stored = onnx.load(FOLDER / name)
    assert [node.op_type for node in made.graph.node] == [node.op_type for node in stored.graph.node]
    for new, old in zip(made.graph.initializer, stored.graph.initializer, strict=True):
        assert new.name == old.name
        np.testing.assert_allclose(
            numpy_helper.to_array(new), numpy_helper.to_array(old), rtol=0, atol=TRAINING_TOLERANCE
        )


@pytest.mark.parametrize("name", ["cart_pole.onnx", "pendulum.onnx"])
def test_controller_imitates_its_regulator(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    import make_controllers

    controller = make_controllers.CONTROLLERS[name]()
    ranges = torch.tensor(controller.ranges)
    states = (2 * torch.rand(1000, len(ranges), generator=torch.Generator().manual_seed(1)) - 1) * ranges
    session = onnxruntime.InferenceSession(str(FOLDER / name), providers=["CPUExecutionProvider"])
    found = session.run(None, {"state": states.numpy()})[0]
    expected = controller.target(states.double()).numpy()
    assert np.abs(found - expected).max() < 0.6 and np.sqrt(np.mean((found - expected) ** 2)) < 0.1
