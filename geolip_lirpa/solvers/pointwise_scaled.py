r"""Pointwise programs of several rows over one input set, in scaled variables and without their matrix.

Place in the data flow: level 7, ``PointwiseInstances -> ScaledRows`` and back, ``numbers -> PointwiseMultipliers``; a
building block of the low-rank solver, untrusted.

* :math:`z_i = d_i z_i'` with :math:`d_i = \max(u_i, -l_i)`, and pre-activations are divided by the same :math:`d_i`, so
  that all numbers are of size one;
* each row's margin is divided by a size of its own;
* a layer's forms are one matrix over everything below, with or without its zeros, whichever is shorter. Dense forms
  over the inputs of a ball are rotated into their row space; directions that they do not read are zero anyway.

Points are tensors (p, c, n): for each of p rows, c columns over the n inputs and neurons. Column 0 is the coordinate
along the homogenising unit vector, in which the constants live.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from geolip_lirpa.pointwise import PointwiseFamily, PointwiseInstance, PointwiseMultipliers, triangle_slope
from geolip_lirpa.rounding import Array
from geolip_lirpa.sdp import Multipliers
from geolip_lirpa.types import Norm

#: Products beside the input's, in the order of their multipliers; the first three are always there.
PRODUCTS = ("complementarity", "positive", "above", "triangle", "interval")
# Products of two numbers with a unit.
_SQUARES = ("complementarity", "interval")
# Matrices with fewer entries than this part are stored without their zeros.
_SPARSE_DENSITY = 0.15
_LEAST = 1e-300
# Smallest multipliers of a start relative to the largest.
_LEAST_PART = 1e-6


class LinearForms:
    """A matrix A (rows, n) that is applied to many vectors at a time.

    Args:
        matrix: dense or sparse.
        dtype: of all vectors.
    """

    def __init__(self, matrix: Array | sparse.csr_array, dtype: torch.dtype) -> None:
        self.rows, self.columns = matrix.shape
        self._dense: Tensor | None = None
        if isinstance(matrix, sparse.csr_array):
            own = matrix.astype(np.float32 if dtype is torch.float32 else np.float64)
            self._sparse, self._transposed = own, sparse.csr_array(own.T)
        else:
            self._dense = torch.from_numpy(np.ascontiguousarray(matrix)).to(dtype)

    def apply(self, vectors: Tensor) -> Tensor:
        """``x A^T`` for (.., n)."""
        if self._dense is not None:
            return vectors @ self._dense.T
        return _times(self._sparse, vectors)

    def adjoint(self, vectors: Tensor) -> Tensor:
        """``g A`` for (.., rows)."""
        if self._dense is not None:
            return vectors @ self._dense
        return _times(self._transposed, vectors)


def _times(matrix: sparse.csr_array, vectors: Tensor) -> Tensor:
    flat = vectors.reshape(math.prod(vectors.shape[:-1]), vectors.shape[-1])
    product = matrix @ np.ascontiguousarray(flat.numpy().T)
    return torch.from_numpy(np.ascontiguousarray(product.T)).view(*vectors.shape[:-1], matrix.shape[0])


@dataclass(frozen=True)
class ScaledRows:
    """The programs of p rows.

    Args:
        family: that all rows share.
        kept: per block, positions of its variables, as in `Forms`.
        products: which of `PRODUCTS` are used.
        ball: whether the inputs form one ball.
        inputs: number of scaled inputs, the first coordinates of a point.
        offsets: of the layers among the neurons.
        layers: V of each layer over inputs and the neurons of the layers before.
        forms: V of all layers over all coordinates.
        objective: (p, n), divided by `scale`.
        constant: (p,) margins at zero, divided by `scale`.
        scale: (p,) the size of each row's margin, float64.
        shift: (N,) v0; `lower`, `upper`, `kappa`: (N,) bounds of v and slopes of the triangle's line.
        unit: (N,) float64 numpy, the d of the module's docstring.
    """

    family: PointwiseFamily
    kept: tuple[NDArray[np.int64], ...]
    products: tuple[str, ...]
    ball: bool
    inputs: int
    offsets: tuple[int, ...]
    layers: tuple[LinearForms, ...]
    forms: LinearForms
    objective: Tensor
    constant: Tensor
    scale: Tensor
    shift: Tensor
    lower: Tensor
    upper: Tensor
    kappa: Tensor
    unit: Array

    @property
    def neurons(self) -> int:
        """Number of unstable neurons, N."""
        return self.offsets[-1]

    @property
    def size(self) -> int:
        """Coordinates of a column, n."""
        return self.inputs + self.neurons

    @property
    def dtype(self) -> torch.dtype:
        """Of points and multipliers."""
        return self.objective.dtype

    @staticmethod
    def of(
        instances: Sequence[PointwiseInstance], optional: Sequence[str], dtype: torch.dtype = torch.float64
    ) -> ScaledRows:
        """Scale the programs of rows of one family; each margin is divided by what its gradient moves it.

        Args:
            instances: of one family.
            optional: products beside the first three.
            dtype: of all tensors but `scale`.
        """
        family, kept = instances[0].family, instances[0].forms.kept
        sizes = [len(k) for k in kept]
        offsets = tuple(int(v) for v in np.concatenate([[0], np.cumsum(sizes[1:])]))
        matrix, objective, inputs = _matrices(instances, sizes, offsets)
        limits = [family.limits(l) for l in range(1, len(sizes))]
        lower = np.concatenate([np.zeros(0), *(a for a, _ in limits)])
        upper = np.concatenate([np.zeros(0), *(b for _, b in limits)])
        shift = np.concatenate([np.zeros(0), *(0.5 * (a + b) for a, b in family.constants.hidden)])
        unit = np.maximum(upper, -lower)
        columns = np.concatenate([np.ones(inputs), unit])
        matrix = _scaled(matrix, 1.0 / unit, columns)

        def tensor(values: Array) -> Tensor:
            return torch.from_numpy(values).to(dtype)

        layers = tuple(
            LinearForms(matrix[offsets[l] : offsets[l + 1], : inputs + offsets[l]], dtype)
            for l in range(len(sizes) - 1)
        )
        middle = np.array([0.5 * (i.constant[0] + i.constant[1]) for i in instances])
        rows = ScaledRows(
            family, kept, tuple(n for n in PRODUCTS if n in (*PRODUCTS[:3], *optional)),
            family.input_norm is Norm.L2, inputs, offsets, layers, LinearForms(matrix, dtype),
            tensor(objective * columns), tensor(middle), torch.ones(len(instances), dtype=torch.float64),
            tensor(shift / unit), tensor(lower / unit), tensor(upper / unit), tensor(triangle_slope(lower, upper)),
            unit,
        )  # fmt: skip
        return rows._divided(rows.variation())

    def _divided(self, scale: Tensor) -> ScaledRows:
        inverse = (1.0 / scale).to(self.dtype)
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values |= {"objective": self.objective * inverse[:, None], "constant": self.constant * inverse, "scale": scale}
        return ScaledRows(**values)

    # -- the network itself ------------------------------------------------------------------------------------------

    def at_center(self) -> tuple[Tensor, Tensor]:
        """Pre-activations and values (N,) of the neurons at w = 0."""
        v, point = self.shift.new_zeros(self.neurons), self.shift.new_zeros(self.size)
        for l, layer in enumerate(self.layers):
            rows = slice(self.offsets[l], self.offsets[l + 1])
            v[rows] = layer.apply(point[: layer.columns]) + self.shift[rows]
            point[self.inputs + rows.start : self.inputs + rows.stop] = v[rows].clamp_min(0.0)
        return v, point[self.inputs :]

    def gradient(self) -> Tensor:
        """Gradients (p, inputs) of the scaled margins at the centre."""
        open_neurons = (self.at_center()[0] > 0).to(self.dtype)
        pull = self.objective.clone()
        for l in reversed(range(len(self.layers))):
            rows = slice(self.offsets[l], self.offsets[l + 1])
            own = pull[:, self.inputs + rows.start : self.inputs + rows.stop] * open_neurons[rows]
            pull[:, : self.layers[l].columns] += self.layers[l].adjoint(own)
        return pull[:, : self.inputs]

    def variation(self) -> Tensor:
        """How much the linear part of each margin at the centre moves over the set, (p,) float64; 1 where it is 0."""
        gradient = self.gradient().to(torch.float64)
        size = gradient.norm(p=2 if self.ball else 1, dim=1)
        return torch.where(torch.isfinite(size) & (size > 1e-30), size, 1.0)

    # -- multipliers -------------------------------------------------------------------------------------------------

    def groups(self, theta: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Views of (p, m): one (p, N) for each of `products`, then those of the inputs."""
        count = self.neurons
        hidden = len(self.products) * count
        return theta[:, :hidden].split(count, dim=1) if count else (), theta[:, hidden:]

    def multipliers(self, theta: Tensor, row: int) -> PointwiseMultipliers:
        """Numbers (m,) of one row in the units of its instance; negative ones become zero."""
        values = theta.to(torch.float64).clamp_min(0.0).numpy() * float(self.scale[row])
        count, parts = self.neurons, dict[str, tuple[Array, ...]]()
        for number, name in enumerate(self.products):
            power = 2 if name in _SQUARES else 1
            parts[name] = self._spread(values[number * count : (number + 1) * count] / self.unit**power)
        empty = self._spread(np.zeros(count))
        tau = values[len(self.products) * count :]
        if not self.ball:
            whole = np.zeros(self.family.input_scale.numel())
            whole[self.kept[0]] = tau
            tau = whole
        lam, mu, eta, t, iota = (parts.get(name, empty) for name in PRODUCTS)
        return PointwiseMultipliers(lam, mu, eta, t, iota, tau)

    def _spread(self, values: Array) -> tuple[Array, ...]:
        """Numbers of the free neurons, back in their places among all neurons."""
        result = []
        for l, slope in enumerate(self.family.slopes, start=1):
            whole = np.zeros(slope.lower.numel())
            whole[self.kept[l]] = values[self.offsets[l - 1] : self.offsets[l]]
            result.append(whole)
        return tuple(result)

    def from_lipschitz(self, lipschitz: Multipliers, row: int, grading: float = 0.0) -> Tensor | None:
        """Multipliers (m,) that prove the margin at the centre minus the Lipschitz constant times the radius.

        The derivation is in `pointwise_point`.

        Args:
            lipschitz: of the row's constant over the same set.
            row: its number.
            grading: layers' multipliers are multiplied by powers of 1 + grading, growing towards the input.

        Returns:
            None where the numbers are of no use.
        """
        depth = len(self.layers)
        square = self.family.input_scale.numpy() ** 2
        tau = (
            lipschitz.input * square[: len(lipschitz.input)] if self.ball else (lipschitz.input * square)[self.kept[0]]
        )
        lam = np.concatenate([np.zeros(0), *(h[k] for h, k in zip(lipschitz.hidden, self.kept[1:], strict=True))])
        # the scale at which budget and output balance, in units of the scaled program
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            scale = np.sqrt(float(lipschitz.output.sum()) / max(float(tau.sum()), _LEAST)) / float(self.scale[row])
            layer = np.repeat(np.arange(1, depth + 1), np.diff(self.offsets))
            lam = scale * lam * self.unit**2 * (1.0 + grading) ** (depth - layer)
            tau = scale * tau * (1.0 + grading) ** depth
        if not (np.isfinite(lam).all() and np.isfinite(tau).all() and tau.max(initial=0) > 0):
            return None
        lam = np.maximum(lam, _LEAST_PART * float(lam.max(initial=1.0)))
        v, z = (x.to(torch.float64).numpy() for x in self.at_center())
        groups = [lam, lam * (z - v), lam * z] + [np.zeros(self.neurons)] * (len(self.products) - 3)
        return torch.from_numpy(np.concatenate([*groups, np.maximum(tau, _LEAST_PART * tau.max())])).to(self.dtype)

    def crude(self, row: int) -> Tensor:
        """Multipliers (m,) to start from without any knowledge: the budget of a margin that is linear."""
        gradient = self.gradient()[row]
        tau = gradient.norm()[None] if self.ball else gradient.abs()
        return torch.cat([self.shift.new_full((len(self.products) * self.neurons,), 0.1), tau])


