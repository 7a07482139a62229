"""Write certificates, send them, check them; and see altered ones refused.

    python examples/certificates.py [--out build/examples]

The sender bounds a Lipschitz constant and a margin and writes two files. The receiver has the network and these
files, and believes nothing else: the check proves every claim again. A file that was damaged on the way is refused,
and so is one whose claims were made stronger, although its digest fits. Takes about 5 seconds.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from geolip_lirpa import (
    bounded_module,
    check_certificate,
    check_margin_certificate,
    compute_lipschitz,
    compute_margins,
    load_certificate,
    load_margins,
    load_onnx,
    save_certificate,
    save_margins,
)
from geolip_lirpa.errors import CertificateError

# auto_LiRPA's own import works once geolip_lirpa is there
from auto_LiRPA import BoundedTensor, PerturbationLpNorm  # isort: skip

FOLDER = Path(__file__).resolve().parents[1] / "vnnlib_specs"
NETWORK = FOLDER / "digits_32-32.onnx"


def write(folder: Path) -> None:
    """What the sender does."""
    model = bounded_module(load_onnx(NETWORK))
    result = compute_lipschitz(model, C=torch.eye(10)[None, :3], norm=2)
    assert result.certificate is not None
    save_certificate(result.certificate, folder / "lipschitz.json")

    data = np.load(FOLDER / "digits_test.npz")
    image, label = torch.from_numpy(data["images"][1:2]), int(data["labels"][1])
    ball = BoundedTensor(image, PerturbationLpNorm(norm=2, eps=0.1))
    rows = torch.stack([torch.eye(10)[label] - torch.eye(10)[k] for k in range(10) if k != label])[None]
    margins = compute_margins(model, (ball,), rows, method="sdp")
    print(f"smallest margin of image 1 within 0.1 (l_2): {float(margins.lower.min()):.4f}")
    save_margins(margins.certificate, folder / "margins.json")


def refused(what: str, check: Callable[[], object]) -> None:
    """Print why a check fails; one that does not fail ends the script."""
    try:
        check()
    except CertificateError as error:
        print(f"refused, {what}: {error}")
    else:
        raise SystemExit(f"accepted: {what}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/examples"))
    sender, receiver = (parser.parse_args().out / name for name in ("sender", "receiver"))
    torch.set_num_threads(1)
    for folder in (sender, receiver):
        folder.mkdir(parents=True, exist_ok=True)
    write(sender)
    for name in ("lipschitz.json", "margins.json"):
        shutil.copy(sender / name, receiver / name)

    # from here on: the receiver, who has the network and two files
    model = bounded_module(load_onnx(NETWORK))
    certificate, margins = load_certificate(receiver / "lipschitz.json"), load_margins(receiver / "margins.json")
    print(f"proven again: Lipschitz constants {check_certificate(certificate, model)[0].tolist()}")
    print(f"proven again: smallest margin {float(check_margin_certificate(margins, model).min()):.4f}")

    # one letter changes on the way
    damaged = receiver / "damaged.json"
    damaged.write_text((receiver / "lipschitz.json").read_text().replace('"norm": "2"', '"norm": "1"'))
    refused("damaged", lambda: load_certificate(damaged))

    # a forger claims a bound one per cent better, and computes the digest anew
    forged = replace(certificate, claims=tuple(replace(c, upper=0.99 * c.upper) for c in certificate.claims))
    save_certificate(forged, receiver / "forged.json")
    refused("forged bound", lambda: check_certificate(load_certificate(receiver / "forged.json"), model))
    stronger = replace(margins, claims=tuple(replace(c, lower=c.lower + 0.1) for c in margins.claims))
    save_margins(stronger, receiver / "stronger.json")
    refused("forged margin", lambda: check_margin_certificate(load_margins(receiver / "stronger.json"), model))

    # the right proof for another network
    other = bounded_module(load_onnx(FOLDER / "digits_tanh.onnx"))
    refused("other network", lambda: check_certificate(certificate, other))


if __name__ == "__main__":
    main()
