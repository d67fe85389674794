"""Architectures by name: torchvision, timm, the zoo, or a factory in the user's own code."""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bnnkit.errors import ArchitectureError, UsageError, did_you_mean
from bnnkit.io.factories import (
    absolute_target,
    describe_exception,
    find_source,
    home_of,
    importable,
    load_object,
    names_in_file,
)
from bnnkit.io.providers import (
    PROVIDERS,
    known_architectures,
    library_factory,
    refuse_weights,
    zoo_input_shape,
)

__all__ = [
    "absolute_architecture",
    "accepts_argument",
    "arch_digest",
    "build_architecture",
    "default_input_shape",
    "is_own_code",
    "known_architectures",
    "parse_arch_args",
    "trust_key",
]

_FORMS = (
    "Use torchvision:NAME, timm:NAME, bnnkit:NAME, pkg.mod:factory or path/to/file.py:factory."
)
_WORDS = {"true": True, "false": False, "none": None, "null": None}


class _Name(NamedTuple):
    """An architecture's name in two parts: `torchvision` and `resnet18`, `net.py` and `build`."""

    target: str
    item: str

    @property
    def own_code(self) -> bool:
        """Tell whether this is the user's own code."""
        return self.target not in PROVIDERS


def _parse(arch: str) -> _Name:
    """Split a name at its colon: the last one, or the first after a known provider."""
    provider, _, item = arch.partition(":")
    if provider in PROVIDERS and item:
        return _Name(provider, item)
    target, _, item = arch.rpartition(":")
    # 'C:\net.py' has a colon, and still no factory
    if target and item and "/" not in item and "\\" not in item:
        return _Name(target, item)
    raise ArchitectureError(
        f"Building the architecture {arch!r}",
        "a name without 'provider:' or ':factory'",
        "it does not say where the code is",
        _suggest_form(arch),
    )


def _suggest_form(arch: str) -> str:
    """Say what a name without a provider may have meant."""
    if arch.endswith(".py"):
        names = names_in_file(Path(absolute_target(arch)))
        return " or ".join(["Use " + f"{arch}:{names[0]}", *names[1:8]]) + "." if names else _FORMS
    for provider in ("bnnkit", "torchvision"):
        if arch in known_architectures(provider):
            return f"Did you mean '{provider}:{arch}'?"
    return _FORMS


def build_architecture(
    arch: str, arch_args: Mapping[str, Any] | None = None, *, seed: int | None = None
) -> nn.Module:
    """Build an architecture with fresh weights, in train mode; torch's random state is kept.

    Args:
        arch: `torchvision:NAME`, `timm:NAME`, `bnnkit:NAME`, `pkg.mod:factory` or
            `path/to/file.py:factory`, where a factory is a function, a class or a module.
        arch_args: Keyword arguments of the factory.
        seed: Seed of the fresh weights; None draws them from torch's present state. A ready-made
            module keeps the weights that it was made with.

    Returns:
        The module, which shares nothing with other calls.

    Raises:
        ArchitectureError: The name, its code, the arguments or what came back cannot be used.
    """
    name = _parse(arch)
    args = dict(arch_args or {})
    with importable(home_of(name.target)) if name.own_code else nullcontext():
        factory, args = _find_factory(arch, name, args, seed)
        if isinstance(factory, nn.Module):
            return _copy_instance(arch, factory, args)
        if not callable(factory):
            raise _not_a_module(arch, factory, "a factory is a function, a class or a module")
        _check_arguments(arch, factory, args)
        with _seeded(seed):
            module = _call(arch, name, factory, args)
    if not isinstance(module, nn.Module):
        raise _not_a_module(arch, module, "the factory must return a torch.nn.Module")
    return module.train()


def _find_factory(
    arch: str, name: _Name, args: dict[str, Any], seed: int | None
) -> tuple[object, dict[str, Any]]:
    """Return what is to be called and its arguments."""
    if not name.own_code:
        refuse_weights(arch, args)
        return library_factory(name.target, name.item, args)
    with _seeded(seed):  # of its own: only the first import of a file draws weights
        return load_object(name.target, name.item), args


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed the CPU generator that initialisers draw from, and put its state back."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA too
        yield


