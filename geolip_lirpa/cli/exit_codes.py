"""What the command line tells its caller by its exit code.

Place in the data flow: level 12, imports `errors` only.
"""

from __future__ import annotations

import enum

from geolip_lirpa.errors import (
    ClusterUnavailableError,
    GeolipError,
    HostUnavailableError,
    SolverError,
    SolverUnavailableError,
    WorkerError,
)


class ExitCode(enum.IntEnum):
    """Exit codes of all commands; `EXPLANATIONS` has their meaning."""

    OK = 0
    NOT_PROVEN = 1
    BAD_INPUT = 2
    REFUSED = 3
    UNAVAILABLE = 4
    CONTRADICTED = 5
    INTERNAL = 70
    INTERRUPTED = 130


EXPLANATIONS: dict[ExitCode, str] = {
    ExitCode.OK: "done; `verify`: whatever the verdict; `check`: every claim was proven again",
    ExitCode.NOT_PROVEN: "incomplete: no finite bound, a process was killed, or the output could not be delivered",
    ExitCode.BAD_INPUT: "bad usage or bad input, named by the line 'error: ...'",
    ExitCode.REFUSED: "`check`: the certificate is damaged, altered, or does not prove its claims for this model",
    ExitCode.UNAVAILABLE: "a package or a licence that the request needs is missing",
    ExitCode.CONTRADICTED: "`bench`, `compare`: a verdict contradicts the expected one, or two methods each other",
    ExitCode.INTERNAL: "internal error, please report it",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; what was proven until then is printed",
}


def exit_code_of(error: GeolipError) -> ExitCode:
    """The exit code of an error that ends a command (a refused certificate is `check`'s own business)."""
    if isinstance(error, (SolverUnavailableError, HostUnavailableError, ClusterUnavailableError)):
        return ExitCode.UNAVAILABLE
    if isinstance(error, (SolverError, WorkerError)):
        return ExitCode.NOT_PROVEN
    return ExitCode.BAD_INPUT
