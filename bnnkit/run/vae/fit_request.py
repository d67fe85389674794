"""What `vae-fit` is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnnkit.run.progress import Progress
from bnnkit.spec import DataSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_fit import VaeFitConfig

__all__ = ["FitRequest", "FitResult"]


@dataclass(frozen=True, eq=False)
class FitRequest:
    """What is asked for.

    Args:
        spec: The autoencoder.
        data: The images.
        config: Posterior, objective and training.
        device: `cpu` or `cuda`.
        out: The run directory.
        resume: Whether an unfinished run there continues.
        force: Whether what is there is replaced.
        progress: Who is told what goes on.
    """

    spec: VaeSpec
    data: DataSpec
    config: VaeFitConfig
    device: str
    out: Path
    resume: bool
    force: bool
    progress: Progress


@dataclass(frozen=True, eq=False)
class FitResult:
    """What came of it.

    Args:
        sections: Of the report.
        write: Writes the files of a run into a folder.
    """

    sections: dict[str, Any]
    write: Callable[[Path], None]
