"""Who judges images: the features of a model that the user names, and the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnnkit.errors import ArchitectureError, BnnkitError, DataError
from bnnkit.io.features import FeatureExtractor, Features, open_features
from bnnkit.io.generators import Generator
from bnnkit.io.pixel_features import pixel_pca
from bnnkit.io.sniff import FileKind, sniff
from bnnkit.metrics import log_probabilities
from bnnkit.run.filtering.reals import Parts
from bnnkit.run.request import check_rebuildable
from bnnkit.spec import ModelSpec
from bnnkit.spec.mh import MhConfig

__all__ = ["FeatureSource", "Judge", "appoint", "check_deliverable", "class_probabilities"]

_COMPONENTS = 50
_TRIED = 64


@dataclass(frozen=True)
class FeatureSource:
    """A model whose features are used.

    Args:
        model: File and architecture.
        layer: Name of the layer; None takes what the last linear layer reads.
        mean: Subtracted from inputs in [0, 1]; None for a discriminator that reads images as the
            generator writes them.
        std: Divided by after that; None likewise.
        option: What it is named by, for errors.
    """

    model: ModelSpec
    layer: str | None = None
    mean: tuple[float, ...] | None = (0.0,)
    std: tuple[float, ...] | None = (1.0,)
    option: str = "--features"

    def open(self, generator: Generator, device: torch.device) -> FeatureExtractor:
        """Open the model for images of a generator.

        Raises:
            BnnkitError: It cannot be opened, or could not be delivered with the run.
        """
        mean, std = self.normalisation(generator)
        shape, layer = generator.shape, self.layer
        try:
            found = open_features(
                self.model, shape, layer=layer, mean=mean, std=std, device=str(device)
            )
            check_deliverable(self.model, getattr(found.net, "module", None))
        except (ArchitectureError, DataError) as error:
            raise _renamed(error, self.option, error.hint) from error
        try:
            found(_noise(shape))  # a model that reads other sizes stops here
        except DataError as error:
            size = "Give the size that it reads with --input-shape."
            hint = size if self.option == "--features" else error.hint
            raise _renamed(error, self.option, hint) from error
        return found

    def normalisation(self, generator: Generator) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation; where none are stated, those of the generator's range."""
        low, high = (0.0, 1.0) if generator.out_range == "logits" else generator.out_range
        return self.mean or (-low / (high - low),), self.std or (1 / (high - low),)


@dataclass(frozen=True)
class Judge:
    """Features in which distances are taken.

    Args:
        extractor: From byte images to features.
        own: Whether the filter used these features itself.
        classes: Whether the outputs are scores of classes.
    """

    extractor: FeatureExtractor
    own: bool
    classes: bool

    @property
    def name(self) -> str:
        """The extractor and its layer."""
        return self.extractor.name


def _renamed(error: BnnkitError, option: str, hint: str) -> BnnkitError:
    """Return an error whose hint names the options of this command."""
    if "--input-shape" in hint and option != "--features":
        hint = "Name a model that reads such images."  # it has no such option
    hint = hint.replace("--input-shape", f"{option}-shape")
    hint = hint.replace("--arch ", f"{option}-arch ")
    return type(error)(error.what, error.found, error.why, hint)


def _noise(shape: tuple[int, int, int]) -> Tensor:
    """Return two images of noise, uint8 `[2, c, h, w]`."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, *shape), generator=draws, dtype=torch.uint8)


def check_deliverable(model: ModelSpec, module: nn.Module | None) -> None:
    """Refuse a pickled module: a run directory holds no pickle, and could not be loaded again.

    Args:
        model: How its owner named it.
        module: What it gave; None for a program that runs by itself.

    Raises:
        ArchitectureError: Nothing names the code that builds it.
    """
    if module is None or model.file is None or model.arch is not None:
        return
    if sniff(model.file).kind in (FileKind.TORCH_ZIP, FileKind.TORCH_LEGACY):
        check_rebuildable(model, module)


def appoint(extractor: FeatureExtractor | None, parts: Parts, config: MhConfig) -> list[Judge]:
    """Return the judges: the user's extractor where one was named, and the pixels.

    Args:
        extractor: The user's.
        parts: Real images; the components of the pixels are those of the training images.
        config: What the filter itself uses, and the seed of the components.
    """
    own = config.discriminator in ("features", "combined")
    judges = []
    if extractor is not None:
        trial = extractor(parts.test.images[:_TRIED])
        judges.append(Judge(extractor, own, class_probabilities(trial) is not None))
    images = parts.fit.images
    components = min(_COMPONENTS, len(images) - 1, images[0].numel())
    judges.append(Judge(pixel_pca(images, components, seed=config.seed), False, False))
    return judges


def class_probabilities(found: Features) -> Tensor | None:
    """Return class probabilities `[n, k]` where an extractor's outputs are class scores."""
    if found.outputs is None or found.outputs.dim() != 2 or found.outputs.shape[1] < 2:
        return None
    try:
        return log_probabilities(found.outputs).exp()
    except BnnkitError:
        return None  # outputs of another kind: there are no classes to count
