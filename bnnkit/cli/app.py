"""The application: its commands in one table, and its answer to a command that it has not."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bnnkit.cli.console import stdout_console
from bnnkit.cli.errors import Interrupted
from bnnkit.errors import UsageError, did_you_mean

__all__ = ["COMMANDS", "build_app"]

# Name, module and function of each command, in the order of `bnnkit --help`. The modules are
# imported to show any help, so they may import only typer, rich, spec and errors at their top; a
# module's EXAMPLE, made by `bnnkit.cli.help.example`, ends the help.
COMMANDS: list[tuple[str, str, str]] = [
    ("prune", "bnnkit.cli.prune", "prune"),
    ("sbn-fit", "bnnkit.cli.sbn_fit", "sbn_fit"),
    ("mh-filter", "bnnkit.cli.mh_filter", "mh_filter"),
    ("mh-proposal", "bnnkit.cli.mh_proposal", "mh_proposal"),
    ("inspect", "bnnkit.cli.inspect", "inspect"),
    ("eval", "bnnkit.cli.evaluate", "evaluate"),
    ("bench", "bnnkit.cli.bench", "bench"),
    ("export", "bnnkit.cli.export", "export"),
    ("train", "bnnkit.cli.train", "train"),
    ("demo", "bnnkit.cli.demo", "demo"),
    ("gate", "bnnkit.cli.gate", "gate"),
    ("doctor", "bnnkit.cli.doctor", "doctor"),
]


class _Commands(TyperGroup):
    """The commands, with near misses answered and interruptions kept whole."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - typer's private types
        """Find the command that the first argument names.

        Raises:
            UsageError: There is no such command.
        """
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UsageError(
                "Running a command",
                repr(args[0]),
                "bnnkit has no such command",
                did_you_mean(args[0], self.commands),
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer's private types
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(str(interrupt)) from interrupt


def _print_version(wanted: bool) -> None:
    """Print the version and stop, when `--version` was given."""
    if wanted:
        from bnnkit import __version__

        stdout_console().print(f"bnnkit {__version__}", highlight=False)
        raise typer.Exit()


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error; goes anywhere."),
    ] = False,
) -> None:
    """Post-hoc surgery on pretrained PyTorch models with Bayesian methods.

    Each command's --help ends with an example and its output.
    """


def build_app() -> typer.Typer:
    """Return the application with every command of the table."""
    app = typer.Typer(
        name="bnnkit",
        cls=_Commands,
        rich_markup_mode="rich",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(no_args_is_help=True)(_root)
    for name, path, function in COMMANDS:
        module = import_module(path)
        app.command(name, epilog=getattr(module, "EXAMPLE", None))(getattr(module, function))
    return app
