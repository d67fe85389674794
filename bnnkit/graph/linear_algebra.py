"""Cholesky factors and triangular solves by plain operators: runtimes of ONNX have neither.

Both halve the matrix until single numbers are left, so that a graph gets a few nodes for each row
and no loop; all matrices of a batch go through it together. With the blocks of a factor
L = [[L₁, 0], [K, L₂]]:

======================  ===========================================================
A = LLᵀ                 L₁ of A₁₁, K = (L₁⁻¹ A₂₁ᵀ)ᵀ, L₂ of A₂₂ - KKᵀ
LX = B                  X₁ of (L₁, B₁), X₂ of (L₂, B₂ - K X₁)
======================  ===========================================================

References:
    G. Golub, C. Van Loan, Matrix computations (2013), secs. 3.1.4 and 4.2.9 (block forms).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LINEAR_ALGEBRA", "cholesky", "solve_triangular"]


def cholesky(matrix: Tensor) -> Tensor:
    """Return the lower-triangular L with LLᵀ the matrix, NaN where it is not positive definite.

    Args:
        matrix: Symmetric `[*, n, n]`; its upper triangle is not read.
    """
    n = int(matrix.shape[-1])
    if n == 1:
        return matrix.sqrt()
    h = n // 2
    first = cholesky(matrix[..., :h, :h])
    below = solve_triangular(first, matrix[..., h:, :h].mT).mT
    second = cholesky(matrix[..., h:, h:] - below @ below.mT)
    return torch.cat([F.pad(first, (0, n - h)), torch.cat([below, second], -1)], -2)


def solve_triangular(matrix: Tensor, x: Tensor, *, upper: bool = False) -> Tensor:
    """Return the solution of a triangular system.

    Args:
        matrix: `[*, n, n]`; only the triangle that `upper` names is read.
        x: `[*, n, k]`.
        upper: Which triangle it is.
    """
    n = int(matrix.shape[-1])
    if n == 1:
        return x / matrix
    h = n // 2
    one, two = matrix[..., :h, :h], matrix[..., h:, h:]
    if upper:
        last = solve_triangular(two, x[..., h:, :], upper=True)
        rest = x[..., :h, :] - matrix[..., :h, h:] @ last
        return torch.cat([solve_triangular(one, rest, upper=True), last], -2)
    first = solve_triangular(one, x[..., :h, :])
    rest = x[..., h:, :] - matrix[..., h:, :h] @ first
    return torch.cat([first, solve_triangular(two, rest)], -2)


def _cholesky_ex(
    matrix: Tensor, *, upper: bool = False, check_errors: bool = False
) -> tuple[Tensor, Tensor]:
    """Stand for `torch.linalg.cholesky_ex`, whose second answer says nothing here."""
    factor = cholesky(matrix.mT if upper else matrix)
    info = torch.zeros_like(factor[..., 0, 0], dtype=torch.int32)
    return (factor.mT if upper else factor), info


def _solve(
    matrix: Tensor, x: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """Stand for `torch.linalg.solve_triangular` from the left."""
    if not left or unitriangular:
        raise RuntimeError("only solves from the left with a diagonal are written out")
    return solve_triangular(matrix, x, upper=upper)


def _cholesky_solve(x: Tensor, factor: Tensor, upper: bool = False) -> Tensor:
    """Stand for `torch.cholesky_solve`."""
    lower = factor.mT if upper else factor
    return solve_triangular(lower.mT, solve_triangular(lower, x), upper=True)


LINEAR_ALGEBRA: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.linalg_cholesky_ex.default: _cholesky_ex,
    torch.ops.aten.linalg_solve_triangular.default: _solve,
    torch.ops.aten.cholesky_solve.default: _cholesky_solve,
}
"""Decompositions of torch's operators, for a graph that is exported."""