def _copy_instance(arch: str, module: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    """Copy a ready-made module, which takes no arguments."""
    if args:
        raise ArchitectureError(
            f"Building the architecture {arch!r}",
            f"--arch-arg {', '.join(args)}",
            "it is a module that is already built and takes no arguments",
            "Leave --arch-arg out, or name a function or a class.",
        )
    return copy.deepcopy(module).train()


def _check_arguments(arch: str, factory: Callable[..., Any], args: Mapping[str, Any]) -> None:
    """Compare the arguments with the factory's signature before anything is built."""
    try:
        signature = inspect.signature(factory)
    except (ValueError, TypeError):
        return  # not every callable has one
    try:
        signature.bind(**args)
    except TypeError as error:
        parameters = signature.parameters
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        missing = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.name not in args and p.kind in named
        ]
        unknown = [key for key in args if key not in parameters]
        if missing:
            hint = f"Give {' '.join(f'--arch-arg {key}=VALUE' for key in missing)}."
        elif unknown and parameters:
            hint = did_you_mean(unknown[0], parameters)
        else:
            hint = "It takes no arguments by name: leave --arch-arg out."
        raise ArchitectureError(
            f"Building the architecture {arch!r}",
            str(error),
            "the factory cannot be called like this",
            hint,
        ) from error


def _call(arch: str, name: _Name, factory: Callable[..., Any], args: Mapping[str, Any]) -> object:
    """Call the factory; whatever it raises is reported with the line that raised it."""
    try:
        return factory(**args)
    except (Exception, SystemExit) as error:
        home = home_of(name.target) if name.own_code else None
        raise ArchitectureError(
            f"Building the architecture {arch!r}",
            describe_exception(error, home),
            "the factory stops before it returns a model",
            "Give what it needs as --arch-arg name=value, or correct it.",
        ) from error


def _not_a_module(arch: str, found: object, why: str) -> ArchitectureError:
    """Say what there is in place of a module."""
    if isinstance(found, type):
        kind = f"the class {found.__name__!r} itself"
    else:
        kind = f"an object of type {type(found).__name__!r}"
    hint = "Name a function or class that gives a module."
    if isinstance(found, Mapping):
        hint = "Give weights as the model file, and here what builds the module."
    return ArchitectureError(f"Building the architecture {arch!r}", kind, why, hint)


def accepts_argument(arch: str, argument: str) -> bool:
    """Tell whether an architecture's factory takes an argument of this name, or of any name.

    Raises:
        ArchitectureError: There is no such factory.
    """
    name = _parse(arch)
    if name.own_code:
        factory = load_object(name.target, name.item)
    else:
        factory, _ = library_factory(name.target, name.item, {})
    if isinstance(factory, nn.Module) or not callable(factory):
        return False
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):
        return False  # not every callable has a signature
    return any(p.name == argument or p.kind is p.VAR_KEYWORD for p in parameters)


def is_own_code(arch: str) -> bool:
    """Tell whether building the architecture runs code from a file or module of its owner."""
    return _parse(arch).own_code


def absolute_architecture(arch: str) -> str:
    """Make the path in `path/to/file.py:factory` absolute; other names stay."""
    name = _parse(arch)
    return f"{absolute_target(name.target)}:{name.item}"


def trust_key(arch: str) -> str:
    """Return the factory under the absolute path of its source, the same from every folder."""
    name = _parse(arch)
    return f"{find_source(name.target) or absolute_target(name.target)}:{name.item}"


def arch_digest(arch: str) -> str | None:
    """Return the sha256 of the source file of a factory of the user's own, found but not run.

    None means that there is no such file: a library's architecture, a built-in module, or a file
    that is absent.
    """
    name = _parse(arch)
    source = find_source(name.target) if name.own_code else None
    return hashlib.sha256(source.read_bytes()).hexdigest() if source is not None else None


def default_input_shape(arch: str, arch_args: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the input shape that the zoo knows for its own architectures, else None."""
    name = _parse(arch)
    return zoo_input_shape(name.item, arch_args) if name.target == "bnnkit" else None


def parse_arch_args(items: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` pairs; a value is a Python literal, else a word.

    Raises:
        UsageError: An item has no `=`, its name is not one, or a name comes twice.

    >>> parse_arch_args(["num_classes=10", "act=relu", "aux_logits=false"])
    {'num_classes': 10, 'act': 'relu', 'aux_logits': False}
    """
    args: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key.isidentifier() or key in args:
            raise UsageError(
                "Reading --arch-arg",
                repr(item),
                f"{key!r} is given twice" if key in args else "it is not name=value",
                "Use --arch-arg num_classes=10.",
            )
        args[key] = _literal(value)
    return args


def _literal(text: str) -> object:
    """Read a Python literal or one of the words of JSON; anything else is a string."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
