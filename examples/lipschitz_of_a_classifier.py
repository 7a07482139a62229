"""How steep is a classifier of digits? Global and local Lipschitz constants, against sampling and products of norms.

    python examples/lipschitz_of_a_classifier.py

Shows `compute_lipschitz`: what random pairs of inputs suggest, what some input attains, what is proven, and what
products of norms prove; then the same near one image, where the constant is smaller. Takes about 5 seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from geolip_lirpa import bounded_module, compute_lipschitz, load_onnx

# auto_LiRPA's own import works once geolip_lirpa is there
from auto_LiRPA import BoundedTensor, PerturbationLpNorm  # isort: skip

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
OUTPUT = 3
PAIRS = 20_000


def sampled_slope(model: torch.nn.Module, norm: float) -> float:
    """The largest slope of one output over random pairs of images."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand((2, PAIRS, 64), generator=generator)
    with torch.no_grad():
        rise = (model(x) - model(y))[:, OUTPUT].abs()
    return float((rise / torch.linalg.vector_norm(x - y, ord=norm, dim=1)).max())


def main() -> None:
    torch.set_num_threads(1)
    model = bounded_module(load_onnx(FOLDER / "digits_32-32.onnx"))
    row = torch.eye(10)[None, [OUTPUT]]  # C: one row, the output itself

    print(f"|f_{OUTPUT}(x) - f_{OUTPUT}(x')| <= L |x - x'| for all inputs: L is at least, at most")
    print(f"{'norm':>6} {'random pairs':>13} {'attained':>9} | {'proven':>8} {'entrywise':>10} {'norm product':>13}")
    for norm in (np.inf, 2):
        found = {m: compute_lipschitz(model, C=row, norm=norm, method=m) for m in ("sdp", "entrywise", "norm-product")}
        proven, entrywise, product = (float(result.upper) for result in found.values())
        sampled, attained = sampled_slope(model, norm), float(found["sdp"].lower)
        print(f"{f'l_{norm}':>6} {sampled:13.2f} {attained:9.2f} | {proven:8.2f} {entrywise:10.2f} {product:13.2f}")
        # whatever is attained stays below whatever is proven
        assert max(sampled, attained) <= min(proven, entrywise, product)

    image = torch.from_numpy(np.load(FOLDER / "digits_test.npz")["images"][:1])
    print(f"\nthe same for x, x' within eps (l_inf) of test image 0\n{'eps':>6} {'attained':>9} {'proven':>9}")
    for eps in (0.001, 0.01, 0.05, 0.2):
        ball = BoundedTensor(image, PerturbationLpNorm(norm=np.inf, eps=eps))
        result = compute_lipschitz(model, (ball,), row, scope="local")
        print(f"{eps:6} {float(result.lower):9.2f} {float(result.upper):9.2f}")


if __name__ == "__main__":
    main()
