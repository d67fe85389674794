"""What every metric of samples asks of its input: rows of finite numbers, in float64."""

from __future__ import annotations

from torch import Tensor

from bnnkit.errors import DataError

__all__ = ["check_widths", "double_rows"]


def double_rows(x: Tensor, what: str, *, least: int = 1) -> Tensor:
    """Return rows in float64.

    Args:
        x: `[n, d]`.
        what: The metric, for errors.
        least: Fewest rows that it is defined for.

    Raises:
        DataError: Another shape, too few rows, or a value that is not finite.
    """
    if x.dim() != 2 or len(x) < least or not x.shape[1]:
        raise DataError(
            f"Measuring the {what}",
            f"values of shape {list(x.shape)}",
            f"it needs [n, d] with at least {least} rows",
        )
    rows = x.detach().double()
    if bad := int((~rows.isfinite()).any(1).sum()):
        raise DataError(
            f"Measuring the {what}",
            f"not a finite number in {bad} of {len(rows)} rows",
            "no distance can be taken from them",
        )
    return rows


def check_widths(a: int, b: int, what: str) -> None:
    """Refuse two sets whose rows have different lengths.

    Raises:
        DataError: `a` is not `b`.
    """
    if a != b:
        raise DataError(
            f"Measuring the {what}",
            f"{a} and {b} features",
            "both sets must come from the same extractor",
        )
