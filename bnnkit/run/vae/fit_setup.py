"""What the training of an autoencoder starts with: the model, its posterior, and the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import DataError, UsageError
from bnnkit.methods.vae.amortised import AmortisedPosterior
from bnnkit.methods.vae.encoding import FeatureTap, used_parameters
from bnnkit.methods.vae.fit_losses import Trainee
from bnnkit.methods.vae.full_bayes import DecoderPosterior
from bnnkit.run.vae.fit_posterior import SavedPosterior, load_tensors, read_posterior
from bnnkit.run.vae.setup import VaeBench, set_up_vae
from bnnkit.spec import DataSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_fit import BINARY_OBJECTIVES, VaeFitConfig

__all__ = ["FitData", "FitJob", "identity_of", "set_up_fit"]

_EXAMPLES = 4
_JUDGED = 10_000


@dataclass(frozen=True, eq=False)
class FitData:
    """The parts that a training reads, in the units of the likelihood `[n, D]`.

    Args:
        train: What is learned from; grey where pixels are drawn anew in each epoch.
        judged: Training data whose bound is reported, with fixed pixels.
        held_out: What early stopping looks at; None where nothing is held out.
        drawn: Whether each batch's pixels are drawn.
    """

    train: Tensor
    judged: Tensor
    held_out: Tensor | None
    drawn: bool

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return what the learner reads of a batch."""
        if not self.drawn:
            return x
        return torch.bernoulli(x.cpu(), generator=generator).to(x.device)


@dataclass(frozen=True, eq=False)
class FitJob:
    """What is trained, and on what.

    Args:
        bench: The autoencoder with its test data.
        net: The same with its posterior, as it learns.
        data: Training data.
        notes: What was assumed, one sentence each.
    """

    bench: VaeBench
    net: Trainee
    data: FitData
    notes: list[str]


def set_up_fit(spec: VaeSpec, data: DataSpec, config: VaeFitConfig, device: str) -> FitJob:
    """Load or build the autoencoder, its posterior and its data.

    Args:
        spec: The autoencoder; with a run directory of `vae-fit` its posterior goes on too.
        data: The images.
        config: What is asked for.
        device: `cpu` or `cuda`.

    Raises:
        BnnkitError: They cannot be loaded or do not fit each other.
    """
    if spec.model.file is None and spec.variance_is is None:
        spec = replace(spec, variance_is="logvar")  # fresh weights tell nothing
    drawn = config.binarise == "dynamic"
    if not drawn and config.binarise is not None:
        spec = replace(spec, binarise=config.binarise)
    bench = set_up_vae(spec, data, seed=config.seed, device=device)
    if bench.belief is not None:
        raise UsageError(
            f"Training by --objective {config.objective}", "a net with binary latents",
            "no gradient flows through zeros and ones",
            f"Use --objective {', '.join(BINARY_OBJECTIVES[:-1])} or {BINARY_OBJECTIVES[-1]}.",
        )  # fmt: skip
    if drawn and bench.auto.likelihood != "bernoulli":
        raise UsageError(
            "Reading --binarise", "'dynamic'", f"the likelihood is {bench.auto.likelihood}",
            "Leave it out, or add --likelihood bernoulli.",
        )  # fmt: skip
    _refuse_matrix(config, bench.auto.latent)
    notes: list[str] = []
    parts = _split(bench, config, drawn)
    net = _trainee(bench, parts.train, config, notes)
    return FitJob(bench, net, parts, notes)


def _refuse_matrix(config: VaeFitConfig, latent: int) -> None:
    shape = config.family.shape
    if shape is not None and shape[0] * shape[1] != latent:
        raise UsageError(
            "Reading --posterior", repr(config.posterior),
            f"its matrix has {shape[0] * shape[1]} numbers and the model {latent} latents",
            f"Use two numbers whose product is {latent}.",
        )  # fmt: skip
    if latent < 2 and config.family.family in ("iaf", "realnvp"):
        raise UsageError(
            "Reading --posterior", repr(config.posterior), "one latent has none to depend on",
            "Use --posterior planar.",
        )  # fmt: skip


def _split(bench: VaeBench, config: VaeFitConfig, drawn: bool) -> FitData:
    """Hold a share of the training data out; its pixels are drawn once, whatever the training."""
    fixed = bench.train()
    order = torch.randperm(len(fixed), generator=torch.Generator().manual_seed(config.seed))
    count = round(config.validation * len(fixed))
    if len(fixed) - count < 2:
        raise DataError(
            "Training an autoencoder", f"{len(fixed)} training images", "two or more are needed",
            "Use more data, or a smaller --validation.",
        )  # fmt: skip
    held, kept = (part.to(fixed.device) for part in order.tensor_split([count]))
    source = fixed
    if drawn:
        grey = replace(bench.auto, units=replace(bench.auto.units, binarise="none"))
        source = replace(bench, auto=grey).train()
    judged = fixed[kept[:_JUDGED]]
    return FitData(source[kept], judged, fixed[held] if count else None, drawn)


def _trainee(bench: VaeBench, train: Tensor, config: VaeFitConfig, notes: list[str]) -> Trainee:
    """Put the posterior on top of the encoder."""
    auto, model = bench.auto, bench.model
    examples = train[:_EXAMPLES]
    tap = FeatureTap(model.encode, auto.module, examples)
    posterior = AmortisedPosterior(config.family, model.latent, tap.width, seed=config.seed)
    weights = None
    if config.full_vb:
        z = torch.zeros(_EXAMPLES, model.latent, device=auto.device)
        names = used_parameters(lambda: model.decode(z), auto.module)
        weights = DecoderPosterior(auto.module, sorted(names))
    saved = read_posterior(auto.spec.model.file)
    if saved is not None:
        _continue(saved, posterior, weights, config, notes)
    for part in (posterior, weights):
        if part is not None:
            part.to(auto.device)
    return Trainee(auto.module, model, tap, posterior, weights, len(train))


def _continue(
    saved: SavedPosterior,
    posterior: AmortisedPosterior,
    weights: DecoderPosterior | None,
    config: VaeFitConfig,
    notes: list[str],
) -> None:
    """Go on with what an earlier run learned, where it is of the same family."""
    if saved.spec == config.family:
        load_tensors(posterior, saved.head, saved.file)
    elif saved.spec.family != "diag":
        notes.append(
            f"The {saved.spec} posterior beside the model is left, for a {config.family} one."
        )
    if weights is not None and saved.weights:
        load_tensors(weights, saved.weights, saved.file)


def identity_of(job: FitJob, config: VaeFitConfig) -> dict[str, Any]:
    """Return what must be equal for a broken run to continue."""
    auto = job.bench.auto
    return {
        "model": auto.spec.model.file,
        "arch": auto.spec.model.arch,
        "arch_args": dict(auto.spec.model.arch_args),
        "likelihood": auto.likelihood,
        "data": job.bench.data.fingerprint,
        "limit": job.bench.limit,
        "shape": list(auto.shape),
        **asdict(config),
    }
