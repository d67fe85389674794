"""Groups of options: what typer is shown, what the command gets, and what is refused."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from bnnkit.cli.groups import only, takes_groups, without

Rate = Annotated[float, typer.Option("--rate", min=0)]
Tags = Annotated[list[str] | None, typer.Option()]


@dataclass(frozen=True)
class Loop:
    """A group; its annotations are texts, as in every module here."""

    rate: Rate = 0.5
    tags: Tags = None
    quick: Annotated[bool, typer.Option("--quick")] = False


@dataclass(frozen=True)
class SlowLoop(Loop):
    """Another default of the second option, and one option more."""

    tags: Tags = None
    rate: Rate = 0.25
    rest: Annotated[int, typer.Option()] = 3


def run(command, *args):
    """Return what a command was called with when these arguments were typed."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, [*args], catch_exceptions=False)


def names(command):
    return [*inspect.signature(command).parameters]


def test_options_stand_in_the_place_of_their_group():
    @takes_groups
    def command(file: str, first: int = 1, *, loop: Loop, last: int = 2) -> None:
        """Do it."""

    assert names(command) == ["file", "first", "rate", "tags", "quick", "last"]
    assert [*command.__annotations__] == names(command)
    assert command.__doc__ == "Do it."
    assert command.__name__ == "command"


def test_the_help_is_that_of_a_signature_written_out():
    @takes_groups
    def grouped(file: str, *, loop: Loop, last: int = 2) -> None:
        """Do it."""

    def written(
        file: str,
        rate: Rate = 0.5,
        tags: Tags = None,
        quick: Annotated[bool, typer.Option("--quick")] = False,
        last: int = 2,
    ) -> None:
        """Do it."""

    shown = run(grouped, "--help").output.replace("grouped", "written")
    assert "--quick" in shown
    assert shown == run(written, "--help").output


def test_the_command_gets_its_groups():
    got = []

    @takes_groups
    def command(file: str, *, loop: Loop, last: int = 2) -> None:
        got.append((file, loop, last))

    assert run(command, "a").exit_code == 0
    typed = ("a", "--rate", "2", "--tags", "x", "--tags", "y", "--quick", "--last", "7")
    assert run(command, *typed).exit_code == 0
    assert got == [("a", Loop(), 2), ("a", Loop(2.0, ["x", "y"], True), 7)]


def test_a_value_is_checked_as_without_groups():
    @takes_groups
    def command(loop: Loop) -> None:
        raise AssertionError("it is not called")

    assert run(command, "--rate", "-1").exit_code == 2


def test_a_group_may_be_called_as_one_of_its_options():
    got = []

    @takes_groups
    def command(rate: Loop) -> None:
        got.append(rate)

    run(command, "--rate", "2")
    assert got == [Loop(2.0)]


def test_a_subclass_changes_defaults_and_keeps_the_order():
    got = []

    @takes_groups
    def command(loop: SlowLoop) -> None:
        got.append(loop)

    assert names(command) == ["rate", "tags", "quick", "rest"]
    run(command, "--quick")
    assert got == [SlowLoop(0.25, None, True, 3)]


@pytest.mark.parametrize(
    ("part", "left"),
    [
        (only("quick", "rate"), ["rate", "quick"]),
        (without("rate"), ["tags", "quick"]),
        (without(), ["rate", "tags", "quick"]),
        (only(), []),
    ],
)
def test_a_part_of_a_group(part, left):
    got = []

    def command(loop):
        got.append(loop)

    command.__annotations__ = {"loop": Annotated[Loop, part]}
    command = takes_groups(command)
    assert names(command) == left
    run(command)
    assert got == [Loop()]


@pytest.mark.parametrize("part", [only("rate", "colour"), without("colour")])
def test_a_part_that_the_group_has_not(part):
    def command(loop):
        pass

    command.__annotations__ = {"loop": Annotated[Loop, part]}
    with pytest.raises(TypeError, match="Loop has no colour"):
        takes_groups(command)


def test_two_options_of_one_name():
    def command(loop: Loop, rate: Rate = 1.0) -> None:
        pass

    with pytest.raises(ValueError, match="rate"):
        takes_groups(command)
