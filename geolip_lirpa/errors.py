"""Exceptions of the package; every message says where, what was found, what is allowed and what to do next.

Place in the data flow: level 0, imported by everything, imports nothing.
"""

from __future__ import annotations


class GeolipError(Exception):
    """Base class of all errors that geolip_lirpa raises on purpose."""


class ModelError(GeolipError, ValueError):
    """A model file cannot be read, or holds values (NaN, inf) for which no bound exists."""


class ExtractionError(GeolipError):
    """A `BoundedModule` cannot be turned into a `Network`, or the result differs from the host model."""


class UnsupportedOperatorError(ExtractionError):
    """A node of the graph is neither an affine map nor a slope-restricted activation."""


class HostUnavailableError(GeolipError, ImportError):
    """auto_LiRPA is not installed or cannot be imported; names how to install it."""


class SpecificationError(GeolipError, ValueError):
    """An input set, a norm, a row selection or a matrix `C` is malformed or does not fit the network."""


class VnnlibError(SpecificationError):
    """A VNN-LIB text is malformed or outside of what is read; starts with file and line."""


class SolverError(GeolipError):
    """A solver ran and returned nothing from which a bound can be proven."""


class SolverUnavailableError(GeolipError, ImportError):
    """A solver was asked for whose package or licence is missing; names the extra or the licence."""


class ClusterUnavailableError(GeolipError, ImportError):
    """Work was to be sent to a cluster whose package is missing; names the extra."""


class WorkerError(GeolipError):
    """Processes that shared the work, or the connection to them, were lost before it was done."""


class CertificateError(GeolipError):
    """A certificate is unreadable, altered, made for another network, or does not prove its claim."""
