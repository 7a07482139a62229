"""Other solvers for the program of this package: in programs of their own, or through cvxpy.

Like all peers they take a `Task` and return an `Answer` that nobody believes; the multipliers go to the checker.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from geolip_lirpa.export import export_instance
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.auto import make_solver
from geolip_lirpa.sparse_sdp import SparseMatrices, SparseSdp
from geolip_lirpa.standard_form import standard_form
from measuring.isolation import WALL, Finished, run_limited
from measuring.networks import network_of, random_mlp, row_instance
from measuring.peer_tools import Answer, Clock, Task, ToolError, needed

# --- the exported program, in the tools' own programs ----------------------------------------------------------------


def dsdp(task: Task) -> Answer:
    """DSDP (Debian package dsdp) on the SDPA file, which it reads itself."""
    with tempfile.TemporaryDirectory(prefix="d") as folder:
        # DSDP cuts file names after 40 characters, so it gets one without folders
        sdp, instance = _exported(task, Path(folder))
        command = ["dsdp5", "p.dat-s", "-save", "s"]
        done = _run(command, task, Path(folder))
        x = _solution(done, Path(folder) / "s", len(sdp.rhs))
    status = "converged" if "DSDP Converged" in done.output else "did not converge"
    return _from_solution(sdp, instance, x, done.seconds, done.peak_mib, f"{status}; {blas('dsdp5')}")


def csdp(task: Task) -> Answer:
    """CSDP (Debian package coinor-csdp) on the SDPA file, which it reads itself."""
    with tempfile.TemporaryDirectory(prefix="c") as folder:
        sdp, instance = _exported(task, Path(folder))
        done = _run(["csdp", "p.dat-s", "s"], task, Path(folder))
        x = _solution(done, Path(folder) / "s", len(sdp.rhs))
    found = re.search(r"^(Success|Partial Success|Declaring|Stuck|Failure).*$", done.output, re.MULTILINE)
    status = found[0] if found else f"status {done.code}"
    return _from_solution(sdp, instance, x, done.seconds, done.peak_mib, f"{status}; {blas('csdp')}")


def sdpa(task: Task) -> Answer:
    """SDPA through its Python package sdpa-python, on the SDPA file."""
    sdpap = needed("sdpap", "pip install --no-deps sdpa-python")
    with tempfile.TemporaryDirectory(prefix="s") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own opinion of the accuracy comes as a status
        sdp, instance = _exported(task, Path(folder))
        with Clock(task.timeout) as clock:
            problem = sdpap.importsdpa(str(Path(folder) / "p.dat-s"))
            _, y, _, _, info = sdpap.solve(*problem, {"print": "no", "numThreads": 1})
    x = np.asarray(y.todense(), dtype=np.float64).ravel()
    return _from_solution(sdp, instance, x, clock.seconds, None, str(info["phasevalue"]))


def _run(command: list[str], task: Task, folder: Path) -> Finished:
    """A solver's own program; DSDP keeps arrays on the stack."""
    return run_limited(
        command, WALL * task.timeout, processor_limit=task.timeout, folder=folder, unlimited_stack=True
    )  # fmt: skip


def blas(program: str) -> str:
    """Which BLAS a program loads: Debian's reference BLAS makes these solvers several times slower than OpenBLAS."""
    listed = subprocess.run(["ldd", shutil.which(program) or program], capture_output=True, text=True, check=False)
    found = re.search(r"libblas\S* => (\S+)", listed.stdout)
    path = str(Path(found[1]).resolve()).lower() if found else ""
    known = [name for name in ("OpenBLAS", "ATLAS", "BLIS", "MKL") if name.lower() in path]
    return known[0] if known else "reference BLAS" if path else "unknown BLAS"


def _exported(task: Task, folder: Path) -> tuple[SparseSdp, SdpInstance]:
    instance = task.instance()
    return export_instance(instance, folder / "p.dat-s", "sdpa", form=task.form), instance


def _solution(done: Finished, path: Path, count: int) -> Array:
    """The variables from a solution file in SDPA's format: its first line."""
    if done.timed_out:
        raise TimeoutError
    if not path.exists():
        last = (done.errors.strip() or done.output.strip()).splitlines()[-1:] or [""]
        raise ToolError(f"status {done.code}, no solution: {last[0][:80]}")
    with path.open(encoding="ascii") as file:
        x = np.array(file.readline().split(), dtype=np.float64)
    if x.shape != (count,):
        raise ToolError(f"wrote {x.size} numbers instead of {count}")
    return x


def _from_solution(
    sdp: SparseSdp, instance: SdpInstance, x: Array, seconds: float, peak: float | None, remark: str
) -> Answer:
    """The claim is the objective of the variables."""
    return Answer(float(sdp.rhs @ x), seconds, None, sdp.multipliers(x, instance), peak, remark)


# --- cvxpy -----------------------------------------------------------------------------------------------------------


def cvxpy_plain(task: Task, solver: str) -> Answer:
    """GeoLIP's program as it stands, through cvxpy with the solver's own settings."""
    cvxpy = needed("cvxpy", "pip install cvxpy")
    instance = task.instance()
    _warm_up(cvxpy, solver)
    with Clock(task.timeout) as clock:
        sdp = standard_form(instance, task.form)
        x = cvxpy.Variable(len(sdp.rhs))
        problem = _problem(cvxpy, sdp, x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate" is in the status
            problem.solve(solver=solver)
    if x.value is None:
        raise ToolError(f"status {problem.status}")
    return _from_solution(sdp, instance, np.asarray(x.value), clock.seconds, None, f"claims {problem.status}")


def _problem(cvxpy: Any, sdp: SparseSdp, x: Any) -> Any:
    r""":math:`\min b^T x` with :math:`\sum x_i A_i \succeq C` and :math:`x_S \ge 0`."""
    flat = _stacked(sdp.constraints, sdp.size, len(sdp.rhs)) @ x
    constant = _stacked(sdp.objective, sdp.size, 1).toarray().reshape(sdp.size, sdp.size)
    constraints = [cvxpy.reshape(flat, (sdp.size, sdp.size), order="C") >> constant]
    if sdp.signed.any():
        constraints.append(x[np.flatnonzero(sdp.signed)] >= 0)
    return cvxpy.Problem(cvxpy.Minimize(sdp.rhs @ x), constraints)


def _warm_up(cvxpy: Any, solver: str) -> None:
    """Pay for imports."""
    matrix = cvxpy.Variable((2, 2), PSD=True)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.trace(matrix))).solve(solver=solver)


def _stacked(matrices: SparseMatrices, size: int, count: int) -> sparse.csr_array:
    """The map from coefficients to the flattened symmetric matrix, (size * size, count)."""
    below = matrices.rows != matrices.cols
    places = (matrices.rows * size + matrices.cols, (matrices.cols * size + matrices.rows)[below])
    values = np.concatenate([matrices.values, matrices.values[below]])
    index = np.concatenate([matrices.index, matrices.index[below]])
    return sparse.csr_array((values, (np.concatenate(places), index)), shape=(size * size, count))


def cvxpy_scaled(task: Task, solver: str) -> Answer:
    """The same program after this package's scaling."""
    instance = task.instance()
    backend = make_solver(solver, task.form)
    backend.solve([row_instance(network_of(random_mlp((2, 2, 1), 0), (1, 2)), 0, task.norm)])
    with Clock(task.timeout) as clock:
        result = backend.solve([instance])[0]
    multipliers = result.multipliers
    claimed = 0.5 * float(multipliers.input.sum() + multipliers.output.sum())
    return Answer(claimed, clock.seconds, None, multipliers, None, result.status.value)
