"""Features of images, out of any model that an owner names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bnnkit.errors import BnnkitError, DataError, UsageError, did_you_mean
from bnnkit.graph.outputs import main_output
from bnnkit.io.datasets.fit import fit_shapes
from bnnkit.io.datasets.split import Preprocess
from bnnkit.io.models import load_model
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.io.sniff import FileKind, sniff
from bnnkit.spec import ModelSpec

__all__ = ["FeatureExtractor", "FeatureNet", "Features", "check_images", "open_features"]

_PROGRAMS = (FileKind.TORCHSCRIPT, FileKind.PT2, FileKind.ONNX)


@dataclass(frozen=True, eq=False)
class Features:
    """What an extractor sees in `n` images.

    Args:
        features: float32 `[n, d]`, on the CPU.
        outputs: The model's own output `[n, ...]`, a classifier's scores of the classes in
            whatever form it gives them (`bnnkit.metrics.log_probabilities` reads all); None where
            the extractor is no model.
        name: The extractor and its layer.
    """

    features: Tensor
    outputs: Tensor | None
    name: str


class FeatureExtractor(Protocol):
    """From images to features.

    Args:
        name: The extractor and its layer, for reports.
    """

    name: str

    @property
    def net(self) -> nn.Module | None:
        """The same from images in [0, 1] to features and outputs, with gradients, if it can."""
        ...

    def __call__(self, images: Tensor, batch_size: int = 500) -> Features:
        """Read images, uint8 `[n, c, h, w]`.

        Raises:
            DataError: Images of another type or shape, or features that are not finite.
            UsageError: The layer did not run.
        """
        ...


def open_features(
    spec: ModelSpec,
    shape: tuple[int, int, int],
    *,
    layer: str | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    device: str = "cpu",
) -> FeatureExtractor:
    """Open a model as a feature extractor for images of one shape.

    Images are resized and repeated to the model's input shape as those of a data set are, divided
    by 255 and normalised. A layer that gives maps `[n, c, h, w]` is averaged over positions; other
    axes are flattened.

    Args:
        spec: The model. Its input shape, or that of a reference architecture, is what images are
            fitted to; where neither is known they stay as they are.
        shape: Channels, height and width of the images.
        layer: Name of the module whose output is the feature, such as `avgpool`; where it runs
            more than once, the last time counts. None takes what the last `nn.Linear` to run
            reads, the penultimate features. A TorchScript, `.pt2` or ONNX file has no modules:
            its output is the feature.
        mean: Subtracted from inputs in [0, 1]: one number, or one a channel.
        std: Divided by, likewise.
        device: Where the model computes: `cpu` or `cuda`.

    Raises:
        ArchitectureError: The architecture is missing or does not fit.
        DataError: The images cannot be fitted to the model.
        FileRefusedError: The file cannot be read.
        UsageError: There is no such layer.
    """
    if spec.arch is None and spec.file is not None and sniff(spec.file).kind in _PROGRAMS:
        return _open_program(spec, shape, layer, mean, std, device)
    loaded = load_model(spec)
    name = spec.file or str(loaded.spec.arch)
    tap = _Tap(loaded.module, layer, name)
    preprocess = _preprocess(shape, loaded.spec.input_shape, mean, std, name)
    short = Path(spec.file).stem if spec.file else name
    net = FeatureNet(loaded.module, preprocess, tap).to(device).eval()
    name = short if layer is None else f"{short}, {layer}"
    return _ModuleExtractor(name, net, shape)


def check_images(images: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Refuse what is not a batch of byte images of one shape.

    Args:
        images: What came.
        shape: Channels, height and width that are read.
        name: The extractor, for errors.

    Raises:
        DataError: Another type or shape, or no image.
    """
    fits = images.dim() == 4 and tuple(images.shape[1:]) == shape
    if images.dtype == torch.uint8 and fits and len(images):
        return
    raise DataError(
        f"Reading the features of {name!r}",
        f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}",
        f"it reads images of uint8 [n, {', '.join(map(str, shape))}]",
        "Give images of this shape, with values of 0 to 255.",
    )


def _open_program(
    spec: ModelSpec,
    shape: tuple[int, int, int],
    layer: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: str,
) -> FeatureExtractor:
    """Open a file that runs by itself; its output is the feature."""
    assert spec.file is not None  # callers have one
    predictor = open_predictor(spec.file, device=device)
    if layer is not None:
        raise UsageError(
            f"Reading the layer {layer!r}",
            f"{spec.file!r} ({predictor.form})",
            "a file of this form has no modules to find by name",
            "Leave the layer out: the output is the feature then.",
        )
    preprocess = _preprocess(shape, spec.input_shape, mean, std, predictor.name)
    return _ProgramExtractor(predictor, preprocess, shape)


def _preprocess(
    shape: tuple[int, int, int],
    want: tuple[int, ...] | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    name: str,
) -> Preprocess:
    """Return the steps from byte images to model inputs, those of `io.data`."""
    fit = fit_shapes(shape, want, f"images for {name}")
    channels = shape[0] * fit.repeat
    finite = all(map(math.isfinite, mean)) and all(0 < s < math.inf for s in std)
    if not finite or not {len(mean), len(std)} <= {1, channels}:
        raise UsageError(
            f"Normalising the images for {name!r}",
            f"mean {list(mean)}, deviation {list(std)}",
            f"they are finite, the deviation positive, and one number or {channels} each",
            "Leave them out for inputs in [0, 1].",
        )
    return Preprocess(1.0, mean, std, fit.size, fit.repeat, fit.flatten)


