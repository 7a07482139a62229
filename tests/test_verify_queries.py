"""Entry points of verification for Python: files by their names, and what is no specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import geolip_lirpa
from geolip_lirpa.errors import SpecificationError

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"


@pytest.mark.parametrize(("name", "verdict"), [("pushes_back", "unsat"), ("limit_exceeded", "sat")])
def test_files_are_verified_by_their_names(name: str, verdict: str) -> None:
    # once more by its public name: loading a module must not hide a function
    for _ in range(2):
        verify_files = geolip_lirpa.verify_files
        found = verify_files(str(FOLDER / "pendulum.onnx"), str(FOLDER / "1.0" / f"pendulum_{name}.vnnlib"))
        assert found.verdict == verdict and (found.witness is not None) == (verdict == "sat")


def test_a_path_is_no_specification() -> None:
    model = geolip_lirpa.bounded_module(torch.nn.Sequential(torch.nn.Linear(1, 1)), (1, 1))
    with pytest.raises(SpecificationError, match=r"got str; .*read_specification"):
        geolip_lirpa.verify_specification(model, "prop.vnnlib")
