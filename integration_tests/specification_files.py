"""The repository's own specifications, and a check of witnesses that shares nothing with the package."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import make_specifications
import numpy as np
import onnxruntime
from properties import Property
from violations import violates

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
PROPERTIES = {prop.name: prop for prop in make_specifications.properties()}


@dataclass(frozen=True)
class Instance:
    """One line of ``instances.csv`` with what is expected of it."""

    network: Path
    specification: Path
    expected: str

    @property
    def statement(self) -> Property:
        """What the text says."""
        return PROPERTIES[self.specification.stem]

    @property
    def version(self) -> str:
        """Of the text."""
        return self.specification.parent.name


def instances() -> list[Instance]:
    """All of them."""
    with (FOLDER / "expected.csv").open(encoding="utf-8", newline="") as file:
        verdicts = {row["vnnlib"]: row["verdict"] for row in csv.DictReader(file)}
    with (FOLDER / "instances.csv").open(encoding="utf-8", newline="") as file:
        return [Instance(FOLDER / network, FOLDER / text, verdicts[text]) for network, text, _ in csv.reader(file)]


def instance(version: str, name: str) -> Instance:
    """One of them."""
    return next(i for i in instances() if (i.version, i.specification.stem) == (version, name))


def require_violation(found: Instance, witness: str) -> None:
    """The text has values of all variables, its inputs violate the property in onnxruntime, its outputs are those."""
    prop = found.statement
    size = int(np.prod(prop.shape))
    values = _pairs(witness, size, prop) if found.version == "1.0" else _blocks(witness, size, prop)
    point = values[:size].astype(np.float32)
    assert (point.astype(np.float64) == values[:size]).all(), "inputs are no float32 numbers"
    session = onnxruntime.InferenceSession(str(found.network), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: point.reshape(1, *prop.shape)})[0][0]
    assert (outputs.astype(np.float64) == values[size:]).all()
    assert any(violates(point, outputs, case) for case in prop.cases)


def _pairs(text: str, size: int, prop: Property) -> np.ndarray:
    assert text.startswith("((") and text.endswith("))\n")
    found = re.findall(r"\(([XY]_\d+) ([-+.e\d]+)\)", text)
    assert [name for name, _ in found] == [f"X_{i}" for i in range(size)] + [f"Y_{j}" for j in range(prop.outputs)]
    return np.array([float(value) for _, value in found])


def _blocks(text: str, size: int, prop: Property) -> np.ndarray:
    lines = text.splitlines()
    shape = ",".join(map(str, (1, *prop.shape)))
    assert lines[0] == f"X {prop.element} [{shape}]"
    assert lines[size + 1] == f"Y {prop.element} [1,{prop.outputs}]"
    assert len(lines) == size + prop.outputs + 2
    return np.array([float(line) for line in lines[1 : size + 1] + lines[size + 2 :]])
