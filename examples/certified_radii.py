"""How far can an image move before its class may change? Certified radii by three methods, counted and drawn.

    python examples/certified_radii.py [--images 6] [--out build/examples]

Shows `compute_radius`: the radius that each method proves for each image, below the radius at which an attack finds
another class. CROWN and alpha-CROWN are the linear bounds of auto_LiRPA, here with all rounding errors counted;
`combined` adds Lipschitz constants and semidefinite programs where they fall short. Writes `certified_radii.png`.
Takes about 20 seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from geolip_lirpa import bounded_module, compute_radius, load_onnx
from geolip_lirpa.report.plot_style import COLOURS, picture, styled_axes

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
METHODS = ("crown", "alpha-crown", "combined")


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    """The part of the images whose radius is at least r, over r."""
    with styled_axes((6.4, 4.2)) as (figure, (axes,)):
        right = 1.05 * max(radii.max() for radii in curves.values())
        # no two look alike, in colour or without
        looks = [(COLOURS[1], "solid", 5), (COLOURS[2], "dashed", 2), (COLOURS[7], "solid", 2), ("black", "dotted", 2)]
        for (name, radii), (colour, dash, width) in zip(curves.items(), looks, strict=True):
            x = np.array([0.0, *np.sort(radii), right])
            y = [100 * float((radii >= r).mean()) for r in x]
            axes.step(x, y, where="pre", color=colour, linestyle=dash, linewidth=width, label=name)
        axes.set(xlabel="radius (l_2)", ylabel="per cent of the images", xlim=(0, right), ylim=(0, 103))
        axes.legend()
        path.write_bytes(picture(figure, path.suffix, "Certified radii by method"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("build/examples"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    data = np.load(FOLDER / "digits_test.npz")
    images, labels = torch.from_numpy(data["images"][: arguments.images]), data["labels"][: arguments.images]
    model = bounded_module(load_onnx(FOLDER / "digits_32-32.onnx"))

    curves, attacked = {}, np.full(len(images), np.inf)
    print(f"proven l_2 radii of {len(images)} images\n{'method':>12} {'smallest':>9} {'median':>9}")
    for method in METHODS:
        found = compute_radius(model, images, labels, norm=2, method=method, relative_gap=0.1)
        curves[method] = found.lower.numpy()
        attacked = np.minimum(attacked, found.upper.numpy())
        print(f"{method:>12} {curves[method].min():9.4f} {np.median(curves[method]):9.4f}")
    print(f"{'attack':>12} {attacked.min():9.4f} {np.median(attacked):9.4f}")
    # no proof reaches beyond an attack
    assert all((radii <= attacked).all() for radii in curves.values())

    path = arguments.out / "certified_radii.png"
    draw({**curves, "not attacked": attacked}, path)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
