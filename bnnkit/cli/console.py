"""Where text goes: results to stdout, progress to stderr; rich on a terminal, else plain lines."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

import typer
from rich.console import Console

if TYPE_CHECKING:
    import rich.progress

    from bnnkit.run.progress import Progress

__all__ = [
    "PlainProgress",
    "TerminalProgress",
    "print_json",
    "progress_reporter",
    "results_alone",
    "stderr_console",
    "stdout_console",
]

# A log has no width of its own: wide enough for the result tables, narrow enough to read.
_LOG_WIDTH = 120

_results: ContextVar[TextIO | None] = ContextVar("results", default=None)
"""The process's own stdout while `results_alone` has turned the name elsewhere."""


def stdout_console() -> Console:
    """Return the console of results."""
    return _console(stderr=False)


def stderr_console() -> Console:
    """Return the console of progress and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """Return a console that prints text as it is: brackets and colons in names mean nothing."""
    stream = sys.stderr if stderr else sys.stdout
    # COLUMNS is honoured, yet not below what a table needs.
    width = max(100, shutil.get_terminal_size((_LOG_WIDTH, 24)).columns)
    return Console(
        stderr=stderr,
        width=None if stream.isatty() else width,
        markup=False,
        emoji=False,
        highlight=False,
    )


@contextmanager
def results_alone() -> Iterator[None]:
    """Keep stdout for `print_json`: what else is printed, by an owner's net, goes to stderr."""
    token = _results.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


def print_json(body: Mapping[str, Any]) -> None:
    """Print one JSON document to stdout, which with `--json` is all that goes there."""
    text = json.dumps(body, indent=1, allow_nan=False, default=str)
    typer.echo(text, file=_results.get())


def progress_reporter() -> Progress:
    """Return a progress bar where stderr is a terminal, else plain lines for a log."""
    console = stderr_console()
    return TerminalProgress(console) if console.is_terminal else PlainProgress(console)


def _figures_text(figures: Mapping[str, float]) -> str:
    """Write the latest figures on one line.

    >>> _figures_text({"loss": 0.123456, "kept": 120})
    'loss 0.1235  kept 120'
    """
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


class TerminalProgress:
    """A bar with the time that is left, on a terminal.

    Args:
        console: Where the bar is drawn.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: rich.progress.Progress | None = None

    def start(self, description: str, total: int | None = None) -> None:
        """Draw the bar of a phase."""
        from rich import progress as bars

        self.stop()
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=None),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("ETA"),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
        )
        self._bar.add_task(description, total=total, figures="")
        self._bar.start()

    def advance(self, n: int = 1, **figures: float) -> None:
        """Move the bar on."""
        if self._bar is None:
            return
        task = self._bar.task_ids[0]
        if figures:
            self._bar.update(task, advance=n, figures=_figures_text(figures))
        else:
            self._bar.update(task, advance=n)

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(text)

    def stop(self) -> None:
        """Leave the bar as it is and go on below it."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class PlainProgress:
    """Lines for a log: one when a phase begins, one now and then, one when it ends.

    Args:
        console: Where the lines go.
        every: Least seconds between two lines of one phase.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._every = every
        self._clock = clock
        self._description = ""
        self._total: int | None = None
        self._done = 0
        self._figures: dict[str, float] = {}
        self._begun = self._told = 0.0

    def start(self, description: str, total: int | None = None) -> None:
        """Tell that a phase begins."""
        self.stop()
        self._description, self._total, self._done = description, total, 0
        self._figures = {}
        self._begun = self._told = self._clock()
        self._say(description)

    def advance(self, n: int = 1, **figures: float) -> None:
        """Tell how far the phase is, if it is time to."""
        self._done += n
        self._figures.update(figures)
        now = self._clock()
        ended = self._total is not None and self._done >= self._total  # `stop` tells that
        if self._description and now - self._told >= self._every and not ended:
            self._told = now
            self._say(self._line(now, ended=False))

    def note(self, text: str) -> None:
        """Print a sentence."""
        self._say(text)

    def stop(self) -> None:
        """Tell that the phase has ended."""
        if self._description:
            self._say(self._line(self._clock(), ended=True))
            self._description = ""

    def _line(self, now: float, *, ended: bool) -> str:
        """Write how far the phase is, how long it took, and how long it will take."""
        seconds = now - self._begun
        counted = self._done or self._total
        parts = [f"{self._description}: {self._done if counted else 'done'}"]
        if self._total:
            parts[0] += f"/{self._total} ({self._done / self._total:.0%})"
        parts.append(f"{seconds:.0f} s")
        if self._total and 0 < self._done < self._total and not ended:
            parts.append(f"ETA {seconds * (self._total - self._done) / self._done:.0f} s")
        return "  ".join(filter(None, [*parts, _figures_text(self._figures)]))

    def _say(self, text: str) -> None:
        """Print one line, however long."""
        self._console.print(text, soft_wrap=True)
