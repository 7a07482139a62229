"""From `BoundedModule` to `Network`: every operator, every refusal, both versions of the host."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from geolip_lirpa.activations import GELU, Clip, LeakyReLU, ReLU, SiLU
from geolip_lirpa.errors import ExtractionError, ModelError, UnsupportedOperatorError
from geolip_lirpa.lirpa import bounded_module, extract_network, host_version, load_host
from geolip_lirpa.lirpa.comparison import require_equal
from geolip_lirpa.lirpa.compat import compute_bounds, needs_patches
from geolip_lirpa.lirpa.fidelity import require_faithful
from geolip_lirpa.lirpa.graph import BUILDERS, extract
from geolip_lirpa.lirpa.host import read_graph
from geolip_lirpa.network import AffineOperator
from tests.host_models import Case, Function, cases

CASES = cases()
VERSION = tuple(int(part) for part in str(host_version()).split(".")[:2])


def case_for_this_host(name: str) -> Case:
    case = CASES[name]
    if case.version > VERSION:
        pytest.skip(f"auto_LiRPA {host_version()} cannot read it")
    return case


def mlp() -> nn.Module:
    return copy.deepcopy(CASES["mlp"].module)


@pytest.mark.parametrize("name", CASES)
def test_network_computes_what_the_module_computes(name: str) -> None:
    case = case_for_this_host(name)
    network = extract_network(bounded_module(case.module, case.shape))
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn((6, *case.shape[1:]), generator=generator)
    module = copy.deepcopy(case.module).eval().double()
    batches = x.double().split(case.shape[0])
    # float64 module: the network's float64 weights are the module's float32 ones
    with torch.no_grad():
        expected = torch.cat([module(part) for part in batches]).reshape(6, -1)
    scale = float(expected.abs().max()) + 1
    assert network.input_shape == case.shape[1:]
    assert torch.allclose(network.forward(x.double()), expected, rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "max_pool", "constants", "batch_norm_first"])
def test_every_node_is_needed_and_takes_any_batch(name: str) -> None:
    case = case_for_this_host(name)
    network = extract_network(bounded_module(case.module, case.shape))
    used = {i for node in network.nodes for i in node.inputs}
    assert used == set(range(len(network.nodes) - 1))
    assert all(i < position for position, node in enumerate(network.nodes) for i in node.inputs)
    x = torch.randn((5, *network.input_shape), dtype=torch.float64)
    for node, value in zip(network.nodes, network.values(x), strict=True):
        assert value.shape == (5, *node.shape), node.name
    alone = torch.cat([network.forward(row[None]) for row in x])
    assert torch.allclose(network.forward(x), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_operators_keep_their_contract(name: str) -> None:
    """Linear for fixed parameters, and |f(x, p)| <= f(|x|, |p|)."""
    case = case_for_this_host(name)
    network = extract_network(bounded_module(case.module, case.shape))
    generator = torch.Generator().manual_seed(2)
    for node in network.nodes[1:]:
        operation = node.operation
        if not isinstance(operation, AffineOperator):
            continue
        x, y = (
            tuple(torch.randn((3, *network.nodes[i].shape), generator=generator).double() for i in node.inputs)
            for _ in range(2)
        )
        both = operation.linear(tuple(2 * a - b for a, b in zip(x, y, strict=True)))
        assert torch.allclose(both, 2 * operation.linear(x) - operation.linear(y), rtol=1e-10, atol=1e-10), node.name
        magnitude = operation.magnitude(tuple(a.abs() for a in x))
        assert bool((operation.linear(x).abs() <= magnitude * (1 + 1e-12)).all()), node.name
        narrow = operation.to(torch.float32).linear(tuple(a.float() for a in x))
        assert narrow.dtype is torch.float32
        assert torch.allclose(narrow.double(), operation.linear(x), rtol=1e-4, atol=1e-4), node.name


def test_weights_are_exact() -> None:
    module = mlp()
    network = extract_network(bounded_module(module, (1, 4)))
    operation = network.nodes[1].operation
    assert isinstance(operation, AffineOperator)
    first = module[0]  # type: ignore[index]
    assert torch.equal(operation.parameters[0].T, first.weight.detach().double())
    assert operation.bias is not None
    assert torch.equal(operation.bias, first.bias.detach().double())
    assert operation.sum_roundings >= 5
    assert operation.parameter_roundings == 0


def test_batch_norm_counts_the_roundings_of_its_factor() -> None:
    case = CASES["batch_norm_first"]
    network = extract_network(bounded_module(case.module, case.shape))
    norm = case.module[0].requires_grad_(False)  # type: ignore[index]
    scale = next(
        n.operation for n in network.nodes if isinstance(n.operation, AffineOperator) and n.operation.parameters
    )
    assert isinstance(scale, AffineOperator)
    # 60 digits: the factor's own error must lie within what the operator admits
    from mpmath import mp, mpf

    with mp.workdps(60):
        for i in range(4):
            exact = mpf(float(norm.weight[i])) / mp.sqrt(mpf(float(norm.running_var[i])) + mpf(norm.eps))
            error = abs(mpf(float(scale.parameters[0][i])) - exact)
            assert error <= scale.parameter_roundings * mpf(2) ** -53 * abs(exact)


def test_activations_carry_their_parameters() -> None:
    def found(name: str) -> object:
        network = extract_network(bounded_module(CASES[name].module, CASES[name].shape))
        return network.nodes[network.activations[0]].operation

    assert found("leaky_relu") == LeakyReLU(0.1)
    assert found("silu") == SiLU()
    if VERSION >= (0, 7):
        hardtanh = found("hardtanh")
        assert isinstance(hardtanh, Clip)
        assert (hardtanh.minimum, hardtanh.maximum) == pytest.approx((-0.5, 0.7))
        assert found("gelu") == GELU()


@pytest.mark.parametrize(("name", "layers"), [("max_pool", 3), ("max_pool_padded", 4), ("reduce_max", 2)])
def test_maxima_become_a_balanced_tree_of_relus(name: str, layers: int) -> None:
    network = extract_network(bounded_module(CASES[name].module, CASES[name].shape))
    assert len(network.activations) == layers
    assert all(isinstance(network.nodes[i].operation, ReLU) for i in network.activations)


def test_maximum_over_negative_values_ignores_padding() -> None:
    module = Function(lambda x: nn.functional.max_pool2d(-x.abs() - 1, 3, stride=2, padding=1).flatten(1))
    network = extract_network(bounded_module(module, (1, 1, 5, 5)))
    x = torch.randn((4, 1, 5, 5), dtype=torch.float64)
    assert torch.allclose(network.forward(x), module(x), rtol=1e-15, atol=0)
    assert bool((network.forward(x) < -0.999).all())


def test_final_node_name_cuts_the_network() -> None:
    bounded = bounded_module(mlp(), (1, 4))
    hidden = extract(bounded).host_names[2][0]
    network = extract_network(bounded, final_node_name=hidden)
    assert network.output_size == 5
    assert len(network.nodes) == 3


def test_extraction_leaves_the_host_model_as_it_is() -> None:
    host = load_host()
    bounded = bounded_module(CASES["residual"].module, (1, 4))
    x = torch.randn(2, 4)
    bounded_x = host.BoundedTensor(x, host.PerturbationLpNorm(norm=float("inf"), eps=0.1))
    before = compute_bounds(bounded, x=(bounded_x,), method="crown")
    kept = {
        name: node.lower for name, node in bounded._modules.items() if isinstance(getattr(node, "lower", None), Tensor)
    }
    state = {name: value.clone() for name, value in bounded.state_dict().items()}
    extract_network(bounded)
    assert kept
    assert all(bounded._modules[name].lower is value for name, value in kept.items())
    assert all(torch.equal(value, state[name]) for name, value in bounded.state_dict().items())
    after = compute_bounds(bounded, x=(bounded_x,), method="crown")
    assert torch.equal(before[0], after[0])


class TestSoftmax:
    """A softmax at the end has no slope restriction; the logits can be had."""

    MODULE = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(dim=1))

    def test_is_refused_with_advice(self) -> None:
        with pytest.raises(UnsupportedOperatorError, match=r"softmax.*logits=True.*--logits.*final_node_name='/"):
            extract_network(bounded_module(self.MODULE, (1, 4)))

    def test_logits_leave_it_out(self) -> None:
        network = extract_network(bounded_module(self.MODULE, (1, 4)), logits=True)
        x = torch.randn(3, 4)
        assert torch.allclose(network.forward(x.double()), self.MODULE[:3](x).double(), atol=1e-5)

    def test_logits_change_nothing_where_there_is_none(self) -> None:
        bounded = bounded_module(mlp(), (1, 4))
        x = torch.randn(3, 4, dtype=torch.float64)
        assert torch.equal(extract_network(bounded, logits=True).forward(x), extract_network(bounded).forward(x))

    def test_in_the_middle_is_refused(self) -> None:
        module = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1), nn.Linear(3, 2))
        with pytest.raises(UnsupportedOperatorError, match=r"Bound(Softmax|Exp|Reciprocal|Div)"):
            extract_network(bounded_module(module, (1, 4)), logits=True)

    @pytest.mark.parametrize("between", [nn.Identity(), nn.Flatten()])
    def test_only_one_is_left_out(self, between: nn.Module) -> None:
        module = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1), between, nn.Softmax(dim=1))
        with pytest.raises(
            UnsupportedOperatorError, match=r"softmax again.*one softmax only.*final_node_name='([^']+)'"
        ):
            extract_network(bounded_module(module, (1, 4)), logits=True)

    def test_log_softmax_names_the_way_out(self) -> None:
        module = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(dim=1))
        with pytest.raises(ExtractionError, match=r"LogSoftmax.*logits"):
            bounded_module(module, (1, 4))


REFUSED = {
    "exponential": (
        Function(lambda x, a: torch.exp(a(x)), nn.Linear(4, 3)),
        (1, 4),
        r"BoundExp.*Supported activations",
    ),
    "square": (Function(lambda x, a: a(x) ** 2, nn.Linear(4, 3)), (1, 4), r"Bound(Pow|Sqr)"),
    "product": (Function(lambda x, a, b: a(x) * b(x), nn.Linear(4, 3), nn.Linear(4, 3)), (1, 4), r"BoundMul"),
    "batch in rows": (Function(lambda x, a: a(x.reshape(-1, 6)), nn.Linear(6, 2)), (1, 3, 4), r"batch dimension"),
    "batch moved": (Function(lambda x: torch.relu(x.transpose(0, 1))), (1, 3, 4), r"batch dimension"),
    "batch summed": (Function(lambda x: torch.relu(x).sum(0)), (1, 4), r"batch dimension"),
    "one sample over another": (Function(lambda x: torch.relu(x[:, 0] + x)), (1, 4, 4), r"align the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_nodes_are_named(name: str) -> None:
    module, shape, message = REFUSED[name]
    with pytest.raises(UnsupportedOperatorError, match=message) as caught:
        extract_network(bounded_module(module, shape))
    assert "node '/" in str(caught.value)


def test_advice_of_a_refusal_works() -> None:
    bounded = bounded_module(REFUSED["exponential"][0], (1, 4))
    with pytest.raises(UnsupportedOperatorError, match=r"final_node_name='([^']+)'") as caught:
        extract_network(bounded)
    name = str(caught.value).rsplit("final_node_name='", 1)[1].split("'")[0]
    assert extract_network(bounded, final_node_name=name).output_size == 3


def test_dispatch_is_by_exact_class_name() -> None:
    """The host's classes inherit from each other; a subclass must not be taken for its base."""
    host = load_host()
    bounded = bounded_module(mlp(), (1, 4))
    node = next(n for n in bounded._modules.values() if type(n).__name__ == "BoundRelu")
    node.__class__ = type("BoundMyRelu", (type(node),), {})
    with pytest.raises(UnsupportedOperatorError, match="BoundMyRelu"):
        extract_network(bounded)
    assert "BoundMyRelu" not in BUILDERS
    assert host is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(value: float) -> None:
    bounded = bounded_module(mlp(), (1, 4))
    parameter = next(n for n in bounded._modules.values() if getattr(n, "ori_name", "") == "2.weight")
    parameter.param.data[0, 0] = value
    with pytest.raises(ModelError, match=r"2\.weight.*NaN"):
        extract_network(bounded)
    module = mlp()
    module[0].bias.data[1] = value  # type: ignore[index]
    with pytest.raises(ModelError, match=r"0\.bias.*NaN"):
        bounded_module(module, (1, 4))


