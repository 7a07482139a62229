"""The pages of the documentation site: the steps of tutorials print what is shown, and the reference is complete."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import geolip_lirpa
from tests.document_sessions import cells, steps, workplace

DOCS = Path(__file__).resolve().parents[1] / "docs"

# start page and tutorials: the steps of each build on each other
SESSIONS = [DOCS / "index.md", DOCS / "certificates.md", *sorted(DOCS.glob("tutorials/*.md"))]

# some numbers come from a training, others from a search
CLOSE = 5e-2


@pytest.mark.parametrize("document", SESSIONS, ids=lambda path: path.stem)
def test_session_prints_what_the_document_shows(document: Path, tmp_path: Path) -> None:
    found = steps(document.read_text(encoding="utf-8"))
    assert any(step.shown for step in found)
    with workplace(tmp_path) as names:
        for step in found:
            printed, shown = cells(step.run(names)), cells(step.shown or "")
            assert [[words(cell) for cell in line] for line in printed] == [
                [words(cell) for cell in line] for line in shown
            ], step.source
            for line, expected in zip(printed, shown, strict=True):
                values, wanted = (fractions(" ".join(part)) for part in (line, expected))
                np.testing.assert_allclose(values, wanted, rtol=CLOSE, atol=2e-3, err_msg=step.source)


def words(cell: str) -> str:
    """A cell without the digits of its fractions: integers, names and signs have to be the same."""
    return " ".join(re.sub(r"\d+\.\d+", "#", cell).split())


def fractions(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_all_public_names_are_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = {line.rsplit(".", 1)[1] for line in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert documented == set(geolip_lirpa.__all__) - {"__version__"}


def test_every_page_is_in_the_navigation() -> None:
    from site_build.hooks import OUTSIDE_PAGES

    navigation = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", navigation, re.MULTILINE))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages == listed - set(OUTSIDE_PAGES)


def test_every_diagram_is_drawn() -> None:
    from site_build.pictures import PICTURES, diagrams, picture_of

    drawings = {picture_of(text) for text in diagrams()}
    assert drawings and drawings == set(PICTURES.glob("*.svg"))


def test_bars_in_code_of_tables_are_plain() -> None:
    from site_build.hooks import on_page_markdown

    row = r"| `--norm inf\|2\|1` | p of \|x\| | `2` |"
    assert on_page_markdown(row) == r"| `--norm inf|2|1` | p of \|x\| | `2` |"
