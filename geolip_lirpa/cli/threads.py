"""How many threads numerical libraries may use.

Place in the data flow: level 12. Called before torch and numpy are imported, since BLAS libraries read the environment
when they are loaded.
"""

from __future__ import annotations

import os
import sys

from geolip_lirpa.errors import SpecificationError

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def use_threads(requested: int | None) -> int:
    """Limit torch and BLAS to a number of threads and return it.

    Args:
        requested: at least 1; None for ``OMP_NUM_THREADS`` where it is set, else one: the matrices of most networks are
            too small to gain from more, and threads that wait for each other on a busy machine lose many times over.

    Raises:
        SpecificationError: less than 1.
    """
    count = thread_count(requested)
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(_VARIABLES, str(count)))
    import torch

    torch.set_num_threads(count)
    return count


def thread_count(requested: int | None) -> int:
    """The number that `use_threads` would choose.

    Raises:
        SpecificationError: less than 1.
    """
    if requested is not None and requested < 1:
        raise SpecificationError(f"--threads: got {requested}; allowed are 1 and more. Leave it out for one.")
    return requested or _from_environment() or 1


def _from_environment() -> int | None:
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None
