"""Margins and radii of auto_LiRPA models: the entry points for its users.

Place in the data flow: level 10. ``BoundedModule -> Network -> .. -> MarginResult, RadiusResult`` and back:
``MarginCertificate + BoundedModule -> proven again``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, TypeAlias

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

#: (smallest, largest) inputs, each one number or shaped like an input.
Domain: TypeAlias = tuple[Tensor | float, Tensor | float]


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
    domain: Domain | None = None,
    logits: bool = False,
    final_node_name: str | None = None,
    solver: str = "auto",
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
        bound_method: bounds of pre-activations that methods start from: "ibp", "crown", "alpha-crown", or alpha-crown's
            tightened by Lipschitz constants of the neurons ("geolip") and by the pointwise program as well ("sdp").
        enough: rows are left once their bound exceeds it, or once an attack shows that none can; None: never.
        attack: whether to search small margins of real inputs as well.
        domain: (smallest, largest) inputs; what lies outside is not part of the set.
        logits: leave out a trailing softmax.
        final_node_name: name of the host node to take as the output.
        solver: of pointwise programs: "interior-point" (dense), "low-rank" (without a matrix, all rows together), or
            "auto", which chooses by their size.
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
    shifts = torch.zeros(rows.shape[:2], dtype=torch.float64) if offsets is None else _numbers("offsets", offsets)
    options = MarginOptions(
        method=method, bound_method=bound_method, enough=enough, attack=attack, seed=seed, solver=solver
    )
    return network_margins(
        MarginProblem(network, sets, rows, _batched("offsets", shifts, len(sets))), options, progress
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
    domain: Domain | None = None,
    logits: bool = False,
    final_node_name: str | None = None,
    solver: str = "auto",
    seed: int = 0,
    timeout: float = math.inf,
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
        solver: of pointwise programs: "interior-point" (dense), "low-rank" (without a matrix, all rows together), or
            "auto", which chooses by their size.
        seed: of random starts.
        timeout: seconds for each input, looked at between steps; then the largest radius so far is the answer.
        progress: called with the numbers of finished and of all inputs.

    Returns:
        `RadiusResult`: proven radii, radii at which an attack succeeds, certificates.

    Raises:
        ExtractionError: the model has parts that are not supported; names them.
        SpecificationError: an argument is malformed or does not fit the model.
    """
    network = extract_network(lirpa_model, final_node_name=final_node_name, logits=logits)
    centers = _numbers("x", x)
    if centers.ndim == 0 or tuple(centers.shape[1:]) != network.input_shape:
        raise SpecificationError(
            f"x: got shape {tuple(centers.shape)}; allowed is a batch of inputs of shape {network.input_shape}. Put "
            "the batch dimension in front, also for a single one."
        )
    labels = checked_labels(y, network, len(centers))
    norm = Norm.parse(norm)
    sets = tuple(_with_domain(center, 0.0, norm, domain) for center in centers)
    rows = [target_rows(label, network.output_size, targets) for label in labels]
    options = RadiusOptions(
        margins=MarginOptions(method=method, bound_method=bound_method, whole=True, seed=seed, solver=solver),
        relative_gap=relative_gap,
        largest=largest,
        timeout=timeout,
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
        SpecificationError: a target that is the label, or no class; no target.
    """
    rows = class_rows(label, classes)
    if targets is None:
        return rows
    if len(targets) == 0:
        raise SpecificationError("targets: got none; allowed is one class at least. Pass None for all other classes.")
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
    labels = list(y.tolist() if isinstance(y, Tensor) and y.ndim == 1 else y)
    classes = network.output_size
    good = all(isinstance(v, numbers.Integral) and 0 <= int(v) < classes for v in labels)
    if len(labels) != count or classes < 2 or not good:
        raise SpecificationError(
            f"y: got {labels[:10]!r} for {count} inputs and {classes} outputs; allowed is one class from 0 to "
            f"{classes - 1} for each input, of a model with two outputs at least."
        )
    return [int(v) for v in labels]


def _sets(perturbation: Perturbation, domain: Domain | None) -> tuple[MarginSet, ...]:
    found = []
    for b, center in enumerate(perturbation.center):
        if perturbation.radius is None:
            found.append(_box(perturbation, b, domain))
        else:
            found.append(_with_domain(center, perturbation.radius, perturbation.norm, domain))
    return tuple(found)


def _box(perturbation: Perturbation, b: int, domain: Domain | None) -> MarginSet:
    """A box that is no ball: a ball around its middle that reaches every corner, cut by the box."""
    low, high = (end[b] for end in perturbation.box())
    center = torch.minimum(torch.maximum(perturbation.center[b], low), high)
    eps = float(torch.maximum(high - center, center - low).max()) * (1.0 + 1e-15)
    if domain is not None:
        least, most = (end.expand(center.shape) for end in _ends(domain, center))
        low, high = torch.maximum(low, least), torch.minimum(high, most)
    return MarginSet(center, eps, Norm.LINF, low, high)


def _with_domain(center: Tensor, eps: float, norm: Norm, domain: Domain | None) -> MarginSet:
    if domain is None:
        return MarginSet(center, eps, norm)
    return MarginSet(center, eps, norm, *_ends(domain, center))


def _ends(domain: Domain, center: Tensor) -> tuple[Tensor, Tensor]:
    """Both ends of a domain, one number or shaped like an input."""
    if not isinstance(domain, Sequence) or len(domain) != 2:
        raise SpecificationError(
            f"domain: got {domain!r}; allowed is a pair of the smallest and the largest input. Pass (0.0, 1.0), say."
        )
    low, high = (_numbers("domain", end) for end in domain)
    for end in (low, high):
        if end.ndim and end.shape != center.shape:
            raise SpecificationError(
                f"domain: got shape {tuple(end.shape)}; allowed are one number and {tuple(center.shape)}, the shape of "
                "an input. Leave out the batch dimension."
            )
    return low, high


def _numbers(name: str, value: Any) -> Tensor:
    """A tensor in float64 on the CPU."""
    try:
        # a plain number would become float32 on the way: an end of a domain may then lie inside of it
        return torch.as_tensor(value, device="cpu", dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise SpecificationError(
            f"{name}: got {type(value).__name__}; allowed are tensors of real numbers. Use torch.tensor."
        ) from None


def _batched(name: str, values: Tensor, batch: int) -> Tensor:
    if values.ndim < 1 or values.shape[0] == batch:
        return values
    if values.shape[0] == 1:
        return values.expand(batch, *values.shape[1:]).contiguous()
    raise SpecificationError(
        f"{name}: got a batch of {values.shape[0]} for {batch} inputs; allowed are 1 and {batch}. Repeat or drop some."
    )
