"""Bounds by blocks: sound for any cuts and weights, close to the whole program's value, and proven again from files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geolip_lirpa import affine
from geolip_lirpa.activations import ReLU
from geolip_lirpa.activations.base import Activation
from geolip_lirpa.baselines import brute_force, norm_product
from geolip_lirpa.block_bounding import bound_by_blocks
from geolip_lirpa.certificate import Certificate, Claim, check
from geolip_lirpa.certificate_file import load_certificate, save_certificate
from geolip_lirpa.certificate_records import digest
from geolip_lirpa.composition import (
    WEIGHT_RANGE,
    Composition,
    Front,
    cut_positions,
    front_constant,
    is_valid,
    last_block,
    product,
    split,
)
from geolip_lirpa.compositional import _channelwise, compose, compose_rows, mark_cuts
from geolip_lirpa.cut_planning import plan_cuts
from geolip_lirpa.errors import CertificateError, SpecificationError
from geolip_lirpa.gain_proof import GainProgram, prove_gain, verify_gain
from geolip_lirpa.lipschitz_types import LipschitzOptions
from geolip_lirpa.network import AffineOperator, Network, Node, linear_operator, sequential
from geolip_lirpa.network_lipschitz import LipschitzInterrupted, global_problem, network_lipschitz
from geolip_lirpa.sdp import Multipliers, SdpInstance
from geolip_lirpa.slopes import global_slopes
from geolip_lirpa.solvers.low_rank import LowRankSolver
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import (
    lipschitz_instance,
    random_linear,
    random_mlp,
    random_residual,
    random_skip,
    signed_sum,
    with_random_slopes,
)
from tests.reference import reference_network, reference_value

SOLVER = LowRankSolver(rank=6)


@pytest.fixture(autouse=True)
def coarse_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms of convolutions from fewer frequencies: a little looser, and quick."""
    monkeypatch.setattr("geolip_lirpa.stencils._GRID_OPERATIONS", 1e9)


def layers_at_most(count: int) -> Callable[[SdpInstance], bool]:
    return lambda instance: len(instance.slopes) <= count


def nothing(_: SdpInstance) -> bool:
    return False


def two_residual_blocks(seed: int, width: int = 3, outputs: int = 2) -> Network:
    """Linear, ReLU, two blocks ``relu(x + W relu(V x))``, the second before its own activation, linear."""
    generator = torch.Generator().manual_seed(seed)
    shape = (width,)

    def linear(rows: int = width) -> AffineOperator:
        return random_linear(rows, width, generator)

    return Network(
        (
            Node("input", shape),
            Node("stem", shape, (0,), linear()),
            Node("relu0", shape, (1,), ReLU()),
            Node("a", shape, (2,), linear()),
            Node("relu1", shape, (3,), ReLU()),
            Node("b", shape, (4,), linear()),
            Node("add0", shape, (5, 2), signed_sum()),
            Node("relu2", shape, (6,), ReLU()),
            Node("c", shape, (6,), linear()),
            Node("add1", shape, (8, 7), signed_sum()),
            Node("head", (outputs,), (9,), linear(outputs)),
        )
    )


def convolutional(seed: int, channels: int = 2, size: int = 4) -> Network:
    generator = torch.Generator().manual_seed(seed)
    operations: list[tuple[str, AffineOperator | Activation]] = []
    for number in range(3):
        weight = torch.randn((channels, channels, 3, 3), generator=generator) / 3
        conv = affine.convolution(weight, None, stride=[1, 1], padding=[1, 1], dilation=[1, 1])
        operations += [(f"conv{number}", conv), (f"relu{number}", ReLU())]
    shape = (channels, size, size)
    operations.append(("mean", affine.reduction([1, 2], shape, keepdim=False, mean=True)))
    operations.append(("head", random_linear(2, channels, generator)))
    return sequential(shape, operations)


# --- cuts -------------------------------------------------------------------------------------------------------------


def _separates(network: Network, cut: int) -> bool:
    """Whether the output cannot be reached from the input without the cut, by search."""
    reached = {0}
    for position, node in enumerate(network.nodes):
        if position != cut and any(i in reached for i in node.inputs):
            reached.add(position)
    return len(network.nodes) - 1 not in reached


