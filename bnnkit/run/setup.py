"""What every command that runs a module starts with: the model, the data, and that they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bnnkit.io.data import Dataset, load_data
from bnnkit.io.models import LoadedModel, load_model
from bnnkit.run.evaluate import check_fit
from bnnkit.spec import DataSpec, ModelSpec, Plan
from bnnkit.zoo import INPUT_SHAPES

__all__ = [
    "Bench",
    "as_data_spec",
    "as_model_spec",
    "describe_data",
    "describe_model",
    "known_input_shape",
    "plan_of",
    "set_up",
]


@dataclass(frozen=True)
class Bench:
    """A model and the data it is judged on.

    Args:
        loaded: The model with its specification, `input_shape` filled in.
        data: Its data.
    """

    loaded: LoadedModel
    data: Dataset

    @property
    def module(self) -> nn.Module:
        """The module."""
        return self.loaded.module

    @property
    def spec(self) -> ModelSpec:
        """The model's specification."""
        return self.loaded.spec

    def example(self, count: int = 2) -> Tensor:
        """Return `[count, ...]` random inputs of the model's shape."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, *self.data.input_shape, generator=generator)

    def inputs(self, count: int, seed: int = 0) -> Tensor:
        """Return up to `count` real test inputs, a seeded random subset."""
        generator = torch.Generator().manual_seed(seed)
        part = self.data.test.take(min(count, len(self.data.test)), generator)
        return torch.cat([x for x, _ in part.batches(count)])

    def describe(self) -> dict[str, dict[str, object]]:
        """Return the report sections `model` and `data`."""
        return {
            "model": describe_model(self.spec, self.loaded.notes),
            "data": describe_data(self.data),
        }


def describe_model(spec: ModelSpec, notes: Sequence[str]) -> dict[str, object]:
    """Return the report section `model`."""
    return {
        "file": spec.file,
        "arch": spec.arch,
        "arch_args": dict(spec.arch_args),
        "notes": list(notes),
    }


def describe_data(data: Dataset) -> dict[str, object]:
    """Return the report section `data`."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "mean": list(data.mean),
        "std": list(data.std),
        "input_shape": list(data.input_shape),
        "notes": list(data.notes),
    }


def plan_of(loaded: LoadedModel, method: str) -> Plan:
    """Return the plan by which a run directory loads without the original checkpoint.

    Args:
        loaded: The model; a rewrite that it carries is kept.
        method: What names the plan that removes nothing, of a model without one.
    """
    return loaded.plan or Plan(model=replace(loaded.spec, file=None), method=method)


def as_model_spec(model: ModelSpec | str | Path, arch: str | None = None) -> ModelSpec:
    """Read a model argument of the library: a specification, or a file with an architecture."""
    if isinstance(model, ModelSpec):
        return model if arch is None else replace(model, arch=arch)
    return ModelSpec(file=str(model), arch=arch)


def as_data_spec(data: DataSpec | str) -> DataSpec:
    """Read a data argument of the library: a specification, or a name."""
    return data if isinstance(data, DataSpec) else DataSpec(data)


def known_input_shape(spec: ModelSpec) -> tuple[int, ...] | None:
    """Return the input shape that a specification or a reference architecture states."""
    if spec.input_shape is not None:
        return spec.input_shape
    provider, _, name = (spec.arch or "").partition(":")
    return INPUT_SHAPES.get(name) if provider == "bnnkit" else None


def set_up(model: ModelSpec, data: DataSpec, *, seed: int = 0) -> Bench:
    """Load a model and data that fit each other.

    Args:
        model: The model; its input shape, where it states one, decides how data are resized.
        data: The data.
        seed: Seed of fresh weights.

    Raises:
        BnnkitError: Either cannot be loaded, or they do not fit.
    """
    loaded = load_model(model, seed=seed)
    if loaded.noise is not None:
        loaded.notes.append(
            "The batch-norm noise of the file was taken off: its statistics are those of these "
            "weights; 'bnnkit sbn-fit' fits them again."
        )
    shape = data.input_shape or known_input_shape(loaded.spec)
    dataset = load_data(replace(data, input_shape=shape))
    check_fit(shape, dataset)
    spec = replace(loaded.spec, input_shape=tuple(dataset.input_shape))
    return Bench(replace(loaded, spec=spec), dataset)
