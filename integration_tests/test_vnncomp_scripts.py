"""The scripts that the competition calls, with its arguments, on the repository's own specifications."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from specification_files import FOLDER, Instance, instance, require_violation

SCRIPTS = FOLDER.parent / "vnncomp"
Script = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid of util-linux")


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """Environment in which the scripts find this interpreter's package."""
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    tool = f"{sys.executable} -m geolip_lirpa"
    return os.environ | {"GEOLIP_LIRPA": tool, "PYTHONPATH": path, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def script(surroundings: dict[str, str]) -> Script:
    """Run one of the scripts with arguments of any type."""

    def call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [SCRIPTS / name, *map(str, arguments)]
        return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=200, check=False)

    return call


def _files(found: Instance) -> tuple[Path, Path]:
    return found.network, found.specification


@pytest.mark.parametrize(
    ("version", "name", "verdict"),
    [
        ("1.0", "pendulum_limit_exceeded", "sat"),
        ("2.0", "digits_conv_1_0.05", "sat"),
        ("1.0", "digits_conv_1_0.03", "unsat"),
        ("2.0", "cart_pole_both_sides", "unsat"),
    ],
)
def test_an_instance(script: Script, tmp_path: Path, version: str, name: str, verdict: str) -> None:
    found, results = instance(version, name), tmp_path / "results" / "results.txt"
    results.parent.mkdir()
    prepared = script("prepare_instance.sh", "v1", "small", *_files(found))
    assert prepared.returncode == 0, prepared.stderr
    result = script("run_instance.sh", "v1", "small", *_files(found), results, 60)
    assert result.returncode == 0, result.stderr
    first, _, witness = results.read_text().partition("\n")
    assert first == verdict
    if verdict == "sat":
        require_violation(found, witness)
    else:
        assert witness == ""
    assert list(results.parent.iterdir()) == [results] and not list(tmp_path.glob("geolip-lirpa*"))


def test_compressed_files_under_their_plain_names(script: Script, tmp_path: Path) -> None:
    found, folder = instance("1.0", "pendulum_comparison"), tmp_path / "files"
    folder.mkdir()
    for path in _files(found):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    names = [folder / path.name for path in _files(found)]
    assert script("prepare_instance.sh", "v1", "small", *names).returncode == 0
    assert script("run_instance.sh", "v1", "small", *names, tmp_path / "r", 60).returncode == 0
    assert (tmp_path / "r").read_text() == "unsat\n"


def test_short_time(script: Script, tmp_path: Path) -> None:
    found = instance("1.0", "digits_residual_2_0.05")
    assert script("run_instance.sh", "v1", "small", *_files(found), tmp_path / "r", 1).returncode == 0
    assert (tmp_path / "r").read_text() == "timeout\n"


def test_what_is_refused_is_unknown(script: Script, tmp_path: Path) -> None:
    found, bad = instance("1.0", "pendulum_comparison"), tmp_path / "bad.vnnlib"
    bad.write_text("(assert (<= Y_0 0.0)")
    result = script("run_instance.sh", "v1", "small", found.network, bad, tmp_path / "r", 60)
    assert (result.returncode, (tmp_path / "r").read_text()) == (0, "unknown\n")
    assert "bad.vnnlib" in result.stderr
    result = script("run_instance.sh", "v1", "small", found.network, tmp_path / "none.vnnlib", tmp_path / "r", 60)
    assert (result.returncode, (tmp_path / "r").read_text()) == (0, "unknown\n")
    assert script("prepare_instance.sh", "v1", "small", found.network, tmp_path / "none.vnnlib").returncode != 0


@pytest.mark.parametrize("name", ["install_tool.sh", "prepare_instance.sh", "run_instance.sh"])
def test_wrong_arguments(script: Script, name: str) -> None:
    for arguments in ((), ("v2",), ("v1", "a", "b"), ("v2", "a", "b", "c", "d", "e"))[: 2 if "install" in name else 4]:
        result = script(name, *arguments)
        assert result.returncode == 2 and "usage" in result.stderr


def test_a_killed_run_is_a_timeout_and_its_leftovers_end(
    script: Script, surroundings: dict[str, str], tmp_path: Path
) -> None:
    found, results = instance("1.0", "digits_residual_2_0.05"), tmp_path / "results.txt"
    # an unsatisfied wait stands for a verifier that does not end
    surroundings["GEOLIP_LIRPA"] = f"{sys.executable} -c import(time).sleep(300)".replace(
        "import(time)", "__import__('time')"
    )
    command = [SCRIPTS / "run_instance.sh", "v1", "small", *_files(found), results, "60"]
    process = subprocess.Popen(command, env=surroundings)
    running = tmp_path / f"geolip-lirpa-vnncomp-{os.getuid()}"
    while not running.exists() or not running.read_text().strip():
        time.sleep(0.05)
    group = int(running.read_text())
    # on a busy machine the number is there before the group that it names
    while not _is_there(group):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert results.read_text() == "timeout\n"
    os.killpg(group, 0)
    surroundings["GEOLIP_LIRPA"] = "true"
    assert script("prepare_instance.sh", "v1", "small", *_files(found)).returncode == 0
    with pytest.raises(ProcessLookupError):
        _until_gone(group)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _until_gone(group: int) -> None:
    for _ in range(100):
        os.killpg(group, 0)
        time.sleep(0.05)


def test_scripts_are_clean() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    paths = sorted(map(str, SCRIPTS.glob("*.sh")))
    result = subprocess.run(
        ["shellcheck", "-x", *paths], cwd=SCRIPTS.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
