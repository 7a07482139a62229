"""Parenthesised expressions of a text, one command after another.

Place in the data flow: level 3, ``Source -> expressions -> formulas`` of version 1.0, and of witnesses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from geolip_lirpa.vnnlib.source import Source

#: Nesting of parentheses, which bounds all recursions.
DEEPEST = 100

_TOKEN = re.compile(r'[()]|;[^\n]*|"[^"]*"|\|[^|]*\||[^\s()";|]+|["|]')


class Group:
    """What stands between two parentheses: words and groups; `position` is the offset of the opening one."""

    __slots__ = ("items", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.items: list[str | Group] = []

    @property
    def head(self) -> str:
        """The first word; "" if there is none."""
        first = self.items[0] if self.items else ""
        return first if isinstance(first, str) else ""

    def __str__(self) -> str:
        # the beginning is enough for messages, of which this is a part
        text = f"({' '.join(str(item)[:60] for item in self.items[:8])}{' ...' if len(self.items) > 8 else ''})"
        return text if len(text) <= 60 else f"{text[:57]}..."


def too_deep(source: Source, position: int) -> Exception:
    """The error of a text that nests deeper than `DEEPEST`."""
    return source.error(position, f"got more than {DEEPEST} nested parentheses; allowed are fewer. Flatten it.")


def commands(source: Source) -> Iterator[Group]:
    """The outermost groups, comments left out.

    Raises:
        VnnlibError: parentheses do not match or nest too deeply, or words stand outside of them.
    """
    open_groups: list[Group] = []
    for match in _TOKEN.finditer(source.text):
        token = match[0]
        if token == "(":
            group = Group(match.start())
            if open_groups:
                open_groups[-1].items.append(group)
            open_groups.append(group)
            if len(open_groups) > DEEPEST:
                raise too_deep(source, match.start())
        elif token == ")":
            if not open_groups:
                raise source.error(match.start(), "got ')' that closes nothing; allowed are pairs. Remove it.")
            group = open_groups.pop()
            if not open_groups:
                yield group
        elif not token.startswith(";"):
            if not open_groups:
                raise source.error(
                    match.start(),
                    f"got {token[:40]!r}; allowed are commands in parentheses. Remove it.",
                )
            open_groups[-1].items.append(token)
    if open_groups:
        raise source.error(
            open_groups[-1].position, "got '(' that is never closed; allowed are pairs. The file may be cut off."
        )
