"""Generators as they come: from any file to images in [0, 1], checked when they are opened."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnnkit.errors import BnnkitError, DataError, StructureError, UsageError
from bnnkit.io.generator_checks import settle
from bnnkit.io.generator_forms import GeneratorForm, open_form
from bnnkit.io.generator_meaning import Meaning
from bnnkit.io.generator_trial import last_line
from bnnkit.io.latents import Latent, open_latent
from bnnkit.spec.generator import GeneratorSpec, LatentSpec, OutRange, shape_text

__all__ = ["Generator", "open_generator"]

_BATCH = 500


@dataclass(frozen=True, eq=False)
class Generator:
    """A generator of images, in eval mode.

    Args:
        name: What its owner calls it.
        form: How it runs; see `GeneratorForm`.
        prior: The distribution of its latents.
        meaning: What its outputs are; see `Meaning`.
        pixels: `mean` takes its outputs as images, `sampled` draws Bernoulli pixels from them.
        notes: What was picked, assumed or found, one sentence each.
    """

    name: str
    form: GeneratorForm
    prior: Latent
    meaning: Meaning
    pixels: str
    notes: tuple[str, ...]

    @property
    def latent(self) -> LatentSpec:
        """What it is fed with, the shape of a sampler's latents filled in."""
        return self.prior.spec

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""
        return self.meaning.shape

    @property
    def out_range(self) -> OutRange:
        """Outputs of black and of white, or `logits`."""
        return self.meaning.out_range

    @property
    def classes(self) -> int | None:
        """Number of classes that it is told; None for one without labels."""
        return self.meaning.classes

    @property
    def module(self) -> nn.Module | None:
        """The torch module, latents (and labels) to raw outputs; None where none takes gradients.

        Its outputs are not mapped to [0, 1]: `images` does that, and gradients flow through it.
        """
        return self.form.module if self.meaning.differentiable else None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.form.device

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents, float32 `[n, *latent.shape]` on the CPU.

        Raises:
            UsageError: The user's own sampler raised, or returned something else.
        """
        return self.prior.draw(n, generator)

    def images(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents to images; gradients flow where the form takes them.

        With `pixels='sampled'` these are the means of the pixels.

        Args:
            z: Latents `[n, *latent.shape]`, on any device.
            labels: Classes, int64 `[n]`, of a class-conditional generator.

        Returns:
            float32 `[n, C, H, W]` in [0, 1], on the device of the generator.

        Raises:
            StructureError: The generator stopped.
            UsageError: Latents or labels of another shape, or labels where none are taken.
        """
        self._check(z, labels)
        return self._run(z, labels)[1]

    def bytes(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        batch_size: int = _BATCH,
    ) -> Tensor:
        """Map latents to images as files hold them, batch by batch and without gradients.

        Args:
            z: Latents `[n, *latent.shape]`.
            labels: Classes, int64 `[n]`, of a class-conditional generator.
            generator: Source of the pixels where they are sampled, on the CPU.
            batch_size: Images at once.

        Returns:
            uint8 `[n, C, H, W]` on the CPU: the rounded mean, or 0 and 255 where pixels are drawn.

        Raises:
            DataError: An output is NaN or infinite, which no byte can hold.
            StructureError: The generator stopped.
            UsageError: Latents or labels do not fit, or the source of the pixels is missing.
        """
        self._check(z, labels)
        if self.pixels == "sampled" and generator is None:
            raise UsageError(
                f"Drawing pixels of {self.name!r}", "no generator",
                "sampled pixels are drawn from one",
                "Pass generator=torch.Generator().manual_seed(0).",
            )  # fmt: skip
        images = torch.empty(len(z), *self.shape, dtype=torch.uint8)
        for start in range(0, len(z), batch_size):
            rows = slice(start, start + batch_size)
            with torch.no_grad():
                out, mean = self._run(z[rows], None if labels is None else labels[rows])
            _refuse_holes(self.name, out)
            pixels = mean.cpu()
            if self.pixels == "sampled":
                pixels = torch.bernoulli(pixels, generator=generator)
            images[rows] = (pixels * 255).round().to(torch.uint8)
        return images

    def check_against(
        self,
        shape: tuple[int, ...],
        *,
        data: str,
        values: tuple[float, float] | None = None,
    ) -> None:
        """Refuse data that cannot be compared with the images of this generator.

        Args:
            shape: Shape of one real image.
            data: What the data are called.
            values: Least and largest value of the real images, which must be in [0, 1].

        Raises:
            DataError: They differ in shape or range; both sides are named.
        """
        what = f"Comparing the generator {self.name!r} with the data {data!r}"
        if tuple(shape) != self.shape:
            hint = f"Resize the data with --input-shape {','.join(map(str, self.shape))}."
            if len(shape) == 3 and math.prod(shape) == math.prod(self.shape):
                hint = f"Use --shape {','.join(map(str, shape))} if its outputs are flat."
            raise DataError(
                what,
                f"it makes images of {shape_text(self.shape)}, and the data have "
                f"{shape_text(tuple(shape))}",
                "both must be of one shape",
                hint,
            )
        if values is not None and not (values[0] >= 0 and values[1] <= 1):
            raise DataError(
                what,
                f"its images are mapped from {_range_text(self.out_range)} to [0, 1], and the "
                f"data go from {values[0]:.3g} to {values[1]:.3g}",
                "both must be in one range",
                "Give data as bytes, or as floats in [0, 1] that are not normalised.",
            )

    def _run(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return raw outputs and images `[n, C, H, W]`; the owner's code may stop at any time."""
        try:
            out = self.form(z, self.meaning.encode(labels))
            return out, self.meaning.images(out, len(z))
        except (BnnkitError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise StructureError(
                f"Generating images with {self.name!r}",
                last_line(error),
                f"it stopped on a batch of {len(z)} latents, although the first few went well",
                "Check its code for what depends on the batch, or on the latents themselves.",
            ) from error

    def _check(self, z: Tensor, labels: Tensor | None) -> None:
        """Refuse latents and labels that this generator does not read."""
        what = f"Generating images with {self.name!r}"
        if tuple(z.shape[1:]) != self.latent.shape:
            raise UsageError(
                what,
                f"latents of shape {list(z.shape)}",
                f"it reads [n, {', '.join(map(str, self.latent.shape))}]",
                "Draw them with draw().",
            )
        if self.classes is None and labels is not None:
            raise UsageError(what, "labels", "it was opened as one without classes")
        if self.classes is None:
            return
        if labels is None or labels.shape != z.shape[:1] or labels.dtype != torch.int64:
            found = "no labels" if labels is None else f"{labels.dtype} {list(labels.shape)}"
            raise UsageError(what, found, f"it needs labels, int64 [{len(z)}]")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            worst = int(labels.max()) if int(labels.max()) >= self.classes else int(labels.min())
            raise UsageError(what, f"the label {worst}", f"classes are 0 to {self.classes - 1}")


def open_generator(spec: GeneratorSpec, *, seed: int = 0, device: str = "cpu") -> Generator:
    """Open a generator and check that it does what was said of it.

    A few images are made: the latent must fit and matter, outputs must be of the stated range
    and shape, and an image may not depend on the others of its batch (a note says where it does).

    Args:
        spec: What its owner named. The code of an architecture or sampler in it is run.
        seed: Seed of the latents of these checks, and of fresh weights.
        device: `cpu` or `cuda`.

    Returns:
        The generator, in eval mode.

    Raises:
        ArchitectureError: The architecture is missing or does not fit.
        DataError: Outputs do not fit the stated range or shape, are equal, or not finite.
        FileRefusedError: The file cannot be read.
        StructureError: It does not answer with a row for each latent.
        UsageError: The latent does not fit, or the sampler cannot be used.
    """
    prior = open_latent(spec.latent)
    form = open_form(spec.model, seed=seed, device=device)
    meaning, found = settle(form, prior, spec, seed)
    notes = [*form.notes, *found]
    if spec.pixels == "sampled":
        notes.append("Its outputs are means of Bernoulli pixels, which are drawn.")
    return Generator(form.name, form, prior, meaning, spec.pixels, tuple(notes))


def _refuse_holes(name: str, out: Tensor) -> None:
    """Refuse raw outputs that are no numbers, which would become bytes without a word."""
    bad = int((~out.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise DataError(
            f"Generating images with {name!r}",
            f"outputs that are NaN or infinite in {bad} of {len(out)} images",
            "no byte can hold them, although the first few images were sound",
            "Check its weights, and that --latent is what it was trained with.",
        )


def _range_text(out_range: OutRange) -> str:
    """Write a range for a person."""
    if out_range == "logits":
        return "logits"
    return f"[{out_range[0]:g}, {out_range[1]:g}]"
