"""``verify`` with engines that hang, crash and chatter: time limits are hard, and nothing is made up."""

from __future__ import annotations

import time
from pathlib import Path

import fake_engines
import pytest
from command_line import Command, Run, require_error
from specification_files import instance

from geolip_lirpa.cli import main
from geolip_lirpa.cli.exit_codes import ExitCode

FOUND = instance("2.0", "pendulum_limit_exceeded")
COMMAND = ("verify", FOUND.specification, "--network", f"N={FOUND.network}")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, run: Command) -> None:
    """Start the server of children before time counts."""
    run(*COMMAND)


@pytest.mark.parametrize("fake", [fake_engines.hangs, fake_engines.hangs_before_its_alarm])
@pytest.mark.usefixtures("engine")
def test_timeout_is_hard(run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake: object) -> None:
    monkeypatch.setattr("geolip_lirpa.cli.verify_run.verified", fake)
    begin = time.monotonic()
    result = run(*COMMAND, "--timeout", 3, "--witness", tmp_path / "w")
    spent = time.monotonic() - begin
    assert (result.code, result.out) == (ExitCode.OK, "timeout\n")
    assert 2.5 < spent < 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("engine")
def test_engine_stops_before_the_limit(run: Command) -> None:
    """A property that nothing decides soon."""
    found = instance("1.0", "digits_residual_2_0.05")
    begin = time.monotonic()
    result = run("verify", found.specification, "--network", found.network, "--timeout", "0.2", "--json")
    assert result.json["verdict"] == "timeout" and time.monotonic() - begin < 5


@pytest.mark.usefixtures("engine")
def test_crash_is_an_error(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geolip_lirpa.cli.verify_run.verified", fake_engines.aborts)
    require_error(run(*COMMAND, "--timeout", 60), ExitCode.INTERNAL, "SIGABRT")


def test_error_of_the_child(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geolip_lirpa.cli.verify_run.verified", fake_engines.refuses)
    require_error(run(*COMMAND), ExitCode.BAD_INPUT, "node 'x'", "Replace it.")


def test_defect_of_the_child(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geolip_lirpa.cli.verify_run.verified", fake_engines.fails)
    code = main([str(part) for part in COMMAND])
    captured = capsys.readouterr()
    require_error(Run(code, captured.out, captured.err), ExitCode.INTERNAL, "ZeroDivisionError", "a defect")


def test_nothing_but_the_verdict_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("geolip_lirpa.cli.verify_run.verified", fake_engines.chatters)
    main([str(part) for part in COMMAND])
    captured = capfd.readouterr()
    assert captured.out.startswith("sat\nX float32 [1,2]\n") and "unsat" not in captured.out
    assert "noise" not in captured.err
