"""What every command on a variational autoencoder starts with: the model, and data that fit it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bnnkit.errors import DataError, UsageError
from bnnkit.io.autoencoder_binary import (
    BeliefNet,
    check_belief_net,
    is_belief_net,
    settle_belief_net,
)
from bnnkit.io.autoencoder_checks import CHECKED, check_autoencoder
from bnnkit.io.autoencoder_forms import AutoencoderForm, open_parts
from bnnkit.io.autoencoder_units import BINARISE_SEED
from bnnkit.io.autoencoders import Autoencoder, settle_autoencoder
from bnnkit.io.data import Dataset, Split, load_data
from bnnkit.methods.vae.belief import BeliefModel
from bnnkit.methods.vae.latent_model import LatentModel, log_standard_normal, of_belief
from bnnkit.run.setup import as_model_spec, describe_data, describe_model
from bnnkit.run.vae.meaning import remembered
from bnnkit.run.vae.readings import settle_spread
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec

__all__ = [
    "VaeBench",
    "as_vae_spec",
    "check_range",
    "reading_order",
    "run_stem",
    "set_up_vae",
]

_BATCH = 1024


@dataclass(frozen=True, eq=False)
class VaeBench:
    """An autoencoder and the data it is judged on.

    Args:
        auto: The autoencoder, checked on real images.
        model: The same as the algorithms see it.
        data: Images in [0, 1].
        limit: Most data of each part, the first ones; None takes all.
        shuffled: Whether parts are read in a fixed random order, since folders come by class.
    """

    auto: Autoencoder | BeliefNet
    model: LatentModel
    data: Dataset
    limit: int | None = None
    shuffled: bool = False

    @property
    def belief(self) -> BeliefModel | None:
        """The model as the methods for binary latents see it; None where latents are continuous.

        A frozen view: no gradient flows to its weights.
        """
        return _belief_model(self.auto) if isinstance(self.auto, BeliefNet) else None

    def train(self, limit: int | None = None) -> Tensor:
        """Return training data, prepared; see `test`."""
        return self._prepared(self.data.train, limit)

    def test(self, limit: int | None = None) -> Tensor:
        """Return test data in the units of the likelihood.

        Args:
            limit: Most of them, the first ones; None takes as many as `--limit` says.

        Returns:
            float32 `[n, D]` on the device of the model. A datum has the same pixels whatever
            the limit.
        """
        return self._prepared(self.data.test, limit)

    def _prepared(self, split: Split, limit: int | None) -> Tensor:
        rows = reading_order(len(split), shuffled=self.shuffled)[: limit or self.limit]
        parts, start = [], 0
        for images, _ in split.select(rows).batches(_BATCH):
            parts.append(self.auto.prepare(images, start=start))
            start += len(images)
        return torch.cat(parts).to(self.auto.device)

    def describe(self) -> dict[str, dict[str, object]]:
        """Return the report sections `model` and `data`."""
        auto = self.auto
        spec = {key: value for key, value in auto.spec.to_dict().items() if key != "model"}
        if self.belief is not None:
            spec["prior"] = "bernoulli"
        drawn = auto.likelihood == "bernoulli" and auto.units.binarise == "bernoulli"
        order = ["parts are read in a fixed random order"] if self.shuffled else []
        data = describe_data(self.data)
        return {
            "model": {
                **describe_model(auto.spec.model, auto.notes),
                "latent": auto.latent,
                "shape": list(auto.shape),
                "latents": "continuous" if self.belief is None else "binary",
                "is_bound": auto.is_bound,
                **spec,
            },
            "data": {
                **data,
                "limit": self.limit,
                "binarise": auto.units.binarise,
                "binarise_seed": BINARISE_SEED if drawn else None,
                "notes": [*self.data.notes, *order],
            },
        }


def reading_order(n: int, *, shuffled: bool) -> Tensor:
    """Return the order in which a part of `n` data is read: folders come by class."""
    if not shuffled:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(BINARISE_SEED))


def as_vae_spec(model: VaeSpec | ModelSpec | str | Path) -> VaeSpec:
    """Read a model argument of the library: all but the file is inferred where nothing says it."""
    return model if isinstance(model, VaeSpec) else VaeSpec(as_model_spec(model))


def run_stem(spec: VaeSpec) -> str:
    """Return what a run directory is called after.

    >>> run_stem(VaeSpec(ModelSpec(file="nets/vae.pth")))
    'vae'
    >>> run_stem(VaeSpec(ModelSpec(arch="bnnkit:vae-mnist")))
    'vae-mnist'
    """
    if spec.model.file is not None:
        return Path(spec.model.file).stem
    return str(spec.model.arch).rpartition(":")[2]


def set_up_vae(spec: VaeSpec, data: DataSpec, *, seed: int = 0, device: str = "cpu") -> VaeBench:
    """Load an autoencoder and images that fit each other, and check it on sixteen of them.

    Its latents may be binary: a module with `prior_logits` is a belief net.

    Args:
        spec: The autoencoder; a run of `vae-fit` says itself what its numbers mean.
        data: The images; they are resized to the shape that the model states, or give it.
        seed: Seed of fresh weights.
        device: `cpu` or `cuda`.

    Raises:
        BnnkitError: Either cannot be loaded, they do not fit, or the check refuses.
    """
    _refuse_unused(data)
    spec = remembered(spec)
    form = open_parts(spec.model, seed=seed, device=device)
    shape = spec.model.input_shape or data.input_shape or form.shape
    wanted = replace(
        data, input_shape=shape, mean=(0.0,), std=(1.0,), augment="none", limit=None,
        labelled=data.classes is not None,
    )  # fmt: skip
    dataset = load_data(wanted)
    check_range(dataset)
    by_class = Path(data.name).expanduser().is_dir()
    rows = reading_order(len(dataset.test), shuffled=by_class)[:CHECKED]
    images = torch.cat([x for x, _ in dataset.test.select(rows).batches(CHECKED)])
    auto = _checked(form, spec, tuple(dataset.input_shape), images, seed)
    return VaeBench(auto, _latent_model(auto), dataset, data.limit, by_class)


def _checked(
    form: AutoencoderForm, spec: VaeSpec, shape: tuple[int, ...], images: Tensor, seed: int
) -> Autoencoder | BeliefNet:
    """Find out what a module's numbers mean, and try it on real images."""
    if is_belief_net(form):
        return check_belief_net(settle_belief_net(form, spec, shape), images)
    auto = settle_autoencoder(form, spec, shape, seed=seed)
    return check_autoencoder(settle_spread(auto, auto.prepare(images)), images)


