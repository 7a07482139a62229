"""The example specifications: their list of instances and their known answers are what the commands read."""

from __future__ import annotations

from pathlib import Path

from command_line import Command
from specification_files import FOLDER

from geolip_lirpa.cli.exit_codes import ExitCode


def test_known_answers_are_read_as_they_are(run: Command, tmp_path: Path) -> None:
    """Two instances of the list, and their answers among all the others."""
    lines = [line for line in (FOLDER / "instances.csv").read_text().splitlines() if "pendulum_limit" in line]
    for name in ("pendulum.onnx", "1.0", "2.0"):
        (tmp_path / name).symlink_to(FOLDER / name)
    (tmp_path / "instances.csv").write_text("\n".join(lines))
    results = tmp_path / "results.csv"
    ran = run("bench", tmp_path / "instances.csv", "--out", results, "--expected", FOLDER / "expected.csv")
    assert ran.code == ExitCode.OK
    assert f"no verdict contradicts the {len(lines)} expected ones" in ran.out
    results.write_text(results.read_text().replace("combined,unsat", "combined,sat"))
    compared = run("compare", results, "--expected", FOLDER / "expected.csv")
    assert compared.code == ExitCode.CONTRADICTED and "CONTRADICTIONS: 2" in compared.out
