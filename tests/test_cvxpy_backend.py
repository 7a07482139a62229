"""cvxpy's solvers against feasible points, closed forms and enumeration; `test_natural_form` compares the forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from geolip_lirpa.activations import LeakyReLU, ReLU
from geolip_lirpa.errors import SolverError, SolverUnavailableError, SpecificationError
from geolip_lirpa.lmi import assemble_lmi
from geolip_lirpa.network import Network, linear_operator, sequential
from geolip_lirpa.sdp import SdpInstance
from geolip_lirpa.solvers.base import SolverResult, Status
from geolip_lirpa.solvers.conditioning import condition
from geolip_lirpa.solvers.cvxpy_backend import CvxpySolver
from geolip_lirpa.sparse_sdp import Form
from geolip_lirpa.types import Norm, OutputNorm
from tests.networks import lipschitz_instance, random_mlp, random_residual
from tests.reference import reference_network, reference_value

NORMS = (Norm.LINF, Norm.L2)


def _bound(instance: SdpInstance, result: SolverResult) -> float:
    """The bound that the multipliers claim; their matrix must be semidefinite up to the solver's accuracy."""
    multipliers = result.multipliers
    matrix = assemble_lmi(instance.forms, multipliers).to_dense()
    sigma = multipliers.output.max() if instance.output is OutputNorm.L2 else multipliers.output.sum()
    tau = multipliers.input.sum()
    assert np.linalg.eigvalsh(matrix)[0] >= -1e-6 * max(tau, sigma)
    assert all((part >= 0).all() for part in (*multipliers.hidden, multipliers.input, multipliers.output))
    return float(np.sqrt(tau * sigma))


def _solve(instance: SdpInstance, **options: object) -> float:
    """Solve, check that value and multipliers meet, return the bound."""
    result = CvxpySolver(**options).solve([instance])[0]  # type: ignore[arg-type]
    bound = _bound(instance, result)
    assert result.status is Status.CONVERGED and result.iterations > 0
    assert result.value is not None
    # a feasible point below, multipliers above
    assert result.value == pytest.approx(bound, rel=1e-5)
    return bound


