r"""Lipschitz constants of auto_LiRPA models: the entry points for its users.

Place in the data flow: level 10. ``BoundedModule -> Network -> .. -> LipschitzResult`` and back: ``Certificate +
BoundedModule -> proven again``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geolip_lirpa.activations.base import SlopeInterval
from geolip_lirpa.bounding import Progress
from geolip_lirpa.certificate import Certificate, LocalScope, check
from geolip_lirpa.errors import CertificateError, SpecificationError
from geolip_lirpa.lipschitz_types import LipschitzOptions, LipschitzProblem, LipschitzResult
from geolip_lirpa.lirpa import Perturbation, extract_network, network_bounds, perturbation_of
from geolip_lirpa.network import Network
from geolip_lirpa.network_lipschitz import check_rows, check_scale, network_lipschitz
from geolip_lirpa.slopes import SlopeIntervals, global_slopes, local_slopes
from geolip_lirpa.types import Norm, OutputNorm

SCOPES = ("global", "local")
TIES = ("input", "layer")


def compute_lipschitz(
    lirpa_model: Any,
    x: tuple[Any, ...] | None = None,
    C: Tensor | None = None,
    norm: Norm | float | str | None = None,
    *,
    output: OutputNorm | float | str = "rows",
    scope: str = "global",
    method: str = "sdp",
    solver: str = "auto",
    form: str = "auto",
    bound_method: str = "crown",
    tie: Sequence[str] = (),
    input_scale: Tensor | None = None,
    relative_gap: float = 1e-6,
    lower_bounds: bool = True,
    logits: bool = False,
    final_node_name: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LipschitzResult:
    r"""Proven upper bounds of the Lipschitz constants of an auto_LiRPA model.

    .. math:: |c^T (f(x) - f(x'))| \le \text{upper}\;\|x - x'\|_p \quad\text{for all } x, x'

    (scope "global") or for all x, x' in the perturbation set of the input (scope "local"), for every row c of C.

    Args:
        lirpa_model: auto_LiRPA's `BoundedModule`, versions 0.3 to 0.7, in eval mode. Not changed.
        x: ``(bounded_x,)`` with a `BoundedTensor`, batch B; its `PerturbationLpNorm` gives the norm and, for scope
            "local", the region. May be None for scope "global".
        C: (batch, n_spec, n_out), batch 1 or B; default: every output is a row.
        norm: p of the input norm, 1, 2 or inf; default: the perturbation's, else inf.
        output: "rows", or 1, 2, inf to bound the vector ``C (f(x) - f(x'))`` in that norm.
        scope: "global": the formal global constant. "local": slopes from pre-activation bounds over the region.
        method: "sdp" (GeoLIP's program; beyond the reach of its proof what "compositional" and norms prove),
            "compositional" (block by block), "norm-product", "entrywise", "brute-force" or "sampled".
        solver: "auto", "low-rank", "interior-point", "clarabel", "scs" or "mosek" (which needs a licence; auto never
            does).
        form: for cvxpy solvers: "dual", "natural" (single rows over one layer of activations), or "auto", natural
            where it exists.
        bound_method: "ibp", "crown" or "alpha-crown": how scope "local" bounds pre-activations.
        tie: "input" and/or "layer": share multipliers as GeoLIP does (looser).
        input_scale: (n0,), measure ``x / input_scale`` instead of x (weighted norms); default: ones.
        relative_gap: at which the low-rank solver stops.
        lower_bounds: search attained lower bounds (a fraction of a second).
        logits: leave out a trailing softmax.
        final_node_name: name of the host node to take as the output.
        seed: of random starts.
        progress: called with the numbers of finished and of all programs.

    Returns:
        `LipschitzResult`; ``upper`` and ``lower`` have shape (B, n_spec), or (B, 1) when `output` is a norm.

    Raises:
        ExtractionError: the model has parts that are not supported; names them.
        SpecificationError: an argument is malformed or does not fit the model.
        SolverUnavailableError: the solver's package or licence is missing.

    References:
        GeoLIP: arXiv 2203.01212. LipSDP: arXiv 1906.04893. auto_LiRPA: arXiv 2002.12920.
    """
    scope = _choice("scope", scope, SCOPES)
    network = extract_network(lirpa_model, final_node_name=final_node_name, logits=logits)
    perturbation = None if x is None else perturbation_of(x)
    if scope == "local" and perturbation is None:
        raise SpecificationError(
            "scope 'local': x is missing. Pass x=(BoundedTensor(center, PerturbationLpNorm(..)),)."
        )
    if norm is None:
        norm = perturbation.norm if perturbation is not None else Norm.LINF
    options = LipschitzOptions(
        norm=Norm.parse(norm),
        output=OutputNorm.parse(output),
        method=method.strip().lower(),
        solver=solver,
        form=form,
        tie_input="input" in _ties(tie),
        tie_layers="layer" in _ties(tie),
        relative_gap=relative_gap,
        lower_bounds=lower_bounds,
        seed=seed,
    )
    local = None
    if scope == "local" and perturbation is not None:
        local = _local_scope(perturbation, bound_method)
    slopes = region_slopes(network, local)
    rows = torch.eye(network.output_size, dtype=torch.float64)[None] if C is None else C
    rows = _match_batch(check_rows(rows, network), len(slopes), local is not None)
    if local is None:
        slopes = slopes * rows.shape[0]
    problem = LipschitzProblem(network, rows, slopes, check_scale(input_scale, network), local)
    return network_lipschitz(problem, options, progress)


def check_certificate(
    certificate: Certificate, lirpa_model: Any, *, logits: bool = False, final_node_name: str | None = None
) -> Tensor:
    """Prove a certificate again from the model alone; see `certificate.check`.

    Args:
        certificate: from `load_certificate` or a `LipschitzResult`.
        lirpa_model: `BoundedModule` of the model it was computed for.
        logits: as it was computed.
        final_node_name: as it was computed.

    Returns:
        The bounds, (B, n_spec) or (B, 1) float64, all of them proven by this call.

    Raises:
        CertificateError: it does not prove what it claims for this model.
    """
    network = extract_network(lirpa_model, final_node_name=final_node_name, logits=logits)
    if certificate.local is not None and certificate.local.center.shape[1:] != network.input_shape:
        raise CertificateError(
            f"certificate: its inputs have shape {tuple(certificate.local.center.shape[1:])}, the model's "
            f"{network.input_shape}. Check it against the model it was computed for."
        )
    slopes = region_slopes(network, certificate.local)
    if certificate.local is None:
        slopes = slopes * certificate.rows.shape[0]
    return check(certificate, network, slopes)


def region_slopes(network: Network, local: LocalScope | None) -> tuple[SlopeIntervals, ...]:
    """Slope intervals for each region of a local scope, or the global ones (a single entry)."""
    if local is None:
        return (global_slopes(network),)
    inputs = Perturbation(local.norm, local.center, local.lower, local.upper, local.radius)
    batched = local_slopes(network, network_bounds(network, inputs, local.bound_method))
    return tuple(
        tuple(SlopeInterval(s.lower[b].clone(), s.upper[b].clone()) for s in batched)
        for b in range(local.center.shape[0])
    )


def _local_scope(perturbation: Perturbation, bound_method: str) -> LocalScope:
    method = _choice("bound_method", bound_method, ("ibp", "crown", "alpha-crown"))
    return LocalScope(
        perturbation.norm, perturbation.center, perturbation.lower, perturbation.upper, perturbation.radius, method
    )


def _choice(name: str, value: str, allowed: Sequence[str]) -> str:
    key = str(value).strip().lower().replace("_", "-")
    if key not in allowed:
        raise SpecificationError(f"{name}: got {value!r}; allowed are {', '.join(allowed)}. Choose one of these.")
    return key


def _ties(tie: Sequence[str] | str) -> set[str]:
    names = [tie] if isinstance(tie, str) else list(tie)
    return {_choice("tie", name, TIES) for name in names}


def _match_batch(rows: Tensor, batch: int, is_local: bool) -> Tensor:
    if not is_local or rows.shape[0] == batch:
        return rows
    if rows.shape[0] == 1:
        return rows.expand(batch, -1, -1).contiguous()
    raise SpecificationError(
        f"C: got a batch of {rows.shape[0]} for {batch} inputs; allowed are 1 and {batch}. Repeat or drop matrices."
    )
