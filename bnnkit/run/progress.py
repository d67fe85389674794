"""How a long run tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "SilentProgress"]


class Progress(Protocol):
    """One phase at a time: started, advanced, stopped; notes may come at any moment."""

    def start(self, description: str, total: int | None = None) -> None:
        """Begin a phase; a phase that still ran is stopped.

        Args:
            description: What is being done, in a few words.
            total: Units of work in the phase (steps, images); None where nobody knows.
        """

    def advance(self, n: int = 1, **figures: float) -> None:
        """Tell that `n` more units are done, and the latest figures (`loss=0.12`)."""

    def note(self, text: str) -> None:
        """Tell one sentence that should stay on the screen."""

    def stop(self) -> None:
        """End the phase; does nothing where none runs."""


class SilentProgress:
    """The default of library calls: says nothing."""

    def start(self, description: str, total: int | None = None) -> None:
        """Say nothing."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""
