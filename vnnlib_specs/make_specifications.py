"""Write the specifications of this folder, both versions of each, with their verdicts.

Run ``python vnnlib_specs/make_specifications.py`` from the repository's root; it takes about a minute and overwrites
``1.0/``, ``2.0/``, ``instances.csv`` and ``expected.csv``. The networks are read, not made; nothing is random but the
starts of the search, which are fixed by a seed.

A verdict is ``sat`` when the search finds a witness that onnxruntime confirms, ``unsat`` when rational arithmetic
proves the property (`exact_bounds`) and, for ReLU networks, mixed-integer programming agrees, and ``unknown``
otherwise.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

import numpy as np
import torch
from chains import read_chain
from exact_bounds import holds
from properties import Case, Property, box, conjunction, robustness, version_1, version_2
from violations import clearly_unreachable, witness

FOLDER = Path(__file__).parent
VERSIONS = {"1.0": version_1, "2.0": version_2}
TIMEOUT = 60

#: network, test image, l_inf distance
_DIGITS = (
    ("digits_32-32.onnx", 1, "0.03"), ("digits_32-32.onnx", 1, "0.05"), ("digits_32-32.onnx", 2, "0.05"),
    ("digits_32-32.onnx", 2, "0.08"), ("digits_32-32.onnx", 5, "0.08"),
    ("digits_conv.onnx", 1, "0.03"), ("digits_conv.onnx", 1, "0.05"), ("digits_conv.onnx", 2, "0.08"),
    ("digits_conv.onnx", 5, "0.08"),
    ("digits_residual.onnx", 1, "0.02"), ("digits_residual.onnx", 1, "0.05"), ("digits_residual.onnx", 2, "0.05"),
    ("digits_residual.onnx", 5, "0.05"),
    ("digits_tanh.onnx", 1, "0.05"), ("digits_tanh.onnx", 8, "0.03"),
)  # fmt: skip


def digits() -> list[Property]:
    """Robustness of the classifiers."""
    with np.load(FOLDER / "digits_test.npz") as data:
        images, labels = data["images"], data["labels"]
    return [
        robustness(name, (1, 8, 8) if "conv" in name else (64,), image, int(labels[image]), images[image], eps)
        for name, image, eps in _DIGITS
    ]


def _pendulum(name: str, comment: str, *cases: Case) -> Property:
    return Property(f"pendulum_{name}", "pendulum.onnx", (2,), 2, "float32", cases, comment)


def _cart(name: str, comment: str, *cases: Case) -> Property:
    return Property(f"cart_pole_{name}", "cart_pole.onnx", (4,), 1, "float32", cases, comment)


def pendulum() -> list[Property]:
    """Inputs are angle and rate, outputs torque and angular acceleration."""
    anywhere = box("-0.6 0.6", "-1.5 1.5")
    falling_right, falling_left = box("0.2 0.5", "0.3 1.0"), box("-0.5 -0.2", "-1.0 -0.3")
    too_much = (conjunction("0 >= 10.6"), conjunction("0 <= -10.6"))
    outside = (conjunction("0 >= 10.0"), conjunction("0 <= -10.0"))
    return [
        _pendulum("limit", "the torque stays within 10.6 N m", Case(anywhere, too_much)),
        _pendulum("limit_exceeded", "the torque stays within 10 N m", Case(anywhere, outside)),
        _pendulum(
            "pushes_back", "leaning and falling, it is pushed back; a union of boxes, each with its own outputs",
            Case(falling_right, (conjunction("0 >= -5.0"),)), Case(falling_left, (conjunction("0 <= 5.0"),)),
        ),
        _pendulum(
            "turns_back", "leaning and falling to one side, it turns back; a union of boxes with shared outputs",
            Case(falling_right, (conjunction("0 >= -2.0", "1 >= -1.0"),)),
            Case(box("0.1 0.2", "0.5 1.2"), (conjunction("0 >= -2.0", "1 >= -1.0"),)),
        ),
        _pendulum(
            "turns_back_hard", "leaning and falling, acceleration and torque oppose it; a disjunction of conjunctions",
            Case(falling_right, (conjunction("0 >= -9.0", "1 >= -6.0"), conjunction("1 >= 0.0"))),
        ),
        _pendulum("comparison", "at rest on the right, torque is below acceleration",
                  Case(box("0.1 0.4", "-0.1 0.1"), (conjunction("0 >= 1"),))),
        _pendulum("comparison_reversed", "at rest, torque is below acceleration",
                  Case(box("-0.1 0.4", "-0.1 0.1"), (conjunction("0 >= 1"),))),
    ]  # fmt: skip


def cart_pole() -> list[Property]:
    """Inputs are position, speed, angle and rate; the output is the force."""
    right, left = conjunction("0 >= 0.0"), conjunction("0 <= 0.0")
    return [
        _cart("limit", "the force stays within 12 N near the goal",
              Case(box("-0.5 0.5", "-0.5 0.5", "-0.1 0.1", "-0.3 0.3"),
                   (conjunction("0 >= 12.0"), conjunction("0 <= -12.0")))),
        _cart("follows", "the pole leans to the right, the cart follows",
              Case(box("-0.1 0.1", "-0.1 0.1", "0.1 0.2", "0.0 0.5"), (left,))),
        _cart("follows_from_afar", "the pole leans, the cart follows wherever it is",
              Case(box("-2 2", "-1 1", "0.05 0.1", "-0.2 0.5"), (left,))),
        _cart("both_sides", "the cart follows the pole to both sides; a union of boxes, each with its own outputs",
              Case(box("-0.1 0.1", "-0.1 0.1", "0.1 0.2", "0.0 0.5"), (left,)),
              Case(box("-0.1 0.1", "-0.1 0.1", "-0.2 -0.1", "-0.5 0.0"), (right,))),
    ]  # fmt: skip


def properties() -> list[Property]:
    """All of them, in the order of the files."""
    return digits() + pendulum() + cart_pole()


def verdict(prop: Property, folder: Path = FOLDER) -> tuple[str, str]:
    """``sat``, ``unsat`` or ``unknown``, and why."""
    path = folder / prop.network
    chain = read_chain(path)
    if witness(path, chain, prop) is not None:
        return "sat", "witness, replayed in onnxruntime"
    if not holds(chain, prop):
        return "unknown", "neither a witness nor a proof"
    if chain.activation == "tanh":
        return "unsat", "rational arithmetic"
    if not clearly_unreachable(chain, prop):
        return "unknown", "proven in rational arithmetic, but mixed-integer programming disagrees"
    return "unsat", "rational arithmetic, and mixed-integer programming agrees"


def write_texts(folder: Path) -> None:
    """The specifications and ``instances.csv``, as they are in competitions: without a header."""
    listed = io.StringIO()
    rows = csv.writer(listed, lineterminator="\n")
    for version, text in VERSIONS.items():
        (folder / version).mkdir(exist_ok=True)
        for prop in properties():
            name = f"{version}/{prop.name}.vnnlib"
            (folder / name).write_text(text(prop), encoding="utf-8")
            rows.writerow([prop.network, name, TIMEOUT])
    (folder / "instances.csv").write_text(listed.getvalue(), encoding="utf-8")


def write_verdicts(folder: Path) -> None:
    """``expected.csv``: the verdict of each line of ``instances.csv``; it does not depend on the version."""
    listed = io.StringIO()
    rows = csv.writer(listed, lineterminator="\n")
    rows.writerow(["onnx", "vnnlib", "verdict", "basis"])
    answers = []
    for prop in properties():
        found, basis = verdict(prop)
        print(f"{prop.name}: {found} ({basis})", flush=True)
        answers.append((prop, found, basis))
    for version in VERSIONS:
        rows.writerows([prop.network, f"{version}/{prop.name}.vnnlib", found, basis] for prop, found, basis in answers)
    (folder / "expected.csv").write_text(listed.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the specifications and their verdicts.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (default: here)")
    torch.set_num_threads(1)
    target = parser.parse_args().folder
    write_texts(target)
    write_verdicts(target)
