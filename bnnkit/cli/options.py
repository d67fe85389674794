"""The model, data and run options that the commands share, and the specifications they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli.parsing import parse_classes, parse_counts, parse_numbers, parse_shape
from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.data import DataSpec
from bnnkit.spec.model import ModelSpec

__all__ = [
    "Arch",
    "ArchArg",
    "AsJson",
    "BatchSize",
    "DataOptions",
    "Device",
    "Force",
    "InputShape",
    "ModelOptions",
    "ReportFile",
    "RunOut",
    "Seed",
    "StateKey",
    "Threads",
    "TrustPickle",
    "parse_counts",
    "parse_numbers",
    "parse_shape",
]

_MODEL = "Model"
_DATA = "Data"
_RUN = "Run"

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.1307,), (0.3081,)),
    "none": ((0.0,), (1.0,)),
}
"""Mean and deviation of `--normalize`, of inputs in [0, 1]."""

Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_MODEL,
        help="Where the file has only tensors: torchvision:NAME, timm:NAME, bnnkit:NAME, "
        "pkg.mod:factory or file.py:factory.",
    ),
]
ArchArg = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        rich_help_panel=_MODEL,
        help="Argument of --arch, such as num_classes=10; may be repeated.",
    ),
]
StateKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        rich_help_panel=_MODEL,
        help="Entry of a training checkpoint that holds the weights.",
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        rich_help_panel=_MODEL,
        help="Run the code that a pickled module needs. Only for files whose author you trust.",
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="C,H,W", rich_help_panel=_MODEL, help="Shape of one input, such as 3,32,32."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_DATA,
        help="digits, mnist, cifar10 ..., an image folder, an .npz, or file.py:factory.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", rich_help_panel=_DATA, help="Where the files of a known name lie."
    ),
]
Download = Annotated[
    bool,
    typer.Option("--download", rich_help_panel=_DATA, help="Fetch a known name that is absent."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M,M,M",
        rich_help_panel=_DATA,
        help="Subtracted from inputs in [0, 1], per channel.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="S,S,S", rich_help_panel=_DATA, help="Divided by after that."),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_DATA,
        help=f"In place of --mean and --std: {', '.join(NORMALIZATIONS)}.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME",
        rich_help_panel=_DATA,
        help="Use only these classes, by name or number, and renumber labels in this order.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=_DATA, help="Use a random subset of N examples of each part."
    ),
]
Augment = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        rich_help_panel=_DATA,
        help="What training batches go through: auto, none or crop-flip.",
    ),
]
BatchSize = Annotated[
    int, typer.Option(metavar="N", min=1, rich_help_panel=_RUN, help="Examples in one batch.")
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", rich_help_panel=_RUN, help="auto, cpu or cuda.")
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, rich_help_panel=_RUN, help="CPU threads; torch's own choice if absent."
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="N", min=0, rich_help_panel=_RUN, help="Seed of all random numbers.")
]
AsJson = Annotated[
    bool, typer.Option("--json", rich_help_panel=_RUN, help="Print the report as JSON only.")
]
RunOut = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FOLDER", rich_help_panel=_RUN, help="Run directory that is written."
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        rich_help_panel=_RUN,
        help="Write the report too: JSON, or a page to look at where it ends in .html.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", rich_help_panel=_RUN, help="Replace an earlier result.")
]


@dataclass(frozen=True)
class ModelOptions:
    """How a model file is read."""

    arch: Arch = None
    arch_arg: ArchArg = None
    state_key: StateKey = None
    trust_pickle: TrustPickle = False
    input_shape: InputShape = None

    def spec(self, file: Path | str | None) -> ModelSpec:
        """Return the specification of a model.

        Raises:
            UsageError: `--arch-arg` or `--input-shape` cannot be read.
        """
        args = {}
        if self.arch_arg:
            from bnnkit.run.forms import parse_arch_args

            args = parse_arch_args(self.arch_arg)
        return ModelSpec(
            file=None if file is None else str(file),
            arch=self.arch,
            arch_args=args,
            state_key=self.state_key,
            trust_pickle=self.trust_pickle,
            input_shape=parse_shape(self.input_shape),
        )


@dataclass(frozen=True)
class DataOptions:
    """The data, and what they go through."""

    data: Data = None
    data_root: DataRoot = None
    download: Download = False
    mean: Mean = None
    std: Std = None
    normalize: Normalize = None
    classes: Classes = None
    limit: Limit = None
    augment: Augment = DataSpec.augment

    def spec(
        self, command: str | None, *, split_seed: int = 0, input_shape: str | None = None
    ) -> DataSpec:
        """Return the specification of the data.

        Args:
            command: What cannot go on without `--data`; None does not ask for it.
            split_seed: Seed of the split where the data come without a test part.
            input_shape: Of `--input-shape`, where images are resized to it.

        Raises:
            UsageError: There is no `--data`, a number or the list of classes cannot be read, the
                preset is not known, or both it and numbers were given.
        """
        if command is not None and not self.data:
            raise UsageError(
                f"Running bnnkit {command}",
                "no --data",
                "without examples there is nothing to measure on",
                "Name a known set, a folder or a file, such as --data digits.",
            )
        shape = parse_shape(input_shape)
        mean, std = self._normalisation()
        return DataSpec(
            name=str(self.data),
            root=None if self.data_root is None else str(self.data_root),
            download=self.download,
            mean=mean,
            std=std,
            input_shape=shape,
            split_seed=split_seed,
            limit=self.limit,
            augment=self.augment,
            classes=parse_classes(self.classes),
        )

    def _normalisation(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Return mean and deviation, of the preset where one is named."""
        mean, std = parse_numbers(self.mean, "--mean"), parse_numbers(self.std, "--std")
        if self.normalize is None:
            return mean, std
        if mean is not None or std is not None:
            raise UsageError(
                "Normalising",
                f"--normalize {self.normalize} beside {'--std' if mean is None else '--mean'}",
                "both say the same thing",
                "Leave one of them out.",
            )
        if self.normalize not in NORMALIZATIONS:
            raise UsageError(
                "Reading --normalize",
                repr(self.normalize),
                "no such preset",
                did_you_mean(self.normalize, NORMALIZATIONS),
            )
        return NORMALIZATIONS[self.normalize]
