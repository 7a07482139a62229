"""What the documents show is what the program does: examples run, and links lead somewhere."""

from __future__ import annotations

import csv
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from geolip_lirpa import read_specification
from geolip_lirpa.cli import main

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.md", "docs/**/*.md", "examples/*.md", "vnnlib_specs/*.md")
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))

# lower bounds are found by a search, whose path depends on the last digits
SAME = 2e-2
#: Pendulum's specifications in place of all.
THREE = ("limit", "limit_exceeded", "pushes_back")


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


def commands(text: str) -> list[tuple[str, str]]:
    """The arguments of each command of a console, with what it prints."""
    return re.findall(r"^\$ geolip-lirpa (.*)\n((?:[^$].*\n|\n)*)", text, re.MULTILINE)


def words(text: str) -> list[str]:
    """What is printed, without the name of the benchmark, numbers and lines of tables."""
    found = re.sub(r"[━╇┃│]+", " ", text).split()
    return [word for word in found if not re.fullmatch(r"[\d./]+,?", word) and word not in ("few", "vnnlib_specs")]


def radii(text: str) -> list[list[str]]:
    """The cells of a printed table of images."""
    return [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if "│" in line]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that has the examples."""
    (tmp_path / "vnnlib_specs").symlink_to(ROOT / "vnnlib_specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_example_prints_what_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        exec(compile(blocks("python")[0], "README.md", "exec"), {})
    shown, printed = numbers(blocks("text")[0]), numbers(capsys.readouterr().out)
    assert len(shown) == 7
    np.testing.assert_allclose(printed, shown, rtol=SAME)


@pytest.mark.usefixtures("folder")
def test_command_line_example_prints_what_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    steps = commands(blocks("console")[0])
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


@pytest.mark.usefixtures("folder")
def test_radius_example_prints_what_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    command, shown = blocks("console")[1].removeprefix("$ geolip-lirpa ").split("\n", 1)
    assert main(shlex.split(command)) == 0
    expected, found = radii(shown), radii(capsys.readouterr().out)
    assert [line[:4] for line in expected] == [line[:4] for line in found] and len(expected) == 2
    exec(compile(blocks("python")[1], "README.md", "exec"), {})
    printed, tensors = numbers(capsys.readouterr().out), numbers(blocks("text")[1])
    for values in (tensors, [float(line[i]) for i in (4, 5) for line in found], printed):
        np.testing.assert_allclose(values, [float(line[i]) for i in (4, 5) for line in expected], rtol=SAME)


@pytest.mark.usefixtures("folder")
def test_verify_examples_print_what_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    steps = commands(blocks("console")[2])
    assert [shown.split()[0] for _, shown in steps] == ["unsat", "sat"]
    for arguments, shown in steps:
        assert main(shlex.split(arguments)) == 0
        printed = capsys.readouterr().out
        assert re.sub(r"-?\d+\.\d+", "", printed) == re.sub(r"-?\d+\.\d+", "", shown)
        np.testing.assert_allclose(numbers(printed), numbers(shown), rtol=SAME)
    exec(compile(blocks("python")[2], "README.md", "exec"), {})
    printed, shown = capsys.readouterr().out, blocks("text")[2]
    assert printed.split()[0] == shown.split()[0] == "sat"
    np.testing.assert_allclose(numbers(printed), numbers(shown), rtol=SAME)


def test_bench_example_prints_what_readme_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On three of the instances; what is shown of all of them agrees with the known answers."""
    bench, compare = commands(blocks("console")[3])
    (folder / "few").mkdir()
    (folder / "few" / "instances.csv").write_text(
        "".join(f"../vnnlib_specs/pendulum.onnx,../vnnlib_specs/1.0/pendulum_{name}.vnnlib,60\n" for name in THREE)
    )
    few = bench[0].replace("bench vnnlib_specs/", "bench few/")
    assert main(shlex.split(few)) == 0
    # the same but for the name and the counts
    assert words(capsys.readouterr().out) == words(bench[1])
    assert main(shlex.split(compare[0])) == 0
    assert "Small networks" in (folder / "report.html").read_text(encoding="utf-8")
    with (ROOT / "vnnlib_specs" / "expected.csv").open(encoding="utf-8", newline="") as file:
        known = Counter(row["verdict"] for row in csv.DictReader(file))
    for line in radii(bench[1])[-3:]:
        unsat, sat, unknown = (int(cell) for cell in line[3:6])
        assert unsat + sat + unknown == known.total() and sat == known["sat"]
        assert unsat <= known["unsat"] + known["unknown"]


def test_first_files_of_the_page_on_vnnlib_say_the_same(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "vnnlib.md").read_text(encoding="utf-8")
    found = []
    for begin in ("(declare-const X_0 Real)", "(vnnlib-version <2.0>)"):
        lines = re.search(rf"^    {re.escape(begin)}\n(?:    .*\n)+", text, re.MULTILINE)
        assert lines is not None
        path = tmp_path / "prop.vnnlib"
        path.write_text(lines[0])
        specification = read_specification(path)
        assert (specification.inputs, specification.outputs, len(specification.cases)) == (2, 3, 1)
        found.append(specification.cases[0])
    for case in found:
        assert (case.box.lower.round(9).tolist(), case.box.upper.round(9).tolist()) == ([-0.1, 0.2], [0.1, 0.4])
        assert [unsafe.matrix.tolist() for unsafe in case.unsafe] == [[[1, -1, 0]], [[1, 0, -1]]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (document.parent / link).exists()]
    assert not missing
