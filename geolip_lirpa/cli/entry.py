"""The program: parse the command line, run a command, turn exceptions into one line and an exit code.

Place in the data flow: level 12, imports the commands.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from geolip_lirpa.cli.bench import bench_command
from geolip_lirpa.cli.certify import certify_command, radius_command
from geolip_lirpa.cli.check import check_command
from geolip_lirpa.cli.compare import compare_command
from geolip_lirpa.cli.exit_codes import EXPLANATIONS, ExitCode, exit_code_of
from geolip_lirpa.cli.export import export_command
from geolip_lirpa.cli.lipschitz import lipschitz_command
from geolip_lirpa.cli.supports import supports_command
from geolip_lirpa.cli.terminal import allow_any_text, interrupted, print_error
from geolip_lirpa.cli.verify import verify_command
from geolip_lirpa.cli.versions import package_version
from geolip_lirpa.errors import GeolipError

PROGRAM = "geolip-lirpa"
_CODES = "\n".join(f"{code.value:>4}  {text}" for code, text in EXPLANATIONS.items())
_EPILOG = f"Exit codes:\n\n{_CODES}"
# The base of all mistakes in using the command line; typer exports only this subclass.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; default: those of the process.

    Returns:
        The exit code, see `ExitCode`. Never raises.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    allow_any_text()
    try:
        return _run(given)
    except KeyboardInterrupt:
        return interrupted()
    except GeolipError as error:
        print_error(str(error))
        return exit_code_of(error)
    except Exception as error:
        return _internal(error, "--debug" in given)


def _run(arguments: list[str]) -> int:
    try:
        code = application()(arguments, prog_name=PROGRAM, standalone_mode=False)
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else PROGRAM
        print_error(f"{error.format_message().rstrip('.')}. Try '{path} --help'.")
        return ExitCode.BAD_INPUT
    except SystemExit as stop:
        # shell completion ends so, and typer when the reader of our output has gone
        code = stop.code
    if code == ExitCode.INTERRUPTED:
        return interrupted()
    return code if isinstance(code, int) else ExitCode.OK


def _internal(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    kind, text = type(error).__name__, str(error).partition("\n")[0]
    advice = "" if debug else " Run again with --debug to see where."
    print_error(f"internal error, please report: {kind}: {text}.{advice}")
    return ExitCode.INTERNAL


def application() -> typer.Typer:
    """The commands with their options."""
    app = typer.Typer(
        name=PROGRAM,
        help="Proven Lipschitz constants, margins, radii and VNN-LIB verdicts of neural networks.",
        epilog=_EPILOG,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
    app.callback()(_options)
    app.command("verify")(verify_command)
    # capabilities are spelled like options
    app.command("supports", context_settings={"ignore_unknown_options": True})(supports_command)
    app.command("lipschitz")(lipschitz_command)
    app.command("certify")(certify_command)
    app.command("radius")(radius_command)
    app.command("check")(check_command)
    app.command("export")(export_command)
    app.command("bench")(bench_command)
    app.command("compare")(compare_command)
    return app


def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    name: Annotated[bool, typer.Option("--name", help="Print the program's name and exit.")] = False,
) -> None:
    if version or name:
        # each alone, as VNN-LIB 2.0 wants it
        print(PROGRAM if name else package_version())
        raise typer.Exit(ExitCode.OK)
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(ExitCode.BAD_INPUT)
