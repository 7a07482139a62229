"""VNN-LIB 1.0 and 2.0: texts to `Specification`, and witnesses to text.

Place in the data flow: level 3, ``.vnnlib file -> Specification``. Knows numpy and the package `vnnlib`, no networks.
"""

from __future__ import annotations

from geolip_lirpa.vnnlib.reading import read_specification
from geolip_lirpa.vnnlib.witness import read_witness, witness_text

__all__ = ["read_specification", "read_witness", "witness_text"]
