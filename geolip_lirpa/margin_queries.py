"""Margins and radii of auto_LiRPA models: the entry points for its users.

Place in the data flow: level 10. ``BoundedModule -> Network -> .. -> MarginResult, RadiusResult`` and back:
``MarginCertificate + BoundedModule -> proven again``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.bounding import Progress
from geolip_lirpa.errors import SpecificationError
from geolip_lirpa.lirpa import Perturbation, extract_network, perturbation_of
from geolip_lirpa.margin_certificate import MarginCertificate, check_margins
from geolip_lirpa.margin_sets import MarginSet
from geolip_lirpa.margin_statements import class_rows
from geolip_lirpa.margin_types import MarginOptions, MarginProblem, MarginResult
from geolip_lirpa.margins import network_margins
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import check_rows
from geolip_lirpa.radius import RadiusOptions, RadiusResult, network_radii
from geolip_lirpa.types import Norm


def compute_margins(
    lirpa_model: Any,
    x: tuple[Any, ...],
    C: Tensor | None = None,
    *,
    offsets: Tensor | None = None,
    method: str = "combined",
    bound_method: str = "crown",
    enough: float | None = None,
    attack: bool = True,
    domain: tuple[Tensor | float, Tensor | float] | None = None,
    logits: bool = False,
    final_node_name: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> MarginResult:
    r"""Proven lower bounds of linear functionals of a model's outputs over perturbed inputs.

    .. math:: c^T f(x) + d \ge \text{lower} \quad\text{for all x of the perturbation set}

    for every row c of C. Like auto_LiRPA's ``compute_bounds`` with its lower bounds, but proven in real arithmetic.

    Args:
        lirpa_model: auto_LiRPA's `BoundedModule`, versions 0.3 to 0.7, in eval mode. Not changed.
        x: ``(bounded_x,)`` with a `BoundedTensor`, batch B; its `PerturbationLpNorm` gives the set.
        C: (batch, n_spec, n_out), batch 1 or B; default: every output is a row.
        offsets: (batch, n_spec), the numbers d; default: zeros.
        method: "ibp", "crown", "alpha-crown", "geolip" (global Lipschitz constant), "geolip-local", "geolip-anchored",
            "sdp" (the pointwise program, ReLU networks) or "combined", which is at least as good as each of them.
        bound_method: "ibp", "crown" or "alpha-crown": bounds of pre-activations that methods start from.
        enough: rows are left once their bound exceeds it, or once an attack shows that none can; None: never.
        attack: whether to search small margins of real inputs as well.
        domain: (smallest, largest) inputs; what lies outside is not part of the set.
        logits: leave out a trailing softmax.
        final_node_name: name of the host node to take as the output.
        seed: of random starts.
        progress: called with the numbers of finished and of all inputs.

    Returns:
        `MarginResult`; ``lower`` has shape (B, n_spec), as auto_LiRPA's lower bounds.

    Raises:
        ExtractionError: the model has parts that are not supported; names them.
        SpecificationError: an argument is malformed or does not fit the model.

    References:
        The pointwise program: arXiv 1801.09344, 2001.01603. CROWN: arXiv 1811.00866.
    """
    network = extract_network(lirpa_model, final_node_name=final_node_name, logits=logits)
    sets = _sets(perturbation_of(x), domain)
    rows = torch.eye(network.output_size, dtype=torch.float64)[None] if C is None else C
    rows = _batched("C", check_rows(rows, network), len(sets))
    numbers = (
        torch.zeros(rows.shape[:2], dtype=torch.float64) if offsets is None else offsets.detach().to(torch.float64)
    )
    options = MarginOptions(method=method, bound_method=bound_method, enough=enough, attack=attack, seed=seed)
    return network_margins(
        MarginProblem(network, sets, rows, _batched("offsets", numbers, len(sets))), options, progress
    )


def compute_radius(
    lirpa_model: Any,
    x: Tensor,
    y: Tensor | Sequence[int],
    norm: Norm | float | str = 2,
    *,
    targets: Sequence[int] | None = None,
    method: str = "combined",
    bound_method: str = "crown",
    relative_gap: float = 0.02,
    largest: float | None = None,
    domain: tuple[Tensor | float, Tensor | float] | None = None,
    logits: bool = False,
    final_node_name: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RadiusResult:
    r"""The largest radii found within which the label provably does not change.

    .. math:: f_y(x') > f_k(x') \quad\text{for all } |x' - x|_p \le \text{lower} \text{ and } k \ne y

    Args:
        lirpa_model: auto_LiRPA's `BoundedModule`.
        x: (B, \*input_shape), the inputs.
        y: (B,), their labels.
        norm: p of the balls, 1, 2 or inf.
        targets: classes k to be told apart from y; default: all others.
        method: as in `compute_margins`.
        bound_method: as in `compute_margins`.
        relative_gap: the bisection stops when the radius at which the proof failed is larger by this part.
        largest: radii are not sought beyond it; default: no limit.
        domain: (smallest, largest) inputs; what lies outside is not part of the balls.
        logits: leave out a trailing softmax.
        final_node_name: name of the host node to take as the output.
        seed: of random starts.
        progress: called with the numbers of finished and of all inputs.

    Returns:
        `RadiusResult`: proven radii, radii at which an attack succeeds, certificates.

    Raises:
        ExtractionError: the model has parts that are not supported; names them.
        SpecificationError: an argument is malformed or does not fit the model.
    """
    network = extract_network(lirpa_model, final_node_name=final_node_name, logits=logits)
    centers = x.detach().to(device="cpu", dtype=torch.float64)
    labels = checked_labels(y, network, len(centers))
    norm = Norm.parse(norm)
    sets = tuple(_with_domain(center, 0.0, norm, domain) for center in centers)
    rows = [target_rows(label, network.output_size, targets) for label in labels]
    options = RadiusOptions(
        margins=MarginOptions(method=method, bound_method=bound_method, whole=True, seed=seed),
        relative_gap=relative_gap,
        largest=largest,
    )
    return network_radii(network, sets, rows, options, progress)


def check_margin_certificate(
    certificate: MarginCertificate, lirpa_model: Any, *, logits: bool = False, final_node_name: str | None = None
) -> Tensor:
    """Prove a certificate again from the model alone; see `margin_certificate.check_margins`.

    Returns:
        The margins (B, n_spec) float64, minus infinity where nothing is claimed.

    Raises:
        CertificateError: it does not prove what it claims for this model.
    """
    network = extract_network(lirpa_model, final_node_name=final_node_name, logits=logits)
    return check_margins(certificate, network)


def target_rows(label: int, classes: int, targets: Sequence[int] | None) -> Tensor:
    """Rows of the margins of a label over some other classes, (S, classes).

    Raises:
        SpecificationError: a target that is the label, or no class.
    """
    rows = class_rows(label, classes)
    if targets is None:
        return rows
    others = [k for k in range(classes) if k != label]
    for k in targets:
        if k not in others:
            raise SpecificationError(
                f"targets: got {k} for an input with label {label}; allowed are the other classes, from 0 to "
                f"{classes - 1}."
            )
    return rows[[others.index(k) for k in targets]]


def checked_labels(y: Tensor | Sequence[int], network: Network, count: int) -> list[int]:
    """Labels as numbers.

    Raises:
        SpecificationError: not one class for each input.
    """
    labels = [int(v) for v in (y.tolist() if isinstance(y, Tensor) else y)]
    classes = network.output_size
    if len(labels) != count or classes < 2 or not all(0 <= v < classes for v in labels):
        raise SpecificationError(
            f"y: got {labels[:10]!r} for {count} inputs and {classes} outputs; allowed is one class from 0 to "
            f"{classes - 1} for each input, of a model with two outputs at least."
        )
    return labels


def _sets(perturbation: Perturbation, domain: tuple[Tensor | float, Tensor | float] | None) -> tuple[MarginSet, ...]:
    found = []
    for b, center in enumerate(perturbation.center):
        if perturbation.radius is None:
            found.append(_box(perturbation, b, domain))
        else:
            found.append(_with_domain(center, perturbation.radius, perturbation.norm, domain))
    return tuple(found)


def _box(perturbation: Perturbation, b: int, domain: tuple[Tensor | float, Tensor | float] | None) -> MarginSet:
    """A box that is no ball: a ball around its middle that reaches every corner, cut by the box."""
    low, high = (end[b] for end in perturbation.box())
    center = torch.minimum(torch.maximum(perturbation.center[b], low), high)
    eps = float(torch.maximum(high - center, center - low).max()) * (1.0 + 1e-15)
    if domain is not None:
        low, high = torch.maximum(low, torch.as_tensor(domain[0])), torch.minimum(high, torch.as_tensor(domain[1]))
    return MarginSet(center, eps, Norm.LINF, low, high)


def _with_domain(
    center: Tensor, eps: float, norm: Norm, domain: tuple[Tensor | float, Tensor | float] | None
) -> MarginSet:
    if domain is None:
        return MarginSet(center, eps, norm)
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in domain)
    return MarginSet(center, eps, norm, low, high)


def _batched(name: str, values: Tensor, batch: int) -> Tensor:
    if values.ndim < 1 or values.shape[0] == batch:
        return values
    if values.shape[0] == 1:
        return values.expand(batch, *values.shape[1:]).contiguous()
    raise SpecificationError(
        f"{name}: got a batch of {values.shape[0]} for {batch} inputs; allowed are 1 and {batch}. Repeat or drop some."
    )
