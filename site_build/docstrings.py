"""Docstrings of the package as Markdown: its formulas are written as for Sphinx.

An extension of griffe, which reads the docstrings for mkdocstrings; see `mkdocs.yml`.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# ``.. math:: formula``, which may go on in indented lines
_BLOCK = re.compile(r"^\.\. math::\s*(.+(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")


def as_markdown(text: str) -> str:
    """The same docstring with formulas between dollars."""
    text = _BLOCK.sub(lambda found: "$$ " + " ".join(found[1].split()) + " $$", text)
    return _INLINE.sub(r"$\1$", text)


class Formulas(griffe.Extension):
    """Rewrites each docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
