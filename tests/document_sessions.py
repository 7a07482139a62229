"""Runs the code of a document in order, as a reader would, and tells what it prints.

A fenced block of `python` is executed; a block of `text` behind it is what it prints. In a block of `console` the lines
that begin with `$` are commands, and the lines between them what they print. All blocks of a document share one folder,
in which `vnnlib_specs` lies, and one set of Python names.

`python tests/document_sessions.py docs/tutorials/*.md` writes what is printed now into the documents.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geolip_lirpa.cli import main
from geolip_lirpa.cli.threads import use_threads

ROOT = Path(__file__).resolve().parents[1]

_FENCE = re.compile(r"^```(python|text|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """What is run, and what the document says is printed; None where it says nothing."""

    source: str
    shown: str | None
    # where that stands in the document
    span: tuple[int, int]
    run: Callable[[dict[str, Any]], str]


def steps(text: str) -> list[Step]:
    """All steps of a document in order."""
    found: list[Step] = []
    blocks = list(_FENCE.finditer(text))
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block[1] == "python":
            shown = following if following is not None and following[1] == "text" else None
            found.append(_python(block[2], shown))
        elif block[1] == "console":
            commands = _COMMAND.finditer(text, block.start(2), block.end(2))
            found += [_command(command) for command in commands]
    return found


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[dict[str, Any]]:
    """The folder in which a document's steps run, and the names that they share."""
    use_threads(None)
    # named as a checkout is: commands print the folder's name
    place = folder / "geolip-lirpa"
    place.mkdir()
    (place / "vnnlib_specs").symlink_to(ROOT / "vnnlib_specs")
    with contextlib.chdir(place), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield {"__name__": "__main__"}


def _python(source: str, shown: re.Match[str] | None) -> Step:
    text, span = (None, (0, 0)) if shown is None else (shown[2], shown.span(2))
    return Step(source, text, span, lambda names: _captured(lambda: exec(compile(source, "document", "exec"), names)))


def _command(found: re.Match[str]) -> Step:
    line, shown = found[1], found[2]
    program, *arguments = shlex.split(line.replace("\\\n", " "))
    if program == "cat":
        return Step(line, shown, found.span(2), lambda _: Path(arguments[0]).read_text(encoding="utf-8"))
    assert program == "geolip-lirpa", f"the documents may use geolip-lirpa and cat, not {program}"
    return Step(line, shown, found.span(2), lambda _: _captured(lambda: main(arguments)))


def _captured(work: Callable[[], object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        work()
    return printed.getvalue()


def cells(text: str) -> list[list[str]]:
    """Printed text line by line; lines of tables cell by cell, without those that differ from run to run."""
    lines, passing = [], set()
    for line in text.splitlines():
        if "┃" in line:
            heads = [head.strip() for head in line.split("┃")]
            passing = {i for i, head in enumerate(heads) if head in ("seconds", "gap", "mean s", "boxes")}
        parts = re.split("[┃│╇]", line)
        kept = [" ".join(part.split()) for i, part in enumerate(parts) if len(parts) == 1 or i not in passing]
        if line.strip("━╇ ") and not line.startswith("seconds"):
            lines.append(kept)
    return lines


def write_again(path: Path) -> None:
    """Run a document and replace what it shows by what is printed."""
    text = path.read_text(encoding="utf-8")
    pieces, position = [], 0
    with tempfile.TemporaryDirectory() as folder, workplace(Path(folder)) as names:
        for step in steps(text):
            begin = time.process_time()
            printed = step.run(names)
            sys.stderr.write(f"{time.process_time() - begin:6.1f} s  {step.source.splitlines()[0]}\n")
            if step.shown is None:
                assert not printed, f"{path}: prints without a block of text behind it: {step.source}"
                continue
            pieces += [text[position : step.span[0]], printed]
            position = step.span[1]
    path.write_text("".join([*pieces, text[position:]]), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_again(Path(name).resolve())
