"""Shell completion: options, their values, and lists of values."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHELLS = ("bash", "zsh", "fish")


def completed(shell: str, line: str) -> str:
    """What the program answers to a shell that asks how a line may go on."""
    environment = os.environ | {
        "_GEOLIP_LIRPA_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    command = [sys.executable, "-m", "geolip_lirpa"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_values_are_completed(shell: str) -> None:
    assert "geolip-anchored" in completed(shell, "geolip-lirpa verify --method geolip-a")


@pytest.mark.parametrize("shell", SHELLS)
def test_lists_are_completed_after_their_last_comma(shell: str) -> None:
    found = completed(shell, "geolip-lirpa bench --methods crown,al")
    assert "crown,alpha-crown" in found and "ibp" not in found
