"""Shared fixtures: reference data where it exists, deterministic hypothesis profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", deadline=None, max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of the reference networks; tests that need it are skipped where it is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GEOLIP_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}; set GEOLIP_DATA to run this test")
    return folder
