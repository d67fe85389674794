"""What has to happen to stored inputs so that they have the shape a model reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bnnkit.errors import DataError
from bnnkit.io.datasets import source as store
from bnnkit.io.datasets.augment import Augment
from bnnkit.io.datasets.source import HeldImages, Part, Source
from bnnkit.io.datasets.split import resize

__all__ = ["Fit", "augmentation", "fit_shapes"]

_CHUNK = 1024
_NATURAL_PIXELS = 32
_PADDING = 8  # an eighth of the side: 4 pixels of 32, as in the ResNet paper


@dataclass(frozen=True)
class Fit:
    """The steps from stored inputs to model inputs.

    Args:
        input_shape: Shape of one input as the model receives it.
        view: Shape that stored features are viewed as, or None.
        size: Height and width to resize to, or None.
        repeat: How often the one channel is repeated.
        flatten: Whether the model reads a vector.
        notes: The steps in words.
    """

    input_shape: tuple[int, ...]
    view: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    repeat: int = 1
    flatten: bool = False
    notes: tuple[str, ...] = ()

    def apply(self, parts: tuple[Part, Part]) -> tuple[tuple[Part, Part], tuple[int, int] | None]:
        """View and resize what is held.

        Returns:
            The parts, and the size to resize each batch to where resized images would not fit in
            memory.
        """
        if self.size is None and self.view is None:
            return parts, None
        held = [p.images for p in parts if isinstance(p.images, HeldImages)]
        if self.size is not None:
            cell = max(i.pixels.element_size() for i in held) * held[0].shape[0]
            if sum(map(len, parts)) * cell * math.prod(self.size) > store.HELD_BYTES:
                return parts, self.size
        first, second = (Part(self._held(i), p.labels) for i, p in zip(held, parts, strict=True))
        return (first, second), None

    def _held(self, images: HeldImages) -> HeldImages:
        x = images.pixels
        if self.view is not None:
            x = x.view(-1, *self.view)
        if self.size is not None:
            x = torch.cat([resize(part, self.size) for part in torch.split(x, _CHUNK)])
        return HeldImages(x)


def fit_shapes(have: tuple[int, ...], want: tuple[int, ...] | None, name: str) -> Fit:
    """Find the steps from one shape to another.

    Args:
        have: Shape of one stored input.
        want: Shape of one model input; None takes the data as they are.
        name: The data, for errors.

    Raises:
        DataError: No resize, repetition or flattening leads there; both sides are named.
    """
    if want is None or want == have:
        return Fit(have)
    if len(want) == 1 and math.prod(have) == want[0]:
        return Fit(want, flatten=True, notes=(f"inputs of {_text(have)} are flattened",))
    if len(have) == 1 and len(want) == 3 and want[0] == 1 and math.prod(want) == have[0]:
        return Fit(want, view=want, notes=(f"{have[0]} features are read as {_text(want)}",))
    channels_fit = have[0] == want[0] or (have[0], want[0]) == (1, 3)
    if len(have) != 3 or len(want) != 3 or not channels_fit:
        raise DataError(
            f"Fitting {name!r} to the model",
            f"the data have inputs of {_text(have)} and the model reads {_text(want)}",
            "height and width can be resized and one channel repeated to three, no more",
            "Give the --input-shape of this model, or data with these channels.",
        )
    size = (want[1], want[2]) if have[1:] != want[1:] else None
    notes = []
    if size is not None:
        notes.append(f"resized from {have[1]}x{have[2]} to {want[1]}x{want[2]}")
    if have[0] != want[0]:
        notes.append(f"the one channel is repeated {want[0]} times")
    return Fit(want, size=size, repeat=want[0] // have[0], notes=tuple(notes))


def augmentation(asked: str, source: Source, have: tuple[int, ...], fit: Fit) -> Augment | None:
    """Choose what training batches go through.

    Args:
        asked: `auto`, `none` or `crop-flip`. `auto` augments natural colour images of 32 pixels
            or more, and mirrors them unless a mirror image is of another class.
        source: The data.
        have: Shape of one stored input.
        fit: The steps to the model's input.

    Raises:
        DataError: `crop-flip` was asked for inputs that are not images.
    """
    shape = fit.view or have
    if asked == "crop-flip" and len(shape) != 3:
        raise DataError(
            f"Augmenting {source.name!r}",
            f"inputs of {_text(have)}",
            "crops and mirror images need [channels, height, width]",
            "Use --augment none.",
        )
    if asked == "none" or len(shape) != 3:
        return None
    h, w = fit.size or (shape[1], shape[2])
    natural = source.crops and shape[0] == 3 and min(h, w) >= _NATURAL_PIXELS
    if asked == "auto" and not natural:
        return None
    padding = max(1, min(h, w) // _PADDING)
    return Augment(padding, flip=asked == "crop-flip" or source.mirrors)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if len(shape) > 1 else f"{shape[0]} features"
