"""The layers of the package: who may import whom, where the host is touched, and how large a piece may grow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import geolip_lirpa

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "geolip_lirpa"
FILES = sorted(PACKAGE.rglob("*.py"))

#: A module imports modules of lower levels, and those of its own level in its own folder. A folder stands for all its
#: modules. docs/architecture.md shows the same table to readers.
LEVELS: dict[str, int] = {
    "errors": 0, "rounding": 0, "types": 0,
    "activations": 1, "blocks": 1, "linear_maps": 1, "onnx_model": 1, "onnx_replay": 1, "onnx_rewrite": 1,
    "hard_limit": 1,
    "network": 2, "regions": 2, "specification": 2,
    "affine": 3, "concretise": 3, "crown": 3, "interval": 3, "relaxation": 3, "slope_ascent": 3, "slopes": 3,
    "sparse_flows": 3, "sparse_maps": 3, "truncation": 3, "vnnlib": 3,
    "form_blocks": 4, "forms": 4, "lirpa": 4, "margin_sets": 4, "margin_values": 4, "sdp": 4, "unit_box": 4,
    "attacks": 5, "enclosures": 5, "flips": 5, "increments": 5, "lmi": 5, "margin_bounds": 5, "natural_form": 5,
    "pointwise": 5, "positive_definite": 5, "sparse_sdp": 5, "standard_form": 5, "stencils": 5, "violations": 5,
    "baselines": 6, "block_elimination": 6, "dissection": 6, "following": 6, "gain_proof": 6, "margin_proof": 6,
    "margin_statements": 6,
    "patterns": 6, "proof": 6,
    "certificate": 7, "composition": 7, "export": 7, "lower_bounds": 7, "dissection_cost": 7, "proof_cost": 7,
    "solvers": 7, "splitting": 7,
    "block_bounding": 8, "bound_claims": 8, "bounding": 8, "certificate_file": 8, "certificate_records": 8,
    "compositional": 8, "cut_planning": 8, "lipschitz_types": 8, "margin_certificate": 8, "margin_file": 8,
    "margin_splitting": 8, "margin_types": 8, "pointwise_bounding": 8,
    "network_lipschitz": 9, "programs": 9, "tightening": 9, "verify_types": 9,
    "lipschitz": 10, "margin_queries": 10, "margin_work": 10, "margins": 10, "radius": 10, "verify": 10,
    "verify_onnx": 10, "verify_queries": 10,
    "": 11, "report": 11,
    "cli": 12,
    "__main__": 13,
}  # fmt: skip

#: What turns numbers into proofs; no solver takes part in it.
TRUSTED = {
    "block_elimination", "bound_claims", "certificate", "certificate_file", "certificate_records", "composition",
    "dissection", "gain_proof", "lmi", "margin_certificate", "margin_file", "margin_proof", "margin_statements",
    "positive_definite", "proof",
}  # fmt: skip
LONGEST_FILE = 350
LONGEST_FUNCTION = 60


def module_name(path: Path) -> str:
    """Dotted name within the package; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    """The entry of `LEVELS` that a module belongs to."""
    return module.partition(".")[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = {module_name(path): path for path in FILES}


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute dotted names of everything a file imports, at any depth, with the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.relative_to(ROOT).parent.parts
                base = ".".join([*folder[: len(folder) - node.level + 1], *filter(None, [base])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of this package that a file imports."""
    for name, line in imported_names(path):
        if name.partition(".")[0] == PACKAGE.name:
            inner = name.partition(".")[2]
            while inner not in MODULES:
                inner = inner.rpartition(".")[0]
            yield inner, line


@cache
def reachable(module: str) -> frozenset[str]:
    """Modules that importing this one brings in, leaving aside the packages' own __init__ files."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for inner, _ in imported_modules(MODULES[waiting.pop()]):
            if inner not in found:
                found.add(inner)
                waiting.append(inner)
    return frozenset(found)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_part_of_the_package_has_a_level() -> None:
    parts = {part(name) for name in MODULES}
    assert parts - set(LEVELS) == set(), "give the new parts a level"
    assert set(LEVELS) - parts == set(), "these parts do not exist any more"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    wrong = []
    for other, line in imported_modules(MODULES[module]):
        mine, its = LEVELS[part(module)], LEVELS[part(other)]
        same_folder = MODULES[other].parent == MODULES[module].parent
        if its > mine or (its == mine and not same_folder):
            wrong.append(f"{where(MODULES[module], line)}: level {mine} imports {other} of level {its}")
    assert not wrong, "\n".join(wrong)


def test_imports_have_no_cycles() -> None:
    # a package's __init__ gathers the names of its modules and is not asked for by them
    cycles = [name for name in MODULES if name in reachable(name)]
    assert not cycles, cycles


def test_levels_in_docstrings_are_those_of_the_table() -> None:
    wrong = []
    for module, path in MODULES.items():
        stated = re.search(r"\blevel (\d+)", ast.get_docstring(tree(path)) or "")
        if stated is not None and int(stated[1]) != LEVELS[part(module)]:
            wrong.append(f"{where(path, 1)}: says level {stated[1]}, the table says {LEVELS[part(module)]}")
    assert not wrong, "\n".join(wrong)


def test_architecture_document_shows_the_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown: dict[str, int] = {}
    for level, names in re.findall(r"^\| (\d+) \| ([^|]*) \|", text, re.MULTILINE):
        shown.update(dict.fromkeys(re.findall(r"`([a-z_]+)/?`", names), int(level)))
    # "" is the package's own file, which the document calls by its name
    expected = {name or "__init__": level for name, level in LEVELS.items()}
    assert shown == expected


def test_only_one_folder_imports_auto_lirpa() -> None:
    touching = {
        module for module, path in MODULES.items() for name, _ in imported_names(path) if name.startswith("auto_LiRPA")
    }
    loading = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
        if any(isinstance(a, ast.Constant) and str(a.value).startswith("auto_LiRPA") for a in node.args)
    }
    assert {part(module) for module in touching | loading} <= {"lirpa"}


def test_solvers_and_checker_do_not_know_each_other() -> None:
    for module in MODULES:
        if part(module) == "solvers":
            assert not {name for name in reachable(module) if part(name) in TRUSTED}, module
        if part(module) in TRUSTED:
            assert not {name for name in reachable(module) if part(name) == "solvers"}, module


def test_proofs_need_no_host() -> None:
    """What re-proves a certificate works on a `Network`, whoever extracted it."""
    for module in sorted(TRUSTED):
        assert not {name for name in reachable(module) if part(name) in ("lirpa", "onnx_model")}, module


@pytest.mark.parametrize("module", MODULES)
def test_library_neither_prints_nor_asserts(module: str) -> None:
    path = MODULES[module]
    prints = part(module) in ("cli", "report")
    found = [
        where(path, node.lineno)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and not prints)
    ]
    assert not found, found


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 0 if not body else (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_stay_small(module: str) -> None:
    path = MODULES[module]
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {length} lines; split it by concept"
    long = [
        f"{where(path, node.lineno)}: {node.name} has {code_lines(node)} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > LONGEST_FUNCTION
    ]
    assert not long, "\n".join(long)


def test_no_file_is_a_drawer() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


def test_public_names_are_not_those_of_modules() -> None:
    """``from package import name`` would find the module of that name, as soon as it is loaded."""
    assert not {name for name in geolip_lirpa.__all__ if name in MODULES}
    for name in geolip_lirpa.__all__:
        found = getattr(geolip_lirpa, name)
        assert not isinstance(found, ModuleType), name
