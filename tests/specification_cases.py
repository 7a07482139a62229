"""Small specifications for tests, and what is true of them: linear programs over all activation patterns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import linprog

from geolip_lirpa.network import Network
from geolip_lirpa.rounding import Array
from geolip_lirpa.specification import Case, InputBox, Polytope, Specification
from geolip_lirpa.splitting.relu_chain import ReluChain, relu_chain


def chain_of(network: Network) -> ReluChain:
    """The chain of a network that is one."""
    chain = relu_chain(network)
    assert chain is not None
    return chain


def random_specification(
    seed: int, inputs: int, outputs: int, cases: int = 2, rows: int = 2, reach: float = 1.0
) -> Specification:
    """Boxes of random widths (some inputs fixed) with one or two polytopes of up to `rows` rows."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(cases):
        middle, width = rng.normal(size=inputs), reach * rng.uniform(0.1, 1.0, inputs)
        width[rng.random(inputs) < 0.15] = 0.0
        unsafe = []
        for _ in range(rng.integers(1, 3)):
            count = rng.integers(1, rows + 1)
            unsafe.append(Polytope.of(rng.normal(size=(count, outputs)), rng.normal(size=count) - 0.5))
        found.append(Case(InputBox.of(middle - width, middle + width), tuple(unsafe)))
    return Specification(inputs, outputs, tuple(found))


def depth(chain: ReluChain, specification: Specification) -> float:
    """The smallest over all cases, polytopes and inputs of the largest row ``A f(x) - b``; negative: violated."""
    best = np.inf
    for case in specification.cases:
        for a, b, matrix, constant in linear_pieces(chain):
            for polytope in case.unsafe:
                # variables (x, t): minimise t with A (M x + k) - b <= t inside the piece
                upper = np.hstack([polytope.matrix @ matrix, -np.ones((len(polytope.bound), 1))])
                limits = polytope.bound - polytope.matrix @ constant
                inside = np.hstack([a, np.zeros((len(a), 1))])
                ends = [*zip(case.box.lower, case.box.upper, strict=True), (None, None)]
                goal = np.append(np.zeros(a.shape[1]), 1.0)
                found = linprog(goal, np.vstack([upper, inside]), np.append(limits, b), bounds=ends)
                if found.status == 0:
                    best = min(best, found.fun)
    return best


def linear_pieces(chain: ReluChain) -> Iterator[tuple[Array, Array, Array, Array]]:
    """For each activation pattern: ``a x <= b`` where it holds, and the network ``M x + k`` there."""
    sizes = chain.sizes[1:-1]
    for pattern in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        matrix, constant = np.eye(chain.sizes[0]), np.zeros(chain.sizes[0])
        rows, limits, first = [np.zeros((0, chain.sizes[0]))], [np.zeros(0)], 0
        for size, step in zip(sizes, chain.steps[:-1], strict=True):
            weight, bias = step.weight.matrix.numpy(), step.bias.numpy()
            matrix, constant = weight @ matrix, weight @ constant + bias
            on = np.array(pattern[first : first + size])
            first += size
            sign = 1.0 - 2.0 * on
            rows.append(sign[:, None] * matrix)
            limits.append(-sign * constant)
            matrix, constant = on[:, None] * matrix, on * constant
        last = chain.steps[-1]
        weight, bias = last.weight.matrix.numpy(), last.bias.numpy()
        yield np.vstack(rows), np.concatenate(limits), weight @ matrix, weight @ constant + bias


def dense_inputs(box: InputBox, count: int, seed: int = 0) -> torch.Tensor:
    """Points of a box, many at its corners, (count, n)."""
    rng = np.random.default_rng(seed)
    share = rng.random((count, box.size))
    share = np.where(rng.random((count, 1)) < 0.5, share.round(), share)
    points = box.lower + share * (box.upper - box.lower)
    return torch.from_numpy(np.clip(points, box.lower, box.upper))
