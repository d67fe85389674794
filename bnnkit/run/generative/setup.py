"""What the training of a generator or an autoencoder starts with: model and images that fit."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from bnnkit.errors import DataError, UsageError
from bnnkit.graph.outputs import main_output
from bnnkit.io.architectures import default_input_shape
from bnnkit.io.data import Dataset, Split, load_data
from bnnkit.io.models import LoadedModel, load_model
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.generator import shape_text
from bnnkit.zoo import Generative

__all__ = ["GenerativeJob", "check_generative", "identity_of", "set_up_generative"]

_LOOKED_AT = 2048
_TANH, _PROBABILITIES = (-1.0, 1.0), (0.0, 1.0)


@dataclass(frozen=True, eq=False)
class GenerativeJob:
    """What is trained, and on what.

    Args:
        loaded: The model.
        task: What the zoo says of it.
        data: Images in [0, 1].
        image: Their shape.
        latent: Shape of one latent.
        notes: What was assumed, one sentence each.
    """

    loaded: LoadedModel
    task: Generative
    data: Dataset
    image: tuple[int, int, int]
    latent: tuple[int, ...]
    notes: list[str]

    @property
    def out_range(self) -> tuple[float, float]:
        """Outputs of black and of white."""
        return _TANH if self.task.task == "generator" else _PROBABILITIES

    @property
    def reads(self) -> tuple[int, ...]:
        """Shape of one input of the model."""
        return self.latent if self.task.task == "generator" else self.image


def check_generative(config: TrainConfig, data: DataSpec, task: Generative) -> None:
    """Refuse options that mean nothing here."""
    given = {
        "--optimiser sgd": config.optimiser != "adam",
        "--label-smoothing": config.label_smoothing > 0,
        "--freeze-bn": config.freeze_bn,
        "--compile": config.compile,
        "--mean, --std or --normalize": data.mean is not None or data.std is not None,
    }
    for option, used in given.items():
        if used:
            kind = "a generator" if task.task == "generator" else "an autoencoder"
            raise UsageError(
                f"Training {kind}", option, "it means nothing for a model that makes images",
                "Leave it out.",
            )  # fmt: skip


def set_up_generative(
    spec: ModelSpec, data: DataSpec, task: Generative, seed: int
) -> GenerativeJob:
    """Load the model, and images of the shape that it makes."""
    loaded = load_model(spec, seed=seed)
    named = loaded.spec
    assert named.arch is not None  # the zoo's
    reads = default_input_shape(named.arch, named.arch_args)
    assert reads is not None  # every architecture of the zoo has one
    stated = spec.input_shape or data.input_shape
    notes: list[str] = []
    if task.task == "generator":
        latent: tuple[int, ...] = reads
        image = _image_of_generator(loaded.module, latent, stated, task)
        named = replace(named, input_shape=latent)
    else:
        image = _triple(stated or named.input_shape or reads)
        latent = _latent_of_autoencoder(loaded.module, image)
        named = replace(named, input_shape=image)
        notes.append("pixels are drawn as 0 or 1 with their grey values as probabilities, anew in "
                     "each epoch of training")  # fmt: skip
    augment = "none" if data.augment == "auto" else data.augment
    wanted = replace(
        data, input_shape=image, mean=(0.0,), std=(1.0,), augment=augment,
        labelled=data.classes is not None,
    )  # fmt: skip
    dataset = load_data(wanted)
    _check_range(dataset.train, dataset.name, seed)
    return GenerativeJob(replace(loaded, spec=named), task, dataset, image, latent, notes)


def _image_of_generator(
    module: nn.Module,
    latent: tuple[int, ...],
    stated: tuple[int, ...] | None,
    task: Generative,
) -> tuple[int, int, int]:
    """Return the shape of the images: of the outputs, or stated where these are flat."""
    with torch.no_grad():
        out = tuple(main_output(module.eval()(torch.zeros(2, *latent))).shape[1:])
    made = out if len(out) == 3 else (stated or task.image)
    if math.prod(out) != math.prod(made) or (stated is not None and stated != made):
        raise UsageError(
            "Training a generator", f"--input-shape {shape_text(stated or made)}",
            f"it makes {shape_text(out)}", "Leave it out, or build another with --arch-arg.",
        )  # fmt: skip
    return _triple(made)


def _latent_of_autoencoder(module: nn.Module, image: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the shape of one latent, by encoding; refuse images that the model does not read."""
    what, found = "Training an autoencoder", f"images of {shape_text(image)}"
    hint = "Name the size with --input-shape, or build another with --arch-arg."
    try:
        with torch.no_grad():
            latent = module.eval().encode(torch.zeros(2, *image))[0]  # type: ignore[operator]
            out = module.decode(latent)  # type: ignore[operator]
    except RuntimeError as error:
        why = f"the model does not read them ({str(error).splitlines()[0][:160]})"
        raise UsageError(what, found, why, hint) from error
    if out[0].numel() != math.prod(image):
        raise UsageError(what, found, f"it decodes to {shape_text(tuple(out.shape[1:]))}", hint)
    return tuple(latent.shape[1:])


def _triple(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return a shape as channels, height and width."""
    if len(shape) != 3:
        raise UsageError(
            "Reading --input-shape", shape_text(shape), "images have channels, height and width",
            "Use --input-shape 1,28,28.",
        )  # fmt: skip
    return shape[0], shape[1], shape[2]


def _check_range(split: Split, name: str, seed: int) -> None:
    """Refuse data that are no images: floats outside [0, 1]."""
    part = split.take(_LOOKED_AT, torch.Generator().manual_seed(seed))
    for x, _ in part.batches(_LOOKED_AT):
        if not (float(x.min()) >= 0 and float(x.max()) <= 1):
            raise DataError(
                f"Training on {name!r}",
                f"values from {float(x.min()):.4g} to {float(x.max()):.4g}",
                "images are bytes, or floats in [0, 1]",
                "Store them so, not normalised.",
            )


def identity_of(job: GenerativeJob, config: TrainConfig) -> dict[str, Any]:
    """Return what must be equal for a broken run to continue."""
    spec = job.loaded.spec
    return {
        "model": spec.file,
        "arch": spec.arch,
        "arch_args": dict(spec.arch_args),
        "data": job.data.fingerprint,
        "image": list(job.image),
        **asdict(config),
    }
