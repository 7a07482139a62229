"""Entry points of verification for Python: files by their names, and what is no specification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import geolip_lirpa
from geolip_lirpa import file_verdicts
from geolip_lirpa.errors import ModelError, SpecificationError
from geolip_lirpa.onnx_replay import OnnxReplay
from geolip_lirpa.rounding import Array

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"


@pytest.mark.parametrize(("name", "verdict"), [("pushes_back", "unsat"), ("limit_exceeded", "sat")])
def test_files_are_verified_by_their_names(name: str, verdict: str) -> None:
    # once more by its public name: loading a module must not hide a function
    for _ in range(2):
        verify_files = geolip_lirpa.verify_files
        found = verify_files(str(FOLDER / "pendulum.onnx"), str(FOLDER / "1.0" / f"pendulum_{name}.vnnlib"))
        assert found.verdict == verdict and (found.witness is not None) == (verdict == "sat")


@pytest.mark.parametrize("change", [lambda y: y + 0.01 * abs(y).max(), lambda y: y[:-1], lambda y: y[::-1]])
def test_models_that_are_read_as_another_function_are_refused(
    change: Callable[[Array], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof would be about what was read, and no replay asks after proofs."""

    class Other(OnnxReplay):
        def __call__(self, inputs: Array) -> Array | None:
            outputs = super().__call__(inputs)
            return None if outputs is None else change(outputs)

    monkeypatch.setattr(file_verdicts, "OnnxReplay", Other)
    with pytest.raises(ModelError, match=r"is read as a function .* where onnxruntime computes"):
        geolip_lirpa.verify_files(FOLDER / "pendulum.onnx", FOLDER / "1.0" / "pendulum_pushes_back.vnnlib")


def test_a_path_is_no_specification() -> None:
    model = geolip_lirpa.bounded_module(torch.nn.Sequential(torch.nn.Linear(1, 1)), (1, 1))
    with pytest.raises(SpecificationError, match=r"got str; .*read_specification"):
        geolip_lirpa.verify_specification(model, "prop.vnnlib")
