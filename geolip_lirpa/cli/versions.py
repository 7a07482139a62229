"""Versions of this package and of those its results depend on.

Place in the data flow: level 12, used by the commands. Imports nothing heavy: it reads metadata of installed packages
and imports none of them.
"""

from __future__ import annotations

import importlib.metadata
import platform

_PACKAGES = ("torch", "numpy", "scipy", "cvxpy", "onnx")


def package_version() -> str:
    """Version of geolip_lirpa; ``"unknown"`` when it runs from a folder without being installed."""
    return _installed("geolip-lirpa") or "unknown"


def versions(host: str | None) -> dict[str, str | None]:
    """Versions by package name; None for what is not installed.

    Args:
        host: version of auto_LiRPA, which only its adapter can tell (a source checkout has no metadata).
    """
    found: dict[str, str | None] = {"geolip_lirpa": package_version(), "auto_LiRPA": host}
    found.update({name: _installed(name) for name in _PACKAGES})
    return {**found, "python": platform.python_version()}


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