def test_a_difference_is_found_at_its_node() -> None:
    bounded = bounded_module(CASES["residual"].module, (1, 4))
    extraction = extract(bounded)
    wrong = extraction.network.nodes[1].operation
    assert isinstance(wrong, AffineOperator)
    wrong.parameters[0][0, 0] += 1e-2
    names = {position: group[0] for position, group in extraction.host_names.items()}
    with pytest.raises(ExtractionError, match=rf"node '{names[1]}'.*differs"):
        require_equal(extraction.network, read_graph(bounded), names)


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.relu(x + y)

    host = load_host()
    bounded = host.BoundedModule(Two(), (torch.zeros(1, 3), torch.ones(1, 3)), device="cpu")
    with pytest.raises(ExtractionError, match="2 inputs"):
        extract_network(bounded)


def test_perturbed_parameters_are_refused() -> None:
    host = load_host()
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    ptb = host.PerturbationLpNorm(norm=float("inf"), eps=0.1)
    module[0].weight = host.BoundedParameter(module[0].weight.data, ptb)
    bounded = host.BoundedModule(module, torch.zeros(1, 3))
    with pytest.raises(ExtractionError, match=r"0\.weight.*perturbed"):
        extract_network(bounded)


@pytest.mark.parametrize(("model", "message"), [(nn.Linear(2, 2), "Linear"), (None, "NoneType"), ("model.onnx", "str")])
def test_only_bounded_modules_are_taken(model: object, message: str) -> None:
    with pytest.raises(ExtractionError, match=message):
        extract_network(model)
    with pytest.raises(ExtractionError, match="no node 'nowhere'"):
        extract_network(bounded_module(mlp(), (1, 4)), final_node_name="nowhere")


