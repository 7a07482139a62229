"""``verify`` end to end on the repository's own specifications: verdicts, witnesses, formats."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command
from specification_files import FOLDER, Instance, instance, instances, require_violation

from geolip_lirpa.cli.exit_codes import ExitCode


@pytest.mark.parametrize("found", instances(), ids=lambda i: f"{i.version}-{i.specification.stem}")
def test_verdict_and_witness(run: Command, found: Instance) -> None:
    name = "N=" if found.version == "2.0" else ""
    result = run("verify", found.specification, "--network", f"{name}{found.network}", "--timeout", 60)
    verdict, _, witness = result.out.partition("\n")
    assert result.code == ExitCode.OK
    # where the script found nothing, every answer is right that the checks below allow
    allowed = ("sat", "unsat", "unknown", "timeout") if found.expected == "unknown" else (found.expected,)
    assert verdict in allowed, result.err
    if verdict == "sat":
        require_violation(found, witness)
    else:
        assert witness == ""


def test_same_answer_twice(run: Command) -> None:
    found = instance("2.0", "digits_tanh_1_0.05")
    command = ("verify", found.specification, "--network", found.network, "--seed", 7)
    assert run(*command).out == run(*command).out


def test_a_single_bound_does_not_split(run: Command) -> None:
    found = instance("1.0", "pendulum_limit")
    assert run("verify", found.specification, "--network", found.network, "--method", "ibp").out == "unknown\n"


def test_witness_file(run: Command, tmp_path: Path) -> None:
    violated, path = instance("1.0", "pendulum_limit_exceeded"), tmp_path / "witness.txt"
    result = run("verify", violated.specification, "--network", violated.network, "--witness", path)
    assert result.out == f"sat\n{path.read_text()}"
    path.unlink()
    holds = instance("1.0", "pendulum_pushes_back")
    assert run("verify", holds.specification, "--network", holds.network, "--witness", path).out == "unsat\n"
    assert list(tmp_path.iterdir()) == []


def test_serialised_assignments(run: Command, tmp_path: Path) -> None:
    found, folder = instance("2.0", "digits_conv_1_0.05"), tmp_path / "assignment"
    result = run("verify", found.specification, "--network", found.network, "--serialise-assignments", folder)
    assert result.out == "sat\n"
    assert sorted(path.name for path in folder.iterdir()) == ["X.pb", "Y.pb"]
    arrays = []
    for name, shape in (("X", (1, 1, 8, 8)), ("Y", (1, 10))):
        tensor = onnx.load_tensor(str(folder / f"{name}.pb"))
        arrays.append(onnx.numpy_helper.to_array(tensor))
        assert (arrays[-1].shape, arrays[-1].dtype) == (shape, np.float32)
    lines = ["X real [1,1,8,8]", *map(_plain, arrays[0].ravel()), "Y real [1,10]", *map(_plain, arrays[1].ravel())]
    require_violation(found, "\n".join(lines) + "\n")


def _plain(value: np.float32) -> str:
    return np.format_float_positional(np.float64(value))


def test_json(run: Command) -> None:
    violated = instance("2.0", "pendulum_turns_back_hard")
    result = run("verify", violated.specification, "--network", violated.network, "--json", "--timeout", 60)
    assert result.json["verdict"] == "sat" and result.json["vnnlib_version"] == "2.0" and result.json["timeout"] == 60
    assert [len(result.json["witness"][key]) for key in ("inputs", "outputs")] == [2, 2]
    holds = instance("1.0", "digits_conv_1_0.03")
    found = run("verify", holds.specification, "--network", holds.network, "--json").json
    assert found["verdict"] == "unsat" and found["witness"] is None and found["timeout"] is None
    assert found["bound"] > 0 and found["proved_by"] and found["boxes"] >= 1 and found["seconds"] > 0


def test_compressed_files(run: Command, tmp_path: Path) -> None:
    found = instance("2.0", "pendulum_limit_exceeded")
    paths = []
    for path in (found.specification, found.network):
        paths.append(tmp_path / f"{path.name}.gz")
        paths[-1].write_bytes(gzip.compress(path.read_bytes()))
    result = run("verify", paths[0], "--network", f"N={paths[1]}")
    assert result.out.startswith("sat\n")
    require_violation(found, result.out.removeprefix("sat\n"))


def test_file_names_with_equal_signs(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "eps=0.1.onnx"
    path.write_bytes((FOLDER / "pendulum.onnx").read_bytes())
    found = instance("2.0", "pendulum_comparison")
    for network in (path, f"N={path}"):
        assert run("verify", found.specification, "--network", network).out == "unsat\n"


def test_own_process() -> None:
    """As others call it: the verdict alone on standard output, all else on standard error, nothing left behind."""
    found = instance("2.0", "pendulum_comparison_reversed")
    command = [sys.executable, "-m", "geolip_lirpa", "verify", found.specification, "--network", f"N={found.network}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    verdict, _, witness = result.stdout.partition("\n")
    assert verdict == "sat"
    require_violation(found, witness)
    assert "float32" in result.stderr and result.stderr.startswith("note: ")


def test_parent_needs_neither_torch_nor_numpy() -> None:
    """They take seconds to load, which count."""
    text = (
        "import sys; import geolip_lirpa.cli.verify_run; from geolip_lirpa.cli import main; main(['supports', "
        "'--onnx-operators']); print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=FOLDER.parent, check=True)
    assert result.stdout.endswith("[]\n")


def test_json_is_one_object_whatever_the_verdict(run: Command) -> None:
    for name in ("digits_conv_5_0.08", "cart_pole_follows_from_afar"):
        found = instance("1.0", name)
        text = run("verify", found.specification, "--network", found.network, "--json").out
        assert json.loads(text)["verdict"] == found.expected
