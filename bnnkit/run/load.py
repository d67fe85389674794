"""`bnnkit.load`: a model file as a module that is ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bnnkit.errors import UsageError
from bnnkit.io.models import load_model
from bnnkit.run.filtering.sampler_load import is_sampler, load_sampler
from bnnkit.run.proposing.load import is_proposal, load_proposal
from bnnkit.run.uncertainty.stochastic import as_stochastic
from bnnkit.spec import ModelSpec

__all__ = ["load"]


def load(
    path: str | Path,
    *,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    state_key: str | None = None,
    trust_pickle: bool = False,
    latent: str | None = None,
) -> nn.Module:
    """Load a model on the CPU, in eval mode; one without noise goes on training by `.train()`.

    A run directory and the `model.safetensors` of one need nothing else: they carry their plan,
    and the checkpoint that they were made from is not read.

    Args:
        path: A run directory of any command, safetensors with a plan, or a checkpoint.
        arch: Where the file has only tensors: `torchvision:NAME`, `timm:NAME`, `bnnkit:NAME`,
            `pkg.mod:factory` or `path/to/file.py:factory`.
        arch_args: Keyword arguments of the factory.
        state_key: Which entry of a training checkpoint holds the weights.
        trust_pickle: Whether a pickled module, or a program with pickles, may run its code.
        latent: Of a filtered generator whose latents are drawn by the user's own code: that code
            again, `path/to/file.py:sampler`.

    Returns:
        The module, slim where the file carries a plan. Where it carries batch-norm noise, calling
        it gives mean class probabilities `[b, k]`, and `predict(x, samples=30)` the doubt as
        well. A run of `mh-filter` becomes a sampler: `load(run).sample(n, generator=...)` gives
        images, uint8 `[n, c, h, w]`. A run of `mh-proposal` becomes its learned proposal:
        `load(run).sample(n, generator)` gives float32 `[n, dim]`, and `log_prob(x)` `[n]`.

    Raises:
        ArchitectureError: No architecture, one that does not fit, or code that a plan wants to
            run and that nobody named on this machine.
        FileRefusedError: The file cannot be read.
        StructureError: The file's plan or noise does not fit the architecture.
        UsageError: An option that means nothing for this file.
    """
    if is_proposal(path):
        _refuse(path, "a learned proposal", arch=arch, state_key=state_key, latent=latent)
        return load_proposal(path)
    if is_sampler(path):
        _refuse(path, "a run of mh-filter", state_key=state_key)
        return load_sampler(
            path, latent=latent, arch=arch, arch_args=arch_args, trust_pickle=trust_pickle
        )
    _refuse(path, "a model", latent=latent)
    spec = ModelSpec(
        file=str(path),
        arch=arch,
        arch_args=dict(arch_args or {}),
        state_key=state_key,
        trust_pickle=trust_pickle,
    )
    return as_stochastic(load_model(spec)).eval()


def _refuse(path: str | Path, kind: str, **given: str | None) -> None:
    """Refuse options that mean nothing for what is loaded."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"Loading {str(path)!r}", f"{name}={value!r}", f"it is {kind}", "Leave it out."
            )