CASES = {
    "two layers": (random_mlp(0, (4, 6, 1)), {}),
    "two layers, leaky": (random_mlp(1, (4, 6, 2), LeakyReLU(0.2)), {}),
    "three layers": (random_mlp(2, (4, 4, 4, 1)), {}),
    "residual": (random_residual(3, width=4), {}),
    "box": (random_mlp(4, (4, 5, 1)), {"input_scale": torch.tensor([0.5, 0.0, 2.0, 3.0], dtype=torch.float64)}),
    "tied input": (random_mlp(5, (5, 3, 1)), {"tie_input": True}),
    "tied layers": (random_mlp(6, (4, 4, 3, 1)), {"tie_layers": True}),
    "all tied": (random_mlp(7, (6, 3, 3, 1), LeakyReLU(0.1)), {"tie_input": True, "tie_layers": True}),
    "l_1 output": (random_mlp(8, (4, 5, 3)), {"output": OutputNorm.L1}),
    "l_2 output": (random_mlp(9, (4, 5, 3)), {"output": OutputNorm.L2}),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_multipliers_meet(case: str, norm: Norm) -> None:
    network, options = CASES[case]
    instance = lipschitz_instance(network, norm=norm, **options)
    # the default is the natural form where that exists
    assert _solve(instance) == pytest.approx(_solve(instance, form="dual"), rel=1e-5)


def test_default_is_the_natural_form_where_it_exists(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(
        "geolip_lirpa.solvers.cvxpy_backend.condition", lambda i, form: taken.append(form) or condition(i, form)
    )
    flat, deep = lipschitz_instance(random_mlp(0, (3, 4, 1))), lipschitz_instance(random_mlp(0, (3, 4, 4, 1)))
    assert _solve(flat) == pytest.approx(_solve(flat, form="Natural"), rel=1e-6)
    assert _solve(deep) == pytest.approx(_solve(deep, form="dual"), rel=1e-6)
    assert taken == [Form.NATURAL, Form.NATURAL, Form.DUAL, Form.DUAL]


@pytest.mark.parametrize("norm", NORMS)
def test_ties_never_lower_the_bound(norm: Norm) -> None:
    network = random_mlp(10, (5, 4, 4, 1))
    free = _solve(lipschitz_instance(network, norm=norm))
    layers = _solve(lipschitz_instance(network, norm=norm, tie_layers=True))
    both = _solve(lipschitz_instance(network, norm=norm, tie_layers=True, tie_input=True))
    assert free * (1 + 1e-4) < layers  # strictly: these ties cost something
    assert layers <= both * (1 + 1e-6)
    if norm is Norm.L2:
        assert both == pytest.approx(layers, rel=1e-6)  # one input multiplier either way


def _norm_of(matrix: np.ndarray, norm: Norm, output: OutputNorm) -> float:
    """Operator norm; from the box by enumerating its vertices."""
    if norm is Norm.L2 and output is OutputNorm.L2:
        return float(np.linalg.norm(matrix, 2))
    if norm is Norm.L2:  # l_2 to l_1: the dual of l_inf to l_2
        return _norm_of(matrix.T, Norm.LINF, OutputNorm.L2)
    vertices = np.array(list(itertools.product([-1.0, 1.0], repeat=matrix.shape[1])))
    return float(np.linalg.norm(vertices @ matrix.T, 1 if output is OutputNorm.L1 else 2, axis=1).max())


def _largest_over_patterns(network: Network, norm: Norm, output: OutputNorm) -> float:
    first, second = (n.operation.parameters[0].numpy() for n in network.nodes[1::2])
    patterns = itertools.product([0.0, 1.0], repeat=first.shape[0])
    return max(_norm_of(second @ (np.array(p)[:, None] * first), norm, output) for p in patterns)


@pytest.mark.parametrize(("norm", "factor"), [(Norm.LINF, 1.783), (Norm.L2, 1.2534)])
def test_one_row_of_two_layers_is_within_the_known_ratio_of_the_best_pattern(norm: Norm, factor: float) -> None:
    network = random_mlp(11, (4, 5, 1))
    largest = _largest_over_patterns(network, norm, OutputNorm.L2)
    bound = _solve(lipschitz_instance(network, norm=norm))
    assert largest * (1 - 1e-6) <= bound <= factor * largest


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("output", [OutputNorm.L1, OutputNorm.L2])
def test_vector_output_lies_between_the_best_pattern_and_the_rows_together(norm: Norm, output: OutputNorm) -> None:
    network = random_mlp(11, (4, 5, 3))
    rows = np.array([_solve(lipschitz_instance(network, row=row, norm=norm)) for row in range(3)])
    bound = _solve(lipschitz_instance(network, norm=norm, output=output))
    together = rows.sum() if output is OutputNorm.L1 else np.linalg.norm(rows)
    assert max(_largest_over_patterns(network, norm, output), rows.max()) * (1 - 1e-6) <= bound
    assert bound <= together * (1 + 1e-6)


def test_linear_network_from_l2_to_l2_is_the_spectral_norm() -> None:
    weight = torch.randn((3, 6), generator=torch.Generator().manual_seed(0))
    network = sequential((6,), [("linear", linear_operator(weight))])
    bound = _solve(lipschitz_instance(network, norm=Norm.L2, output=OutputNorm.L2))
    assert bound == pytest.approx(float(torch.linalg.matrix_norm(weight.double(), 2)), rel=1e-6)


def test_one_row_in_any_output_norm_is_the_same_program() -> None:
    network = random_mlp(12, (4, 5, 1))
    values = [_solve(lipschitz_instance(network, output=o)) for o in (OutputNorm.ROWS, OutputNorm.L1, OutputNorm.L2)]
    assert values[1] == pytest.approx(values[0], rel=1e-6) and values[2] == pytest.approx(values[0], rel=1e-6)


def test_badly_scaled_layers_do_not_cost_accuracy() -> None:
    first, second = random_mlp(13, (4, 5, 1)).nodes[1::2]
    scaled = sequential(
        (4,),
        [
            ("linear0", linear_operator(first.operation.parameters[0] * 2.0**-14)),
            ("act", ReLU()),
            ("linear1", linear_operator(second.operation.parameters[0] * 2.0**24)),
        ],
    )
    plain = _solve(lipschitz_instance(random_mlp(13, (4, 5, 1))))
    assert _solve(lipschitz_instance(scaled)) == pytest.approx(2.0**10 * plain, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("digits_64-8-10", Norm.LINF), ("digits_64-16-10", Norm.L2), ("mnist_784-16-10", Norm.L2)],
)
def test_reference_values(reference_data, name: str, norm: Norm) -> None:
    network = reference_network(reference_data / "networks" / "relu" / f"{name}.onnx")
    expected = reference_value(reference_data, name, norm)
    assert _solve(lipschitz_instance(network, norm=norm)) == pytest.approx(expected, rel=1e-6)


def test_scs_reaches_its_own_accuracy() -> None:
    instance = lipschitz_instance(random_mlp(0, (4, 6, 1)))
    result = CvxpySolver("scs").solve([instance])[0]
    assert result.solver == "cvxpy-scs"
    assert result.value == pytest.approx(_solve(instance), rel=1e-3)


def test_constant_output_needs_no_solver() -> None:
    instance = lipschitz_instance(random_mlp(0, (3, 4, 2))).with_rows(torch.zeros((1, 2), dtype=torch.float64))
    result = CvxpySolver().solve([instance])[0]
    assert result.value == 0.0 and result.multipliers.input.tolist() == [0.0] * 3
    assert result.multipliers.hidden[0].tolist() == [0.0] * 4 and result.multipliers.output.tolist() == [1.0]


# --- stopping early and failing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"options": {"max_iter": 4}}, {"time_limit": 1e-6}])
@pytest.mark.parametrize("form", ["dual", "natural"])
def test_a_limit_still_returns_multipliers_and_a_value_below_the_optimum(form: str, options: dict[str, object]) -> None:
    instance = lipschitz_instance(random_mlp(14, (5, 8, 1)))
    result = CvxpySolver(form=form, **options).solve([instance])[0]  # type: ignore[arg-type]
    assert result.status is Status.ITERATION_LIMIT
    parts = (*result.multipliers.hidden, result.multipliers.input, result.multipliers.output)
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in parts)
    assert result.value is None or result.value <= _solve(instance) * (1 + 1e-7)


