"""The error tree and the table of exit codes: every refusal is one of these, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

__all__ = [
    "ArchitectureError",
    "ArtefactError",
    "BnnkitError",
    "DataError",
    "ExitCode",
    "FileRefusedError",
    "StructureError",
    "TrainingError",
    "UsageError",
    "did_you_mean",
]


class ExitCode(IntEnum):
    """What the process returns; documented in `docs/exit-codes.md`."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    GATE_FAILED = 3
    ARTEFACT = 4
    INCONCLUSIVE = 5
    INTERRUPTED = 130


class BnnkitError(Exception):
    """A refusal in four parts, and the exit code that it leads to.

    Args:
        what: What was asked for.
        found: What was found, quoted, with its number, shape or path.
        why: Why it cannot go on.
        hint: What to type next.
    """

    code: ExitCode = ExitCode.USAGE

    def __init__(self, what: str, found: str = "", why: str = "", hint: str = "") -> None:
        self.what = what
        self.found = found
        self.why = why
        self.hint = hint
        super().__init__(what, found, why, hint)

    def __str__(self) -> str:
        """Join the parts that were given: `what: found; why. hint`."""
        head = f"{self.what}: {self.found}" if self.found else self.what
        if self.why:
            head = f"{head}; {self.why}"
        return f"{head}. {self.hint}" if self.hint else head


class UsageError(BnnkitError):
    """An option or argument that cannot be used as given."""


class FileRefusedError(BnnkitError):
    """A model file that is broken, hostile or of an unknown kind."""


class ArchitectureError(BnnkitError):
    """An architecture that cannot be built, or that does not fit the tensors of the file."""


class DataError(BnnkitError):
    """A data set that cannot be found or read, or that does not fit the model."""


class StructureError(BnnkitError):
    """A model whose channel structure cannot be followed, or a plan that does not fit it."""


class TrainingError(BnnkitError):
    """A training run that cannot go on: a loss that is not a number, memory that ran out."""


class ArtefactError(BnnkitError):
    """A written model that disagrees with the model it was made from; nothing is delivered."""

    code = ExitCode.ARTEFACT


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean 'x'?` for the nearest known word, or the whole short list.

    >>> did_you_mean("cifar1O", ["cifar10", "mnist"])
    "Did you mean 'cifar10'?"
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known: {', '.join(known)}."
