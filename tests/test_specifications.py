"""The specifications that the repository ships: made by their script, with verdicts that it finds again."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import make_specifications
import numpy as np
import pytest
from chains import read_chain
from exact_bounds import Chain, holds, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import Case, Property, box, conjunction
from violations import clearly_unreachable, witness

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
PROPERTIES = {prop.name: prop for prop in make_specifications.properties()}
# what takes no more than some seconds
QUICK = [name for name in PROPERTIES if not name.startswith(("digits_residual", "digits_32")) and name[-5:] != "limit"]


def _expected() -> dict[str, dict[str, str]]:
    with (FOLDER / "expected.csv").open(encoding="utf-8", newline="") as file:
        return {row["vnnlib"]: row for row in csv.DictReader(file)}


def test_script_writes_the_same_texts(tmp_path: Path) -> None:
    make_specifications.write_texts(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    stored = [path.relative_to(FOLDER) for version in ("1.0", "2.0") for path in (FOLDER / version).iterdir()]
    assert made == sorted([*stored, Path("instances.csv")])
    for path in made:
        assert (tmp_path / path).read_bytes() == (FOLDER / path).read_bytes(), path


def test_folder_is_small_and_every_property_has_a_verdict() -> None:
    expected = _expected()
    assert 20 <= len(PROPERTIES) <= 30
    assert list(expected) == [f"{version}/{name}.vnnlib" for version in ("1.0", "2.0") for name in PROPERTIES]
    assert {row["verdict"] for row in expected.values()} == {"sat", "unsat", "unknown"}
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 1_000_000
    with (FOLDER / "instances.csv").open(encoding="utf-8", newline="") as file:
        instances = list(csv.reader(file))
    assert len(instances) == len(expected)
    for network, specification, seconds in instances:
        assert (FOLDER / network).is_file() and (FOLDER / specification).is_file() and float(seconds) > 0
        assert expected[specification]["onnx"] == network


@pytest.mark.parametrize("name", QUICK)
def test_verdict_is_found_again(name: str) -> None:
    found = make_specifications.verdict(PROPERTIES[name])
    for version in ("1.0", "2.0"):
        expected = _expected()[f"{version}/{name}.vnnlib"]
        assert (expected["verdict"], expected["basis"]) == found


def test_chains_are_the_networks() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    for path in sorted(FOLDER.glob("*.onnx")):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        chain = read_chain(path)
        shape = [size if isinstance(size, int) else 7 for size in session.get_inputs()[0].shape]
        points = np.random.default_rng(0).random(shape).astype(np.float32)
        found = session.run(None, {session.get_inputs()[0].name: points})[0]
        np.testing.assert_allclose(_forward(chain, points.reshape(7, -1)), found, rtol=1e-4, atol=1e-4)


def _forward(chain: Chain, points: np.ndarray) -> np.ndarray:
    for number, (matrix, offset) in enumerate(chain.maps):
        if number:
            points = np.tanh(points) if chain.activation == "tanh" else np.maximum(points, 0)
        points = points @ matrix.T + offset
    return points


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), activation=st.sampled_from(["relu", "tanh"]), bound=st.integers(-8, 8))
def test_what_is_proven_holds_everywhere(seed: int, activation: str, bound: int) -> None:
    """Rational arithmetic never proves what a sample refutes."""
    rng = np.random.default_rng(seed)
    sizes = [2, 4, 3, 2]
    maps = [(rng.normal(size=(o, i)), rng.normal(size=o)) for i, o in itertools.pairwise(sizes)]
    chain = Chain(tuple(maps), activation)
    unsafe = (conjunction(f"0 <= {bound / 4}", "1 >= 0"), conjunction(f"1 <= {-abs(bound) / 2}"))
    prop = Property("", "", (2,), 2, "real", (Case(box("-1.0 0.5", "0.25 0.75"), unsafe),), "")
    outputs = _forward(chain, rng.random((4000, 2)) * [1.5, 0.5] + [-1.0, 0.25])
    reached = any(
        bool((outputs @ matrix.astype(float).T <= offset.astype(float)).all(axis=1).any())
        for matrix, offset in (rows_of(polytope, 2) for polytope in unsafe)
    )
    proven = holds(chain, prop)
    assert not (proven and reached)
    if activation == "relu" and clearly_unreachable(chain, prop):
        assert not reached


def test_a_property_on_the_edge_is_not_called_proven() -> None:
    """f(x) = relu(x) reaches 0 exactly; the closed set y <= 0 is met, y <= -2^-30 is not."""
    chain = Chain(((np.eye(1), np.zeros(1)), (np.eye(1), np.zeros(1))), "relu")

    def unsafe(row: str) -> Property:
        return Property("", "", (1,), 1, "real", (Case(box("-1.0 1.0"), (conjunction(row),)),), "")

    assert not holds(chain, unsafe("0 <= 0.0"))
    assert holds(chain, unsafe("0 <= -0.000000001"))


@pytest.mark.parametrize("name", sorted({Path(n).stem for n, r in _expected().items() if r["verdict"] == "unsat"}))
def test_search_finds_nothing_where_it_holds(name: str) -> None:
    prop = PROPERTIES[name]
    path = FOLDER / prop.network
    assert witness(path, read_chain(path), prop) is None
