"""The trained posterior beside an autoencoder's file: written, and read again.

The model's own file holds the owner's module alone, so that it loads wherever the owner's does.
What the family adds to the encoder's Gaussian, and the deviations of the decoder's weights, stand
beside it: `posterior.safetensors`, described by `posterior.json`. Both may come from a stranger:
nothing is built before its size is known to be that of the tensors at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.errors import BnnkitError, FileRefusedError
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.export import write_safetensors
from bnnkit.io.faults import quote
from bnnkit.io.rundir import POSTERIOR, POSTERIOR_JSON, write_text
from bnnkit.methods.vae.amortised import AmortisedPosterior
from bnnkit.methods.vae.fit_losses import Trainee
from bnnkit.spec.vae import SPREADS
from bnnkit.spec.vae_fit import PosteriorSpec, parse_posterior

__all__ = [
    "SavedPosterior",
    "build_posterior",
    "load_tensors",
    "read_posterior",
    "write_posterior",
]

_SCHEMA = 1
_HINT = "Name the model.safetensors beside it, whose encoder is then judged."


@dataclass(frozen=True, eq=False)
class SavedPosterior:
    """A posterior as it was read.

    Args:
        file: Its description.
        spec: Its family.
        latent: Width of the latents that it was trained on.
        variance_is: What the encoder's second output was taken for; None where it does not say.
        head: State of the `AmortisedPosterior`.
        weights: State of the `DecoderPosterior`; empty where the weights have none.
    """

    file: Path
    spec: PosteriorSpec
    latent: int
    variance_is: str | None
    head: dict[str, Tensor]
    weights: dict[str, Tensor]


def write_posterior(net: Trainee, folder: Path, variance_is: str | None = None) -> None:
    """Write the posterior into a run directory.

    Args:
        net: What was trained; its posterior goes to the CPU.
        folder: The run directory.
        variance_is: What the encoder's second output was taken for.
    """
    parts = nn.ModuleDict({"head": net.posterior})
    if net.weights is not None:
        parts["weights"] = net.weights
    parts.cpu()
    body = {
        "schema": _SCHEMA,
        "family": str(net.posterior.spec),
        "latent": net.posterior.latent,
        "variance_is": variance_is,
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
            raise ValueError(f"schema version {quote(body['schema'])}")
        spec, latent = parse_posterior(str(body["family"])), int(body["latent"])
        variance_is = body.get("variance_is")
        if variance_is not in (None, *SPREADS):
            raise ValueError(f"variance_is {quote(variance_is)}")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _refused(path, f"{type(error).__name__}: {quote(error)}") from error
    except BnnkitError as error:
        raise _refused(path, f"the family {quote(body['family'])}") from error
    beside = path.with_name(POSTERIOR)
    tensors = read_checkpoint(beside).tensors if beside.is_file() else {}
    parts = (_under(part, tensors) for part in ("head.", "weights."))
    return SavedPosterior(path, spec, latent, variance_is, *parts)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def build_posterior(saved: SavedPosterior, latent: int, features: int) -> AmortisedPosterior:
    """Return the posterior that was saved.

    Args:
        saved: Its description and tensors.
        latent: d of the model at hand.
        features: Width of its encoder's features.

    Raises:
        FileRefusedError: They do not fit each other, or the model.
    """
    spec, path = saved.spec, saved.file
    rows, columns = spec.shape or (latent, 1)
    if saved.latent != latent or rows * columns != latent:
        raise _refused(path, f"{spec} of {saved.latent} latents, and the model has {latent}")
    if spec.family in ("iaf", "realnvp") and latent < 2:
        raise _refused(path, f"{spec} of one latent")
    held = sum(t.numel() for t in saved.head.values())
    if held != (needed := _numbers(spec, latent, features)):
        raise _refused(
            path.with_name(POSTERIOR), f"{held:,} numbers, and {quote(spec)} has {needed:,}"
        )
    posterior = AmortisedPosterior(spec, latent, features)
    load_tensors(posterior, saved.head, path)
    return posterior


def _numbers(spec: PosteriorSpec, latent: int, features: int) -> int:
    """Return how many numbers a family has, without building all of it.

    Transformations of a flow take turns between two forms, and transitions of a chain are alike.
    """

    def built(length: int) -> int:
        part = AmortisedPosterior(replace(spec, length=length), latent, features)
        return sum(t.numel() for t in part.state_dict().values())

    if not spec.length:
        return built(0)
    pairs, odd = divmod(spec.length, 2)
    return pairs * built(2) + (built(1) if odd else 0)


def load_tensors(part: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load a state that is of this very form, and of the same masks.

    That its numbers are finite `read_checkpoint` has seen to.

    Args:
        part: What takes it.
        tensors: The state.
        path: The description that it stands beside.

    Raises:
        FileRefusedError: It is not.
    """
    path = path.with_name(POSTERIOR)
    own = part.state_dict()
    if differing := sorted(own.keys() ^ tensors.keys()):
        missing = "no tensor" if differing[0] in own else "a tensor that does not belong there,"
        raise _refused(path, f"{missing} {quote(differing[0])}")
    masks = {name for name, _ in part.named_buffers()}
    for name, like in own.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (like.shape, like.dtype):
            raise _refused(
                path, f"{quote(name)} {list(found.shape)} of {found.dtype}, where "
                f"{list(like.shape)} of {like.dtype} belongs",
            )  # fmt: skip
        if name in masks and not torch.equal(found, like.cpu()):
            raise _refused(path, f"{quote(name)}, which is not the mask of its flow")
    part.load_state_dict(dict(tensors))


def _refused(path: Path, found: str) -> FileRefusedError:
    return FileRefusedError(
        f"Reading {str(path)!r}", found, "it does not hold a posterior of this model", _HINT
    )
