"""Refined posteriors as a file: written by `vae-refine`, read again by `vae-eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Either, Posterior
from bnnkit.errors import UsageError
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.rundir import REFINED
from bnnkit.io.samples import write_tensors
from bnnkit.methods.vae.bernoulli import Bernoulli
from bnnkit.methods.vae.families import fall_back, start
from bnnkit.methods.vae.refine import Refined
from bnnkit.run.vae.setup import VaeBench

__all__ = ["read_refined", "write_refined"]

_KEY = "bnnkit.refined"
_OWN = ("improved", "elbo_before", "elbo_after")
_BINARY = "bernoulli"
_CLOSE = 1e-3
"""How far two runs of one model may differ, on another device say."""
_ROWS = 1024


def write_refined(folder: Path, refined: Refined, family: str, bench: VaeBench, x: Tensor) -> Path:
    """Write the posteriors of n data, with the bounds before and after.

    Args:
        folder: The run directory.
        refined: The result.
        family: Its name, which says what the tensors are: `bernoulli` of binary latents.
        bench: The autoencoder that they belong to.
        x: Its data `[n, D]`, in their order.
    """
    q = refined.posterior
    tensors = {f"q.{name}": value for name, value in _family_state(q).items()}
    tensors |= {
        "improved": refined.improved,
        "elbo_before": refined.elbo_before,
        "elbo_after": refined.elbo_after,
        **_answers(bench, x, refined.amortised),
    }
    text = json.dumps({"family": family, **_identity_of(bench)})
    return write_tensors(folder / REFINED, tensors, metadata={_KEY: text})


def _family_state(q: Posterior) -> dict[str, Tensor]:
    """Return the tensors of the family's own members, those that were not kept as well."""
    return (q.first if isinstance(q, Either) else q).state()


def _identity_of(bench: VaeBench) -> dict[str, Any]:
    """Return what posteriors belong to, as far as it has a name."""
    return {
        "data": bench.data.fingerprint,
        "binarise": bench.auto.units.binarise,
        "likelihood": bench.auto.likelihood,
        "latent": bench.auto.latent,
    }


@torch.no_grad()
def _answers(bench: VaeBench, x: Tensor, encoder: Posterior) -> dict[str, Tensor]:
    """Return what the model says of each datum: its weights, prior and pixels all show in it."""
    pairs = zip(torch.split(x, _ROWS), torch.split(encoder.centre(), _ROWS), strict=True)
    log_joint = torch.cat([bench.model.log_joint(part, mean) for part, mean in pairs])
    said = {f"encoder_{name}": value for name, value in encoder.state().items()}
    return {**said, "log_joint": log_joint}


def read_refined(run: Path, bench: VaeBench, x: Tensor, encoder: Posterior) -> Posterior:
    """Return the posteriors of a run of `vae-refine`, for the first n data.

    Args:
        run: The run directory, or its file.
        bench: The autoencoder and the data at hand.
        x: Data `[n, D]`.
        encoder: What refinement starts from: what its encoder says of these data, or a trained
            Gaussian.

    Raises:
        FileRefusedError: It holds no tensors, or is damaged.
        UsageError: It is no such file, holds fewer data, or belongs to another model or data.
    """
    path = run / REFINED if run.is_dir() else run
    what = f"Reading refined posteriors {str(run)!r}"
    if not path.is_file():
        raise UsageError(what, "no such file", "vae-refine writes it", _HINT)
    checkpoint = read_checkpoint(str(path))
    plain = encoder.replace([t.cpu() for t in encoder.parameters()])
    answers = _answers(bench, x, encoder)
    try:
        stated = dict(json.loads(checkpoint.info.metadata[_KEY]))
        like = _of_family(str(stated.pop("family")), plain)
        own = {name: checkpoint.tensors[name] for name in _OWN}
        state = [checkpoint.tensors[f"q.{name}"] for name in like.state()]
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise UsageError(what, "a file without them", "it is not of vae-refine", _HINT) from error
    _check_identity(what, stated, _identity_of(bench))
    n = len(x)
    if len(own["improved"]) < n:
        raise UsageError(
            what, f"posteriors of {len(own['improved'])} data, and {n} are judged",
            "each datum has its own", "Use a smaller --limit, or refine as many.",
        )  # fmt: skip
    _check_answers(what, checkpoint.tensors, answers)
    chosen = fall_back(like.replace([t[:n] for t in state]), plain, own["improved"][:n].bool())
    return chosen.replace([t.to(x.device) for t in chosen.parameters()])


def _of_family(family: str, encoder: Posterior) -> Posterior:
    """Return the member of a family that refinement starts at, which says what tensors it has.

    Raises:
        UsageError: The family does not fit the latents.
        ValueError: It is for latents of the other kind.
    """
    binary = isinstance(encoder, Bernoulli)
    if binary != (family == _BINARY):
        raise ValueError(family)
    return encoder if binary else start(family, encoder)


_HINT = "Name a run of vae-refine on this model and these data."


def _check_identity(what: str, stated: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse posteriors of other data, or of another kind of model."""
    differing = [k for k, v in here.items() if stated.get(k) != v]
    if differing:
        found = ", ".join(f"{k} {stated.get(k)!r} and here {here[k]!r}" for k in differing)
        raise UsageError(what, found, "posteriors belong to one model and its data", _HINT)


def _check_answers(what: str, then: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
    """Refuse posteriors of a model that answers otherwise."""
    for name, value in now.items():
        value = value.cpu()
        found = then.get(name, value[:0])[: len(value)]
        same = found.shape == value.shape
        if not same or not torch.allclose(found, value, atol=_CLOSE, rtol=_CLOSE):
            part = "a decoder or prior" if name == "log_joint" else "an encoder"
            raise UsageError(
                what, f"{part} that answers otherwise",
                "they are of other weights, or of numbers that were read otherwise", _HINT,
            )  # fmt: skip
