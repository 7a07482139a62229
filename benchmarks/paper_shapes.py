"""Bounds of networks of the shapes in GeoLIP's paper (arXiv 2203.01212), trained normally and adversarially.

    python benchmarks/paper_shapes.py IMAGES.npz --networks FOLDER [--csv docs/performance/paper_shapes.csv]
                                      [--natural 60] [--markdown docs/performance.md]

IMAGES holds X, (n, 784) uint8, and Y, (n,): MNIST or a part of it. FOLDER keeps the trained networks as ONNX files.
The shapes are 784-w-10 for w = 8 .. 256 and 2, 6 and 7 layers of width 64; adversarial training attacks every batch by
projected gradients of radius 0.1 in l_inf. All bounds are means over all outputs. Rows that the CSV file already has
are kept; --again measures all anew. With --markdown and no images, only the document's table is written.

Columns:

* sampled: largest gradient at random inputs; attained: the largest that the search for lower bounds has found. Both are
  lower bounds, the others bound the formal constant from above.
* brute force: the formal constant by enumeration, up to rounding, for at most 16 neurons.
* proven: the proven bound of the program's dual form. natural: what DSDP makes of the natural form, which has the same
  value, on networks of one hidden layer, with --natural SECONDS for each output; empty where one did not finish.
* norm product: the proven product of norms.

Seconds are processor time for all outputs together, without the search for lower bounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from measuring.networks import load_module, network_of, row_instance
from measuring.peer_tools import Task, ToolError
from measuring.program_solvers import dsdp
from measuring.rows import Row, Table, insert, markdown, number
from measuring.training import Attack, Images, accuracy, load_images, trained

from geolip_lirpa import bounded_module, compute_lipschitz
from geolip_lirpa.baselines import brute_force, sampled_lower_bound
from geolip_lirpa.sdp import SdpInstance

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = ((8,), (16,), (64,), (128,), (256,), (64, 64), (64,) * 6, (64,) * 7)
ENUMERATED = 16
MEANS = ("sampled", "attained", "brute_force", "proven", "natural", "norm_product")
COLUMNS = (
    "network", "training", "norm", *MEANS, "seconds", "natural_seconds", "accuracy", "attacked_accuracy",
)  # fmt: skip
KEY = ("network", "training", "norm")


@dataclass(frozen=True)
class Settings:
    """How networks are trained and measured.

    Args:
        folder: of the trained networks.
        epochs: of training.
        seed: of everything.
        samples: random inputs for the sampled bound.
        natural: seconds for DSDP and one output; 0 leaves it out.
    """

    folder: Path
    epochs: int
    seed: int
    samples: int
    natural: float


def bounds(path: Path, norm: str, settings: Settings) -> dict[str, float | None]:
    """Means over all outputs of one network, with the seconds that the proven bounds took."""
    module, shape = load_module(str(path))
    model = bounded_module(module, shape)
    compute_lipschitz(model, norm=norm, method="norm-product", lower_bounds=False)  # pays for imports
    begin = time.process_time()
    compute_lipschitz(model, norm=norm, seed=settings.seed, lower_bounds=False)
    seconds = time.process_time() - begin
    result = compute_lipschitz(model, norm=norm, seed=settings.seed)
    product = compute_lipschitz(model, norm=norm, method="norm-product", lower_bounds=False)
    network = network_of(module, shape)
    instances = [row_instance(network, row, norm) for row in range(network.output_size)]
    few = network.hidden_size <= ENUMERATED
    natural = _natural(path, norm, len(instances), settings) if len(network.activations) == 1 else None
    return {
        "sampled": _mean(instances, lambda i: sampled_lower_bound(i, settings.samples, settings.seed).value),
        "attained": float(result.lower.mean()),
        "brute_force": _mean(instances, brute_force) if few else None,
        "proven": float(result.upper.mean()),
        "natural": None if natural is None else natural[0],
        "norm_product": float(product.upper.mean()),
        "seconds": seconds,
        "natural_seconds": None if natural is None else natural[1],
    }


def _mean(instances: list[SdpInstance], bound: Callable[[SdpInstance], float]) -> float:
    return sum(map(bound, instances)) / len(instances)


def _natural(path: Path, norm: str, outputs: int, settings: Settings) -> tuple[float, float] | None:
    """Mean of DSDP's values of the natural form, and seconds for all; None when not asked for or one did not finish."""
    if settings.natural <= 0:
        return None
    module, shape = load_module(str(path))
    total = seconds = 0.0
    for row in range(outputs):
        task = Task(module, shape, row, norm, None, "natural", settings.natural)
        try:
            found = dsdp(task)
        except (TimeoutError, ToolError):
            return None
        if not found.remark.startswith("converged"):
            return None
        total, seconds = total + found.claimed, seconds + found.seconds
    return total / outputs, seconds


