"""Search for inputs that violate a property, and a second opinion on properties that hold.

An input counts when onnxruntime, in float32, answers with outputs inside an unsafe polytope, compared exactly.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from exact_bounds import Chain, rows_of
from numpy.typing import NDArray
from properties import Box, Case, Polytope, Property
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

_STARTS = 64
_STEPS = 60
#: a polytope that is missed by less is not called unreachable
CLEAR = 1e-3


def witness(path: Path, chain: Chain, prop: Property) -> NDArray[np.float32] | None:
    """An input that violates the property by more than rounding (`CLEAR`, where the search gets so far); or None."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for case in prop.cases:
        for polytope in case.unsafe:
            for start in _descended(chain, case.box, polytope, generator):
                point = inside(start, case.box)
                outputs = session.run(None, {session.get_inputs()[0].name: point.reshape(1, *prop.shape)})[0][0]
                if violates(point, outputs, case):
                    return point
    return None


def violates(point: NDArray[np.float32], outputs: NDArray[np.float32], case: Case) -> bool:
    """Whether the input is in the box and the outputs are in one of the unsafe polytopes, exactly."""
    values = [Fraction(float(value)) for value in point]
    if not all(low <= value <= high for value, (low, high) in zip(values, case.box, strict=True)):
        return False
    exact = np.array([Fraction(float(value)) for value in outputs], dtype=object)
    for polytope in case.unsafe:
        matrix, bound = rows_of(polytope, len(outputs))
        if all(matrix @ exact <= bound):
            return True
    return False


def inside(point: NDArray[np.float64], ends: Box) -> NDArray[np.float32]:
    """The point in float32, moved to the next float32 inside where rounding led out of the box."""
    found = point.astype(np.float32)
    for i, (low, high) in enumerate(ends):
        if Fraction(float(found[i])) < Fraction(low):
            found[i] = np.nextafter(found[i], np.float32(np.inf))
        if Fraction(float(found[i])) > Fraction(high):
            found[i] = np.nextafter(found[i], np.float32(-np.inf))
    return found


def _descended(chain: Chain, ends: Box, polytope: Polytope, generator: torch.Generator) -> NDArray[np.float64]:
    """End points of projected sign descent of the largest violated row, the deepest first."""
    low = torch.tensor([float(pair[0]) for pair in ends], dtype=torch.float64)
    high = torch.tensor([float(pair[1]) for pair in ends], dtype=torch.float64)
    matrix, bound = (torch.from_numpy(part.astype(np.float64)) for part in rows_of(polytope, len(chain.maps[-1][1])))
    points = low + (high - low) * torch.rand(_STARTS, len(low), generator=generator, dtype=torch.float64)
    for step in range(_STEPS):
        points.requires_grad_()
        distance = (_outputs(chain, points) @ matrix.T - bound).max(dim=1).values
        (slope,) = torch.autograd.grad(distance.sum(), points)
        width = (high - low) * 0.25 * (1 - step / _STEPS)
        points = (points.detach() - width * slope.sign()).clamp(low, high)
    final = (_outputs(chain, points) @ matrix.T - bound).max(dim=1).values
    return points[final.argsort()[:4]].numpy()


def _outputs(chain: Chain, points: Tensor) -> Tensor:
    activation = torch.tanh if chain.activation == "tanh" else torch.relu
    for number, (matrix, offset) in enumerate(chain.maps):
        points = points if number == 0 else activation(points)
        points = points @ torch.from_numpy(matrix).T + torch.from_numpy(offset)
    return points


def clearly_unreachable(chain: Chain, prop: Property) -> bool:
    """Whether mixed-integer programming (HiGHS, not rigorous) finds every polytope missed by `CLEAR`; ReLU only."""
    return all(_distance(chain, case.box, polytope) > CLEAR for case in prop.cases for polytope in case.unsafe)


def _distance(chain: Chain, ends: Box, polytope: Polytope) -> float:
    """The smallest t for which an input of the box has ``A y <= b + t``, by a program with one binary a neuron.

    Variables are the input, then for each hidden layer its values a = max(z, 0) and binaries d, then t:
    a >= z, a >= 0, a <= z - l (1 - d), a <= u d, with interval bounds l <= z <= u.
    """
    low, high = (np.array([float(pair[side]) for pair in ends]) for side in (0, 1))
    widths = [len(low)] + [2 * len(offset) for _, offset in chain.maps[:-1]]
    total = sum(widths) + 1
    lower, upper = np.full(total, -np.inf), np.full(total, np.inf)
    lower[: len(low)], upper[: len(low)] = low, high
    integral = np.zeros(total)
    rows: list[LinearConstraint] = []
    before, begin = slice(0, len(low)), len(low)
    for matrix, offset in chain.maps[:-1]:
        size = len(offset)
        values, switches = slice(begin, begin + size), slice(begin + size, begin + 2 * size)
        positive, negative = np.maximum(matrix, 0), np.minimum(matrix, 0)
        low, high = positive @ low + negative @ high + offset, positive @ high + negative @ low + offset
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        unit = np.eye(size)
        above, below, off = (np.zeros((size, total)) for _ in range(3))
        above[:, values], above[:, before] = unit, -matrix
        below[:, values], below[:, before], below[:, switches] = unit, -matrix, np.diag(-low)
        off[:, values], off[:, switches] = unit, np.diag(-high)
        rows += [
            LinearConstraint(above, offset, np.inf),
            LinearConstraint(below, -np.inf, offset - low),
            LinearConstraint(off, -np.inf, 0.0),
        ]
        lower[values], upper[values], lower[switches], upper[switches], integral[switches] = 0.0, high, 0.0, 1.0, 1
        before, begin, low, high = values, begin + 2 * size, np.zeros(size), high
    weight, bound = (part.astype(np.float64) for part in rows_of(polytope, len(chain.maps[-1][1])))
    last = np.zeros((len(bound), total))
    last[:, before], last[:, -1] = weight @ chain.maps[-1][0], -1.0
    rows.append(LinearConstraint(last, -np.inf, bound - weight @ chain.maps[-1][1]))
    cost = np.zeros(total)
    cost[-1] = 1.0
    found = milp(cost, integrality=integral, bounds=Bounds(lower, upper), constraints=rows)
    return float(found.mip_dual_bound) if found.x is not None else -np.inf
