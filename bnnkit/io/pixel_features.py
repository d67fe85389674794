"""Pixels in their principal components: features that no classifier had a hand in."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.errors import UsageError
from bnnkit.io.features import FeatureExtractor, Features, check_images

__all__ = ["pixel_pca"]

_OVERSAMPLE = 20
_ITERATIONS = 8


def pixel_pca(real: Tensor, components: int = 50, *, seed: int = 0) -> FeatureExtractor:
    """Fit principal components to real images, as an extractor for any images of their shape.

    The components are those of pixels in [0, 1], not whitened, so that a Fréchet distance in them
    is in squared units of the pixel range. They come from a randomised decomposition (Halko et
    al. 2011) whose power iterations make it exact to float32 for images.

    Args:
        real: uint8 `[n, c, h, w]`; real images only, so that generated ones do not choose what
            they are judged by.
        components: How many are kept, at most n - 1 and the number of pixels.
        seed: Seed of the decomposition.

    Raises:
        DataError: `real` is something else.
        UsageError: There are not so many components.
    """
    check_images(real, tuple(real.shape[1:]), f"pixels, PCA-{components}")
    pixels = real[0].numel()
    if not 1 <= components <= min(len(real) - 1, pixels):
        raise UsageError(
            "Fitting principal components",
            f"{components} components of {len(real)} images with {pixels} values each",
            "there are no more than values, and fewer than images",
            f"Use {min(len(real) - 1, pixels)} or fewer.",
        )
    x = _pixels(real)
    mean = x.mean(0, dtype=torch.float64).float()
    x -= mean
    width = min(components + _OVERSAMPLE, *x.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the library's routine draws from the global state
        _, _, basis = torch.pca_lowrank(x, width, center=False, niter=_ITERATIONS)
    return _PixelPCA(mean, basis[:, :components], tuple(real.shape[1:]))


class _PixelPCA:
    """Projects images on components.

    Args:
        mean: Mean image in [0, 1] `[pixels]`.
        basis: Orthonormal columns `[pixels, d]`.
        shape: Channels, height and width of the images.
    """

    net = None

    def __init__(self, mean: Tensor, basis: Tensor, shape: tuple[int, ...]) -> None:
        self.name = f"pixels, PCA-{basis.shape[1]}"
        self._mean, self._basis, self._shape = mean, basis, shape

    def __call__(self, images: Tensor, batch_size: int = 500) -> Features:
        check_images(images, self._shape, self.name)
        parts = [(_pixels(x) - self._mean) @ self._basis for x in torch.split(images, batch_size)]
        return Features(torch.cat(parts), None, self.name)


def _pixels(images: Tensor) -> Tensor:
    """Return images as rows of numbers in [0, 1], float32 on the CPU."""
    return images.cpu().flatten(1).float().div_(255)