class _Tap:
    """Catches what one layer of a module gives, or what its last linear layer reads.

    Args:
        module: The model.
        layer: The layer's name; None is the input of the last `nn.Linear` to run.
        name: The model, for errors.

    Raises:
        UsageError: There is no such layer, or no linear layer at all.
    """

    def __init__(self, module: nn.Module, layer: str | None, name: str) -> None:
        modules = {n: m for n, m in module.named_modules() if n}
        linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
        if layer is not None and layer not in modules:
            hint = did_you_mean(layer, modules)
            why = f"none of its {len(modules)} modules has that name"
            raise UsageError("Reading features", f"no layer {layer!r} in {name!r}", why, hint)
        if layer is None and not linear:
            raise UsageError(
                "Reading features",
                f"no nn.Linear among the {len(modules)} modules of {name!r}",
                "the features before the last one are taken where no layer is named",
                f"Name a layer, such as {list(modules)[-1]!r}." if modules else "",
            )
        self.layer = layer or "penultimate"
        self._name = name
        self._read = linear if layer is None else []
        self._written = [] if layer is None else [modules[layer]]
        self._caught: Tensor | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listen to the layer until the end of the block."""
        handles = [m.register_forward_hook(self._on_output) for m in self._written]
        handles += [
            m.register_forward_pre_hook(self._on_input, with_kwargs=True) for m in self._read
        ]
        try:
            yield
        finally:
            self._caught = None
            for handle in handles:
                handle.remove()

    def take(self) -> Tensor:
        """Return what was caught since the last time, `[n, d]`."""
        rows, self._caught = self._caught, None
        if rows is None:
            raise UsageError(
                f"Reading the features of {self._name!r}",
                f"the layer {self.layer!r} did not run",
                "the model does not call it when it predicts",
                "Name a layer that its forward pass goes through.",
            )
        return rows

    def _on_output(self, _module: nn.Module, _args: object, output: object) -> None:
        self._caught = _as_rows(main_output(output))

    def _on_input(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._caught = _as_rows(args[0] if args else kwargs["input"])


class FeatureNet(nn.Module):
    """A model as a function from images in [0, 1] to features, and to its own outputs.

    Args:
        module: The model.
        preprocess: From images in [0, 1] to its inputs.
        tap: Where the features are caught.
    """

    def __init__(self, module: nn.Module, preprocess: Preprocess, tap: _Tap) -> None:
        super().__init__()
        self.module = module
        self._preprocess, self._tap = preprocess, tap

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `[n, d]` and outputs `[n, ...]` of images `[n, c, h, w]`."""
        with self._tap.open():
            outputs = main_output(self.module(self._preprocess(images, None)))
            return self._tap.take(), outputs


class _ModuleExtractor:
    """A module that gives features."""

    def __init__(self, name: str, net: FeatureNet, shape: tuple[int, int, int]) -> None:
        self.name, self.net, self._shape = name, net, shape
        self._device = next((p.device for p in net.parameters()), torch.device("cpu"))

    def __call__(self, images: Tensor, batch_size: int = 500) -> Features:
        check_images(images, self._shape, self.name)
        rows, outputs = [], []
        with torch.inference_mode(), _running(self.name, self._shape):
            for x in torch.split(images, batch_size):
                found, out = self.net(x.to(self._device).float() / 255)
                rows.append(found.float().cpu())
                outputs.append(out.cpu())
        # ordinary tensors, on which a discriminator can be trained
        features, scores = torch.cat(rows).clone(), torch.cat(outputs).clone()
        _check(features, len(images), self.name)
        return Features(features, scores, self.name)


class _ProgramExtractor:
    """A file that runs by itself; its output is the feature."""

    net = None

    def __init__(
        self, predictor: Predictor, preprocess: Preprocess, shape: tuple[int, int, int]
    ) -> None:
        self.name = predictor.name
        self._predictor, self._preprocess, self._shape = predictor, preprocess, shape

    def __call__(self, images: Tensor, batch_size: int = 500) -> Features:
        check_images(images, self._shape, self.name)
        with _running(self.name, self._shape):
            outputs = torch.cat(
                [
                    self._predictor(self._preprocess(x.cpu().float() / 255, None))
                    for x in torch.split(images, batch_size)
                ]
            )
        features = _as_rows(outputs).float().cpu().clone()
        _check(features, len(images), self.name)
        return Features(features, outputs, self.name)


@contextmanager
def _running(name: str, shape: tuple[int, int, int]) -> Iterator[None]:
    """Word what the owner's code raises."""
    try:
        yield
    except (BnnkitError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise DataError(
            f"Reading the features of {name!r}",
            f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}",
            f"it stops on images of {'x'.join(map(str, shape))}",
            "Let it take such images, in batches of any size.",
        ) from error


def _check(features: Tensor, count: int, name: str) -> None:
    """Refuse features that no distance can be taken from."""
    if len(features) != count:
        raise DataError(
            f"Reading the features of {name!r}",
            f"{len(features)} rows for {count} images",
            "there must be one row an image",
            "Name a layer that keeps the images apart.",
        )
    if bad := int((~features.isfinite()).any(1).sum()):
        raise DataError(
            f"Reading the features of {name!r}",
            f"not a finite number for {bad} of {count} images",
            "no distance can be taken from them",
            "Check the weights and the normalisation of the inputs.",
        )


def _as_rows(x: Tensor) -> Tensor:
    """Return one row an image: a copy, as a later layer may work in place."""
    # not len(x), which would fix the batch size of an exported graph
    x = x.mean((2, 3)) if x.dim() == 4 else x.reshape(x.shape[0], -1)
    return x.clone()
