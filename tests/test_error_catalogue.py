"""The page on errors describes every public error, and its example messages are those that the code gives."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geolip_lirpa import bounded_module, errors, extract_network, load_certificate, load_onnx, read_specification
from geolip_lirpa.cli import bench_backends, processes
from geolip_lirpa.lirpa import compat
from geolip_lirpa.proof import prove
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.solvers import cvxpy_backend
from geolip_lirpa.types import Norm
from tests.networks import lipschitz_instance, random_mlp

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"

Patch = pytest.MonkeyPatch


def model_error(patch: Patch) -> None:
    load_onnx("net.onnx")


def extraction_error(patch: Patch) -> None:
    extract_network(torch.nn.Linear(2, 2))


def unsupported_operator(patch: Patch) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Softplus(threshold=1))
    extract_network(bounded_module(module, (1, 2)))


def host_unavailable(patch: Patch) -> None:
    patch.setattr(compat, "host_version", lambda: None)
    compat.load_host()


def specification_error(patch: Patch) -> None:
    Norm.parse(3)


def vnnlib_error(patch: Patch) -> None:
    Path("prop.vnnlib").write_text("(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (<= X_1 0.5))\n")
    read_specification("prop.vnnlib")


def solver_error(patch: Patch) -> None:
    instance = lipschitz_instance(random_mlp(0, (4, 6, 1)))
    prove(instance, Multipliers((np.zeros(6),), np.zeros(4), np.ones(1)))


def solver_unavailable(patch: Patch) -> None:
    patch.setattr(cvxpy_backend, "find_spec", lambda package: None if package == "mosek" else object())
    cvxpy_backend.CvxpySolver("MOSEK").solve([lipschitz_instance(random_mlp(0, (4, 6, 1)))])


def cluster_unavailable(patch: Patch) -> None:
    imported = builtins.__import__

    def without_dask(name: str, *rest: Any) -> Any:
        if name == "distributed":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return imported(name, *rest)

    patch.setattr(builtins, "__import__", without_dask)
    bench_backends._client("tcp://10.0.0.1:8786")


def worker_error(patch: Patch) -> None:
    def killed(task: Any, numbers: Any, begun: list[int], jobs: int, threads: int) -> Any:
        begun += [17]
        raise BrokenProcessPool
        yield

    patch.setattr(processes, "_results", killed)
    list(processes.in_processes(lambda n: n, [17], 2, 1))


def certificate_error(patch: Patch) -> None:
    Path("net.json").write_text("not JSON")
    load_certificate("net.json")


EXAMPLES: dict[str, Callable[[Patch], None]] = {
    "ModelError": model_error,
    "ExtractionError": extraction_error,
    "UnsupportedOperatorError": unsupported_operator,
    "HostUnavailableError": host_unavailable,
    "SpecificationError": specification_error,
    "VnnlibError": vnnlib_error,
    "SolverError": solver_error,
    "SolverUnavailableError": solver_unavailable,
    "ClusterUnavailableError": cluster_unavailable,
    "WorkerError": worker_error,
    "CertificateError": certificate_error,
}


def sections() -> dict[str, str]:
    """The text below each second-level heading of the page."""
    _, *parts = re.split(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_public_error_has_a_section_with_cause_example_and_remedy() -> None:
    public = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert public == sections().keys() == EXAMPLES.keys() | {"GeolipError"}
    for name in EXAMPLES:
        text = sections()[name]
        assert text.count("```text\n") == 1 and "**Cause.**" in text and "**Remedy.**" in text, name


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_message_is_that_of_the_code(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.GeolipError) as raised:
        EXAMPLES[name](monkeypatch)
    assert type(raised.value).__name__ == name
    found = re.search(r"```text\n(.*?)```", sections()[name], re.DOTALL)
    assert found is not None
    assert " ".join(found[1].split()) == " ".join(str(raised.value).split())
