"""Layouts of autoencoders that the names of a file's tensors tell, at any widths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bnnkit.io.matching import fitting_architectures
from bnnkit.zoo import GENERATIVE

__all__ = ["Layout", "layout_of", "stated_by"]

_EXAMPLE = ("fc1", "fc21", "fc22", "fc3", "fc4")
_CONV = ("encoder.0", "encoder.2", "encoder.5", "project", "decoder.1", "decoder.3")
_WITH_VARIANCE = (
    *("encoder_hidden", "encoder_mean", "encoder_log_variance"),
    *("decoder_hidden", "decoder_mean", "decoder_log_variance"),
)
_BELIEF = ("recognition.0", "decoder.0")
_BERNOULLI = {"likelihood": "bernoulli", "outputs": "probabilities", "variance_is": "logvar"}
_GAUSSIAN = {
    "likelihood": "gaussian", "variance_is": "logvar", "decoder_variance_is": "logvar",
}  # fmt: skip
_OF_ZOO: dict[str, dict[str, str]] = {
    "vae-conv": _BERNOULLI, "vae-gaussian": _GAUSSIAN, "vae-mnist": _BERNOULLI,
}  # fmt: skip
"""What the code of the zoo's autoencoders says of their numbers."""


@dataclass(frozen=True)
class Layout:
    """An architecture of the zoo that the tensors of a file are of.

    Args:
        arch: Its name.
        arch_args: The widths, where they are not the usual ones.
        notes: What was recognised, one sentence each.
        spread: A sentence on the reading of the encoder's spread, where the names come from
            elsewhere and do not prove it.
    """

    arch: str
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    spread: str = ""


def stated_by(arch: str | None) -> Mapping[str, str]:
    """Return what an architecture's own code says of its numbers, by fields of `VaeSpec`."""
    provider, _, name = (arch or "").partition(":")
    return _OF_ZOO.get(name, {}) if provider == "bnnkit" else {}


def layout_of(
    tensors: Mapping[str, Tensor], image: tuple[int, ...] | None = None
) -> Layout | None:
    """Recognise the layout of an autoencoder by its names and shapes.

    Args:
        tensors: Of the file.
        image: Channels, height and width where the owner stated them; without it the images of
            a convolutional net are taken as square.

    Returns:
        The architecture with its widths, or None.
    """
    bare = _unprefixed(tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in bare.items()}
    found = (
        _example(shapes) or _gaussian(shapes) or _convolutional(shapes, image) or _belief(shapes)
    )
    if found is not None:
        return found
    names = [f"bnnkit:{name}" for name, made in GENERATIVE.items() if made.task == "autoencoder"]
    fitting = [name for name in fitting_architectures(bare) if name in names]
    return _of_zoo(fitting[0].removeprefix("bnnkit:"), {}, {}) if len(fitting) == 1 else None


def _unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip what all names have in front of the first layer's."""
    for first in (_EXAMPLE[0], _WITH_VARIANCE[0], _CONV[0], _BELIEF[0]):
        ends = [name for name in tensors if name.endswith(f"{first}.weight")]
        prefix = ends[0].removesuffix(f"{first}.weight") if len(ends) == 1 else ""
        if prefix.endswith(".") and all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _has_layers(shapes: Mapping[str, tuple[int, ...]], layers: tuple[str, ...]) -> bool:
    return shapes.keys() == {f"{name}.{part}" for name in layers for part in ("weight", "bias")}


def _example(shapes: Mapping[str, tuple[int, ...]]) -> Layout | None:
    """Recognise the five linear layers of PyTorch's own example."""
    if not _has_layers(shapes, _EXAMPLE) or len(shapes["fc1.weight"]) != 2:
        return None
    hidden, features = shapes["fc1.weight"]
    latent = shapes["fc21.weight"][0]
    args = {"latent": latent, "hidden": hidden, "in_features": features}
    usual = {"latent": 20, "hidden": 400, "in_features": 784}
    return Layout(
        "bnnkit:vae-mnist",
        {key: value for key, value in args.items() if usual[key] != value},
        (
            f"The names fc1, fc21, fc22, fc3 and fc4 are those of PyTorch's own example: "
            f"{features}-{hidden}-{latent}, rectified linear (--arch-arg activation=softplus says "
            "otherwise), with Bernoulli probabilities from a sigmoid.",
        ),
        "fc22 is taken as the log variance, as in PyTorch's example; --variance-is says "
        "otherwise.",
    )


def _gaussian(shapes: Mapping[str, tuple[int, ...]]) -> Layout | None:
    """Recognise the zoo's net with a Gaussian decoder."""
    if not _has_layers(shapes, _WITH_VARIANCE):
        return None
    hidden, features = shapes["encoder_hidden.weight"]
    args = {"latent": shapes["encoder_mean.weight"][0], "hidden": hidden, "in_features": features}
    usual = {"latent": 10, "hidden": 200, "in_features": 560}
    return _of_zoo("vae-gaussian", args, usual)


def _convolutional(
    shapes: Mapping[str, tuple[int, ...]], image: tuple[int, ...] | None
) -> Layout | None:
    """Recognise the convolutional autoencoder of the zoo."""
    if not _has_layers(shapes, _CONV) or len(shapes["encoder.0.weight"]) != 4:
        return None
    width, channels = shapes["encoder.0.weight"][:2]
    features, latent = shapes["project.weight"]
    if image is not None and len(image) == 3:
        size: int | tuple[int, int] = (image[1], image[2])
    else:
        size = 4 * math.isqrt(features // (2 * width))
    args = {"latent": latent, "width": width, "in_channels": channels, "size": size}
    usual = {"latent": 20, "width": 32, "in_channels": 1, "size": 28}
    return _of_zoo("vae-conv", args, usual)


def _belief(shapes: Mapping[str, tuple[int, ...]]) -> Layout | None:
    """Recognise the belief net of the zoo, with a softplus layer in both halves or in none."""
    prior = shapes.get("prior", ())
    layers = {name: shape for name, shape in shapes.items() if name != "prior"}
    deep = ("recognition.0", "recognition.2", "decoder.0", "decoder.2")
    if len(prior) != 1 or not (_has_layers(layers, _BELIEF) or _has_layers(layers, deep)):
        return None
    width, features = shapes["recognition.0.weight"]
    hidden = width if "recognition.2.weight" in shapes else None
    args = {"latent": prior[0], "hidden": hidden, "in_features": features}
    return _of_zoo("sbn-mnist", args, {"latent": 200, "hidden": None, "in_features": 784})


def _of_zoo(name: str, args: Mapping[str, Any], usual: Mapping[str, Any]) -> Layout:
    """Name an architecture of the zoo, with the arguments that are not the usual ones."""
    return Layout(
        f"bnnkit:{name}",
        {key: value for key, value in args.items() if usual[key] != value},
        (f"The names and shapes of its tensors are those of bnnkit:{name}.",),
    )
