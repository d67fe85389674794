"""Options that commands share, as one parameter: a dataclass whose fields are the options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

__all__ = ["only", "takes_groups", "without"]


@dataclass(frozen=True)
class _Part:
    """Which fields of a group are options of a command; the others keep their defaults."""

    names: frozenset[str]
    kept: bool


def only(*names: str) -> _Part:
    """Name the fields of a group that a command takes, in the `Annotated` of its parameter."""
    return _Part(frozenset(names), kept=True)


def without(*names: str) -> _Part:
    """Name the fields of a group that a command leaves out, in the same place."""
    return _Part(frozenset(names), kept=False)


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Show typer the fields of a command's groups, and build the groups when it is called.

    A group is a parameter annotated with a dataclass whose fields have plain defaults and typer's
    annotations. Its fields stand in its place, in their order, in the signature that typer reads.

    Args:
        command: A function whose parameters are options and groups of options.

    Returns:
        The function that takes each option by its name.

    Raises:
        TypeError: `only` or `without` names a field that its group has not.
        ValueError: Two options have one name.
    """
    groups: dict[str, tuple[Callable[..., object], list[str]]] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        annotated = get_origin(parameter.annotation) is Annotated
        kind, *marks = get_args(parameter.annotation) if annotated else (parameter.annotation,)
        if is_dataclass(kind) and isinstance(kind, type):
            found = _options(kind, [mark for mark in marks if isinstance(mark, _Part)])
            groups[parameter.name] = kind, [option.name for option in found]
            options += found
        else:
            options.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def with_groups(**values: object) -> None:
        built = {
            name: group(**{option: values.pop(option) for option in names})
            for name, (group, names) in groups.items()
        }
        command(**values, **built)

    with_groups.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {option.name: option.annotation for option in options}
    return with_groups


def _options(group: type[Any], parts: list[_Part]) -> list[inspect.Parameter]:
    """Return the fields of a group that are options, as parameters.

    Raises:
        TypeError: A part names a field that the group has not.
    """
    names = [field.name for field in fields(group)]
    for part in parts:
        if unknown := part.names - set(names):
            raise TypeError(f"{group.__name__} has no {', '.join(sorted(unknown))}")
        names = [name for name in names if (name in part.names) == part.kept]
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
        if field.name in names
    ]
