"""What a run costs: CPU and wall seconds, each second charged to one phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Stopwatch"]

_REST = "other"


class Stopwatch:
    """Runs from its making on; a phase inside another one is charged to the inner one only.

    CPU seconds are those of the whole process, all threads together; a GPU's are not among them.
    """

    def __init__(self) -> None:
        self._spent: dict[str, tuple[float, float]] = {}
        self._open = [_REST]
        self._at = _now()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what is done inside of the block to a phase."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def cpu(self, name: str) -> float:
        """Return the CPU seconds of a phase so far."""
        self._charge()
        return self._spent.get(name, (0.0, 0.0))[0]

    def section(self) -> dict[str, Any]:
        """Return the report's section so far: seconds of the whole and of each phase."""
        self._charge()
        cpu, wall = (sum(values) for values in zip(*self._spent.values(), strict=True))
        phases = {name: {"cpu": c, "wall": w} for name, (c, w) in self._spent.items()}
        return {"cpu": cpu, "wall": wall, "phases": phases}

    def _charge(self) -> None:
        """Give the seconds since the last time to the phase that is open."""
        now, name = _now(), self._open[-1]
        cpu, wall = self._spent.get(name, (0.0, 0.0))
        self._spent[name] = cpu + now[0] - self._at[0], wall + now[1] - self._at[1]
        self._at = now


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()
