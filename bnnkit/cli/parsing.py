"""How the texts of options are read: shapes, numbers, counts and classes."""

from __future__ import annotations

from bnnkit.errors import UsageError

__all__ = ["parse_classes", "parse_counts", "parse_numbers", "parse_shape"]


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
