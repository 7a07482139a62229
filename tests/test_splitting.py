"""Branch and bound: its bounds hold, its boxes and signs cover everything, and its answers are true."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from geolip_lirpa.activations import ReLU, Tanh
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.specification import Case, InputBox, Polytope, Specification
from geolip_lirpa.splitting import products
from geolip_lirpa.splitting.chain_bounds import Boxes, ChainBounds
from geolip_lirpa.splitting.domain_bounds import DomainBounds, Polytopes
from geolip_lirpa.splitting.domains import Domains
from geolip_lirpa.splitting.few_signs import FewSigns
from geolip_lirpa.splitting.inputs import Bounder, InputSplitting, SplitResult
from geolip_lirpa.splitting.network_bounds import NetworkBounds
from geolip_lirpa.splitting.neurons import NeuronSplitting
from geolip_lirpa.splitting.products import Product
from geolip_lirpa.splitting.relu_chain import ReluChain, relu_chain
from geolip_lirpa.splitting.relu_step import relu_lines
from geolip_lirpa.splitting.row_weights import mixed_weights
from geolip_lirpa.splitting.search import SearchOptions, candidates
from geolip_lirpa.splitting.targets import Targets
from tests.networks import random_convnet, random_mlp, random_residual
from tests.specification_cases import chain_of, dense_inputs, depth, random_specification

SEEDS = st.integers(0, 10_000)
# linear programs are exact up to this
EXACT = 1e-6


def boxes_of(specification: Specification) -> Boxes:
    cases = specification.cases
    return Boxes(
        torch.from_numpy(np.stack([c.box.lower for c in cases])),
        torch.from_numpy(np.stack([c.box.upper for c in cases])),
    )


def by_chain(chain: ReluChain) -> Bounder:
    return lambda boxes, known: ChainBounds.refined(chain, boxes, known)


def by_network(network: Network) -> Bounder:
    return lambda boxes, known: NetworkBounds(network, boxes, known)


def chain_by(network: Network, sparse: bool) -> ReluChain:
    """The chain with sparse or with dense products, whatever the sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_LARGE", 0 if sparse else 2**60)
        patch.setattr(products, "_SPARSE", 1.0)
        return chain_of(network)


def never() -> bool:
    return False


