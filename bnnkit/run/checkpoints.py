"""The state of a run after each epoch, so that a broken run continues."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bnnkit.errors import UsageError
from bnnkit.io.atomic import atomic_path
from bnnkit.io.rundir import CHECKPOINT, METRICS, write_text

__all__ = ["Checkpoints", "TrainState"]

_IDENTITY = "identity.json"


@dataclass(frozen=True)
class TrainState:
    """Everything that the next epoch depends on.

    Args:
        phase: Which part of the run this is.
        epoch: Epochs done.
        model: State dict of the model.
        carrier: State dict of the posterior.
        optimiser: State dict of the optimiser.
    """

    phase: str
    epoch: int
    model: Mapping[str, Any]
    carrier: Mapping[str, Any]
    optimiser: Mapping[str, Any]


class Checkpoints:
    """The `checkpoint/` folder of a run directory.

    Args:
        out: The run directory; made if missing.
        identity: What must be equal for a run to continue: model, data and settings.
        resume: Continue what is there.
        force: Start over, whatever is there.

    Raises:
        UsageError: An unfinished run is there and neither was asked for; or it was another run.
    """

    def __init__(
        self, out: Path, identity: Mapping[str, Any], *, resume: bool, force: bool
    ) -> None:
        self.folder = out / CHECKPOINT
        self.metrics = out / METRICS
        states = sorted(self.folder.glob("*.pt"))
        if states and not resume and not force:
            raise UsageError(
                "Starting a run", f"an unfinished run in {str(out)!r}",
                "it would be overwritten",
                "Continue it with --resume, or start over with --force.",
            )  # fmt: skip
        self.identity = json.loads(json.dumps(identity, default=str))
        if resume and states:
            self._check_identity()
            return
        for stale in (*states, self.folder / _IDENTITY):
            stale.unlink(missing_ok=True)
        self.metrics.unlink(missing_ok=True)

    def _check_identity(self) -> None:
        try:
            saved = json.loads((self.folder / _IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                "Resuming a run", f"no readable {_IDENTITY} in {str(self.folder)!r}",
                "it says which run the checkpoints belong to", "Start over with --force.",
            ) from error  # fmt: skip
        differing = [k for k in sorted({*saved, *self.identity})
                     if saved.get(k) != self.identity.get(k)]  # fmt: skip
        if differing:
            key = differing[0]
            raise UsageError(
                "Resuming a run",
                f"{key} was {saved.get(key)!r} and is now {self.identity.get(key)!r}",
                "the broken run had other settings",
                "Resume with the same options, or start over with --force.",
            )

    def load(self, phase: str) -> TrainState | None:
        """Return the last state of a phase, or None."""
        path = self._path(phase)
        if not path.is_file():
            return None
        return TrainState(**torch.load(path, weights_only=True, map_location="cpu"))

    def save(self, state: TrainState) -> None:
        """Write the state of one epoch, whole or not at all."""
        body = {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(state).items()}
        if not (self.folder / _IDENTITY).is_file():
            with atomic_path(self.folder / _IDENTITY) as part:
                part.write_text(json.dumps(self.identity, indent=1), encoding="utf-8")
        with atomic_path(self._path(state.phase)) as part:
            torch.save(body, part)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row to `metrics.jsonl`."""
        self.metrics.parent.mkdir(parents=True, exist_ok=True)
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(row)) + "\n")

    def curve(self) -> list[dict[str, Any]]:
        """Return the training curve; a row that was written twice counts once."""
        if not self.metrics.is_file():
            return []
        rows: dict[float, dict[str, Any]] = {}
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                rows[row["epoch"]] = row
            except (ValueError, KeyError, TypeError):
                continue  # a line that a kill cut short
        return [rows[k] for k in sorted(rows)]

    def write_curve(self, path: Path) -> None:
        """Write the training curve as lines of JSON, where there is one: each epoch once."""
        if rows := self.curve():
            write_text(path, "\n".join(json.dumps(row) for row in rows))

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Tell whoever interrupts a run how it is continued."""
        try:
            yield
        except KeyboardInterrupt:
            saved = any(self.folder.glob("*.pt"))
            more = (
                "Continue with the same command and --resume." if saved else "Nothing was saved."
            )
            raise KeyboardInterrupt(f"Stopped. {more}") from None

    def describe(self) -> str:
        """Say where the last good state is, for an error's hint."""
        newest = max(self.folder.glob("*.pt"), key=lambda p: p.stat().st_mtime, default=None)
        return f" The last good checkpoint is {str(newest)!r}." if newest else ""

    def _path(self, phase: str) -> Path:
        return self.folder / f"{phase}.pt"
