"""How many threads numerical libraries may use.

Place in the data flow: level 12. Called before torch and numpy are imported, since BLAS libraries read the environment
when they are loaded.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from geolip_lirpa.errors import SpecificationError

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def use_threads(requested: int | None) -> int:
    """Limit torch and BLAS to a number of threads and return it.

    Args:
        requested: at least 1; None for ``OMP_NUM_THREADS`` where it is set, else the physical cores. Two threads on one
            core slow dense linear algebra down.

    Raises:
        SpecificationError: less than 1.
    """
    if requested is not None and requested < 1:
        raise SpecificationError(f"--threads: got {requested}; allowed are 1 and more. Leave it out for all cores.")
    count = requested or _from_environment() or physical_cores()
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_VARIABLES, str(count)))
    import torch

    torch.set_num_threads(count)
    return count


def _from_environment() -> int | None:
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def physical_cores() -> int:
    """Physical cores this process may use, at least 1; logical processors where the system does not tell."""
    cores = {_siblings(cpu) for cpu in _allowed_processors()}
    return max(1, min(len(cores), _quota()))


def _allowed_processors() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """A text that processors of one core share."""
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Whole processors that a container may use."""
    try:
        limit, period = _QUOTA.read_text().split()
        return sys.maxsize if limit == "max" else max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return sys.maxsize
