"""Child processes of ``verify`` with another engine: functions by name, since a child imports them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import geolip_lirpa.verify_onnx
from geolip_lirpa.cli.verify_request import VerifyAnswer, VerifyRequest
from geolip_lirpa.cli.verify_work import verified
from geolip_lirpa.errors import ExtractionError


def hangs(request: VerifyRequest, deadline: float) -> VerifyAnswer:
    """Native code that neither looks at the time nor lets Python's signal handlers run."""
    return _with_engine(lambda *_: re.match("(a+)+b", "a" * 60), request, deadline)


def hangs_before_its_alarm(request: VerifyRequest, deadline: float) -> VerifyAnswer:
    """The same, but only the parent can end it."""
    re.match("(a+)+b", "a" * 60)
    return VerifyAnswer("unknown")


def aborts(request: VerifyRequest, deadline: float) -> VerifyAnswer:
    """A crash of native code."""
    return _with_engine(lambda *_: os.abort(), request, deadline)


def chatters(request: VerifyRequest, deadline: float) -> VerifyAnswer:
    """Prints to both streams, from Python and from below."""
    sys.stdout.write("unsat\n")
    os.write(1, b"unsat\n")
    sys.stderr.write("noise\n")
    return verified(request, deadline)


def fails(request: VerifyRequest, deadline: float) -> VerifyAnswer:
    """A defect."""
    raise ZeroDivisionError("a defect")


def refuses(request: VerifyRequest, deadline: float) -> VerifyAnswer:
    """An error of the package."""
    raise ExtractionError("node 'x': cannot be read.\nReplace it.")


def _with_engine(engine: Callable[..., Any], request: VerifyRequest, deadline: float) -> VerifyAnswer:
    geolip_lirpa.verify_onnx.verify_files = engine
    return verified(request, deadline)
