"""The tools that `peers.py` compares: each takes a `Task` and says what it claims, in which time.

Nothing here is believed: `peers.py` hands multipliers, where a tool has any, to the checker.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geolip_lirpa import bounded_module, check_certificate, compute_lipschitz
from geolip_lirpa.lirpa import load_host
from geolip_lirpa.sdp import Multipliers, SdpInstance
from measuring.networks import network_of, row_instance, selection, weights

_REPEATS = 3


class ToolError(Exception):
    """A tool gave no answer; the text says why."""


@dataclass(frozen=True)
class Task:
    """One question to one tool.

    Args:
        module: the network.
        shape: of a batch of one.
        row: the output.
        norm: of the input, "inf" or "2".
        eps: half width of the box around `center`; None for all inputs.
        form: "dual", "natural" or "".
        timeout: processor seconds that a tool may take.
        seed: of the center.
    """

    module: nn.Module
    shape: tuple[int, ...]
    row: int
    norm: str
    eps: float | None
    form: str
    timeout: float
    seed: int = 0

    def instance(self) -> SdpInstance:
        """The global program."""
        return row_instance(network_of(self.module, self.shape), self.row, self.norm)

    def ball(self) -> Any:
        """The box as auto_LiRPA has it: around a uniformly random input in [0, 1]."""
        host = load_host()
        center = torch.rand(self.shape, generator=torch.Generator().manual_seed(self.seed))
        return host.BoundedTensor(center, host.PerturbationLpNorm(norm=float(self.norm), eps=self.eps))

    def matrices(self) -> list[Tensor]:
        """Weights of the network up to the chosen output."""
        found = weights(self.module, self.shape)
        if found is None:
            raise ToolError("takes networks of linear layers and ReLU only")
        return [*found[:-1], found[-1][self.row : self.row + 1]]


@dataclass(frozen=True)
class Answer:
    """What a tool says.

    Args:
        claimed: its bound.
        seconds: processor time it took.
        proven: a bound that it has proven itself, or None.
        multipliers: what the checker can prove a bound from, or None.
        peak_mib: memory of a process of its own, or None.
        remark: in a few words, how it ended.
    """

    claimed: float
    seconds: float
    proven: float | None = None
    multipliers: Multipliers | None = None
    peak_mib: float | None = None
    remark: str = ""


class Clock:
    """Takes the processor time of a block, and ends the whole process when that is too long.

    The end comes by the signal SIGPROF, which also stops compiled code; `peers.py` recognises it. Processor time does
    not depend on what else the machine does, and is the wall time of a single thread on an idle one.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.seconds = 0.0

    def __enter__(self) -> Clock:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, self.limit)
        self._begin = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._begin
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _median_seconds(run: Callable[[], float], limit: float) -> tuple[float, float]:
    """The result and the median of a few timings; a first run that pays for imports does not count."""
    times = []
    for _ in range(1 + _REPEATS):
        with Clock(limit) as clock:
            result = run()
        times.append(clock.seconds)
    return result, statistics.median(times[1:])


# --- this package -----------------------------------------------------------------------------------------------------


def geolip(task: Task, method: str = "sdp", solver: str = "auto") -> Answer:
    """From the loaded model to the checked certificate."""
    model = bounded_module(task.module, task.shape)
    options: dict[str, Any] = {"scope": "global", "norm": task.norm}
    if task.eps is not None:
        options = {"scope": "local", "x": (task.ball(),)}
    rows = selection(task.row, model(torch.zeros(task.shape)).shape[1])

    def bound() -> float:
        result = compute_lipschitz(model, C=rows, method=method, solver=solver, lower_bounds=False, **options)
        if result.certificate is None:
            raise ToolError("no certificate")
        if method == "sdp" and result.rows[0].solver == "norm-product":
            raise ToolError("multipliers do not prove a bound")
        return float(check_certificate(result.certificate, model)[0, 0])

    proven, seconds = _median_seconds(bound, task.timeout)
    return Answer(proven, seconds, proven=proven, remark="certificate checked")


def needed(module: str, how: str) -> Any:
    """A tool's package."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ToolError(f"not installed: {how}") from None


# --- tools without multipliers ---------------------------------------------------------------------------------------


def eclipse(task: Task, method: str) -> Answer:
    """ECLipsE (Xu and Sivaranjani, NeurIPS 2024), PyPI package eclipse-nn: l_2, layer by layer."""
    package = needed("eclipse_nn", "pip install --no-deps eclipse-nn")
    matrices = task.matrices()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        package.LipConstEstimator(weights=[torch.eye(2).double()] * 2).estimate(method)
        printed.truncate(0)
        with Clock(task.timeout) as clock:
            value = float(package.LipConstEstimator(weights=matrices).estimate(method))
    fallback = "; fell back to ECLipsE-Fast" if "Falling back" in printed.getvalue() else ""
    return Answer(value, clock.seconds, remark=f"gives no multipliers{fallback}")


class _GradientNorm(nn.Module):
    """The l_1 norm of the gradient of one output, for auto_LiRPA to bound."""

    def __init__(self, task: Task, jacobian: Any) -> None:
        super().__init__()
        self.network = task.module
        self.jacobian, self.norm = jacobian.JacobianOP, jacobian.GradNorm(norm=1)
        outputs = task.module(torch.zeros(task.shape)).shape[1]
        self.register_buffer("selection", torch.eye(outputs)[:, task.row : task.row + 1])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.jacobian.apply(self.network(x).matmul(self.selection), x))


def jacobian_bounds(task: Task, optimize: bool) -> Answer:
    """auto_LiRPA's bound of the gradient's l_1 norm over a box, in float32."""
    host = load_host()
    jacobian = needed("auto_LiRPA.jacobian", "put a later auto_LiRPA than 0.3 on PYTHONPATH")

    def bound() -> tuple[float, float]:
        model = host.BoundedModule(_GradientNorm(task, jacobian), (task.ball(),))
        with Clock(task.timeout) as clock:
            upper = model.compute_jacobian_bounds((task.ball(),), optimize=optimize, bound_lower=False)[1]
        return float(upper), clock.seconds

    bound()  # pays for imports
    value, seconds = bound()
    return Answer(value, seconds, remark="gives no multipliers; float32")
