"""`bnnkit demo`: the whole job on embedded data, offline, in under a minute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.help import example

__all__ = ["EXAMPLE", "demo"]

EXAMPLE = example("bnnkit demo", "")


def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where original/ and slim/ are written.")
    ] = Path("digits-demo"),
    force: opt.Force = False,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
) -> None:
    """Train a small net on the embedded digits, prune it, prove and time the result."""
    from bnnkit.cli.console import print_json, progress_reporter, stdout_console
    from bnnkit.cli.tables import render
    from bnnkit.run.demo import demo as run

    report = run(out, force=force, seed=seed, progress=progress_reporter(), argv=sys.argv)
    if as_json:
        print_json(report.to_dict())
    else:
        console = stdout_console()
        render(report, console)
        console.print(f"Run directory: {out / 'slim'} (open {out / 'slim' / 'report.html'})")