class _Failing:
    """Replaces cvxpy.Problem.solve by something that fails in a chosen way."""

    def __init__(self, status: str, error: Exception | None = None) -> None:
        self.status, self.error = status, error

    def __call__(self, problem: object, **options: object) -> None:
        if self.error is not None:
            raise self.error
        problem._status = self.status  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", ["infeasible", "unbounded_inaccurate", "solver_error"])
def test_failure_statuses_are_named(monkeypatch, status: str) -> None:
    failing = _Failing(status)
    monkeypatch.setattr("cvxpy.Problem.solve", lambda self, **options: failing(self, **options))
    with pytest.raises(SolverError, match=f"cvxpy-clarabel: stopped with status '{status}'"):
        CvxpySolver().solve([lipschitz_instance(random_mlp(0, (3, 4, 1)))])


def test_status_without_numbers_is_an_error(monkeypatch) -> None:
    failing = _Failing("user_limit")
    monkeypatch.setattr("cvxpy.Problem.solve", lambda self, **options: failing(self, **options))
    with pytest.raises(SolverError, match="without multipliers"):
        CvxpySolver().solve([lipschitz_instance(random_mlp(0, (3, 4, 1)))])


def test_inaccurate_optimum_is_reported_as_stalled(monkeypatch) -> None:
    import cvxpy

    solve = cvxpy.Problem.solve

    def inaccurate(self, **options):
        solve(self, **options)
        self._status = "optimal_inaccurate"

    monkeypatch.setattr("cvxpy.Problem.solve", inaccurate)
    instance = lipschitz_instance(random_mlp(0, (3, 4, 1)))
    result = CvxpySolver().solve([instance])[0]
    assert result.status is Status.STALLED and _bound(instance, result) > 0


def test_options_that_the_backend_does_not_know_are_refused() -> None:
    solver = CvxpySolver(options={"no_such_setting": 1})
    with pytest.raises(SolverError, match="no_such_setting"):
        solver.solve([lipschitz_instance(random_mlp(0, (3, 4, 1)))])


def test_options_win_and_nested_ones_are_joined() -> None:
    solver = CvxpySolver("mosek", tolerance=1e-7, options={"mosek_params": {"MSK_IPAR_NUM_THREADS": 1}})
    arguments = solver.arguments(10)["mosek_params"]
    assert arguments["MSK_IPAR_NUM_THREADS"] == 1 and arguments["MSK_DPAR_INTPNT_CO_TOL_REL_GAP"] == 1e-7
    assert CvxpySolver(options={"tol_feas": 1e-3}).arguments(10)["tol_feas"] == 1e-3
    assert CvxpySolver(options={"tol_feas": 1e-3}).arguments(10)["tol_gap_abs"] == 1e-9


@pytest.mark.parametrize("backend", ["CLARABEL", "MOSEK", "SCS"])
def test_cvxpy_is_always_told_the_solver(backend: str) -> None:
    assert CvxpySolver().backend == "CLARABEL"
    assert CvxpySolver(backend.lower()).arguments(10)["solver"] == backend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "GUROBI"}, "backend: got 'GUROBI'; allowed are CLARABEL, MOSEK, SCS"),
        ({"form": "primal"}, "form: got 'primal'; allowed are auto, dual, natural"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"time_limit": float("nan")}, "time_limit: got nan"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        CvxpySolver(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["cvxpy", "scs"])
def test_missing_package_names_the_extra(monkeypatch, missing: str) -> None:
    monkeypatch.setattr(
        "geolip_lirpa.solvers.cvxpy_backend.find_spec", lambda name: None if name == missing else object()
    )
    with pytest.raises(SolverUnavailableError, match=rf"'{missing}' is missing.*geolip-lirpa\[mosek\]"):
        CvxpySolver("SCS").solve([])


def test_mosek_without_licence_says_where_one_goes(monkeypatch) -> None:
    mosek = pytest.importorskip("mosek")
    error = mosek.Error(mosek.rescode.err_missing_license_file, "License cannot be located.")
    failing = _Failing("", error)
    monkeypatch.setattr("cvxpy.Problem.solve", lambda self, **options: failing(self, **options))
    with pytest.raises(SolverUnavailableError, match=r"~/mosek/mosek\.lic.*MOSEKLM_LICENSE_FILE.*--solver low-rank"):
        CvxpySolver("MOSEK").solve([lipschitz_instance(random_mlp(0, (3, 4, 1)))])


def test_mosek_itself_solves_or_reports_its_licence() -> None:
    pytest.importorskip("mosek")
    instance = lipschitz_instance(random_mlp(0, (4, 6, 1)))
    try:
        bound = _solve(instance, backend="MOSEK")
    except SolverUnavailableError as error:
        assert "licence" in str(error)
    else:
        assert bound == pytest.approx(_solve(instance), rel=1e-6)
