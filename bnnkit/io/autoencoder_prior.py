"""Priors of latents: the standard normal, and a log-density in the user's own code."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.distributions import Normal

from bnnkit.errors import ArchitectureError, UsageError
from bnnkit.io.autoencoder_answers import role_of
from bnnkit.io.autoencoder_forms import quoted
from bnnkit.io.factories import describe_exception, home_of, importable, load_object

__all__ = ["open_prior", "unused_prior"]

_PRIOR = re.compile(r"prior|priors|pseudo.*|vamp.*")
_STANDARD = {"mean": 0.0, "logvar": 0.0, "logsigma": 0.0, "sigma": 1.0, "sigma2": 1.0}
"""Parameters of N(0, I), by what their names say."""
_HINT = "Let it be log_prior(z): latents [n, d] to log densities in nats [n]."


def _log_standard_normal(z: Tensor) -> Tensor:
    """Return log N(z | 0, I) in nats, `[*, d]` to `[*]`."""
    unit = Normal(0.0, 1.0, validate_args=False)
    density: Tensor = unit.log_prob(z)  # type: ignore[no-untyped-call]
    return density.sum(-1)


def open_prior(
    source: str, latent: int, device: torch.device | str = "cpu"
) -> Callable[[Tensor], Tensor]:
    """Open a prior and try it; the code of a function runs, so the user must have named it.

    Args:
        source: `normal`, or `path/to/file.py:log_prior`.
        latent: d.
        device: Where latents are.

    Returns:
        log p(z) in nats, `[*, d]` to `[*]`.

    Raises:
        UsageError: There is no such function, or it does not give a density for each latent.
    """
    if source == "normal":
        return _log_standard_normal
    place, _, item = source.rpartition(":")
    try:
        found = load_object(place, item)
    except ArchitectureError as error:
        raise _refused(source, error.found, error.why, error.hint) from error
    if not callable(found):
        raise _refused(source, f"a {type(found).__name__}", "it cannot be called", _HINT)
    density: Callable[[Tensor], object] = found

    def log_prior(z: Tensor) -> Tensor:
        rows = z.reshape(-1, z.shape[-1])
        home = home_of(place)
        try:
            with importable(home):
                value = density(rows)
        except Exception as error:
            if _is_traced(rows):  # the exporter's own handling says what cannot be exported
                raise
            raise _refused(
                source, describe_exception(error, home), "it stops before it returns", _HINT
            ) from error
        if not isinstance(value, Tensor) or tuple(value.shape) != (len(rows),):
            shape = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value)
            raise _refused(
                source, f"an answer of {shape} for latents {list(rows.shape)}",
                "there must be one log density for each latent", _HINT,
            )  # fmt: skip
        return value.reshape(z.shape[:-1])

    _try(source, log_prior, latent, device)
    return log_prior


def unused_prior(source: str, module: nn.Module) -> list[str]:
    """Say where N(0, I) is assumed of a net whose tensors look like a prior of its own.

    Args:
        source: As of `open_prior`.
        module: The net.

    Returns:
        A sentence, or nothing: another prior is stated, or the tensors are those of N(0, I).
    """
    if source != "normal":
        return []
    tensors = dict((*module.named_parameters(), *module.named_buffers()))
    found = [name for name, tensor in tensors.items() if _is_own_prior(name, tensor)]
    if not found:
        return []
    return [
        f"The prior is taken as N(0, I), but the net's {quoted(found)} look like a prior of its "
        "own; --prior path/to/file.py:log_prior states one."
    ]


def _is_own_prior(name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is called a prior's, or a pseudo-input, and is not that of N(0, I)."""
    words = name.lower().replace(".", "_").split("_")
    if not any(_PRIOR.fullmatch(word) for word in words):
        return False
    usual = _STANDARD.get(role_of("_".join(w for w in words if not _PRIOR.fullmatch(w))) or "")
    return usual is None or bool((tensor != usual).any())


def _is_traced(z: Tensor) -> bool:
    """Tell whether a graph is being captured, and no number computed."""
    return isinstance(z, FakeTensor) or torch.compiler.is_compiling()


def _try(
    source: str, log_prior: Callable[[Tensor], Tensor], latent: int, device: torch.device | str
) -> None:
    """Refuse densities that are not finite, or that no gradient flows through."""
    z = torch.randn(8, latent, generator=torch.Generator().manual_seed(0)).to(device)
    z.requires_grad_()
    with torch.enable_grad():
        value = log_prior(z)
    if not bool(value.isfinite().all()):
        raise _refused(
            source, "log densities that are NaN or infinite", "latents near 0 must be possible",
            _HINT,
        )  # fmt: skip
    if not value.requires_grad:
        raise _refused(
            source, "densities without a gradient", "posteriors are refined by it",
            "Compute them with torch, from the latents that it is given.",
        )  # fmt: skip


def _refused(source: str, found: str, why: str, hint: str) -> UsageError:
    return UsageError(f"Reading the prior {source!r}", found, why, hint)
