"""Compare tools that bound the Lipschitz constant of one output: claims, what is left of them after a check, and time.

    python benchmarks/peers.py [NETWORK ..] [--csv docs/performance/peers.csv] [--markdown docs/performance.md]

NETWORK is an ONNX file or random:SIZES, e.g. random:64-32-10. Each tool runs in a process of its own with a limit on
time and memory; what fails is a row, too. Rows that the CSV file already has are kept, except the reference of each
block (this package), which is timed again so that ratios are of one run, and those that had less time than --timeout
gives now; --again measures all anew. With --markdown and no network, only the document's table is written.

* claimed: what the tool says. proven: what this package's checker proves from the tool's multipliers, empty where it
  has none or they prove nothing. Differences are relative to the bound of this package.
* seconds: processor time, of this package from the loaded model to the checked certificate, of the others without any
  check.
* peak: of this package, cvxpy, SDPA, ECLipsE and auto_LiRPA it includes Python and torch.

Peers that are not installed are rows that say so: Debian packages dsdp and coinor-csdp (with libopenblas0-serial, or
they run on the reference BLAS several times slower; the remark says which), PyPI packages sdpa-python and eclipse-nn
(with --no-deps), and a later auto_LiRPA than 0.3 on PYTHONPATH for bounds of the Jacobian.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring import peer_tools, program_solvers
from measuring.isolation import WALL, peak_memory_mib, run_limited
from measuring.networks import label, load_module, network_of, row_instance
from measuring.peer_tools import Answer, Task, ToolError
from measuring.rows import Row, Table, insert, markdown, number

from geolip_lirpa.errors import GeolipError
from geolip_lirpa.natural_form import has_natural_form
from geolip_lirpa.proof import prove
from geolip_lirpa.solvers.auto import SOLVER_NAMES

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = (str(ROOT / "vnnlib_specs" / "digits_32-32.onnx"), "random:64-16-10", "random:10-20-20-1")
COLUMNS = (
    "network", "norm", "scope", "tool", "form", "claimed", "proven", "proof", "claimed_difference", "proven_difference",
    "seconds", "ratio", "peak_mib", "remark",
)  # fmt: skip
KEY = ("network", "norm", "scope", "tool", "form")
REFERENCE = "geolip-lirpa low-rank"
# seconds for start, warm-up and check, beyond the time that a tool may take
GRACE = 60.0


@dataclass(frozen=True)
class Tool:
    """A tool with the questions it can be asked.

    Args:
        run: what answers.
        forms: of the program: "dual", "natural", or "" where there is no choice.
        norms: of the input.
        scope: "global" or "local".
        proof: what its own claim is worth.
    """

    run: Callable[[Task], Answer]
    forms: tuple[str, ...] = ("",)
    norms: tuple[str, ...] = ("inf", "2")
    scope: str = "global"
    proof: str = "none"


def tools() -> dict[str, Tool]:
    """All tools by name, the reference of each scope first."""
    both, bind = ("dual", "natural"), functools.partial
    own = {"geolip-lirpa interior-point": bind(peer_tools.geolip, solver="interior-point")}
    available = own if "interior-point" in SOLVER_NAMES else {}
    return {
        REFERENCE: Tool(peer_tools.geolip, proof="rigorous"),
        **{name: Tool(run, proof="rigorous") for name, run in available.items()},
        "dsdp": Tool(program_solvers.dsdp, both),
        "csdp": Tool(program_solvers.csdp, both),
        "sdpa": Tool(program_solvers.sdpa, both),
        "cvxpy clarabel": Tool(bind(program_solvers.cvxpy_plain, solver="CLARABEL"), both),
        "cvxpy scs": Tool(bind(program_solvers.cvxpy_plain, solver="SCS"), both),
        "geolip-lirpa clarabel": Tool(bind(program_solvers.cvxpy_scaled, solver="clarabel"), both),
        "geolip-lirpa scs": Tool(bind(program_solvers.cvxpy_scaled, solver="scs"), both),
        "ECLipsE": Tool(bind(peer_tools.eclipse, method="ECLipsE"), norms=("2",)),
        "ECLipsE-Fast": Tool(bind(peer_tools.eclipse, method="ECLipsE_Fast"), norms=("2",)),
        "entrywise": Tool(bind(peer_tools.geolip, method="entrywise"), proof="rigorous"),
        "norm product": Tool(bind(peer_tools.geolip, method="norm-product"), proof="rigorous"),
        f"{REFERENCE} (local)": Tool(peer_tools.geolip, norms=("inf",), scope="local", proof="rigorous"),
        "auto_LiRPA Jacobian": Tool(bind(peer_tools.jacobian_bounds, optimize=False), norms=("inf",), scope="local"),
        "auto_LiRPA Jacobian, optimised": Tool(
            bind(peer_tools.jacobian_bounds, optimize=True), norms=("inf",), scope="local"
        ),
    }


# --- one tool, in a process of its own -------------------------------------------------------------------------------


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Ask one tool and check what it says."""
    torch.set_num_threads(1)
    tool = tools()[request["tool"]]
    module, shape = load_module(request["network"], request["seed"])
    task = Task(
        module, shape, request["row"], request["norm"], request["eps"], request["form"], request["timeout"],
        request["seed"],
    )  # fmt: skip
    try:
        found = tool.run(task)
    except TimeoutError:
        return {"timed_out": True}
    except (ToolError, GeolipError) as error:
        return {"remark": " ".join(str(error).split())[:200]}
    peak = peak_memory_mib() if found.peak_mib is None else found.peak_mib
    proven, remark = found.proven, found.remark
    if found.multipliers is not None:
        try:
            proven = prove(task.instance(), found.multipliers).upper
        except GeolipError:
            remark += "; multipliers prove nothing"
    return {
        "claimed": found.claimed, "proven": proven, "proof": tool.proof, "seconds": found.seconds, "peak_mib": peak,
        "remark": remark,
    }  # fmt: skip


