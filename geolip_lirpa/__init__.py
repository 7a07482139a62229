"""Proven Lipschitz constants, margins and radii of neural networks, for auto_LiRPA models and ONNX files.

Place in the data flow: level 11, the public names. They are loaded on first use, so that importing the package costs
nothing and works without auto_LiRPA.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PUBLIC = {
    "compute_lipschitz": "lipschitz",
    "compute_margins": "margin_queries",
    "compute_radius": "margin_queries",
    "check_certificate": "lipschitz",
    "check_margin_certificate": "margin_queries",
    "load_certificate": "certificate_file",
    "save_certificate": "certificate_file",
    "load_margins": "margin_file",
    "save_margins": "margin_file",
    "read_specification": "vnnlib",
    "verify_specification": "verify_queries",
    "verify_files": "verify_onnx",
    "load_onnx": "onnx_model",
    "bounded_module": "lirpa",
    "extract_network": "lirpa",
    "GeolipError": "errors",
    "LipschitzOptions": "lipschitz_types",
    "LipschitzResult": "lipschitz_types",
    "RowBound": "lipschitz_types",
    "Certificate": "certificate",
    "MarginCertificate": "margin_certificate",
    "MarginResult": "margin_types",
    "RadiusResult": "radius",
    "Specification": "specification",
    "Verdict": "verify_types",
    "VerifyOptions": "verify_types",
    "VerifyResult": "verify_types",
    "Norm": "types",
    "OutputNorm": "types",
    "Proof": "types",
}

__all__ = ["__version__", *_PUBLIC]

try:
    __version__ = version("geolip-lirpa")
except PackageNotFoundError:
    # a source tree on the path without installation
    __version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
