"""Readers of exported programs, written from the formats' descriptions and not from the writers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geolip_lirpa.sparse_sdp import Form, SparseSdp

#: (matrix, larger position, smaller position) -> value; matrix -1 is the objective C, others the A_i.
Entries = dict[tuple[int, int, int], float]


@dataclass(frozen=True)
class ReadProgram:
    """What a file says, in the terms of `SparseSdp`."""

    size: int
    rhs: list[float]
    signed: list[bool]
    entries: Entries


def expected(sdp: SparseSdp) -> ReadProgram:
    """What a file of a program must say."""
    entries: Entries = {}
    for shift, family in ((-1, sdp.objective), (0, sdp.constraints)):
        rows = zip(family.index, family.rows, family.cols, family.values, strict=True)
        entries.update({(int(i) + shift, int(r), int(c)): float(v) for i, r, c, v in rows})
    return ReadProgram(sdp.size, sdp.rhs.tolist(), sdp.signed.tolist(), entries)


def _put(entries: Entries, matrix: int, row: int, col: int, value: float) -> None:
    key = (matrix, max(row, col), min(row, col))
    if key in entries:
        raise ValueError(f"entry {key} occurs twice")
    entries[key] = value


def read_sdpa(path: Path) -> ReadProgram:
    """SDPA sparse format with one matrix block and an optional diagonal block of signs."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith(('"', "*"))]
    count, blocks = int(lines[0]), int(lines[1])
    sizes = [int(word) for word in lines[2].split()]
    if len(sizes) != blocks or sizes[0] < 0 or any(size > 0 for size in sizes[1:]):
        raise ValueError(f"unexpected blocks {sizes}")
    entries: Entries = {}
    signs: dict[int, int] = {}
    for line in lines[4:]:
        words = line.split()
        matrix, block, row, col = map(int, words[:4])
        if block == 1:
            _put(entries, matrix - 1, row - 1, col - 1, float(words[4]))
        elif (row, float(words[4])) == (col, 1.0) and row not in signs:
            signs[row] = matrix - 1
        else:
            raise ValueError(f"not a sign constraint: {line}")
    if sorted(signs) != list(range(1, -sum(sizes[1:]) + 1)):
        raise ValueError("the diagonal block has gaps")
    return ReadProgram(
        sizes[0], [float(w) for w in lines[3].split()], [i in signs.values() for i in range(count)], entries
    )


def _sections(path: Path) -> dict[str, list[list[str]]]:
    """Lines of a CBF file by keyword, split into words."""
    sections: dict[str, list[list[str]]] = {}
    keyword = ""
    for line in path.read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            keyword = ""
        elif not keyword:
            keyword = words[0]
            if keyword in sections:
                raise ValueError(f"section {keyword} occurs twice")
            sections[keyword] = []
        else:
            sections[keyword].append(words)
    return sections


def _coordinates(section: list[list[str]]) -> list[list[str]]:
    if int(section[0][0]) != len(section) - 1:
        raise ValueError("wrong number of entries")
    return section[1:]


def _vector(section: list[list[str]], size: int, sign: float) -> list[float]:
    result = [0.0] * size
    for position, value in _coordinates(section):
        result[int(position)] = sign * float(value)
    return result


def _flags(section: list[list[str]], inside: str, outside: str) -> list[bool]:
    count, cones = map(int, section[0])
    flags = [{inside: True, outside: False}[kind] for kind, size in section[1:] for _ in range(int(size))]
    if (len(flags), len(section) - 1) != (count, cones):
        raise ValueError("wrong number of cones")
    return flags


def read_cbf(path: Path) -> tuple[Form, ReadProgram]:
    """Conic Benchmark Format with one matrix inequality or one matrix variable."""
    sections = _sections(path)
    if sections["VER"] != [["2"]]:
        raise ValueError("version")
    return (Form.DUAL, _dual_cbf(sections)) if "PSDCON" in sections else (Form.NATURAL, _natural_cbf(sections))


def _dual_cbf(sections: dict[str, list[list[str]]]) -> ReadProgram:
    if set(sections) != {"VER", "OBJSENSE", "VAR", "PSDCON", "OBJACOORD", "HCOORD", "DCOORD"}:
        raise ValueError(f"sections {sorted(sections)}")
    if sections["OBJSENSE"] != [["MIN"]] or sections["PSDCON"][0] != ["1"]:
        raise ValueError("sense or number of inequalities")
    entries: Entries = {}
    for constraint, variable, row, col, value in _coordinates(sections["HCOORD"]):
        _put(entries, int(variable) + int(constraint), int(row), int(col), float(value))
    for constraint, row, col, value in _coordinates(sections["DCOORD"]):
        _put(entries, int(constraint) - 1, int(row), int(col), -float(value))
    signed = _flags(sections["VAR"], "L+", "F")
    rhs = _vector(sections["OBJACOORD"], len(signed), 1.0)
    return ReadProgram(int(sections["PSDCON"][1][0]), rhs, signed, entries)