def _latent_model(auto: Autoencoder | BeliefNet) -> LatentModel:
    """Return an autoencoder as the algorithms see it."""
    if isinstance(auto, BeliefNet):
        return of_belief(_belief_model(auto), auto.latent)
    return LatentModel(
        encode=auto.encode,
        decode=auto.decode,
        likelihood=auto.likelihood,
        latent=auto.latent,
        log_prior=log_standard_normal if auto.standard_prior else auto.log_prior,
        standard_prior=auto.standard_prior,
    )


def _belief_model(net: BeliefNet) -> BeliefModel:
    return BeliefModel(net.encode, net.decode, lambda: net.prior_logits().detach())


def _refuse_unused(data: DataSpec) -> None:
    """Refuse a normalisation: likelihoods are of data in known units."""
    if data.mean is not None or data.std is not None:
        raise UsageError(
            "Reading the data of an autoencoder", "--mean, --std or --normalize",
            "its likelihood is of data in known units",
            "Say what its encoder reads for black and white with --input-range.",
        )  # fmt: skip


def check_range(data: Dataset) -> None:
    """Refuse data that are no images: floats outside [0, 1].

    Raises:
        DataError: They are.
    """
    for part in (data.train, data.test):
        x = next(iter(part.batches(_BATCH)))[0]
        if not (float(x.min()) >= 0 and float(x.max()) <= 1):
            raise DataError(
                f"Reading {data.name!r}",
                f"values from {float(x.min()):.4g} to {float(x.max()):.4g}",
                "images are bytes, or floats in [0, 1]",
                "Store them so, not normalised.",
            )
