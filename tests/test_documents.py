"""What the documents show is what the program does: examples run, and links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from geolip_lirpa.cli import main

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".", "docs", "examples", "vnnlib_specs")
DOCUMENTS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))

# lower bounds are found by a search, whose path depends on the last digits
SAME = 2e-2


def blocks(language: str) -> list[str]:
    """Fenced blocks of README.md in one language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def cells(text: str) -> dict[str, list[float]]:
    """The bounds of a printed table by the label of their line."""
    lines = [line.split("│") for line in text.splitlines() if "│" in line]
    return {line[0].strip(): [float(cell) for cell in line[1:3]] for line in lines}


def test_python_example_prints_what_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        exec(compile(blocks("python")[0], "README.md", "exec"), {})
    shown, printed = numbers(blocks("text")[0]), numbers(capsys.readouterr().out)
    assert len(shown) == 7
    np.testing.assert_allclose(printed, shown, rtol=SAME)


def test_command_line_example_prints_what_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vnnlib_specs").symlink_to(ROOT / "vnnlib_specs")
    monkeypatch.chdir(tmp_path)
    steps = re.findall(r"^\$ geolip-lirpa (.*)\n((?:[^$].*\n|\n)*)", blocks("console")[0], re.MULTILINE)
    assert [arguments.split()[0] for arguments, _ in steps] == ["lipschitz", "check"]
    for arguments, shown in steps:
        assert main(shlex.split(arguments)) == 0
        printed = capsys.readouterr().out
        expected, found = cells(shown), cells(printed)
        assert expected.keys() == found.keys() and len(expected) == 3
        for label, values in expected.items():
            np.testing.assert_allclose(found[label], values, rtol=SAME)
        # the statement itself, word by word
        assert [line for line in shown.splitlines() if "<=" in line] == [
            line for line in printed.splitlines() if "<=" in line
        ]


def test_radius_example_prints_what_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vnnlib_specs").symlink_to(ROOT / "vnnlib_specs")
    monkeypatch.chdir(tmp_path)
    command, shown = blocks("console")[1].removeprefix("$ geolip-lirpa ").split("\n", 1)
    assert main(shlex.split(command)) == 0
    expected, found = radii(shown), radii(capsys.readouterr().out)
    assert [line[:4] for line in expected] == [line[:4] for line in found] and len(expected) == 2
    exec(compile(blocks("python")[1], "README.md", "exec"), {})
    printed, tensors = numbers(capsys.readouterr().out), numbers(blocks("text")[1])
    for values in (tensors, [float(line[i]) for i in (4, 5) for line in found], printed):
        np.testing.assert_allclose(values, [float(line[i]) for i in (4, 5) for line in expected], rtol=SAME)


def radii(text: str) -> list[list[str]]:
    """The cells of a printed table of images."""
    return [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if "│" in line]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (document.parent / link).exists()]
    assert not missing
