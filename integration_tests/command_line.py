"""What the fixture `run` returns, and what an error looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geolip_lirpa.cli.exit_codes import ExitCode


@dataclass(frozen=True)
class Run:
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output, read as strict JSON."""
        found: dict[str, Any] = json.loads(self.out, parse_constant=_refuse)
        return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


Command = Callable[..., Run]


def require_error(result: Run, code: ExitCode, *words: str) -> None:
    """Nothing but one line on standard error, with these words in it."""
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err, result.err
