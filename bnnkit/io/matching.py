"""Tensors of a file against the names and shapes of a module, and who else they may fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bnnkit.errors import BnnkitError
from bnnkit.io.providers import library_factory
from bnnkit.io.vision import torchvision
from bnnkit.zoo import ZOO

__all__ = [
    "KeyReport",
    "align",
    "class_count",
    "fitting_architectures",
    "match",
    "shapes_of",
    "share_tied",
]

Shape = tuple[int, ...]
_COUNTER = "num_batches_tracked"  # older files lack it, and no output depends on it
_SHOWN = 4
# a name that all of a family have: building every classifier to compare would take ten seconds
_FAMILIES = {
    "layer1.0.conv1.weight": ("resnet", "resnext", "wide_resnet"),
    "features.0.weight": ("vgg", "squeezenet", "alexnet"),
    "features.0.0.weight": ("mobilenet", "efficientnet", "convnext", "swin"),
    "features.conv0.weight": ("densenet",),
    "conv1.conv.weight": ("googlenet",),
    "Conv2d_1a_3x3.conv.weight": ("inception",),
    "stage2.0.branch1.0.weight": ("shufflenet",),
    "layers.0.weight": ("mnasnet",),
    "class_token": ("vit",),
    "stem.0.0.weight": ("maxvit",),
}


@dataclass(frozen=True)
class KeyReport:
    """How the tensors of a file meet the names of a module.

    Args:
        matched: Names with the same shape on both sides.
        missing: Names that only the module has.
        unexpected: Names that only the file has.
        shape_differing: `{name: (shape in the file, shape in the module)}`.
    """

    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shape_differing: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether every tensor has its place, but for counters of batches."""
        strange = [k for k in (*self.missing, *self.unexpected) if not k.endswith(_COUNTER)]
        return bool(self.matched) and not strange and not self.shape_differing

    def __str__(self) -> str:
        """Write the counts and the first names of each kind."""
        parts = [f"{len(self.matched)} tensors fit"]
        for word, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                parts.append(f"{len(names)} {word} ({_some(list(names))})")
        if self.shape_differing:
            pairs = [
                f"{name} {list(theirs)} in the file, {list(ours)} in the model"
                for name, (theirs, ours) in self.shape_differing.items()
            ]
            parts.append(f"{len(pairs)} of another shape ({_some(pairs)})")
        return ", ".join(parts)


def _some(items: list[str]) -> str:
    """Join the first few items."""
    return ", ".join(items[:_SHOWN] + ["..."] * (len(items) > _SHOWN))


def shapes_of(module: nn.Module) -> dict[str, Shape | None]:
    """Return the shape of every tensor in a module's state; None where the first input sets it."""
    return {
        name: None if is_lazy(value) else tuple(value.shape)
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }


def match(tensors: Mapping[str, Tensor], expected: Mapping[str, Shape | None]) -> KeyReport:
    """Compare names and shapes.

    Args:
        tensors: The file's.
        expected: Shapes of the module's, as `shapes_of` gives them.
    """
    matched: list[str] = []
    differing: dict[str, tuple[Shape, Shape]] = {}
    for name, shape in expected.items():
        if name not in tensors:
            continue
        found = tuple(tensors[name].shape)
        if shape is None or found == shape:
            matched.append(name)
        else:
            differing[name] = (found, shape)
    return KeyReport(
        tuple(matched),
        tuple(k for k in expected if k not in tensors),
        tuple(k for k in tensors if k not in expected),
        differing,
    )


def align(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Shape | None]
) -> tuple[dict[str, Tensor], str | None]:
    """Add or strip a common prefix of the file's names where that makes more of them meet.

    Returns:
        The tensors under the better names, and a note where they changed.
    """
    best, note = dict(tensors), None
    score = len(expected.keys() & best.keys())
    for prefix in _prefixes(expected):
        trial = {prefix + k: v for k, v in tensors.items()}
        if (hits := len(expected.keys() & trial.keys())) > score:
            best, note, score = trial, f"The prefix {prefix!r} was added to every name.", hits
    for prefix in _prefixes(tensors):
        trial = {k.removeprefix(prefix): v for k, v in tensors.items()}
        if (hits := len(expected.keys() & trial.keys())) > score:
            best, note, score = trial, f"The prefix {prefix!r} was stripped from every name.", hits
    return best, note


def share_tied(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Give each name of a tied weight its tensor; files often keep only one of the names."""
    groups: dict[tuple[int, Shape], list[str]] = {}
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and not is_lazy(value) and value.numel():
            groups.setdefault((value.data_ptr(), tuple(value.shape)), []).append(name)
    shared = dict(tensors)
    for names in groups.values():
        present = [name for name in names if name in tensors]
        for name in names if present else []:
            shared.setdefault(name, tensors[present[0]])
    return shared


def _prefixes(names: Mapping[str, object]) -> list[str]:
    """Return the dotted prefixes that all names share, shortest first."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return [".".join(shared[: i + 1]) + "." for i in range(len(shared))]


def class_count(report: KeyReport) -> int | None:
    """Return the number of classes in the file where only the output layers' width differs.

    Output layers (auxiliary heads are among them) have the classes on axis 0 and everything else
    equal; one number must explain all differences.
    """
    differing = report.shape_differing
    others = [k for k in (*report.missing, *report.unexpected) if not k.endswith(_COUNTER)]
    if not differing or others or any(not a or not b for a, b in differing.values()):
        return None
    rest = all(theirs[1:] == ours[1:] for theirs, ours in differing.values())
    counts = {(theirs[0], ours[0]) for theirs, ours in differing.values()}
    return next(iter(counts))[0] if rest and len(counts) == 1 else None


def fitting_architectures(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return known architectures with these names and shapes, but for the number of classes.

    The zoo is tried first, then the family of torchvision's classifiers that the names belong to,
    up to the first that fits. They are built without memory, on torch's meta device.
    """
    found = [f"bnnkit:{name}" for name in sorted(ZOO) if _fits("bnnkit", name, tensors)]
    families = [f for key, names in _FAMILIES.items() if key in tensors for f in names]
    if found or not families:
        return found
    try:
        models = torchvision().models
        names = models.list_models(module=models)
    except (BnnkitError, ImportError, RuntimeError):
        return []  # a suggestion is not worth an error of its own
    for name in (n for family in families for n in names if n.startswith(family)):
        if _fits("torchvision", name, tensors):
            return [f"torchvision:{name}"]
    return []


def _fits(provider: str, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Compare tensors with an architecture that takes no memory."""
    factory, args = library_factory(provider, name, {})
    try:
        with torch.device("meta"):
            report = match(tensors, shapes_of(factory(**args)))
    except (NotImplementedError, RuntimeError):
        return False  # it computes with its weights while it is built
    return report.fits or class_count(report) is not None
