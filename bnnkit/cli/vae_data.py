"""The images that an autoencoder's commands read, as options."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["IMAGES", "FirstTest"]

IMAGES = ("data", "data_root", "download", "classes")
"""Fields of `DataOptions` that mean something for images that are never normalised."""

FirstTest = Annotated[
    int,
    typer.Option(
        "--limit",
        metavar="N",
        min=0,
        rich_help_panel="Data",
        help="Use the first N test images, in their order; 0 for all.",
    ),
]