def _natural_cbf(sections: dict[str, list[list[str]]]) -> ReadProgram:
    if set(sections) != {"VER", "OBJSENSE", "PSDVAR", "CON", "OBJFCOORD", "FCOORD", "BCOORD"}:
        raise ValueError(f"sections {sorted(sections)}")
    if sections["OBJSENSE"] != [["MAX"]] or sections["PSDVAR"][0] != ["1"]:
        raise ValueError("sense or number of variables")
    entries: Entries = {}
    for constraint, variable, row, col, value in _coordinates(sections["FCOORD"]):
        _put(entries, int(constraint) + int(variable), int(row), int(col), float(value))
    for variable, row, col, value in _coordinates(sections["OBJFCOORD"]):
        _put(entries, int(variable) - 1, int(row), int(col), float(value))
    signed = _flags(sections["CON"], "L-", "L=")
    rhs = _vector(sections["BCOORD"], len(signed), -1.0)
    return ReadProgram(int(sections["PSDVAR"][1][0]), rhs, signed, entries)


def read_task(path: Path) -> tuple[Form, ReadProgram]:
    """MOSEK task with one matrix inequality or one matrix variable."""
    import mosek

    with mosek.Task() as task:
        task.readdata(str(path))
        if task.getnumbarvar():
            return Form.NATURAL, _natural_task(mosek, task)
        return Form.DUAL, _dual_task(mosek, task)


def _natural_task(mosek, task) -> ReadProgram:
    if (task.getnumvar(), task.getnumbarvar(), task.getnumacc()) != (0, 1, 0):
        raise ValueError("unexpected variables or cones")
    if task.getobjsense() != mosek.objsense.maximize:
        raise ValueError("sense")
    entries: Entries = {}
    for _, row, col, value in zip(*task.getbarcblocktriplet()[-4:], strict=True):
        _put(entries, -1, row, col, value)
    for constraint, _, row, col, value in zip(*task.getbarablocktriplet()[-5:], strict=True):
        _put(entries, constraint, row, col, value)
    keys, lower, upper = task.getconboundslice(0, task.getnumcon())
    flags = [{mosek.boundkey.up: True, mosek.boundkey.fx: False}[key] for key in keys]
    if any(low != up for flag, low, up in zip(flags, lower, upper, strict=True) if not flag):
        raise ValueError("an equation has two sides")
    return ReadProgram(task.getdimbarvarj(0), list(upper), flags, entries)


def _dual_task(mosek, task) -> ReadProgram:
    if (task.getnumcon(), task.getnumacc()) != (0, 1) or task.getobjsense() != mosek.objsense.minimize:
        raise ValueError("unexpected constraints, cones or sense")
    if task.getdomaintype(task.getaccdomain(0)) != mosek.domaintype.svec_psd_cone:
        raise ValueError("cone")
    length = task.getaccn(0)
    size = int(np.sqrt(2 * length))
    # lower triangle, column by column
    places = [(row, col) for col in range(size) for row in range(col, size)]
    if len(places) != length or list(task.getaccafeidxlist(0)) != list(range(length)):
        raise ValueError("order of the cone")
    entries: Entries = {}
    for place, variable, value in zip(*task.getaccftrip(), strict=True):
        _put(entries, variable, *places[place], _unscaled(places[place], value))
    for place, value in enumerate(task.getaccgvector()):
        if value:
            _put(entries, -1, *places[place], -_unscaled(places[place], value))
    keys, lower, _ = task.getvarboundslice(0, task.getnumvar())
    flags = [{mosek.boundkey.lo: True, mosek.boundkey.fr: False}[key] for key in keys]
    if any(low != 0 for flag, low in zip(flags, lower, strict=True) if flag):
        raise ValueError("a sign constraint with another bound")
    return ReadProgram(size, list(task.getc()), flags, entries)


def _unscaled(place: tuple[int, int], value: float) -> float:
    """The matrix entry of a scaled one, to within two roundings off the diagonal."""
    return value if place[0] == place[1] else float(value / np.sqrt(2.0))
