"""Work in several processes, of which some are killed."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import pytest

from geolip_lirpa.cli.processes import in_processes, process_count
from geolip_lirpa.errors import SpecificationError, WorkerError


def dies(folder: Path, times: dict[int, int], number: int) -> tuple[int, int]:
    """Kill the own process the first times it is called for some numbers; else the square and this process."""
    calls = folder / str(number)
    with calls.open("a") as file:
        file.write(".")
    if calls.stat().st_size <= times.get(number, 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2, os.getpid()


def refuses(number: int) -> int:
    if number == 3:
        raise SpecificationError(f"image {number}: no")
    return number


def test_all_numbers_are_done_in_other_processes(tmp_path: Path) -> None:
    found = dict(in_processes(functools.partial(dies, tmp_path, {}), range(9), 2, 1))
    assert {number: square for number, (square, _) in found.items()} == {i: i**2 for i in range(9)}
    assert os.getpid() not in {process for _, process in found.values()}


def test_one_death_loses_nothing(tmp_path: Path) -> None:
    found = list(in_processes(functools.partial(dies, tmp_path, {2: 1, 7: 1}), range(9), 2, 1))
    assert sorted(number for number, _ in found) == list(range(9))
    assert (tmp_path / "2").stat().st_size == (tmp_path / "7").stat().st_size == 2
    # at most the two in work and their neighbours are repeated
    assert sum((tmp_path / str(i)).stat().st_size for i in range(9)) <= 9 + 2 * 3


def test_number_that_always_kills_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    found = []
    with pytest.raises(WorkerError, match=r"images 1, 4: .*killed") as caught:
        for number, (square, process) in in_processes(
            functools.partial(dies, tmp_path, {1: 99, 4: 99}), range(7), 2, 1
        ):
            assert square == number**2 and process != os.getpid()
            found.append(number)
    assert sorted(found) == [0, 2, 3, 5, 6] and "--images" in str(caught.value)
    assert (tmp_path / "1").stat().st_size == (tmp_path / "4").stat().st_size == 2


def test_errors_come_as_they_are() -> None:
    with pytest.raises(SpecificationError, match=r"^image 3: no$"):
        list(in_processes(refuses, range(9), 2, 1))


def test_no_more_processes_than_work() -> None:
    assert process_count(8, 3) == 3 and process_count(2, 3) == 2 and process_count(1, 0) == 1
    assert 1 <= process_count(0, 10**6) <= (os.cpu_count() or 1)
