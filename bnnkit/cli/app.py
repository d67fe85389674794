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

# Name, module, function and summary of each command, in the order of `bnnkit --help`, which shows
# the summary (the first line of the function's docstring) and imports none of the modules: a
# module is imported once its command is named. To show a command's help it may import only typer,
# rich, spec and errors at its top; its EXAMPLE, made by `bnnkit.cli.help.example`, ends the help.
COMMANDS: list[tuple[str, str, str, str]] = [
    (
        "prune",
        "bnnkit.cli.prune",
        "prune",
        "Remove what the evidence says a pretrained model does not need, and prove the result.",
    ),
    (
        "sweep",
        "bnnkit.cli.sweep",
        "sweep",
        "Prune one model by several methods, targets and seeds, and find the Pareto fronts.",
    ),
    (
        "sbn-fit",
        "bnnkit.cli.sbn_fit",
        "sbn_fit",
        "Fit the distribution of every batch-norm statistic, and average predictions over it.",
    ),
    (
        "mh-filter",
        "bnnkit.cli.mh_filter",
        "mh_filter",
        "Filter a pretrained generator by the implicit Metropolis-Hastings algorithm.",
    ),
    (
        "mh-proposal",
        "bnnkit.cli.mh_proposal",
        "mh_proposal",
        "Learn an independent proposal for a density, and run Metropolis-Hastings chains with it.",
    ),
    (
        "vae-fit",
        "bnnkit.cli.vae_fit",
        "vae_fit",
        "Train a variational autoencoder, continue one, or upgrade its posterior.",
    ),
    (
        "vae-refine",
        "bnnkit.cli.vae_refine",
        "vae_refine",
        "Refine the posterior of each datum under a pretrained VAE, and measure what it gains.",
    ),
    (
        "vae-eval",
        "bnnkit.cli.vae_eval",
        "vae_eval",
        "Judge a pretrained VAE: bound, likelihood by importance sampling, latents, pictures.",
    ),
    (
        "avo-toy",
        "bnnkit.cli.avo_toy",
        "avo_toy",
        "Approximate a 2-D energy by annealed variational objectives, their rivals and flows.",
    ),
    (
        "inspect",
        "bnnkit.cli.inspect",
        "inspect",
        "Show what a file is; with --arch also which channels can be removed, and what is locked.",
    ),
    (
        "eval",
        "bnnkit.cli.evaluate",
        "evaluate",
        "Measure error, NLL, calibration error and Brier score, with intervals.",
    ),
    (
        "bench",
        "bnnkit.cli.bench",
        "bench",
        "Time models against each other, in any form, at several batch sizes and thread counts.",
    ),
    (
        "export",
        "bnnkit.cli.export",
        "export",
        "Write a model in other forms; what disagrees with it is not delivered (exit 4).",
    ),
    (
        "train",
        "bnnkit.cli.train",
        "train",
        "Train a reference architecture on named data, or fine-tune a checkpoint.",
    ),
    (
        "demo",
        "bnnkit.cli.demo",
        "demo",
        "Train a small net on the embedded digits, prune it, prove and time the result.",
    ),
    (
        "gate",
        "bnnkit.cli.gate",
        "gate",
        "Judge a report by its confidence bounds: exit 0, or 3 where a gate fails.",
    ),
    (
        "doctor",
        "bnnkit.cli.doctor",
        "doctor",
        "Show versions, devices, optional parts and writable folders.",
    ),
]


_SETTINGS: dict[str, Any] = {
    "rich_markup_mode": "rich",
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Commands(TyperGroup):
    """The commands, with near misses answered and interruptions kept whole."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - typer's private types
        """Find the command that the first argument names.

        Raises:
            UsageError: There is no such command.
        """
        name = args[0] if args else "-"
        if not name.startswith("-"):
            if name not in self.commands:
                raise UsageError(
                    "Running a command",
                    repr(name),
                    "bnnkit has no such command",
                    did_you_mean(name, self.commands),
                )
            self.commands[name] = _declare(name)
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
    """Return the application with every command of the table, none of them declared yet."""
    app = typer.Typer(cls=_Commands, name="bnnkit", **_SETTINGS)
    app.callback(no_args_is_help=True)(_root)
    for name, _, _, summary in COMMANDS:
        app.command(name, help=summary)(_undeclared)
    return app


def _undeclared() -> None:
    """Stand for a command until it is named."""


def _declare(wanted: str) -> Any:  # noqa: ANN401 - typer's private types
    """Import a command's module and return the command with its options."""
    path, function = next((path, body) for name, path, body, _ in COMMANDS if name == wanted)
    module = import_module(path)
    alone = typer.Typer(**_SETTINGS, add_completion=False)
    epilog = getattr(module, "EXAMPLE", None)
    alone.command(wanted, epilog=epilog)(getattr(module, function))
    return typer.main.get_command(alone)
