"""A proposal out of its run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from bnnkit.errors import FileRefusedError
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.rundir import PROPOSAL, REPORT_JSON
from bnnkit.methods.proposals import empty_proposal
from bnnkit.spec import Report
from bnnkit.spec.proposal import ProposalConfig

__all__ = ["is_proposal", "load_proposal"]


def is_proposal(path: str | Path) -> bool:
    """Tell whether a path is a run directory of `mh-proposal`."""
    return (Path(path) / PROPOSAL).is_file()


def load_proposal(folder: str | Path) -> nn.Module:
    """Load the proposal that `mh-proposal` trained; `bnnkit.load` of the directory does the same.

    It has `sample(n, generator)`, `log_prob(x)` and `draws`.

    Args:
        folder: The run directory.

    Raises:
        FileRefusedError: It is no run of `mh-proposal`, or its files do not fit together.
        UsageError: The report is of another version, or the proposal is a flow and zuko is
            missing.
    """
    folder = Path(folder)
    what = f"Loading a proposal from {str(folder)!r}"
    if not all((folder / name).is_file() for name in (REPORT_JSON, PROPOSAL)):
        hint = "Name a run directory of 'bnnkit mh-proposal'."
        raise FileRefusedError(what, f"no {REPORT_JSON} and {PROPOSAL}", "", hint)
    report = Report.from_json((folder / REPORT_JSON).read_text("utf-8", errors="replace"))
    method: Any = report.sections.get("method")
    sampling: Any = report.sections.get("sampling")
    try:
        config = ProposalConfig(**method["config"])
        proposal = empty_proposal(config.family, int(sampling["dim"]), config.components)
        proposal.load_state_dict(read_checkpoint(folder / PROPOSAL).tensors)
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise FileRefusedError(what, found, "its files do not fit together") from error
    return proposal.eval()
