"""Torch modules that exercise what the host can read, with the shape of a batch and the host version they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OLD, NEW = (0, 3), (0, 7)


@dataclass(frozen=True)
class Case:
    """A module and what it needs."""

    module: nn.Module
    shape: tuple[int, ...]
    version: tuple[int, int] = OLD


class Function(nn.Module):
    """A function of the input, submodules and parameters."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module, **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.ModuleList(modules)
        self.weights = nn.ParameterDict({name: nn.Parameter(value) for name, value in parameters.items()})

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.inner, **dict(self.weights))


def trained_batch_norm(module: Any) -> nn.Module:
    """Batch normalisation with statistics and coefficients that are not the neutral ones."""
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2)
    module.weight.data.normal_()
    module.bias.data.normal_()
    return module  # type: ignore[no-any-return]


def cases() -> dict[str, Case]:
    """Everything; weights are the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {**_layers(), **_shapes(), **_arithmetic(), **_maxima(), **_activations()}


def _layers() -> dict[str, Case]:
    def residual(x: Tensor, a: Any, b: Any, c: Any) -> Tensor:
        return c(torch.relu(a(x)) + torch.relu(b(torch.relu(a(x)))) - x)  # type: ignore[no-any-return]

    grouped = nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding=2)
    return {
        "mlp": Case(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), (1, 4)),
        "linear": Case(nn.Linear(4, 3), (1, 4)),
        "conv": Case(
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), grouped, nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
            ),
            (1, 2, 6, 6),
        ),
        "conv1d": Case(
            nn.Sequential(nn.Conv1d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
            (1, 2, 6),
            NEW,
        ),
        "transposed_conv": Case(
            nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(147, 3)),
            (1, 2, 3, 3),
        ),
        "batch_norm_2d": Case(
            nn.Sequential(nn.Conv2d(2, 4, 3), trained_batch_norm(nn.BatchNorm2d(4)), nn.ReLU(), nn.Flatten()),
            (1, 2, 6, 6),
        ),
        "batch_norm_first": Case(
            nn.Sequential(trained_batch_norm(nn.BatchNorm1d(4)), nn.ReLU(), nn.Linear(4, 2)), (1, 4)
        ),
        "dropout": Case(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)), (1, 4)),
        "residual": Case(Function(residual, nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)), (1, 4)),
        "shared": Case(Function(lambda x, a: a(torch.relu(a(torch.relu(a(x))))), nn.Linear(4, 4)), (1, 4)),
        "average_pool": Case(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)), (1, 2, 6, 6)
        ),
        "average_pool_padded": Case(
            nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1), nn.ReLU(), nn.Flatten()), (1, 2, 6, 6)
        ),
        "global_average": Case(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 2, 6, 6)
        ),
        "nearest": Case(
            Function(lambda x: F.interpolate(torch.relu(x), scale_factor=2, mode="nearest").flatten(1)),
            (1, 2, 3, 3),
            NEW,
        ),
    }


def _shapes() -> dict[str, Case]:
    linear = nn.Linear(12, 2)
    half = nn.Linear(2, 2)
    return {
        "concat": Case(
            Function(lambda x, a, b: b(torch.cat([torch.relu(a(x)), x], 1)), nn.Linear(4, 4), nn.Linear(8, 2)), (1, 4)
        ),
        "concat_constant": Case(
            Function(lambda x, a: a(torch.cat([x, torch.ones_like(x)], 1)).relu(), nn.Linear(8, 3)), (1, 4)
        ),
        "stack": Case(Function(lambda x, a: torch.stack([a(x), x], 1).relu().flatten(1), nn.Linear(4, 4)), (1, 4)),
        "slice": Case(Function(lambda x, a: a(torch.relu(x[:, 1:3] - x[:, 2:4])), half), (1, 4)),
        "split": Case(Function(lambda x, a: a(torch.relu(x.split(2, 1)[0]) * 2 + x.split(2, 1)[1]), half), (1, 4)),
        "gather": Case(Function(lambda x: torch.relu(torch.index_select(x, 1, torch.tensor([3, 0, 0]))) * 2), (1, 4)),
        "transpose": Case(
            Function(lambda x, a: a(torch.relu(x.transpose(1, 2))).flatten(1), nn.Linear(3, 2)), (1, 3, 4)
        ),
        "permute": Case(
            Function(lambda x, a: a(torch.relu(x.permute(0, 2, 3, 1))).flatten(1), nn.Linear(3, 2)), (1, 3, 4, 2)
        ),
        "reshape": Case(Function(lambda x, a: a(torch.relu(x.reshape(x.size(0), -1))), linear), (1, 3, 4)),
        "view_of_batch_1": Case(Function(lambda x, a: a(torch.relu(x.view(1, 12))), linear), (1, 3, 4)),
        "view_of_batch_2": Case(Function(lambda x, a: a(torch.relu(x.view(2, 12))), linear), (2, 3, 4)),
        "squeeze": Case(Function(lambda x, a: a(torch.relu(x.unsqueeze(1))).squeeze(1), nn.Linear(4, 2)), (1, 4)),
        "pad": Case(
            Function(lambda x, a: a(F.pad(x, (1, 0, 2, 1), value=0.5)).relu().flatten(1), nn.Conv2d(2, 2, 3)),
            (1, 2, 4, 4),
        ),
        "where": Case(Function(lambda x: torch.where(torch.tensor([True, False, True, False]), x, -x).relu()), (1, 4)),
        "expand": Case(
            Function(lambda x, a: torch.relu(x.expand(-1, 3, -1) * a).flatten(1), a=torch.randn(3, 4)), (1, 1, 4)
        ),
        "mean": Case(Function(lambda x, a: a(torch.relu(x).mean((2, 3))), half), (1, 2, 4, 4)),
        "sum": Case(Function(lambda x, a: a(torch.relu(x).sum(2)), half), (1, 2, 4)),
        "scalar_output": Case(Function(lambda x, w: torch.relu(x @ w), w=torch.randn(4)), (1, 4)),
    }


def _arithmetic() -> dict[str, Case]:
    a, b, w = torch.randn(4), torch.rand(4) + 0.5, torch.randn(4, 5)
    mean, deviation = torch.tensor([0.1, 0.2]).view(1, 2, 1, 1), torch.tensor([0.3, 0.4]).view(1, 2, 1, 1)
    return {
        "constants": Case(Function(lambda x, a, b: (3 - x * a / b + b - (-x)).relu() * 2 - 1, a=a, b=b), (1, 4)),
        "constant_minus": Case(Function(lambda x, a: (a - x).relu(), a=a), (1, 4)),
        "normalised_image": Case(
            Function(lambda x, c: c((x - mean) / deviation).relu().flatten(1), nn.Conv2d(2, 2, 3)), (1, 2, 4, 4)
        ),
        "matmul_right": Case(Function(lambda x, w, v: torch.relu(x @ w) @ v, w=w, v=torch.randn(5, 2)), (1, 3, 4)),
        "matmul_left": Case(
            Function(lambda x, w, v: v @ torch.relu(w @ x), w=torch.randn(5, 3), v=torch.randn(2, 5)), (1, 3, 4)
        ),
        "addmm": Case(
            Function(lambda x, w, c: torch.addmm(c, x, w, beta=0.5, alpha=2.0).relu(), w=w, c=torch.randn(5)), (1, 4)
        ),
    }


def _maxima() -> dict[str, Case]:
    return {
        "max_pool": Case(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)), (1, 2, 6, 6)
        ),
        "max_pool_padded": Case(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(3, stride=2, padding=1), nn.Flatten()), (1, 2, 6, 6)
        ),
        "reduce_max": Case(Function(lambda x, a: torch.max(a(x).reshape(-1, 2, 3), 2)[0], nn.Linear(4, 6)), (1, 4)),
        "max": Case(Function(lambda x, a, b: torch.max(a(x), b(x)), nn.Linear(4, 3), nn.Linear(4, 3)), (1, 4), NEW),
        "min": Case(Function(lambda x, a, b: torch.min(a(x), b(x)), nn.Linear(4, 3), nn.Linear(4, 3)), (1, 4), NEW),
    }


def _activations() -> dict[str, Case]:
    old = {
        "relu": nn.ReLU(),
        "leaky_relu": nn.LeakyReLU(0.1),
        "abs": Function(torch.abs),
        "sigmoid": nn.Sigmoid(),
        "tanh": nn.Tanh(),
        "softplus": nn.Softplus(),
        "silu": nn.SiLU(),
        "sin": Function(torch.sin),
        "cos": Function(torch.cos),
        "atan": Function(torch.atan),
    }
    new = {"hardtanh": nn.Hardtanh(-0.5, 0.7), "relu6": nn.ReLU6(), "gelu": nn.GELU()}
    found = {name: Case(_with(act), (1, 3)) for name, act in old.items()}
    return {**found, **{name: Case(_with(act), (1, 3), NEW) for name, act in new.items()}}


def _with(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2), activation, nn.Linear(2, 2))
