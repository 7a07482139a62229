"""What the documentation site needs beside the pages of docs/: formulas, pictures, and pages made of other files.

Called by MkDocs, see `mkdocs.yml`. Nothing is loaded from a network: MathJax comes from a package, diagrams were drawn
by `pictures.py` beforehand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from site_build.pictures import FENCE, picture_of

ROOT = Path(__file__).resolve().parents[1]

#: Pages that are files outside of docs/, where other tools look for them.
OUTSIDE_PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "examples.md": "examples/README.md",
}

# In examples/README.md: files that the site has elsewhere; scripts are named only.
_EXAMPLE_LINKS = (
    (r"\]\(\.\./docs/", "]("),
    (r"\[README\]\(\.\./README\.md\)", "[start page](index.md)"),
    (r"\[(\w+\.py)\]\(\w+\.py\)", r"`examples/\1`"),
    (r"\]\(pictures/", "](assets/examples/"),
)

# Code with escaped bars: other readers of Markdown need these in tables, where Python-Markdown shows the backslash.
_CELL_CODE = re.compile(r"`[^`\n]*\\\|[^`\n]*`")

#: The one file of MathJax that draws formulas as SVG, without fonts, from the package django-static-mathjax.
MATHJAX = "mathjax/static/mathjax/es5/tex-svg.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/, their pictures, MathJax and the files of the site's looks."""
    for page, name in OUTSIDE_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=_with_links(text) if page == "examples.md" else text))
    for picture in sorted((ROOT / "examples" / "pictures").iterdir()):
        files.append(File.generated(config, f"assets/examples/{picture.name}", abs_src_path=str(picture)))
    for name in ("site.css", "formulas.js"):
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(ROOT / "site_build" / name)))
    files.append(File.generated(config, "assets/tex-svg.js", abs_src_path=str(_mathjax())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put drawn diagrams into the place of their descriptions, and plain bars into code in tables."""

    def drawn(fence: re.Match[str]) -> str:
        picture = picture_of(fence[1])
        if not picture.exists():
            raise PluginError(f"{picture}: no drawing of a diagram that was changed. Run `make pictures`.")
        return f'<figure class="diagram" markdown="0">{picture.read_text(encoding="utf-8").strip()}</figure>'

    return _CELL_CODE.sub(lambda code: code[0].replace("\\|", "|"), FENCE.sub(drawn, markdown))


def _with_links(text: str) -> str:
    for pattern, replacement in _EXAMPLE_LINKS:
        text = re.sub(pattern, replacement, text)
    return text


def _mathjax() -> Path:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return Path(str(distribution("django-static-mathjax").locate_file(MATHJAX)))
    except PackageNotFoundError:
        raise PluginError("django-static-mathjax is missing; it brings MathJax. Run `pip install '.[docs]'`.") from None
