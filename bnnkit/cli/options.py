"""The model, data and run options that the commands share, and the specifications they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.data import DataSpec
from bnnkit.spec.model import ModelSpec

__all__ = [
    "NORMALIZATIONS",
    "Arch",
    "ArchArg",
    "AsJson",
    "Augment",
    "BatchSize",
    "Classes",
    "Data",
    "DataRoot",
    "Device",
    "Download",
    "Force",
    "InputShape",
    "Limit",
    "Mean",
    "Normalize",
    "ReportFile",
    "RunOut",
    "Seed",
    "StateKey",
    "Std",
    "Threads",
    "TrustPickle",
    "data_spec",
    "model_spec",
    "parse_classes",
    "parse_counts",
    "parse_numbers",
    "parse_shape",
    "require_data",
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


def require_data(name: str | None, command: str) -> None:
    """Ask for `--data` in words where a command cannot go on without it.

    Raises:
        UsageError: There is no `--data`.
    """
    if not name:
        raise UsageError(
            f"Running bnnkit {command}",
            "no --data",
            "without examples there is nothing to measure on",
            "Name a known set, a folder or a file, such as --data digits.",
        )


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Read `3,32,32` (`3x32x32` too); None stays None.

    Raises:
        UsageError: It is not one or three whole numbers above 0.

    >>> parse_shape("3,32,32"), parse_shape("784"), parse_shape(None)
    ((3, 32, 32), (784,), None)
    """
    if text is None:
        return None
    try:
        shape = tuple(int(part) for part in text.strip("[]() ").replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise UsageError(
            "Reading --input-shape",
            repr(text),
            "it is channels, height, width, or one number of features",
            "Use --input-shape 3,32,32, or --input-shape 784.",
        )
    return shape


def parse_numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Read `0.485,0.456,0.406`; None stays None.

    Args:
        text: One number, or one for each channel.
        option: What the user typed it after.

    Raises:
        UsageError: A part is not a number.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"Reading {option}",
            repr(text),
            "it is one number, or one for each channel",
            f"Use {option} 0.5,0.5,0.5.",
        ) from error


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """Read `1,32`: counts above 0, each once, in the order given.

    Args:
        text: What was typed.
        option: What it was typed after.

    Raises:
        UsageError: A part is not a whole number above 0.

    >>> parse_counts("1,32,1", "--batch")
    (1, 32)
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UsageError(
            f"Reading {option}",
            repr(text),
            "it is whole numbers above 0, with commas between them",
            f"Use {option} 1,32.",
        )
    return tuple(dict.fromkeys(counts))


def parse_classes(text: str | None) -> tuple[str, ...] | None:
    """Read `cat,dog,3`; None stays None.

    Raises:
        UsageError: A part is empty.

    >>> parse_classes("cat, dog")
    ('cat', 'dog')
    """
    if text is None:
        return None
    words = tuple(part.strip() for part in text.split(","))
    if not all(words):
        raise UsageError(
            "Reading --classes",
            repr(text),
            "it is names or numbers of classes, with commas between them",
            "Use --classes cat,dog, or --classes 3,5.",
        )
    return words


def model_spec(
    file: Path | str | None,
    *,
    arch: str | None = None,
    arch_arg: Sequence[str] | None = None,
    state_key: str | None = None,
    trust_pickle: bool = False,
    input_shape: str | None = None,
) -> ModelSpec:
    """Turn the model options into a specification.

    Raises:
        UsageError: `--arch-arg` or `--input-shape` cannot be read, or the former has no `--arch`.
    """
    args = {}
    if arch_arg:
        from bnnkit.run.forms import parse_arch_args

        args = parse_arch_args(arch_arg)
    return ModelSpec(
        file=None if file is None else str(file),
        arch=arch,
        arch_args=args,
        state_key=state_key,
        trust_pickle=trust_pickle,
        input_shape=parse_shape(input_shape),
    )


def data_spec(
    name: str,
    *,
    root: Path | str | None = None,
    download: bool = False,
    mean: str | None = None,
    std: str | None = None,
    normalize: str | None = None,
    limit: int | None = None,
    classes: str | None = None,
    input_shape: str | tuple[int, ...] | None = None,
    split_seed: int = 0,
    augment: str = "auto",
) -> DataSpec:
    """Turn the data options into a specification.

    Raises:
        UsageError: A number or the list of classes cannot be read, the preset is not known, or
            both it and numbers were given.
    """
    shape = parse_shape(input_shape) if isinstance(input_shape, str) else input_shape
    means, stds = parse_numbers(mean, "--mean"), parse_numbers(std, "--std")
    if normalize is not None:
        if means is not None or stds is not None:
            raise UsageError(
                "Normalising",
                f"--normalize {normalize} beside {'--std' if means is None else '--mean'}",
                "both say the same thing",
                "Leave one of them out.",
            )
        if normalize not in NORMALIZATIONS:
            raise UsageError(
                "Reading --normalize",
                repr(normalize),
                "no such preset",
                did_you_mean(normalize, NORMALIZATIONS),
            )
        means, stds = NORMALIZATIONS[normalize]
    return DataSpec(
        name=name,
        root=None if root is None else str(root),
        download=download,
        mean=means,
        std=stds,
        input_shape=shape,
        split_seed=split_seed,
        limit=limit,
        augment=augment,
        classes=parse_classes(classes),
    )
