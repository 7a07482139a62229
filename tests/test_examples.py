"""The examples run as their first lines say, and print what is true."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def printed(folder: Path, name: str, *arguments: str) -> str:
    """Standard output of an example, run in a folder of its own."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / name), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", line)]


def test_lipschitz_of_a_classifier(tmp_path: Path) -> None:
    lines = printed(tmp_path, "lipschitz_of_a_classifier.py").splitlines()
    found = {line.split()[0]: numbers(line) for line in lines if line.strip().startswith(("l_", "0."))}
    assert len(found) == 6
    for norm in ("l_inf", "l_2"):
        sampled, attained, proven, entrywise, product = found[norm]
        assert 0 < sampled <= attained <= proven < 1.05 * attained and proven < min(entrywise, product)
    local = [found[eps] for eps in ("0.001", "0.01", "0.05", "0.2")]
    assert all(attained <= proven for _, attained, proven in local)
    uppers = [proven for *_, proven in local]
    assert uppers == sorted(uppers) and uppers[0] < 0.9 * found["l_inf"][2] and uppers[-1] <= found["l_inf"][2]


def test_certified_radii(tmp_path: Path) -> None:
    text = printed(tmp_path, "certified_radii.py", "--images", "2", "--out", "here")
    found = {line.split()[0]: numbers(line)[:2] for line in text.splitlines() if "." in line and "plot" not in line}
    assert list(found) == ["crown", "alpha-crown", "combined", "attack"]
    for smallest, median in found.values():
        assert 0 < smallest <= median
    assert 1.02 * found["crown"][1] < found["combined"][1] <= found["attack"][1]
    assert (tmp_path / "here" / "certified_radii.png").read_bytes().startswith(b"\x89PNG")


def test_vnnlib_benchmark(tmp_path: Path) -> None:
    text = printed(tmp_path, "vnnlib_benchmark.py")
    assert text.startswith("pendulum_limit_exceeded.vnnlib: sat\n  at the state [0.")
    verdicts = re.findall(r"^ *(\S+) +(crown|combined): (sat|unsat|unknown)", text, re.MULTILINE)
    assert len(verdicts) == 10 and "no verdict contradicts" in text
    assert [name for name, method, verdict in verdicts if (method, verdict) == ("combined", "sat")] == [
        "digits_conv_1_0.05"
    ]
    assert sum(verdict == "unsat" for _, method, verdict in verdicts if method == "combined") == 4
    assert "combined" in (tmp_path / "build/examples/benchmark/report.html").read_text(encoding="utf-8")


def test_custom_activation(tmp_path: Path) -> None:
    text = printed(tmp_path, "custom_activation.py")
    tight, loose = (numbers(line.partition(":")[2]) for line in text.splitlines()[1:3])
    for attained, upper, product in zip(tight[3:], tight[:3], loose[:3], strict=True):
        assert 0 < attained <= upper < 0.7 * product
    assert text.endswith("certificates checked\n")


def test_convolutional_network(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines = printed(tmp_path, "convolutional_network.py").splitlines()
    plain, noisy = ([float(cell.rstrip("%")) for cell in line.split()] for line in lines[-2:])
    for _, accuracy, attained, proven, _ in (plain, noisy):
        assert accuracy > 85 and 0 < attained <= proven
    assert noisy[3] < plain[3] and noisy[4] > plain[4]


def test_mosek_cross_check(tmp_path: Path) -> None:
    text = printed(tmp_path, "mosek_cross_check.py")
    bounds = dict(re.findall(r"^ *(auto|interior-point|mosek|clarabel) +([\d.]+)", text, re.MULTILINE))
    assert {"auto", "interior-point"} < bounds.keys()
    assert all(float(bound) == pytest.approx(float(bounds["auto"]), rel=1e-4) for bound in bounds.values())
    # with neither package nor licence a line says so
    assert ("mosek" in bounds) == ("skipped mosek: " not in text)


def test_certificates(tmp_path: Path) -> None:
    lines = printed(tmp_path, "certificates.py").splitlines()
    assert sum(line.startswith("proven again: ") for line in lines) == 2
    refused = [line.removeprefix("refused, ").split(":")[0] for line in lines if line.startswith("refused, ")]
    assert refused == ["damaged", "forged bound", "forged margin", "other network"]
    (sent,) = re.findall(r"image 1 .*: ([\d.]+)", lines[0])
    assert lines[2] == f"proven again: smallest margin {sent}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_first_lines_say_what_how_and_how_long(script: Path) -> None:
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    assert f"    python examples/{script.name}" in text and re.search(r"Takes about\s+\d+ seconds", text)
    assert f"({script.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"def test_{script.stem}(" in Path(__file__).read_text(encoding="utf-8")