@given(SEEDS)
def test_a_chain_is_the_network(seed: int) -> None:
    network = random_mlp(seed, (4, 7, 5, 3))
    x = torch.randn((20, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(chain_of(network).forward(x), network.forward(x), rtol=1e-13, atol=1e-13)


@given(SEEDS, st.sampled_from([0.0, 0.02, 0.5]))
def test_products_are_those_of_the_matrix(seed: int, share: float) -> None:
    """Sparse and dense ones, from both sides, with gradients."""
    rng = np.random.default_rng(seed)
    matrix = torch.from_numpy(rng.normal(size=(130, 140)) * (rng.random((130, 140)) < share))
    product, rows = Product(matrix), torch.from_numpy(rng.normal(size=(7, 130)))
    assert (product.entries < 2000) == (share < 0.1)
    columns, weights = torch.from_numpy(rng.normal(size=(7, 140))), torch.from_numpy(rng.normal(size=(7, 140)))
    rows.requires_grad_(True), columns.requires_grad_(True)
    assert torch.allclose(product.back(rows), rows @ matrix, rtol=1e-12, atol=1e-12)
    assert torch.allclose(product.forth(columns), columns @ matrix.T, rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad((product.back(rows) * weights).sum(), rows)
    assert torch.allclose(found, weights @ matrix.T, rtol=1e-12, atol=1e-12)
    (found,) = torch.autograd.grad((product.forth(columns) * (weights @ matrix.T).detach()).sum(), columns)
    assert torch.allclose(found, weights @ matrix.T @ matrix, rtol=1e-12, atol=1e-12)


def test_convolutions_become_a_chain() -> None:
    network = random_convnet(1, size=6)
    x = torch.randn((5, 1, 6, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(chain_of(network).forward(x.flatten(1)), network.forward(x), rtol=1e-12, atol=1e-12)


@given(SEEDS, st.sampled_from([0.05, 0.5]))
def test_neurons_that_are_zero_are_left_out(seed: int, reach: float) -> None:
    chain = chain_of(random_mlp(seed, (4, 9, 7, 3)))
    specification = random_specification(seed, 4, 3, cases=2, reach=reach)
    hidden = ChainBounds.refined(chain, boxes_of(specification)).hidden
    small, left = chain.without_zeros(hidden)
    alive = [max(1, int((high > 0).any(dim=0).sum())) for _, high in hidden]
    assert small.sizes == [4, *alive, 3] and [low.shape[1] for low, _ in left] == alive
    for case in specification.cases:
        x = dense_inputs(case.box, 200, seed)
        assert torch.allclose(small.forward(x), chain.forward(x), rtol=1e-12, atol=1e-12)


def test_layers_that_are_zero_keep_a_neuron() -> None:
    chain = chain_of(random_mlp(0, (2, 3, 4, 2)))
    dead = [(torch.full((1, n), -2.0).double(), torch.full((1, n), -1.0).double()) for n in (3, 4)]
    small, _ = chain.without_zeros(dead)
    assert small.sizes == [2, 1, 1, 2]


def test_neurons_without_bounds_are_not_taken_for_zero() -> None:
    chain = chain_of(random_mlp(0, (2, 3, 2)))
    low, high = torch.full((2, 3), -2.0).double(), torch.full((2, 3), -1.0).double()
    high[1, 2] = torch.nan
    small, left = chain.without_zeros([(low, high)])
    assert small.sizes == [2, 1, 2] and torch.isnan(left[0][1][1, 0])
    assert torch.equal(small.steps[0].weight.matrix, chain.steps[0].weight.matrix[2:])


def test_other_networks_are_no_chains() -> None:
    assert relu_chain(random_residual(0)) is None
    assert relu_chain(random_mlp(0, (3, 4, 2), Tanh())) is None


@given(SEEDS, st.sampled_from([0.05, 0.5, 2.0]), st.booleans())
def test_bounds_enclose_neurons_and_rows(seed: int, reach: float, sparse: bool) -> None:
    chain = chain_by(random_mlp(seed, (4, 8, 8, 6, 3)), sparse)
    specification = random_specification(seed, 4, 3, cases=3, reach=reach)
    boxes, box = boxes_of(specification), torch.arange(3)
    bounds = ChainBounds.refined(chain, boxes)
    rows = torch.randn((3, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lower, slopes = bounds.rows(rows, box)
    again = ChainBounds.refined(chain, boxes, bounds.hidden)
    for number, case in enumerate(specification.cases):
        x = dense_inputs(case.box, 500, seed)
        values = x
        for l, step in enumerate(chain.steps[:-1]):
            values = values @ step.weight.matrix.T + step.bias
            for found in (bounds, again):
                assert (values >= found.hidden[l][0][number] - 1e-12).all()
                assert (values <= found.hidden[l][1][number] + 1e-12).all()
            values = values.clamp(min=0)
        at = chain.forward(x) @ rows[number]
        assert (at >= lower[number] - 1e-12).all()
        # the linear function behind the bound lies below as well, and has the bound as its minimum
        ends = torch.where(slopes[number] > 0, boxes.lower[number], boxes.upper[number])
        assert (at >= (x - ends) @ slopes[number] + lower[number] - 1e-9).all()


@given(SEEDS, st.booleans())
def test_rounding_is_charged(seed: int, sparse: bool) -> None:
    """Where nothing is relaxed the exact minimum is a sum of fractions; the bound may not exceed it."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(6, 5)) * 10.0 ** rng.integers(-6, 7, (6, 5)), rng.normal(size=(1, 6))]
    # large biases keep the neurons active
    size = float(np.abs(weights[0]).sum())
    biases = [size + 10.0 ** rng.integers(0, 9) * rng.random(6), rng.normal(size=1)]
    operations = [
        linear_operator(torch.from_numpy(w), torch.from_numpy(b)) for w, b in zip(weights, biases, strict=True)
    ]
    network = sequential((5,), [("first", operations[0]), ("relu", ReLU()), ("last", operations[1])])
    low = rng.uniform(-1, 0, 5)
    high = low + rng.uniform(0, 1, 5)
    boxes = Boxes(torch.from_numpy(low[None]), torch.from_numpy(high[None]))
    bounds = ChainBounds.refined(chain_by(network, sparse), boxes)
    lower, _ = bounds.rows(torch.ones((1, 1), dtype=torch.float64), torch.tensor([0]))
    exact = Fraction(float(biases[1][0])) + sum(
        Fraction(float(weights[1][0, i])) * Fraction(float(biases[0][i])) for i in range(6)
    )
    for j in range(5):
        slope = sum(Fraction(float(weights[1][0, i])) * Fraction(float(weights[0][i, j])) for i in range(6))
        exact += slope * Fraction(float(low[j] if slope > 0 else high[j]))
    assert Fraction(float(lower[0])) <= exact
    total = float((np.abs(weights[1]) @ (biases[0] + size))[0])
    assert float(exact - Fraction(float(lower[0]))) <= 1e-12 * total


@given(SEEDS)
def test_lines_enclose_relu(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = torch.from_numpy(np.sort(rng.normal(size=(2, 50)) * 10.0 ** rng.integers(-8, 9, 50), axis=0))
    low, high = ends[0][None], ends[1][None]
    lines = relu_lines(low, high)
    for share in np.linspace(0, 1, 9):
        for lo, hi, s, k, t in zip(low[0], high[0], lines.lower[0], lines.upper[0], lines.intercept[0], strict=True):
            v = Fraction(float(lo)) + Fraction(share) * (Fraction(float(hi)) - Fraction(float(lo)))
            z = max(Fraction(0), v)
            assert Fraction(float(s)) * v <= z <= Fraction(float(k)) * v + Fraction(float(t))


def test_lines_whose_slope_underflows_enclose_relu() -> None:
    low, high = torch.tensor([[-1e300]], dtype=torch.float64), torch.tensor([[1e-200]], dtype=torch.float64)
    lines = relu_lines(low, high)
    slope, intercept = Fraction(float(lines.upper)), Fraction(float(lines.intercept))
    assert slope * Fraction(1e-200) + intercept >= Fraction(1e-200)
    assert slope * Fraction(-1e300) + intercept >= 0


@given(SEEDS)
def test_any_slopes_and_forces_give_bounds_on_the_domain(seed: int) -> None:
    chain = chain_of(random_mlp(seed, (3, 6, 5, 2)))
    rng = np.random.default_rng(seed)
    box = InputBox.of(np.full(3, -1.0), np.full(3, 1.0))
    boxes = Boxes(torch.from_numpy(box.lower[None]), torch.from_numpy(box.upper[None]))
    root = ChainBounds.refined(chain, boxes)
    domain = Domains.start(torch.tensor([0]), root.hidden, torch.ones((1, 1), dtype=torch.float64))
    for _ in range(3):
        open_neurons = domain.undecided[0].nonzero()[:, 0]
        if not len(open_neurons):
            break
        half = domain.halves(open_neurons[rng.integers(len(open_neurons))][None])
        domain = half[torch.tensor([int(rng.integers(2))])]
    slopes = [torch.from_numpy(rng.random(s.shape)) for s in domain.slopes]
    forces = [torch.from_numpy(rng.exponential(size=s.shape)) * s.abs() for s in domain.signs]
    row = torch.from_numpy(rng.normal(size=(1, 2)))
    bounds = ChainBounds.given(chain, boxes, domain.hidden)
    shifts = [f * s for f, s in zip(forces, domain.signs, strict=True)]
    lower, _ = bounds.rows(row, torch.tensor([0]), slopes, shifts)
    x = dense_inputs(box, 4000, seed)
    inside, values = torch.ones(len(x), dtype=torch.bool), x
    for step, sign in zip(chain.steps[:-1], domain.signs, strict=True):
        values = values @ step.weight.matrix.T + step.bias
        inside &= (values * sign >= 0).all(dim=1)
        values = values.clamp(min=0)
    at = (chain.forward(x) @ row[0])[inside]
    assert (at >= lower[0] - 1e-12).all()
    # the same with what is chosen for some columns alone
    columns = [((low < 0) & (high > 0) | (sign != 0))[0].nonzero()[:, 0]
               for (low, high), sign in zip(domain.hidden, domain.signs, strict=True)]  # fmt: skip
    some = [[values[:, index] for values, index in zip(layers, columns, strict=True)] for layers in (slopes, shifts)]
    for rigorous in (True, False):
        whole, _ = bounds.rows(row, torch.tensor([0]), slopes, shifts, rigorous=rigorous)
        part, _ = bounds.rows(row, None, *some, columns=columns, rigorous=rigorous)
        assert torch.allclose(part, whole, rtol=1e-13, atol=1e-13)


@given(SEEDS)
def test_proven_bounds_of_weighted_rows(seed: int) -> None:
    """Polytopes of several rows: every weighting of their margins is a lower bound of the largest one."""
    chain = chain_of(random_mlp(seed, (3, 5, 3)))
    specification = random_specification(seed, 3, 3, cases=1, rows=3)
    polytope, box = specification.cases[0].unsafe[0], specification.cases[0].box
    boxes = boxes_of(specification)
    tasks = Polytopes(boxes, torch.from_numpy(polytope.matrix)[None], -torch.from_numpy(polytope.bound)[None])
    weights = torch.rand((1, len(polytope.bound)), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    weights = weights / weights.sum()
    bounds = DomainBounds(chain, tasks)
    domain = bounds.ascended(Domains.start(torch.tensor([0]), ChainBounds.refined(chain, boxes).hidden, weights), 10)
    x = dense_inputs(box, 2000, seed)
    margins = chain.forward(x) @ tasks.rows[0].T + tasks.offsets[0]
    assert float(bounds.proven(domain).lower[0]) <= float((margins @ domain.weights[0]).min()) + 1e-12
    assert float(domain.weights.min()) >= 0 and float(domain.weights.sum()) <= 1 + 1e-12


@pytest.mark.parametrize("kind", ["inputs", "few signs", "neurons", "network"])
@given(SEEDS)
def test_splitting_tells_the_truth(kind: str, seed: int) -> None:
    network = random_mlp(seed, (3, 3, 2, 2))
    chain = chain_of(network)
    specification = random_specification(seed, 3, 2)
    true, targets, boxes = depth(chain, specification), Targets.of(specification.cases, 2), boxes_of(specification)
    found: list[tuple[torch.Tensor, int]] = []

    def confirm(point: torch.Tensor, case: int) -> bool:
        found.append((point, case))
        return True

    counted = [0]

    def over() -> bool:
        counted[0] += 1
        return counted[0] > 300

    if kind == "neurons":
        hidden = ChainBounds.refined(chain, boxes).hidden
        result = NeuronSplitting(chain, targets, boxes, hidden, confirm, over).run()
    else:
        bounder = by_network(network) if kind == "network" else by_chain(chain)
        finish = FewSigns(chain, targets, confirm, over) if kind == "few signs" else None
        search = InputSplitting(bounder, chain.forward, targets, confirm, over, finish, patience=0)
        result = search.run(boxes, torch.arange(2))
    if result.proven:
        assert true > -EXACT
    if result.violated:
        point, case = found[-1]
        box = specification.cases[case].box
        assert true < EXACT
        assert (point.numpy() >= box.lower).all() and (point.numpy() <= box.upper).all()
    # within the limit all but the closest calls are settled
    if abs(true) > 0.02:
        assert result.proven != result.violated


@given(SEEDS, st.integers(1, 4))
def test_weights_of_rows_are_the_best(seed: int, rows: int) -> None:
    """The largest weighted sum is a linear program; the search reaches it for two rows, and is never below one row."""
    rng = np.random.default_rng(seed)
    margins, slopes, width = rng.normal(size=(1, rows)) - 0.3, rng.normal(size=(1, rows, 3)), rng.random((1, 3))
    weights = mixed_weights(*map(torch.from_numpy, (margins, slopes, width))).numpy()[0]
    ends = np.maximum(np.stack([slopes[0], -slopes[0]]), 0) * width

    def value(w: np.ndarray) -> float:
        return float(w @ margins[0] + np.minimum(w @ ends[0], w @ ends[1]).sum())

    # maximise m.w + sum s with s_j below both ends
    cost = -np.concatenate([margins[0], np.ones(3)])
    below = np.concatenate([np.hstack([-e.T, np.eye(3)]) for e in ends])
    simplex = np.concatenate([np.ones(rows), np.zeros(3)])[None]
    best = -linprog(cost, below, np.zeros(6), simplex, [1.0], [(0, None)] * rows + [(None, None)] * 3).fun
    assert (weights >= 0).all() and abs(weights.sum() - 1) < 1e-12
    assert margins.max() - 1e-12 <= value(weights) <= best + 1e-9
    if rows <= 2:
        assert value(weights) > best - 1e-8


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([0, 1, 2, 6]))
def test_an_attempt_proves_only_cases_that_hold(seed: int, rounds: int) -> None:
    network = random_mlp(seed, (3, 3, 2, 2))
    chain, specification = chain_of(network), random_specification(seed, 3, 2, cases=3)
    targets, boxes = Targets.of(specification.cases, 2), boxes_of(specification)
    hidden = ChainBounds.refined(chain, boxes).hidden
    found = NeuronSplitting(chain, targets, boxes, hidden, lambda point, case: False, never).attempt(rounds, 64)
    true = [depth(chain, Specification(3, 2, (case,))) for case in specification.cases]
    assert all(value > -EXACT for value, proven in zip(true, found.proven.tolist(), strict=True) if proven)
    if rounds == 6:
        # no more than five neurons can be without a sign, and few of them are
        assert all(found.proven[i] for i, value in enumerate(true) if value > 0.05)


def test_rows_that_only_together_exclude_a_violation() -> None:
    """One of x + e and e - x is positive everywhere; halving alone needs boxes as small as e."""
    first = torch.cat([torch.eye(3), -torch.eye(3)])
    second = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]])
    layers = [
        ("linear", linear_operator(first, torch.zeros(6))),
        ("relu", ReLU()),
        ("linear", linear_operator(second, torch.full((2,), 1e-4))),
    ]
    chain = chain_of(sequential((3,), layers))
    case = Case(InputBox.of(-np.ones(3), np.ones(3)), (Polytope.of(np.eye(2), np.zeros(2)),))
    targets, boxes = Targets.of((case,), 2), boxes_of(Specification(3, 2, (case,)))

    def reject(point: torch.Tensor, case: int) -> bool:
        return False

    def search(finish: FewSigns | None) -> SplitResult:
        splitting: InputSplitting

        def over() -> bool:
            return splitting.bounded > 5000

        splitting = InputSplitting(by_chain(chain), chain.forward, targets, reject, over, finish, patience=0)
        return splitting.run(boxes, torch.tensor([0]))

    assert not search(None).proven
    assert search(FewSigns(chain, targets, reject, never)).proven


@pytest.mark.parametrize(("drawn", "finds"), [(1, False), (128, True)])
def test_violations_on_faces_are_found_where_gradients_vanish(drawn: int, finds: bool) -> None:
    """Unsafe is x_0 >= 0.999 with x_1 in the middle fifth; elsewhere the outputs are constant."""
    layers = [
        (
            "first",
            linear_operator(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), torch.tensor([-0.99, -0.5, 0.5])),
        ),
        ("relu", ReLU()),
        ("second", linear_operator(torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, -1.0]]), torch.tensor([0.0, 0.1]))),
        ("relu again", ReLU()),
        ("last", linear_operator(torch.eye(2), torch.zeros(2))),
    ]
    chain = chain_of(sequential((2,), layers))
    case = Case(InputBox.of(np.zeros(2), np.ones(2)), (Polytope.of(-np.eye(2), np.array([-0.009, -0.01])),))
    low, high, targets = torch.zeros((1, 2)).double(), torch.ones((1, 2)).double(), Targets.of((case,), 2)
    found = list(candidates(chain.forward, low, high, targets, SearchOptions(drawn=drawn), never))
    assert bool(found) == finds
    assert all(point[0] >= 0.998 and abs(point[1] - 0.5) < 0.1 for point, _ in found)


def test_lines_of_bounds_whose_width_overflows_are_no_numbers() -> None:
    wide = torch.tensor([[1.7e308]], dtype=torch.float64)
    assert torch.isnan(relu_lines(-wide, wide).upper).all()


@given(SEEDS)
def test_a_step_back_through_relus_is_its_formula(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn((2, 3, 6), dtype=torch.float64, generator=generator)
    lines = relu_lines(ends.amin(dim=0), ends.amax(dim=0))
    c = torch.randn((3, 6), dtype=torch.float64, generator=generator, requires_grad=True)
    slopes = torch.rand((3, 6), dtype=torch.float64, generator=generator, requires_grad=True)
    lower = torch.where(lines.unstable, slopes, lines.lower)
    found, constant = lines.back(c, slopes)
    assert torch.equal(found, c.clamp(min=0) * lower + c.clamp(max=0) * lines.upper)
    assert torch.allclose(constant, (c.clamp(max=0) * lines.intercept).sum(1), rtol=1e-14, atol=0)
    assert torch.autograd.gradcheck(lines.back, (c, slopes))
    assert torch.equal(lines.back(c)[0], c.clamp(min=0) * lines.lower + c.clamp(max=0) * lines.upper)


def test_halves_cover_the_box_and_end_where_doubles_end() -> None:
    """A function with a zero inside of a box cannot be proven: the search gives up where no double is left."""
    network = sequential((1,), [("linear", linear_operator(torch.tensor([[1.0]]), torch.zeros(1)))])
    chain = chain_of(network)
    third = 1 / 3
    case = Case(
        InputBox.of(np.array([0.0]), np.array([1.0])),
        (Polytope.of(np.array([[1.0], [-1.0]]), np.array([third, -third])),),
    )
    targets = Targets.of((case,), 1)
    boxes = Boxes(torch.zeros((1, 1), dtype=torch.float64), torch.ones((1, 1), dtype=torch.float64))
    search = InputSplitting(by_chain(chain), chain.forward, targets, lambda point, case: False, never)
    result = search.run(boxes, torch.tensor([0]))
    assert not result.proven and not result.violated and result.stuck


def test_polytopes_without_rows_are_always_reached() -> None:
    case = Case(InputBox.of(np.zeros(1), np.ones(1)), (Polytope.of(np.zeros((0, 1)), np.zeros(0)),))
    targets = Targets.of((case,), 1)
    assert bool(targets.reached(torch.zeros((1, 1, 1), dtype=torch.float64)).all())
    assert not bool((targets.margins(torch.zeros(targets.offsets.shape, dtype=torch.float64)) > 0).any())