@pytest.mark.parametrize(
    "network",
    [random_mlp(0, (3, 4, 4, 2)), random_residual(0), random_skip(0, (3, 4, 2)), two_residual_blocks(0)],
)
def test_cuts_separate_input_and_output(network: Network) -> None:
    inner = range(1, len(network.nodes) - 1)
    assert cut_positions(network) == tuple(c for c in inner if _separates(network, c))


def test_blocks_put_together_are_the_network() -> None:
    network = two_residual_blocks(1)
    instance = lipschitz_instance(network)
    x = torch.randn((5, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for cuts in ((2,), (6,), (9,), (2, 6), (1, 2, 6, 9)):
        value = x
        for block, cut in zip(split(instance, cuts, [np.ones(3)] * len(cuts)), (*cuts, None), strict=True):
            value = block.network.values(value)[-1]
            if cut is not None and cut in network.activations:
                value = ReLU().value(value)
        assert torch.equal(value, network.forward(x))


def test_cuts_are_few_and_in_the_middle() -> None:
    instance = lipschitz_instance(random_mlp(0, (4, *[5] * 6, 2)))
    assert plan_cuts(instance, layers_at_most(6)) is None
    plan = plan_cuts(instance, layers_at_most(3))
    assert plan is not None and len(plan.cuts) == 1 and plan.cuts[0] in instance.network.activations[2:4]
    without = plan_cuts(instance, nothing)
    assert without is not None and not any(without.by_multipliers)
    whole = plan_cuts(lipschitz_instance(random_skip(0, (3, 4, 2))), nothing)
    assert whole is None


# --- soundness --------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from([Norm.L2, Norm.LINF]),
    output=st.sampled_from([OutputNorm.ROWS, OutputNorm.L1, OutputNorm.L2]),
    kind=st.sampled_from(["chain", "residual", "blocks"]),
    local=st.booleans(),
    layers=st.integers(0, 1),
)
def test_bounds_are_above_the_exact_formal_constant(
    seed: int, norm: Norm, output: OutputNorm, kind: str, local: bool, layers: int
) -> None:
    makers = {
        "chain": lambda: random_mlp(seed, (3, 4, 3, 3, 2)),
        "residual": lambda: random_residual(seed, width=3),
        "blocks": lambda: two_residual_blocks(seed),
    }
    network = makers[kind]()
    scale = torch.rand(network.input_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1
    instance = lipschitz_instance(network, norm=norm, output=output, input_scale=scale)
    if local:
        instance = with_random_slopes(instance, seed)
    found = compose(instance, SOLVER, layers_at_most(layers))
    assert found is not None
    assert brute_force(instance) <= found.upper * (1 + 1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from([Norm.L2, Norm.LINF]), by_norms=st.booleans())
def test_any_weights_are_sound(seed: int, norm: Norm, by_norms: bool) -> None:
    """Weights over twenty orders of magnitude, drawn without regard to the network."""
    generator = np.random.default_rng(seed)
    network = two_residual_blocks(seed)
    instance = with_random_slopes(lipschitz_instance(network, norm=norm), seed)
    cuts = sorted(generator.choice(cut_positions(network), size=2, replace=False).tolist())
    weights = [10.0 ** generator.uniform(-10, 10, size=network.nodes[c].size) for c in cuts]
    constants = []
    for block in split(instance, cuts, weights):
        if by_norms:
            constants.append(block.norm_bound())
            continue
        constants.append(brute_force(block.program()) if block.output is OutputNorm.ROWS else block.norm_bound())
    assert brute_force(instance) <= product(constants) * (1 + 1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from([Norm.L2, Norm.LINF]), local=st.booleans())
def test_proven_gains_are_above_the_exact_ones(seed: int, norm: Norm, local: bool) -> None:
    """Against all slope patterns of the block, its output weighted at random; a tenth less is not proven."""
    generator = np.random.default_rng(seed)
    instance = lipschitz_instance(random_mlp(seed, (3, 4, 3, 3)), norm=norm)
    instance = with_random_slopes(instance, seed) if local else instance
    weights = torch.from_numpy(10.0 ** generator.uniform(-3, 3, size=3))
    program = GainProgram.of(instance.network, instance.slopes, norm, instance.input_scale, weights)
    whole = replace(instance, rows=torch.diag(weights), output=OutputNorm.L2)
    m = LowRankSolver(rank=12).solve([whole])[0].multipliers
    factor = float(m.output[0])
    scaled = Multipliers(tuple(factor * h for h in m.hidden), factor * m.input, np.ones(1))
    upper, proof = prove_gain(program, scaled)
    exact = brute_force(whole)
    assert exact <= upper
    again = verify_gain(program, proof)
    assert again is not None and again <= upper
    shrunk = (exact / upper) ** 2 * 0.9
    for forged in (
        replace(proof, input=shrunk * proof.input),
        Multipliers(tuple(shrunk * h for h in proof.hidden), shrunk * proof.input, proof.output),
        replace(proof, input=-proof.input),
        replace(proof, input=np.nan * proof.input),
        replace(proof, hidden=proof.hidden[:-1]),
        replace(proof, input=np.zeros_like(proof.input)),
    ):
        assert verify_gain(program, forged) is None


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_inputs_and_neurons_that_nobody_reads(norm: Norm) -> None:
    """They have no multipliers in the solution, and must not keep the block from being proven."""
    network = random_mlp(0, (4, 5, 4, 2))
    weights = [node.operation.parameters[0].clone() for node in network.nodes[1::2]]  # type: ignore[union-attr]
    weights[0][:, 1] = 0.0
    weights[1][:, 2] = 0.0
    weights[0][3] = 0.0
    nodes = list(network.nodes)
    for position, weight in zip((1, 3, 5), weights, strict=True):
        nodes[position] = replace(nodes[position], operation=linear_operator(weight))
    instance = lipschitz_instance(Network(tuple(nodes)), norm=norm)
    found = compose(instance, SOLVER, layers_at_most(1))
    assert found is not None and None not in found.composition.front.proofs
    assert brute_force(instance) <= found.upper <= 2 * brute_force(instance)


def test_neurons_that_cannot_move_carry_no_weight() -> None:
    """Slopes of zero at a cut: the block before it has a zero row, and the bound is that of the other neurons."""
    network = random_mlp(5, (3, 4, 4, 1))
    instance = lipschitz_instance(network, norm=Norm.L2)
    slopes = list(instance.slopes)
    slopes[0] = replace(slopes[0], upper=torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64))
    dead = replace(instance, slopes=tuple(slopes))
    block = split(dead, [2], [np.ones(4)])[0]
    assert block.weights is not None and block.weights.tolist() == [0.0, 1.0, 0.0, 1.0]
    found = compose(dead, SOLVER, layers_at_most(1))
    assert found is not None
    assert brute_force(dead) <= found.upper < 0.99 * brute_force(instance)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_layers_of_extreme_sizes(factor: float) -> None:
    """Layers scaled against each other leave the bound where it was."""
    generator = torch.Generator().manual_seed(0)
    first, middle, last = (random_linear(3, 3, generator) for _ in range(3))
    plain: list[tuple[str, AffineOperator | Activation]] = [
        ("a", first), ("relu0", ReLU()), ("b", middle), ("relu1", ReLU()), ("c", last),
    ]  # fmt: skip
    scaled = list(plain)
    scaled[0] = ("a", linear_operator(first.parameters[0] * factor))
    scaled[4] = ("c", linear_operator(last.parameters[0] / factor))
    uppers = []
    for operations in (plain, scaled):
        found = compose(lipschitz_instance(sequential((3,), operations)), SOLVER, layers_at_most(1))
        assert found is not None
        uppers.append(found.upper)
    assert uppers[1] == pytest.approx(uppers[0], rel=1e-4)


def test_zero_weights_in_a_layer_give_zero() -> None:
    network = random_mlp(0, (3, 4, 4, 2))
    nodes = list(network.nodes)
    nodes[3] = replace(nodes[3], operation=linear_operator(torch.zeros(4, 4)))
    found = compose(lipschitz_instance(Network(tuple(nodes))), SOLVER, layers_at_most(1))
    assert found is not None and found.upper <= 1e-200


# --- quality ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [Norm.L2, Norm.LINF])
def test_weights_are_those_of_the_program_with_cuts(norm: Norm) -> None:
    """The proven product reaches the value of the relaxation in which cuts forget directions: no weights do better."""
    instance = lipschitz_instance(random_mlp(2, (6, 8, 8, 8, 8, 3)), norm=norm)
    plan = plan_cuts(instance, layers_at_most(2))
    found = compose(instance, SOLVER, layers_at_most(2))
    assert plan is not None and found is not None
    value = SOLVER.solve([mark_cuts(instance, plan.cuts).instance])[0].value
    whole = SOLVER.solve([instance])[0].value
    assert value is not None and whole is not None
    assert whole * (1 - 1e-9) <= value <= found.upper <= value * (1 + 1e-4)
    assert found.upper < 0.6 * norm_product(instance)
    # other weights: any are sound, none are better
    generator = np.random.default_rng(0)
    for _ in range(3):
        weights = [w * generator.uniform(0.5, 2, size=w.shape) for w in found.composition.front.weights]
        blocks = split(instance, plan.cuts, weights)
        others = [SOLVER.solve([block.program()])[0].value for block in blocks]
        assert math.prod(v for v in others if v is not None) >= value * (1 - 1e-6)


@pytest.mark.parametrize(("layers", "loss"), [(4, 1.06), (2, 1.10), (1, 1.26), (0, 1.6)])
@pytest.mark.parametrize("name", ["mnist_784-64x6-10", "digits_64-64x6-10"])
def test_reference_networks(name: str, layers: int, loss: float, reference_data: Path) -> None:
    """How much blocks of a few layers lose against the whole program of six layers."""
    network = reference_network(reference_data / "networks" / "relu" / f"{name}.onnx")
    found = compose(lipschitz_instance(network, norm=Norm.L2), SOLVER, layers_at_most(layers))
    value = reference_value(reference_data, name, Norm.L2)
    assert found is not None
    assert value * (1 - 1e-5) <= found.upper <= loss * value


def test_convolutions_that_do_not_fit_are_bounded_by_norms() -> None:
    instance = lipschitz_instance(convolutional(0), norm=Norm.L2)
    found = compose(instance, SOLVER, nothing)
    assert found is not None and set(found.composition.front.proofs) == {None}
    for weights, cut in zip(found.composition.front.weights, found.composition.front.cuts, strict=True):
        shape = instance.network.nodes[cut].shape
        if len(shape) == 3:
            channels = weights.reshape(shape[0], -1)
            assert (channels == channels[:, :1]).all()
    value = SOLVER.solve([instance])[0].value
    assert value is not None and value <= found.upper
    # norms of layers on the whole lattice, on a coarse grid, with the best weights of their channels
    assert found.upper <= 1.2 * norm_product(instance)


def test_rows_may_share_a_front() -> None:
    network = random_mlp(4, (4, 5, 5, 5, 3))
    rows = [lipschitz_instance(network, row=r, norm=Norm.L2) for r in range(3)]
    joint = lipschitz_instance(network, norm=Norm.L2, output=OutputNorm.L2)
    shared = compose_rows(rows, joint, SOLVER, layers_at_most(1))
    own = [compose(row, SOLVER, layers_at_most(1)) for row in rows]
    fronts = {id(c.composition.front) for c in shared if c is not None}
    assert len(fronts) == 1
    for row, together, alone in zip(rows, shared, own, strict=True):
        assert together is not None and alone is not None
        assert brute_force(row) <= alone.upper <= together.upper * (1 + 1e-6)


# --- the whole way ----------------------------------------------------------------------------------------------------


def _beyond_reach(monkeypatch: pytest.MonkeyPatch, layers: int = 1) -> None:
    """Let proofs of more than some layers be out of reach."""
    monkeypatch.setattr("geolip_lirpa.network_lipschitz.proof_fits", layers_at_most(layers))
    monkeypatch.setattr("geolip_lirpa.network_lipschitz.block_fits", layers_at_most(layers))
    monkeypatch.setattr(bound_by_blocks, "__kwdefaults__", {"fits": layers_at_most(layers), "progress": None})


@pytest.mark.parametrize("norm", Norm)
@pytest.mark.parametrize("output", OutputNorm)
def test_fallback_names_its_method_and_the_value(
    norm: Norm, output: OutputNorm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = random_mlp(1, (3, 5, 4, 4, 2))
    problem = global_problem(network)
    options = LipschitzOptions(norm=norm, output=output, lower_bounds=False)
    exact = network_lipschitz(problem, options)
    _beyond_reach(monkeypatch)
    found = network_lipschitz(problem, options)
    assert [r.solver for r in found.rows] == ["compositional"] * len(exact.rows)
    for mine, whole in zip(found.rows, exact.rows, strict=True):
        assert whole.upper <= mine.upper * (1 + 1e-6)
        assert mine.value is not None and mine.value <= mine.upper
        if norm is not Norm.L1:
            assert mine.value == pytest.approx(whole.upper, rel=1e-4)
    assert found.certificate is not None
    path = tmp_path / "c.json"
    save_certificate(found.certificate, path)
    again = load_certificate(path)
    assert torch.equal(check(again, network, problem.slopes), found.upper)


def test_the_method_compositional(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece where that is quick, else in blocks without the value of the whole program."""
    problem = global_problem(random_mlp(1, (3, 5, 4, 4, 2)))
    options = LipschitzOptions(method="compositional", lower_bounds=False)
    assert {r.solver for r in network_lipschitz(problem, options).rows} == {"low-rank"}
    _beyond_reach(monkeypatch)
    rows = network_lipschitz(problem, options).rows
    assert {r.solver for r in rows} == {"compositional"} and {r.value for r in rows} == {None}
    with pytest.raises(SpecificationError, match="low-rank"):
        network_lipschitz(problem, replace(options, solver="scs"))


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_ctrl_c_leaves_what_was_proven(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms for all rows, and values and blocks as far as they were found."""
    problem = global_problem(random_mlp(1, (3, 5, 4, 4, 2)))
    _beyond_reach(monkeypatch)
    solve, made = LowRankSolver.solve, []

    def interrupted(self: LowRankSolver, *arguments: object) -> object:
        made.append(1)
        if len(made) > calls:
            raise KeyboardInterrupt
        return solve(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LowRankSolver, "solve", interrupted)
    with pytest.raises(LipschitzInterrupted) as stop:
        network_lipschitz(problem, LipschitzOptions(lower_bounds=False))
    result = stop.value.result
    assert bool(torch.isfinite(result.upper).all())
    assert result.certificate is not None
    assert torch.equal(check(result.certificate, problem.network, problem.slopes), result.upper)


def test_where_nothing_can_be_cut_norms_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = global_problem(random_skip(0, (3, 5, 2)))
    _beyond_reach(monkeypatch, layers=0)
    found = network_lipschitz(problem, LipschitzOptions(lower_bounds=False))
    assert {r.solver for r in found.rows} == {"norm-product"}
    assert found.certificate is not None
    assert torch.equal(check(found.certificate, problem.network, problem.slopes), found.upper)


@pytest.mark.parametrize(("method", "norm"), [("norm-product", Norm.L2), ("entrywise", Norm.LINF), ("sdp", Norm.L1)])
def test_large_networks_are_bounded_whatever_the_method(
    method: str, norm: Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what dense blocks of all layers could hold."""
    monkeypatch.setattr("geolip_lirpa.network_lipschitz.DENSE_VARIABLES", 0)
    monkeypatch.setattr("geolip_lirpa.baselines.best_norm.DENSE_VARIABLES", 0)
    monkeypatch.setattr("geolip_lirpa.network_lipschitz.proof_fits", nothing)
    monkeypatch.setattr(bound_by_blocks, "__kwdefaults__", {"fits": nothing, "progress": None})
    problem = global_problem(convolutional(0), torch.eye(2)[:1])
    found = network_lipschitz(problem, LipschitzOptions(norm=norm, method=method, lower_bounds=False))
    assert math.isfinite(float(found.upper[0, 0]))
    assert found.certificate is not None
    assert torch.equal(check(found.certificate, problem.network, problem.slopes), found.upper)
    with pytest.raises(SpecificationError, match="enumerates"):
        network_lipschitz(problem, LipschitzOptions(method="brute-force"))


# --- certificates -----------------------------------------------------------------------------------------------------


def _certified(method_layers: int = 1) -> tuple[Network, tuple[Sequence[object], ...], Certificate]:
    network = random_mlp(3, (3, 5, 4, 4, 2))
    problem = global_problem(network)
    claims = []
    for row in range(2):
        found = compose(lipschitz_instance(network, row=row), SOLVER, layers_at_most(method_layers))
        assert found is not None
        claims.append(Claim(0, row, None, found.upper, None, found.composition))
    empty = network_lipschitz(problem, LipschitzOptions(method="norm-product", lower_bounds=False)).certificate
    assert empty is not None
    return network, problem.slopes, replace(empty, claims=tuple(claims))


def _changed(certificate: Certificate, change: Callable[[Composition], Composition]) -> Certificate:
    claims = tuple(replace(c, composition=change(c.composition)) for c in certificate.claims if c.composition)
    return replace(certificate, claims=claims)


def _front(change: Callable[[Front], Front]) -> Callable[[Composition], Composition]:
    return lambda c: replace(c, front=change(c.front))


def _scaled_proof(m: Multipliers | None, factor: float) -> Multipliers | None:
    return None if m is None else replace(m, input=m.input * factor)


TAMPERING: dict[str, Callable[[Composition], Composition]] = {
    "smaller weights at a cut": _front(lambda f: replace(f, weights=(f.weights[0] * 0.99, *f.weights[1:]))),
    "one smaller weight": _front(
        lambda f: replace(f, weights=(np.where(np.arange(len(f.weights[0])) == 0, 0.5, 1) * f.weights[0],))
    ),
    "negative weights": _front(lambda f: replace(f, weights=tuple(-w for w in f.weights))),
    "weights of zero": _front(lambda f: replace(f, weights=tuple(0 * w for w in f.weights))),
    "weights that are no numbers": _front(lambda f: replace(f, weights=tuple(w * np.nan for w in f.weights))),
    "infinite weights": _front(lambda f: replace(f, weights=tuple(w * np.inf for w in f.weights))),
    "tiny weights": _front(lambda f: replace(f, weights=tuple(w * 1e-200 for w in f.weights))),
    "weights of another length": _front(lambda f: replace(f, weights=tuple(w[:-1] for w in f.weights))),
    "weights as a matrix": _front(lambda f: replace(f, weights=tuple(w[:, None] for w in f.weights))),
    "another cut": _front(lambda f: replace(f, cuts=tuple(c + 1 for c in f.cuts))),
    "the output as a cut": _front(lambda f: replace(f, cuts=(7,))),
    "the input as a cut": _front(lambda f: replace(f, cuts=(0,))),
    "a negative cut": _front(lambda f: replace(f, cuts=(-2,))),
    "no cuts": _front(lambda f: Front((), (), ())),
    "a cut twice": _front(lambda f: Front(f.cuts * 2, f.weights * 2, f.proofs * 2)),
    "a missing proof": _front(lambda f: replace(f, proofs=())),
    "norms for multipliers": _front(lambda f: replace(f, proofs=(None,) * len(f.proofs))),
    "scaled multipliers": _front(lambda f: replace(f, proofs=tuple(_scaled_proof(m, 0.9) for m in f.proofs))),
    "scaled last multipliers": lambda c: replace(c, last=_scaled_proof(c.last, 0.9)),
    "no last multipliers": lambda c: replace(c, last=None),
    "the last multipliers for the first": lambda c: replace(c, front=replace(c.front, proofs=(c.last,))),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_refused(name: str) -> None:
    network, slopes, certificate = _certified()
    assert check(certificate, network, slopes) is not None  # type: ignore[arg-type]
    with pytest.raises(CertificateError, match="not proven"):
        check(_changed(certificate, TAMPERING[name]), network, slopes)  # type: ignore[arg-type]


def test_lowered_claims_and_two_proofs_at_once_are_refused() -> None:
    network, slopes, certificate = _certified()
    lowered = tuple(replace(c, upper=c.upper * (1 - 1e-7)) for c in certificate.claims)
    with pytest.raises(CertificateError, match="not proven"):
        check(replace(certificate, claims=lowered), network, slopes)  # type: ignore[arg-type]
    both = tuple(replace(c, multipliers=c.composition.last) for c in certificate.claims if c.composition)
    with pytest.raises(CertificateError, match="not a part"):
        check(replace(certificate, claims=both), network, slopes)  # type: ignore[arg-type]
    other = random_mlp(4, (3, 5, 4, 4, 2))
    with pytest.raises(CertificateError, match="not proven"):
        check(certificate, other, (global_slopes(other),))


def test_larger_weights_of_the_first_block_alone_prove_less() -> None:
    """Soundness of sharing: scaling weights scales one block's constant up and the next one's down."""
    network, _, certificate = _certified()
    composition = certificate.claims[0].composition
    assert composition is not None
    instance = lipschitz_instance(network)
    front = composition.front
    doubled = Front(front.cuts, tuple(2 * w for w in front.weights), (None,) * len(front.proofs))
    plain = Front(front.cuts, front.weights, (None,) * len(front.proofs))
    first, second = front_constant(instance, plain), front_constant(instance, doubled)
    ends = [last_block(instance, f).constant(None) for f in (plain, doubled)]
    assert first is not None and second is not None and ends[0] is not None and ends[1] is not None
    assert second == pytest.approx(2 * first, rel=1e-9)
    assert ends[1] == pytest.approx(ends[0] / 2, rel=1e-9)


def test_weights_may_use_their_whole_range() -> None:
    network, _, certificate = _certified()
    composition = certificate.claims[0].composition
    assert composition is not None
    for size in (WEIGHT_RANGE.smallest, WEIGHT_RANGE.largest):
        front = Front((2,), (np.full(5, size),), (None,))
        assert is_valid(network, front)
        constant = front_constant(lipschitz_instance(network), front)
        assert constant is not None and math.isfinite(constant)


def test_files_hold_a_shared_front_once(tmp_path: Path) -> None:
    network, slopes, certificate = _certified()
    first = certificate.claims[0].composition
    assert first is not None
    shared = tuple(replace(c, composition=replace(first, last=None), upper=1e9) for c in certificate.claims)
    path = tmp_path / "c.json"
    save_certificate(replace(certificate, claims=shared), path)
    assert len(json.loads(path.read_text())["fronts"]) == 1
    again = load_certificate(path)
    assert check(again, network, slopes).tolist() == [[1e9, 1e9]]  # type: ignore[arg-type]
    a, b = (c.composition for c in again.claims)
    assert a is not None and b is not None and a.front is b.front
    assert all(np.array_equal(x, y) for x, y in zip(a.front.weights, first.front.weights, strict=True))


@pytest.mark.parametrize(
    "value",
    [None, 3, "x", [{}], [{"cuts": [2], "weights": [], "multipliers": 3}], []],
)
def test_malformed_fronts_give_one_clear_error(value: object, tmp_path: Path) -> None:
    network, slopes, certificate = _certified()
    path = tmp_path / "c.json"
    save_certificate(certificate, path)
    record = json.loads(path.read_text())
    record["fronts"] = value
    record["digest"] = digest(record)
    path.write_text(json.dumps(record))
    with pytest.raises(CertificateError):
        check(load_certificate(path), network, slopes)  # type: ignore[arg-type]


def test_product_never_underflows_to_zero() -> None:
    assert product([1e-200, 1e-200]) > 0
    assert product([1e-200, 0.0, 1e300]) == 0.0
    assert product([1e200, 1e200]) == math.inf


def test_a_front_proves_nothing_for_another_coordinate(tmp_path: Path) -> None:
    """For l_1 input the first block is another one for each coordinate, though the file names its proof once."""
    first = torch.tensor([[1e-3, 100.0], [1e-3, -50.0]], dtype=torch.float64)
    second = torch.eye(2, dtype=torch.float64)
    layers = [("a", linear_operator(first)), ("relu", ReLU()), ("b", linear_operator(second)), ("relu", ReLU())]
    network = sequential((2,), [*layers, ("c", linear_operator(torch.ones(1, 2, dtype=torch.float64)))])
    problem = global_problem(network)
    certificate = network_lipschitz(problem, LipschitzOptions(norm=Norm.L1, lower_bounds=False)).certificate
    assert certificate is not None
    front = Front((2,), (np.ones(2),), (None,))
    path = tmp_path / "c.json"
    for uppers, proven in (((0.01, 0.01), False), ((0.01, 200.0), True), ((0.001, 200.0), False)):
        claims = tuple(Claim(0, 0, j, upper, None, Composition(front, None)) for j, upper in enumerate(uppers))
        save_certificate(replace(certificate, claims=claims), path)
        forged = load_certificate(path)
        assert len({id(c.composition.front) for c in forged.claims if c.composition}) == 1
        if proven:
            assert check(forged, network, problem.slopes).tolist() == [[200.0]]
        else:
            with pytest.raises(CertificateError, match="not proven"):
                check(forged, network, problem.slopes)


@pytest.mark.parametrize("count", [3, 6, 7, 12])
def test_means_of_channels_stay_in_the_range_of_weights(count: int) -> None:
    """The root of a mean of squares of equal numbers may come out above them."""
    for size in (WEIGHT_RANGE.smallest, 0.1, WEIGHT_RANGE.largest):
        weights = _channelwise(np.full(2 * count, size), Node("cut", (2, count)))
        assert (weights == size).all()
