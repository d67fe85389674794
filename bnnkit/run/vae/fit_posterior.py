"""The trained posterior beside an autoencoder's file: written, and read again.

The model's own file holds the owner's module alone, so that it loads wherever the owner's does.
What the family adds to the encoder's Gaussian, and the deviations of the decoder's weights, stand
beside it: `posterior.safetensors`, described by `posterior.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from bnnkit.errors import FileRefusedError
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.export import write_safetensors
from bnnkit.io.rundir import POSTERIOR, POSTERIOR_JSON, write_text
from bnnkit.methods.vae.fit_losses import Trainee

__all__ = ["SavedPosterior", "read_posterior", "write_posterior"]

_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class SavedPosterior:
    """A posterior as it was read.

    Args:
        family: As `--posterior` names it.
        head: State of the `AmortisedPosterior`.
        weights: State of the `DecoderPosterior`; empty where the weights have none.
    """

    family: str
    head: dict[str, Tensor]
    weights: dict[str, Tensor]


def write_posterior(net: Trainee, folder: Path) -> None:
    """Write the posterior into a run directory.

    Args:
        net: What was trained; its posterior goes to the CPU.
        folder: The run directory.
    """
    parts = nn.ModuleDict({"head": net.posterior})
    if net.weights is not None:
        parts["weights"] = net.weights
    parts.cpu()
    body = {
        "schema": _SCHEMA,
        "family": str(net.posterior.spec),
        "latent": net.posterior.latent,
        "weights": [] if net.weights is None else list(net.weights.names),
    }
    if parts.state_dict():
        write_safetensors(parts, folder / POSTERIOR)
    write_text(folder / POSTERIOR_JSON, json.dumps(body, indent=1))


def read_posterior(file: str | None) -> SavedPosterior | None:
    """Read the posterior of a run directory; None where there is none.

    Raises:
        FileRefusedError: Its files are broken.
    """
    path = None if file is None else Path(file) / POSTERIOR_JSON
    if path is None or not path.is_file():
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["schema"] != _SCHEMA:
            raise ValueError(f"schema version {body['schema']!r}")
        family = str(body["family"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileRefusedError(
            f"Reading {str(path)!r}", f"{type(error).__name__}: {error}",
            "it does not describe a posterior", "Name the model.safetensors beside it.",
        ) from error  # fmt: skip
    beside = path.with_name(POSTERIOR)
    tensors = read_checkpoint(beside).tensors if beside.is_file() else {}
    return SavedPosterior(family, _under("head.", tensors), _under("weights.", tensors))


def _under(prefix: str, tensors: object) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it."""
    assert isinstance(tensors, dict)  # of a checkpoint
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
