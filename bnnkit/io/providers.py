"""Libraries of architectures that build without code of the user's own: torchvision, timm, zoo."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from bnnkit.errors import ArchitectureError, did_you_mean
from bnnkit.io.vision import torchvision
from bnnkit.zoo import INPUT_SHAPES, ZOO

__all__ = [
    "PROVIDERS",
    "known_architectures",
    "library_factory",
    "refuse_weights",
    "zoo_input_shape",
]

PROVIDERS = ("bnnkit", "timm", "torchvision")
"""Prefixes that build without running code of the user's own."""

# arguments that fetch or read weights: those come from the file that the user names, or not at all
_WEIGHTS = (
    "weights",
    "weights_backbone",
    "pretrained",
    "pretrained_backbone",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
)
_SLOW_INIT = ("googlenet", "inception_v3", "quantized_googlenet", "quantized_inception_v3")


def known_architectures(provider: str) -> list[str]:
    """Return the names that a provider has, sorted.

    Raises:
        ArchitectureError: The provider is unknown or not installed.
    """
    if provider == "bnnkit":
        return sorted(ZOO)
    if provider == "torchvision":
        return sorted(torchvision().models.list_models())
    if provider == "timm":
        return sorted(_timm().list_models())
    raise ArchitectureError(
        "Listing architectures",
        f"the provider {provider!r}",
        "it has no list",
        did_you_mean(provider, PROVIDERS),
    )


def library_factory(
    provider: str, name: str, args: Mapping[str, Any]
) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """Return what builds an architecture, and the arguments with those added that it needs.

    Args:
        provider: One of `PROVIDERS`.
        name: A name of that provider; timm's may carry the tag of a set of weights.
        args: The caller's arguments.

    Raises:
        ArchitectureError: The provider does not have the name, or is not installed.
    """
    known = known_architectures(provider)
    if (name.partition(".")[0] if provider == "timm" else name) not in known:
        raise ArchitectureError(
            f"Building the architecture '{provider}:{name}'",
            f"no {name!r} among the {len(known)} architectures of {provider}",
            "there is nothing to build",
            did_you_mean(name, _shortlist(name, known)),
        )
    if provider == "bnnkit":
        return ZOO[name], dict(args)
    if provider == "timm":
        return _timm().create_model, {**args, "model_name": name, "pretrained": False}
    builder: Callable[..., nn.Module] = torchvision().models.get_model_builder(name)
    added: dict[str, Any] = {"weights": None}
    if "weights_backbone" in inspect.signature(builder).parameters:
        added["weights_backbone"] = None  # its default would be downloaded
    if name in _SLOW_INIT:
        args = {"init_weights": False, **args}  # scipy's truncated normal: slow, and a warning
    return builder, {**args, **added}


def refuse_weights(arch: str, args: Mapping[str, Any]) -> None:
    """Refuse arguments that would fetch weights from the network or read another file.

    Raises:
        ArchitectureError: One of them is given and is not false.
    """
    for key in _WEIGHTS:
        if args.get(key):
            raise ArchitectureError(
                f"Building the architecture {arch!r}",
                f"--arch-arg {key}={args[key]}",
                "weights are never downloaded",
                f"Leave {key!r} out and name a file with the weights.",
            )


def zoo_input_shape(name: str, args: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of one input of a zoo architecture built with these arguments.

    >>> zoo_input_shape("resnet20-cifar", {"in_channels": 1})
    (1, 32, 32)
    """
    shape = INPUT_SHAPES.get(name)
    if shape is None:
        return None
    if "in_features" in args:
        return (int(args["in_features"]),)
    width = args.get("latent" if name.endswith("-generator") else "in_channels", shape[0])
    return (int(width), *shape[1:])


def _shortlist(name: str, known: list[str]) -> Iterable[str]:
    """Narrow a provider's names to some that a reader can take in."""
    if len(known) <= 20:
        return known
    return [k for k in known if k[:4] == name[:4]][:40] or known[:20]


def _timm() -> ModuleType:
    """Import timm, which imports torchvision."""
    torchvision()
    try:
        import timm
    except ImportError as error:
        raise ArchitectureError(
            "Building a timm architecture",
            str(error),
            "timm is optional and cannot be imported here",
            "Install it with 'pip install bnnkit[timm]'.",
        ) from error
    module: ModuleType = timm
    return module
