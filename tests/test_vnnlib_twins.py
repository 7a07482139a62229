"""The repository's specifications in both versions are the same to the reader."""

from __future__ import annotations

from pathlib import Path

import make_specifications
import numpy as np
import pytest
from exact_bounds import rows_of
from properties import Property

from geolip_lirpa.vnnlib import read_specification

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"


@pytest.mark.parametrize("prop", make_specifications.properties(), ids=lambda prop: prop.name)
def test_both_versions_say_the_same(prop: Property) -> None:
    one, two = (read_specification(FOLDER / version / f"{prop.name}.vnnlib") for version in ("1.0", "2.0"))
    assert (one.version, two.version, one.network, two.network) == ("1.0", "2.0", None, "N")
    size = int(np.prod(prop.shape))
    assert {(s.inputs, s.outputs) for s in (one, two)} == {(size, prop.outputs)}
    assert len(one.cases) == len(two.cases) == len(prop.cases)
    for left, right in zip(one.cases, two.cases, strict=True):
        for name in ("lower", "upper", "inner_lower", "inner_upper"):
            np.testing.assert_array_equal(getattr(left.box, name), getattr(right.box, name))
        assert len(left.unsafe) == len(right.unsafe)
        for first, second in zip(left.unsafe, right.unsafe, strict=True):
            for name in ("matrix", "bound", "inner_bound", "strict"):
                np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("prop", make_specifications.properties(), ids=lambda prop: prop.name)
def test_the_reader_sees_what_the_script_meant(prop: Property) -> None:
    read = read_specification(FOLDER / "2.0" / f"{prop.name}.vnnlib")
    for case, meant in zip(read.cases, prop.cases, strict=True):
        for side, (outer, inner) in enumerate((("lower", "inner_lower"), ("upper", "inner_upper"))):
            exact = np.array([float(pair[side]) for pair in meant.box])
            for name in (outer, inner):
                assert (np.abs(getattr(case.box, name) - exact) <= np.spacing(np.abs(exact))).all()
        assert len(case.unsafe) == len(meant.unsafe)
        for polytope, rows in zip(case.unsafe, meant.unsafe, strict=True):
            matrix, bound = rows_of(rows, prop.outputs)
            np.testing.assert_array_equal(polytope.matrix, matrix.astype(float))
            np.testing.assert_allclose(polytope.bound, bound.astype(float), rtol=1e-15, atol=0)
