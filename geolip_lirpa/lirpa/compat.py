"""Find, check and import auto_LiRPA; let 0.3 (PyPI's) and 0.4 run under current torch and numpy.

Place in the data flow: level 4, the only module that imports auto_LiRPA; the rest of the folder asks `load_host`.

Version 0.3 (the only one on PyPI) uses four names that left torch and numpy after 2022. They are supplied as narrowly
as the host allows: two only while the host is imported, one only while it parses a graph, and one as a wider signature
of the host's own method. Version 0.4 needs the first of them as well and gets the same help; 0.5 and later are left
alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import logging
import re
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from geolip_lirpa.errors import HostUnavailableError

_PACKAGE = "auto_LiRPA"
_FIRST_UNPATCHED = (0, 5)
_INSTALL = (
    "Install it with `pip install --no-deps auto-lirpa` (version 0.3), or put a source checkout of a later version "
    "on PYTHONPATH together with what its setup.py requires."
)


def host_version() -> str | None:
    """Version of the auto_LiRPA that ``import auto_LiRPA`` would find, without importing it; None where there is none.

    The ``__version__`` in the package's own file goes before the metadata of the installation: a source checkout on
    ``PYTHONPATH`` shadows an installed package.
    """
    loaded = sys.modules.get(_PACKAGE)
    if loaded is not None:
        return str(getattr(loaded, "__version__", "unknown"))
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None:
        return None
    found = _source_version(spec.origin)
    if found is not None:
        return found
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("auto-lirpa")
    return "unknown"


def load_host() -> types.ModuleType:
    """Import auto_LiRPA and return it.

    Raises:
        HostUnavailableError: it is not installed, or its import fails.
    """
    version = host_version()
    if version is None:
        raise HostUnavailableError(f"auto_LiRPA is not installed. {_INSTALL}")
    if _PACKAGE in sys.modules:
        return sys.modules[_PACKAGE]
    try:
        with quiet_host(), _missing_names(version):
            host = importlib.import_module(_PACKAGE)
    except Exception as error:
        raise HostUnavailableError(
            f"auto_LiRPA {version} is found but cannot be imported: {error}. {_INSTALL}"
        ) from error
    if needs_patches(version):
        _patch_host()
    return host


def prepare_host() -> None:
    """Load a version that needs patches, so that a plain ``import auto_LiRPA`` works afterwards; else do nothing."""
    version = host_version()
    if version is not None and needs_patches(version):
        load_host()


def needs_patches(version: str) -> bool:
    """True for versions before 0.5."""
    number = re.match(r"(\d+)\.(\d+)", version)
    return number is not None and (int(number[1]), int(number[2])) < _FIRST_UNPATCHED


def register_exporter_symbols() -> bool:
    """Load all of torch's ONNX symbolic functions, as torch's own exporter does before it runs.

    Later torch versions load those of opset 9 alone until something is exported, and auto_LiRPA reads only the newer
    forms of padding, clipping, resizing and GELU.

    Returns:
        True if this call loaded anything.
    """
    package = "torch.onnx._internal.torchscript_exporter"
    names = [f"{package}.symbolic_opset{number}" for number in range(7, 21)]
    missing = [name for name in names if name not in sys.modules]
    loaded = False
    for name in missing:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            loaded = True
    return loaded


@contextlib.contextmanager
def quiet_host(messages: list[str] | None = None) -> Iterator[None]:
    """Keep the host's prints, warnings and log lines off the terminal; collect the log lines."""
    handler = _Collector([] if messages is None else messages)
    logger = logging.getLogger("auto_LiRPA")
    state = (logger.propagate, list(logger.handlers))
    logger.propagate, logger.handlers = False, [handler]
    try:
        # recorded, not ignored: torch puts filters of its own in front while it is imported
        with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.propagate, logger.handlers = state


class _Collector(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def compute_bounds(lirpa_model: Any, interm_bounds: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
    """The host's `compute_bounds`; the argument for given bounds was named `intermediate_layer_bounds` before 0.4."""
    parameters = inspect.signature(type(lirpa_model).compute_bounds).parameters
    name = "interm_bounds" if "interm_bounds" in parameters else "intermediate_layer_bounds"
    if interm_bounds is not None:
        arguments[name] = dict(interm_bounds)
    with quiet_host():
        return lirpa_model.compute_bounds(**arguments)


def _source_version(origin: str | None) -> str | None:
    if origin is None or not Path(origin).is_file():
        return None
    text = Path(origin).read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return None if found is None else found[1]


@contextlib.contextmanager
def _missing_names(version: str) -> Iterator[None]:
    """Names that old versions import from torch and numpy without needing them afterwards."""
    if not needs_patches(version):
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_numpy_arraysetops())
        helper = importlib.import_module("torch.onnx.symbolic_helper")
        stack.enter_context(_attribute(helper, "_set_opset_version", _set_opset_version))
        yield


@contextlib.contextmanager
def _numpy_arraysetops() -> Iterator[None]:
    """``numpy.lib.arraysetops.isin``, which numpy 2 moved to ``numpy.isin``."""
    import numpy as np

    name = "numpy.lib.arraysetops"
    if importlib.util.find_spec(name) is not None:
        yield
        return
    module = types.ModuleType(name)
    module.isin = np.isin  # type: ignore[attr-defined]
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give `owner` an attribute that it lacks, for the time of the context."""
    if hasattr(owner, name):
        yield
        return
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)


def _exporter_globals() -> Any:
    """The state of torch's TorchScript exporter; its place changed with torch 2.9."""
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).GLOBALS
    raise HostUnavailableError(
        f"torch {torch.__version__} has no TorchScript exporter, which auto_LiRPA uses to read a model. "
        "Use an older torch or a newer auto_LiRPA."
    )


def _set_opset_version(version: int) -> None:
    _exporter_globals().export_onnx_opset_version = version


def _node_attribute(node: Any, key: str) -> Any:
    """``torch._C.Node.__getitem__`` of torch 1.12: an attribute's value by its name."""
    return getattr(node, node.kindOf(key))(key)


def _patch_host() -> None:
    """Let old versions parse graphs and list parameters under torch 2."""
    general: Any = importlib.import_module(f"{_PACKAGE}.bound_general")
    general.parse_module = _with_node_attributes(general.parse_module)
    general.BoundedModule._named_members = _with_remove_duplicate(general.BoundedModule._named_members)


def _with_node_attributes(parse_module: Any) -> Any:
    @functools.wraps(parse_module)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        exporter = _exporter_globals()
        opset = exporter.export_onnx_opset_version
        try:
            with _attribute(torch._C.Node, "__getitem__", _node_attribute):
                return parse_module(*args, **kwargs)
        finally:
            # the host sets opset 12 and would leave it behind for the user's own exports
            exporter.export_onnx_opset_version = opset

    return wrapped


def _with_remove_duplicate(named_members: Any) -> Any:
    @functools.wraps(named_members)
    def wrapped(self: Any, *args: Any, remove_duplicate: bool = True, **kwargs: Any) -> Any:
        # the host lists every member once anyway, except under remove_duplicate=False, which nothing it serves asks for
        return named_members(self, *args, **kwargs)

    return wrapped