def test_builder_finds_what_the_host_ignores() -> None:
    """The host drops count_include_pad and says nothing."""
    module = nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), nn.Flatten())
    with pytest.raises(ExtractionError, match="something else"):
        bounded_module(module, (1, 2, 6, 6))
    bounded = load_host().BoundedModule(module.eval(), torch.rand(1, 2, 6, 6))
    with pytest.raises(UnsupportedOperatorError, match="count_include_pad"):
        extract_network(bounded)


class Beside(nn.Module):
    """A function beside an output and a bias that are far larger."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([1e7 * x.flatten(1)[:, :1], self.function(x).flatten(1)], 1)


DROPPED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], str]] = {
    "divisor": (nn.AvgPool2d(2, divisor_override=1), (1, 1, 4, 4), "divisor_override=1 is dropped"),
    "threshold": (nn.Softplus(threshold=0.5), (1, 3), "threshold=0.5"),
    "threshold of a function": (lambda x: nn.functional.softplus(x, 1.0, 12.0), (1, 3), "threshold=12"),
}


@pytest.mark.parametrize("name", DROPPED)
def test_settings_the_exporter_drops_are_refused(name: str) -> None:
    function, shape, message = DROPPED[name]
    with pytest.raises(UnsupportedOperatorError, match=message):
        bounded_module(Beside(function), shape)


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_beta_of_a_softplus_is_kept(beta: float) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Softplus(beta=beta))
    network = extract_network(bounded_module(module, (1, 3)))
    x = torch.randn(5, 3, dtype=torch.float64)
    assert torch.allclose(network.forward(x), copy.deepcopy(module).double()(x), rtol=0, atol=1e-7)


def test_a_large_output_hides_no_difference_of_another() -> None:
    module = Beside(nn.Tanh())
    bounded = bounded_module(module, (1, 3))
    require_faithful(bounded, module, (1, 3))
    with pytest.raises(ExtractionError, match=r"something else.*output 1 moves"):
        require_faithful(bounded, Beside(lambda x: torch.tanh(1.0001 * x)), (1, 3))


def test_a_large_bias_hides_no_difference() -> None:
    bounded = bounded_module(nn.Sequential(nn.Tanh(), Function(lambda x: x + 2.0**20)), (1, 3))
    with pytest.raises(ExtractionError, match="output 0 moves"):
        require_faithful(bounded, Function(lambda x: 1.1 * torch.tanh(x) + 2.0**20), (1, 3))


def test_a_module_without_float64_is_compared_in_float32_alone() -> None:
    weight = torch.randn(3, 2)
    module = Function(lambda x: torch.relu(x) @ weight)
    assert extract_network(bounded_module(module, (1, 3))).output_size == 2


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.int32])
def test_rounding_inside_is_refused(narrow: torch.dtype) -> None:
    module = Function(lambda x, a: torch.relu(a(x)).to(narrow).to(torch.float32), nn.Linear(3, 2))
    with pytest.raises((UnsupportedOperatorError, ExtractionError), match=r"BoundCast|cannot read"):
        extract_network(bounded_module(module, (1, 3)))


def test_rounding_of_a_double_model_is_refused() -> None:
    module = Function(lambda x, a: torch.relu(a(x).float()).double(), nn.Linear(3, 2).double())
    with pytest.raises((UnsupportedOperatorError, ExtractionError), match=r"BoundCast.*narrower"):
        extract_network(bounded_module(module, (1, 3)))


def test_outputs_that_overflow_are_told() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    for parameter in module.parameters():
        parameter.data.fill_(1e30)
    with pytest.raises(ModelError, match="outputs are not finite"):
        bounded_module(module, (1, 3))


def test_builder_names_operations_the_host_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExtractionError, match=r"cannot read this module.*onnx::PRelu"):
        bounded_module(nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)), (1, 4))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.onnx",), "load_onnx"),
        ((nn.Linear(3, 2),), "input_shape"),
        ((nn.Linear(3, 2), (1, 4)), r"fails on an input of shape \(1, 4\)"),
    ],
)
def test_builder_refuses_bad_arguments(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        bounded_module(*arguments)  # type: ignore[arg-type]


def test_builder_does_not_change_the_module() -> None:
    module = mlp().train()
    state = copy.deepcopy(module.state_dict())
    bounded_module(module, (1, 4))
    assert module.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


class TestHost:
    """Finding and importing auto_LiRPA."""

    def test_version_is_found_without_import(self) -> None:
        code = (
            "import importlib.util, pathlib, sys; path = pathlib.Path(importlib.util.find_spec('geolip_lirpa').origin);"
            "sys.modules['geolip_lirpa.lirpa'] = package = type(sys)('geolip_lirpa.lirpa');"
            "package.__path__ = [str(path.parent / 'lirpa')];"
            "from geolip_lirpa.lirpa.compat import host_version;"
            "print(host_version()); assert 'auto_LiRPA' not in sys.modules"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == load_host().__version__

    def test_plain_import_works_afterwards_and_nothing_is_left_behind(self) -> None:
        code = (
            "import numpy, torch, sys, importlib; before = hasattr(torch._C.Node, '__getitem__');"
            "import geolip_lirpa.lirpa; from auto_LiRPA import BoundedModule;"
            "helper = importlib.import_module('torch.onnx.symbolic_helper');"
            "from geolip_lirpa.lirpa import bounded_module; bounded_module(torch.nn.Linear(2, 2), (1, 2));"
            "assert numpy.__version__ < '2' or 'numpy.lib.arraysetops' not in sys.modules;"
            "assert hasattr(torch._C.Node, '__getitem__') == before"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""

    def test_missing_host_is_an_error_on_use_only(self) -> None:
        code = (
            "import importlib.util; real = importlib.util.find_spec;"
            "importlib.util.find_spec = lambda name, *a: None if name == 'auto_LiRPA' else real(name, *a);"
            "import torch, geolip_lirpa.lirpa as lirpa\n"
            "try:\n    lirpa.bounded_module(torch.nn.Linear(2, 2), (1, 2))\n"
            "except ImportError as error:\n    print(type(error).__name__, error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.startswith("HostUnavailableError"), done.stderr
        assert "pip install --no-deps auto-lirpa" in done.stdout

    @pytest.mark.parametrize(("version", "old"), [("0.3", True), ("0.4.0", True), ("0.5.0", False), ("0.7.1", False)])
    def test_patches_are_for_old_versions(self, version: str, old: bool) -> None:
        assert needs_patches(version) is old

    def test_exporter_state_is_restored(self) -> None:
        from geolip_lirpa.lirpa.compat import _exporter_globals

        before = _exporter_globals().export_onnx_opset_version
        bounded_module(mlp(), (1, 4))
        assert _exporter_globals().export_onnx_opset_version == before


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "tanh"])
def test_host_numbers_do_not_depend_on_its_version(name: str) -> None:
    """IBP and CROWN of the host as numbers that 0.3 with its patches and 0.7.1 both give."""
    host = load_host()
    case = CASES[name]
    bounded = bounded_module(case.module, case.shape)
    x = torch.linspace(-1, 1, torch.Size(case.shape).numel()).reshape(case.shape)
    bounded_x = host.BoundedTensor(x, host.PerturbationLpNorm(norm=float("inf"), eps=0.1))
    for method, expected in HOST_NUMBERS[name].items():
        lower, upper = compute_bounds(bounded, x=(bounded_x,), method=method)
        found = [float(lower.sum()), float(upper.sum())]
        assert found == pytest.approx(expected, abs=HOST_TOLERANCE[method]), method


# alpha-CROWN stops where its optimiser does
HOST_TOLERANCE = {"ibp": 2e-5, "crown": 2e-5, "alpha-crown": 1e-3}
# sums of lower and of upper bounds
HOST_NUMBERS: dict[str, dict[str, list[float]]] = {
    "mlp": {"ibp": [-0.25209, 0.0327], "crown": [-0.22606, 0.11534], "alpha-crown": [-0.22606, 0.0281]},
    "conv": {"ibp": [-0.33344, 0.23971], "crown": [-0.15498, 0.04634], "alpha-crown": [-0.13764, 0.03957]},
    "residual": {"ibp": [-1.02526, -0.48151], "crown": [-0.9988, -0.50785], "alpha-crown": [-0.9988, -0.50785]},
    "tanh": {"ibp": [-0.49082, -0.39343], "crown": [-0.46638, -0.41905], "alpha-crown": [-0.4651, -0.41915]},
}
