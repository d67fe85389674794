"""What is worth choosing where several things count."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return which points no other one dominates, in their order.

    A point dominates another where it is nowhere larger and somewhere smaller; of equal points
    neither does.

    Args:
        points: `[n][d]` finite figures, less of each being better.

    >>> pareto_front([(1, 3), (2, 2), (2, 3), (3, 1)])
    [0, 1, 3]
    """
    front: list[tuple[float, ...]] = []
    # In lexicographic order what dominates a point comes before it.
    for point in sorted({tuple(point) for point in points}):
        if not any(all(a <= b for a, b in zip(kept, point, strict=True)) for kept in front):
            front.append(point)
    return [i for i, point in enumerate(points) if tuple(point) in front]