def _matrices(
    instances: Sequence[PointwiseInstance], sizes: Sequence[int], offsets: Sequence[int]
) -> tuple[Array | sparse.csr_array, Array, int]:
    """V (N, n), the objectives (p, n), and the number of inputs, which a rotation may lower."""
    forms, total, inputs = instances[0].forms, offsets[-1], sizes[0]
    objective = np.zeros((len(instances), inputs + total))
    starts = [0, *(inputs + o for o in offsets[:-1])]
    for i, instance in enumerate(instances):
        for s, row in instance.forms.output.items():
            objective[i, starts[s] : starts[s] + sizes[s]] = row[0]
    stored = sum(b.nnz if isinstance(b, sparse.csr_array) else b.size for b in forms.blocks.values())
    if stored < _SPARSE_DENSITY * total * (inputs + total):
        parts = [
            [forms.blocks.get((l, s), sparse.csr_array((sizes[l], sizes[s]))) for s in range(len(sizes))]
            for l in range(1, len(sizes))
        ]
        joined = [sparse.hstack([sparse.csr_array(b) for b in row], format="csr") for row in parts]
        matrix = sparse.csr_array(sparse.vstack(joined, format="csr")) if joined else sparse.csr_array((0, inputs))
        return matrix, objective, inputs
    dense = np.zeros((total, inputs + total))
    for (l, s), block in forms.hidden.items():
        dense[offsets[l - 1] : offsets[l], starts[s] : starts[s] + sizes[s]] = block
    if instances[0].family.input_norm is not Norm.L2 or inputs <= total + len(instances):
        return dense, objective, inputs
    basis, _ = np.linalg.qr(np.vstack([dense[:, :inputs], objective[:, :inputs]]).T)
    dense = np.hstack([dense[:, :inputs] @ basis, dense[:, inputs:]])
    return dense, np.hstack([objective[:, :inputs] @ basis, objective[:, inputs:]]), basis.shape[1]


def _scaled(matrix: Array | sparse.csr_array, rows: Array, columns: Array) -> Array | sparse.csr_array:
    if isinstance(matrix, sparse.csr_array):
        return sparse.csr_array(sparse.diags_array(rows) @ matrix @ sparse.diags_array(columns))
    return (rows[:, None] * matrix) * columns
