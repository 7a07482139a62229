"""Shared fixtures: small networks, and the command line run inside the test's own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Command, Run
from hypothesis import HealthCheck, settings
from onnx_files import random_weights, write_mlp

from geolip_lirpa.cli import main
from geolip_lirpa.cli.exit_codes import ExitCode

settings.register_profile(
    "suite", deadline=None, max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck)
)
settings.load_profile("suite")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``geolip-lirpa`` with arguments of any type; no run may end with a traceback or an internal error."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def command(*arguments: object) -> Run:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        assert "internal error" not in captured.err, captured.err
        return Run(code, captured.out, captured.err)

    return command


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``small.onnx`` (3-5-4), ``twin.onnx`` (the same sizes, larger weights) and ``linear.onnx`` (4-3)."""
    folder = tmp_path_factory.mktemp("networks")
    write_mlp(folder / "small.onnx", random_weights([3, 5, 4], seed=1))
    write_mlp(folder / "twin.onnx", [2 * w for w in random_weights([3, 5, 4], seed=2)])
    write_mlp(folder / "linear.onnx", random_weights([4, 3], seed=3))
    write_mlp(folder / "softmax.onnx", random_weights([3, 5, 4], seed=1), end="Softmax")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Npz file with 5 labelled inputs for ``small.onnx``."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    values = np.random.default_rng(0).random((5, 3)).astype(np.float32)
    np.savez(path, images=values, labels=np.arange(5))
    return path


@pytest.fixture
def certificate(run: Command, networks: Path, tmp_path: Path) -> Path:
    """Proofs for outputs 1 and 3 of ``small.onnx``, l_2."""
    path = tmp_path / "certificate.json"
    options = ("--norm", "2", "--rows", "1,3", "--certificate", path)
    assert run("lipschitz", networks / "small.onnx", *options).code == ExitCode.OK
    return path
