"""The end of each command's help: an example that runs, and what it really printed."""

from __future__ import annotations

from rich.markup import escape

__all__ = ["example"]


def example(command: str, output: str, *, more: str = "") -> str:
    r"""Return the end of a command's help, as typer's `epilog` in rich markup.

    Args:
        command: The command line, without the prompt.
        output: What it printed; lines, spaces and brackets are kept.
        more: A sentence after it.

    >>> print(example("bnnkit inspect net.pt", "conv1 [8]\n  fc"))
    [bold]Example[/bold]
    <BLANKLINE>
    [bold cyan]$ bnnkit inspect net.pt[/bold cyan]
    conv1 [8]
      fc
    """
    text = f"[bold]Example[/bold]\n\n[bold cyan]$ {escape(command)}[/bold cyan]"
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    return "\n".join([text, *map(escape, lines), *(["", escape(more)] if more else [])])
