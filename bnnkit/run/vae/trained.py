"""The posterior that a run of `vae-fit` trained, as what judges and refines any autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from bnnkit.errors import UsageError
from bnnkit.methods.vae.amortised import under_posterior
from bnnkit.methods.vae.encoding import FeatureTap
from bnnkit.run.vae.fit_posterior import SavedPosterior, build_posterior, read_posterior
from bnnkit.run.vae.setup import VaeBench
from bnnkit.spec.vae_fit import PosteriorSpec

__all__ = ["TrainedPosterior", "refined_from", "trained_posterior"]

_EXAMPLES = 4


@dataclass(frozen=True, eq=False)
class TrainedPosterior:
    """A posterior that is more than the encoder's Gaussian.

    Args:
        family: As `--posterior` names it.
        bench: The autoencoder under it: its model's q(z | x) is the trained one.
    """

    family: PosteriorSpec
    bench: VaeBench


def trained_posterior(bench: VaeBench, x: Tensor, notes: list[str]) -> TrainedPosterior | None:
    """Read the posterior beside an autoencoder; None where the encoder's Gaussian is all there is.

    Args:
        bench: The autoencoder; of a run directory of `vae-fit` its posterior is read.
        x: Some of its data `[n, D]`.
        notes: Appended to, where the decoder's weights have a posterior as well.

    Raises:
        FileRefusedError: Its files are broken, or do not fit the autoencoder.
        UsageError: The spread of the encoder is not read as it was in training.
    """
    saved = None if bench.belief is not None else read_posterior(bench.auto.spec.model.file)
    if saved is None:
        return None
    if saved.weights:
        notes.append(
            "The run holds a posterior over the decoder's weights too: the decoder is judged at "
            "their means, as in the run's own report."
        )
    if saved.spec.family == "diag":
        return None
    _check_reading(saved, bench)
    tap = FeatureTap(bench.model.encode, bench.auto.module, x[:_EXAMPLES])
    posterior = build_posterior(saved, bench.model.latent, tap.width)
    posterior.to(bench.auto.device).eval().requires_grad_(False)
    model = under_posterior(bench.model, tap, posterior)
    return TrainedPosterior(saved.spec, replace(bench, model=model))


def _check_reading(saved: SavedPosterior, bench: VaeBench) -> None:
    """Refuse an encoder whose Gaussian is not the one that the posterior was trained on."""
    read = bench.auto.spec.variance_is
    if saved.variance_is not in (None, read):
        raise UsageError(
            f"Reading the posterior {str(saved.file)!r}",
            f"a spread of the encoder that is read as {read}, and was trained as "
            f"{saved.variance_is}",
            "it starts from the encoder's Gaussian", f"Add --variance-is {saved.variance_is}.",
        )  # fmt: skip


def refined_from(bench: VaeBench, trained: TrainedPosterior | None) -> VaeBench:
    """Return the autoencoder under the posterior that refinement starts from.

    That is the trained one where it is a Gaussian; flows and chains have no family here that
    holds them, and refinement starts at the encoder's.
    """
    return trained.bench if trained is not None and trained.family.closed else bench