def ask(request: dict[str, Any], timeout: float, memory_mib: int) -> dict[str, Any]:
    """`answer` in another process; what happens to it is part of the result."""
    with tempfile.TemporaryDirectory(prefix="peer") as folder:
        path = Path(folder) / "answer.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(request), str(path)]
        done = run_limited(command, WALL * timeout + GRACE, memory_mib=memory_mib, own_group=True)
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            return {"peak_mib": done.peak_mib, **result} if result.get("timed_out") else result
        if done.timed_out or done.code == -signal.SIGPROF:
            return {"timed_out": True, "peak_mib": done.peak_mib}
        last = (done.errors.strip() or done.output.strip() or "no message").splitlines()[-1]
        return {"peak_mib": done.peak_mib, "remark": f"stopped with status {done.code}: {last[:150]}"}


# --- all tools -------------------------------------------------------------------------------------------------------


def questions(network: str, norm: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What to ask for one network and norm, references first."""
    module, shape = load_module(network, arguments.seed)
    natural = has_natural_form(row_instance(network_of(module, shape), arguments.row, norm).forms)
    for name, tool in tools().items():
        if norm not in tool.norms or not (arguments.tools is None or _chosen(name, arguments.tools)):
            continue
        for eps in arguments.eps if tool.scope == "local" else [None]:
            for form in tool.forms:
                if form == "natural" and not natural:
                    continue
                yield {
                    "tool": name, "network": network, "norm": norm, "form": form, "eps": eps, "row": arguments.row,
                    "seed": arguments.seed, "timeout": arguments.timeout,
                }  # fmt: skip


def _chosen(name: str, wanted: list[str]) -> bool:
    return name.startswith(REFERENCE) or any(part in name for part in wanted)


def measure(table: Table, network: str, norm: str, arguments: argparse.Namespace) -> None:
    """Fill the table for one network and norm."""
    references: dict[str, dict[str, Any]] = {}
    asked = [(request, _key(request)) for request in questions(network, norm, arguments)]
    missing = [request for request, key in asked if arguments.again or _open(table.find(key), arguments.timeout)]
    for request, key in asked:
        reference = request["tool"].startswith(REFERENCE)
        if request not in missing and not (reference and missing):
            continue
        found = ask(request, arguments.timeout, arguments.memory)
        if reference:
            references[key["scope"]] = found
        row = _row(key, found, references.get(key["scope"], {}), arguments.timeout)
        table.put(row)
        print(*(row[name] for name in COLUMNS), sep="  ", flush=True)


def _open(row: Row | None, timeout: float) -> bool:
    """Whether a row is missing, or had less time than it may have now."""
    return row is None or (row["seconds"].startswith(">") and float(row["seconds"][1:]) < timeout)


def _key(request: dict[str, Any]) -> Row:
    scope = "global" if request["eps"] is None else f"within {request['eps']:g}"
    named = {name: request[name] for name in ("norm", "tool", "form")}
    return {"network": label(request["network"]), "scope": scope, **named}


def _row(key: Row, found: dict[str, Any], reference: dict[str, Any], timeout: float) -> Row:
    def show(value: float | None, pattern: str) -> str:
        return "" if value is None or not math.isfinite(value) else format(value, pattern)

    def compare(name: str) -> float | None:
        ours, its = reference.get("proven"), found.get(name)
        return None if not ours or its is None else its / ours - 1.0

    late = bool(found.get("timed_out"))
    seconds = timeout if late else found.get("seconds")
    base = reference.get("seconds")
    sign = ">" if late else ""
    return {
        **key,
        "claimed": show(found.get("claimed"), ".10g"),
        "proven": show(found.get("proven"), ".10g"),
        "proof": found.get("proof", "none"),
        "claimed_difference": show(compare("claimed"), ".2e"),
        "proven_difference": show(compare("proven"), ".2e"),
        "seconds": "" if seconds is None else f"{sign}{seconds:.4g}",
        "ratio": "" if seconds is None or not base else f"{sign}{seconds / base:.3g}",
        "peak_mib": show(found.get("peak_mib") or None, ".0f"),
        "remark": f"no answer within {timeout:g} s" if late else found.get("remark", ""),
    }


def report(table: Table) -> str:
    """The table as Markdown, a block for each network, norm and scope."""
    blocks: dict[tuple[str, str, str], list[Row]] = {}
    order = {name: place for place, name in enumerate(tools())}
    for row in sorted(table.rows(), key=lambda row: order.get(row["tool"], len(order))):
        blocks.setdefault((row["network"], row["norm"], row["scope"]), []).append(row)
    titles = ("tool", "form", "claimed", "proven", "against ours", "seconds", "ratio", "peak MiB", "remark")
    text = ""
    for (network, norm, scope), rows in blocks.items():
        cells = [
            (
                row["tool"], row["form"], number(row["claimed"]), *_checked(row),
                number(row["seconds"], 3), number(row["ratio"], 3), row["peak_mib"], row["remark"],
            )
            for row in rows
        ]  # fmt: skip
        text += f"\n{network}, l_{norm}, {'all inputs' if scope == 'global' else scope}:\n\n" + markdown(titles, cells)
    return text + "\n"


def _checked(row: Row) -> tuple[str, str]:
    """Cells of the proven bound and its difference; of the claim's, in brackets, where there is nothing to check."""
    if row["proven"]:
        return number(row["proven"]), row["proven_difference"]
    claim = f"({row['claimed_difference']})" if row["claimed_difference"] else ""
    return "nothing" if "prove nothing" in row["remark"] else "", claim


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK")
    parser.add_argument("--csv", type=Path, default=ROOT / "docs" / "performance" / "peers.csv")
    parser.add_argument("--markdown", type=Path, help="document whose table is to be written")
    parser.add_argument("--norms", nargs="+", default=["inf", "2"], choices=["inf", "2"])
    parser.add_argument("--eps", nargs="*", type=float, default=[0.01, 0.1], help="half widths of local boxes")
    parser.add_argument("--tools", nargs="+", help="only tools whose name contains one of these")
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, help="processor seconds for each tool")
    parser.add_argument("--memory", type=int, default=16384, help="MiB of address space for each tool")
    parser.add_argument("--again", action="store_true", help="measure rows that exist, too")
    arguments = parser.parse_args()
    # so that a running tool ends with this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    table = Table(arguments.csv, COLUMNS, KEY)
    for network in arguments.networks or (() if arguments.markdown else DEFAULT):
        for norm in arguments.norms:
            measure(table, network, norm, arguments)
    if arguments.markdown:
        insert(arguments.markdown, "peers", report(table))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        Path(sys.argv[3]).write_text(json.dumps(answer(json.loads(sys.argv[2]))), encoding="utf-8")
    else:
        main()