def measure(table: Table, images: Images, settings: Settings, shapes: list[list[int]], again: bool) -> None:
    """Train what is missing and fill the table."""
    attack = Attack()
    for sizes in shapes:
        for training in ("normal", "adversarial"):
            keys = [{"network": short(sizes), "training": training, "norm": norm} for norm in ("inf", "2")]
            missing = [key for key in keys if again or table.find(key) is None]
            if not missing:
                continue
            used = attack if training == "adversarial" else None
            path = trained(settings.folder, sizes, images, used, settings.epochs, settings.seed)
            module, _ = load_module(str(path))
            rates = {"accuracy": accuracy(module, images), "attacked_accuracy": accuracy(module, images, attack)}
            for key in missing:
                found = {**bounds(path, key["norm"], settings), **rates}
                row = {**key, **{name: "" if v is None else f"{v:.8g}" for name, v in found.items()}}
                table.put(row)
                print(*(row[name] for name in COLUMNS), sep="  ", flush=True)


def short(sizes: list[int]) -> str:
    """Sizes joined by ``-``, more than two equal layers as ``64x6``."""
    hidden = sizes[1:-1]
    inner = f"{hidden[0]}x{len(hidden)}" if len(hidden) > 2 else "-".join(map(str, hidden))
    return f"{sizes[0]}-{inner}-{sizes[-1]}"


def report(table: Table) -> str:
    """The table as Markdown, a block for each norm."""
    titles = (
        "network", "training", "sampled", "attained", "brute force", "**proven**", "natural (DSDP)", "norm product",
        "seconds", "DSDP / ours", "accuracy", "attacked",
    )  # fmt: skip
    text = ""
    for norm in ("inf", "2"):
        rows = [row for row in table.rows() if row["norm"] == norm]
        cells = [
            (
                row["network"], row["training"], *(number(row[name], 5) for name in MEANS), number(row["seconds"], 3),
                _ratio(row), number(row["accuracy"], 3), number(row["attacked_accuracy"], 3),
            )
            for row in rows
        ]  # fmt: skip
        text += f"\nl_{norm}, means over the outputs:\n\n" + markdown(titles, cells)
    return text + "\n"


def _ratio(row: Row) -> str:
    return "" if not row["natural_seconds"] else f"{float(row['natural_seconds']) / float(row['seconds']):.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", type=Path, metavar="IMAGES.npz")
    parser.add_argument("--networks", type=Path, metavar="FOLDER", help="where trained networks are kept")
    parser.add_argument("--csv", type=Path, default=ROOT / "docs" / "performance" / "paper_shapes.csv")
    parser.add_argument("--markdown", type=Path, help="document whose table is to be written")
    parser.add_argument("--test", type=int, default=1000, help="images held out for the accuracy")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10000, help="inputs for the sampled lower bound")
    parser.add_argument("--natural", type=float, default=0.0, metavar="SECONDS", help="DSDP's limit for one output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=len(HIDDEN), help="only so many shapes, small ones first")
    parser.add_argument("--again", action="store_true", help="measure rows that exist, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(arguments.csv, COLUMNS, KEY)
    if arguments.images is not None:
        if arguments.networks is None:
            parser.error("--networks is needed with images")
        if arguments.natural > 0 and shutil.which("dsdp5") is None:
            parser.error("--natural needs dsdp5; install the Debian package dsdp")
        images = load_images(arguments.images, arguments.test, arguments.seed)
        pixels, classes = images.training_images.shape[1], int(images.training_labels.max()) + 1
        shapes = [[pixels, *hidden, classes] for hidden in HIDDEN[: arguments.most]]
        settings = Settings(
            arguments.networks, arguments.epochs, arguments.seed, arguments.samples, arguments.natural
        )  # fmt: skip
        measure(table, images, settings, shapes, arguments.again)
    elif not arguments.markdown:
        parser.error("name the images, or a document with --markdown")
    if arguments.markdown:
        insert(arguments.markdown, "paper_shapes", report(table))


if __name__ == "__main__":
    main()
