"""Data restricted to some of their classes, labels renumbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from bnnkit.errors import DataError, UsageError, did_you_mean
from bnnkit.io.datasets.source import Part, Source

__all__ = ["check_count", "class_indices", "only_classes"]

_SHOWN = 20


def check_count(wanted: Sequence[str]) -> None:
    """Refuse a choice that no classifier could be judged on.

    Raises:
        UsageError: There are fewer than two classes.
    """
    if len(wanted) < 2:
        raise UsageError(
            "Choosing classes",
            f"only {wanted[0]!r}" if wanted else "none",
            "a classifier needs two classes or more",
            "Name two classes or more.",
        )


def class_indices(name: str, classes: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Find classes by name, or else by number.

    Args:
        name: The data, for errors.
        classes: Names of all their classes; the number of a class is its place among them.
        wanted: What is looked for.

    Returns:
        The numbers, in the order of `wanted`.

    Raises:
        DataError: There is no such class.
        UsageError: A class is named twice, or fewer than two are named.

    >>> class_indices("pets", ["cat", "dog", "emu"], ["emu", "0"])
    [2, 0]
    """
    check_count(wanted)
    found: dict[int, str] = {}
    for word in wanted:
        index = _index(name, classes, word)
        if index in found:
            raise UsageError(
                f"Choosing classes of {name!r}",
                f"{found[index]!r} and {word!r}",
                f"both are the class {classes[index]!r}",
                "Name each class once.",
            )
        found[index] = word
    return list(found)


def only_classes(source: Source, wanted: Sequence[str]) -> Source:
    """Keep the examples of some classes.

    Args:
        source: Data of all classes.
        wanted: Classes by name or by number.

    Returns:
        The data of these classes, label 0 for the first of them and so on, with a note.

    Raises:
        DataError: There is no such class, or a part has no example of any of them.
        UsageError: A class is named twice, or fewer than two are named.
    """
    indices = class_indices(source.name, source.classes, wanted)
    names = tuple(source.classes[i] for i in indices)
    note = (
        f"only the classes {_listed(names)} ({len(names)} of {len(source.classes)}), "
        "labels renumbered in this order"
    )
    train = _renumbered(source.train, indices, f"training examples of {source.name!r}")
    test = source.test
    if test is not None:
        test = _renumbered(test, indices, f"test examples of {source.name!r}")
    return replace(
        source,
        train=train,
        test=test,
        classes=names,
        classes_known=True,  # a larger model would read renumbered labels as other classes
        notes=[*source.notes, note],
    )


def _index(name: str, classes: Sequence[str], word: str) -> int:
    """Find one class; a name goes before a number, since names may be numbers."""
    if word in classes:
        return classes.index(word)
    if word.isdecimal() and int(word) < len(classes):
        return int(word)
    near = did_you_mean(word, classes)
    last = len(classes) - 1
    raise DataError(
        f"Choosing classes of {name!r}",
        f"no class {word!r}",
        f"its classes are {_listed(classes)}",
        near if near.startswith("Did") else f"Use these names, or the numbers 0 to {last}.",
    )


def _renumbered(part: Part, indices: Sequence[int], what: str) -> Part:
    """Select the examples of these classes and number them by their place among them."""
    numbers = torch.full_like(part.labels, -1)
    for new, old in enumerate(indices):
        numbers[part.labels == old] = new
    rows = (numbers >= 0).nonzero().flatten()
    if not len(rows):
        raise DataError(
            f"Choosing classes among the {what}",
            "not one example of them",
            "nothing can be measured on an empty set",
            "Choose classes that have examples.",
        )
    return Part(part.images.select(rows), numbers[rows])


def _listed(names: Sequence[str]) -> str:
    """Join names, the first ones where there are very many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
