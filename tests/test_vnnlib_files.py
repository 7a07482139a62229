"""Published VNN-LIB files in both versions: their sizes, twins that say the same, and how long reading takes."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from geolip_lirpa.vnnlib import read_specification
from tests.vnnlib_texts import inequalities, normalised, vnnlib_files

SIZES = {
    "acasxu_2023": {(5, 5)},
    "mnist_fc": {(784, 10)},
    "nn4sys_lindex": {(1, 1)},
    "oval21": {(3072, 10)},
    "rl_benchmarks_2022": {(4, 2), (8, 4), (3, 1), (2, 1)},
    "safenlp_2024": {(30, 2)},
    "test": {(1, 1), (5, 5)},
    "verivital_2021": {(784, 10)},
}


@pytest.mark.parametrize("folder", ["vnnlib", "vnnlib2"])
def test_all_files_are_read(reference_data: Path, folder: str) -> None:
    files = vnnlib_files(reference_data, folder)
    assert files
    for file in files:
        spec = read_specification(file)
        benchmark = file.relative_to(reference_data / "vnncomp").parts[0]
        assert (spec.inputs, spec.outputs) in SIZES[benchmark], file
        assert spec.version == ("2.0" if folder == "vnnlib2" else "1.0")
        assert spec.cases
        for case in spec.cases:
            assert case.unsafe
            assert (case.box.inner_lower <= case.box.inner_upper).all()
            assert all(len(polytope.matrix) for polytope in case.unsafe)


def test_twins_say_the_same(reference_data: Path) -> None:
    twins = []
    for file in vnnlib_files(reference_data, "vnnlib"):
        parts = list(file.parts)
        parts[len(parts) - 1 - parts[::-1].index("vnnlib")] = "vnnlib2"
        twin = Path(*parts)
        if twin.is_file():
            twins.append((file, twin))
    assert len(twins) > 200
    for file, twin in twins:
        one, two = read_specification(file), read_specification(twin)
        assert normalised(one) == normalised(two), file
        assert all(np.array_equal(a.box.lower, b.box.lower) for a, b in zip(one.cases, two.cases, strict=True)), file
        assert (one.network, one.tensors) == (None, None)
        assert two.network is not None
        assert two.tensors is not None
        assert [t.name for t in two.tensors] == ["X", "Y"]


def test_two_boxes_of_a_published_property(reference_data: Path) -> None:
    spec = read_specification(reference_data / "vnncomp" / "acasxu_2023" / "vnnlib" / "prop_6.vnnlib")
    ends = [(Fraction(case.box.lower[1]), Fraction(case.box.upper[1])) for case in spec.cases]
    for (low, high), known in zip(ends, [("0.11140846", "0.499999896"), ("-0.499999896", "-0.11140846")], strict=True):
        assert low <= Fraction(known[0]) < low + Fraction(1, 2**53)
        assert high - Fraction(1, 2**53) < Fraction(known[1]) <= high
    rows = [{((-1.0, *(float(i == j) for i in range(1, 5))), 0.0, False)} for j in range(1, 5)]
    assert [[inequalities(p) for p in case.unsafe] for case in spec.cases] == [rows, rows]


@pytest.mark.parametrize("folder", ["vnnlib", "vnnlib2"])
def test_thousands_of_disjuncts_take_seconds(reference_data: Path, folder: str) -> None:
    path = reference_data / "vnncomp" / "nn4sys_lindex" / folder / "lindex_200.vnnlib"
    start = time.process_time()
    spec = read_specification(path)
    assert time.process_time() - start < 5
    assert len(spec.cases) == 200
    assert {len(case.unsafe) for case in spec.cases} == {2}
