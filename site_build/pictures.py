"""Draw the diagrams of docs/ once, so that the site needs no program to draw them.

`python site_build/pictures.py` takes every ```mermaid block of docs/, draws it with Mermaid in a headless Chromium, and
writes `site_build/pictures/NAME.svg`. NAME is a digest of the block: a diagram that was changed and not drawn again is
missing, and the build of the site ends with an error. Needs npm, chromium and chromedriver.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "site_build" / "pictures"
FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MERMAID = "mermaid@11"

_PAGE = """<!doctype html><meta charset="utf-8"><script src="package/dist/mermaid.min.js"></script><body>"""
_DRAW = """
const [name, text, done] = arguments;
mermaid.initialize({startOnLoad: false, theme: "neutral", fontFamily: "sans-serif"});
mermaid.render(name, text).then((drawn) => done(drawn.svg), (error) => done("error: " + error));
"""


def picture_of(text: str) -> Path:
    """Where the drawing of a diagram is kept."""
    return PICTURES / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.svg"


def diagrams() -> list[str]:
    """The texts of all diagrams of docs/."""
    return [text for page in sorted((ROOT / "docs").rglob("*.md")) for text in FENCE.findall(page.read_text("utf-8"))]


def draw(texts: list[str]) -> list[str]:
    """Their drawings as SVG.

    Raises:
        RuntimeError: Mermaid does not understand a text.
        subprocess.CalledProcessError: the package cannot be fetched.
    """
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"):
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", "--silent", MERMAID], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        subprocess.run(["tar", "xzf", packed], cwd=folder, check=True)
        page = Path(folder, "page.html")
        page.write_text(_PAGE, encoding="utf-8")
        browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
        try:
            browser.get(page.as_uri())
            drawn = [str(browser.execute_async_script(_DRAW, f"diagram{i}", text)) for i, text in enumerate(texts)]
        finally:
            browser.quit()
    for svg in drawn:
        if not svg.startswith("<svg"):
            raise RuntimeError(svg)
    return drawn


def main() -> None:
    """Draw all, and remove what is no longer used."""
    texts = diagrams()
    drawn = draw(texts)
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.svg"):
        old.unlink()
    for text, svg in zip(texts, drawn, strict=True):
        picture_of(text).write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
