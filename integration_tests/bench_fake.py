"""Stands for `verify_onnx.verify_files` in tests of the runner: what it does is written in the specification.

A specification has comments ``; METHOD WORD [NUMBER]``, for all methods if METHOD is ``*``; WORD is a verdict with its
bound, or what is to go wrong. Every call leaves a line in ``calls`` next to the specification.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from geolip_lirpa.errors import VnnlibError
from geolip_lirpa.verify_types import Verdict, VerifyOptions, VerifyResult, Witness

FUNCTION = "bench_fake:verify"


def verify(onnx: Path, vnnlib: Path, options: VerifyOptions) -> VerifyResult:
    word, number = _instruction(vnnlib.read_text(), options.method)
    with (vnnlib.parent / "calls").open("a") as file:
        file.write(f"{vnnlib.name} {options.method} {options.timeout}\n")
    if word == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "exit":
        os._exit(5)
    if word == "refuse":
        raise VnnlibError(f"{vnnlib}:1: something\nis wrong. Correct it.")
    if word == "defect":
        raise RuntimeError("unexpected")
    if word in ("sleep", "late"):
        time.sleep(number)
    if word in ("sleep", "hang"):
        time.sleep(0 if word == "sleep" else 1000)
        word, number = "unsat", 1.0
    verdict = Verdict("unsat" if word == "late" else word)
    witness = Witness(np.array([0.125, number]), np.array([-1.0])) if verdict is Verdict.SAT else None
    bound = None if verdict is Verdict.SAT else number
    reason = "nothing was found" if verdict is Verdict.UNKNOWN else ""
    return VerifyResult(verdict, witness, bound, 0.0, ("crown", "splitting"), 3, reason)


def _instruction(text: str, method: str) -> tuple[str, float]:
    for line in text.splitlines():
        if not line.startswith("; "):
            continue
        name, word, *rest = line[2:].split()
        if name in ("*", method):
            return word, float(rest[0]) if rest else 0.0
    raise ValueError(f"nothing is written for {method}")
