"""Selections such as ``0,3-5`` of a network's outputs.

Place in the data flow: level 12, used by the commands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from geolip_lirpa.errors import SpecificationError

_PART = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", re.ASCII)


def parse_rows(text: str, option: str = "--rows") -> tuple[range, ...]:
    """Read ``"0,3-5"`` as ranges; both ends of a range belong to it.

    Raises:
        SpecificationError: malformed, or a range that runs backwards.
    """
    return tuple(_parse_part(text, part, option) for part in text.split(","))


def _parse_part(text: str, part: str, option: str) -> range:
    match = _PART.fullmatch(part)
    if match is None:
        raise SpecificationError(
            f"{option}: got {text!r}; {part!r} is neither a number nor a range like 3-5. "
            f"Write numbers from 0 on, separated by commas, for example {option} 0,3-5."
        )
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise SpecificationError(f"{option}: the range {part.strip()!r} runs backwards. Write it as {last}-{first}.")
    return range(first, last + 1)


def select_rows(ranges: Sequence[range], count: int) -> list[int]:
    """The selected outputs in the order given.

    Args:
        ranges: from `parse_rows`.
        count: number of outputs of the network.

    Raises:
        SpecificationError: an output does not exist or is named twice.
    """
    largest = max(part[-1] for part in ranges)
    if largest >= count:
        raise SpecificationError(
            f"--rows: got {largest}; the network has {count} outputs, numbered 0 to {count - 1}. Choose among these."
        )
    selected = [row for part in ranges for row in part]
    for row in selected:
        if selected.count(row) > 1:
            raise SpecificationError(f"--rows: output {row} is named twice. Name each output once.")
    return selected
