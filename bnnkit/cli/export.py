"""`bnnkit export MODEL`: ONNX, `.pt2` or safetensors, each checked against the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.groups import takes_groups, without
from bnnkit.cli.help import example

__all__ = ["EXAMPLE", "export"]

EXAMPLE = example(
    "bnnkit export digits-demo/slim --format onnx,safetensors --data digits",
    """
bnnkit export: digits-demo/slim

Note: The forms are compared on 64 inputs of digits.
Note: no test part: 20% of each class held out, seed 0

Checks on real inputs
  form                 worst difference  tolerance  unit       n  verdict
  model = onnx                  2.8e-07     0.0001  relative  64  pass
  model = safetensors           1.2e-07     0.0001  relative  64  pass

Wrote slim-export/slim.onnx (9.096 kB)
Wrote slim-export/slim.safetensors (8.78 kB)
""",
    more="'bnnkit demo' makes this model.",
)


@takes_groups
def export(
    model: Annotated[Path, typer.Argument(help="Checkpoint, run directory or .pt2.")],
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORM,FORM",
            rich_help_panel="Run",
            help="onnx, pt2 and safetensors, with commas between; onnx where --out does not say.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            rich_help_panel="Run",
            help="A file that ends in .onnx, .pt2 or .safetensors, or a folder; "
            "MODEL-export where it is left out.",
        ),
    ] = None,
    force: opt.Force = False,
    *,
    source: opt.ModelOptions,
    data: Annotated[opt.DataOptions, without("classes", "limit", "augment")],
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0,
            rich_help_panel="Run",
            help="Largest difference that passes, relative to the largest output.",
        ),
    ] = 1e-4,
    seed: opt.Seed = 0,
    report: opt.ReportFile = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write a model in other forms; what disagrees with it is not delivered (exit 4).

    Each form is opened again and answers the same inputs as the model, in batches of 64, 3 and 1:
    inputs of --data where it is given, else seeded noise. A pruned model keeps its plan in the
    safetensors, so that the copy loads again.
    """
    from bnnkit.cli.console import progress_reporter, stdout_console
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.destinations import default_out
    from bnnkit.run.export import export as write
    from bnnkit.run.reporting.wording import bytes_text, clean

    examples = None
    if data.data is not None:
        examples = data.spec(None, split_seed=seed, input_shape=source.input_shape)
    named = source.spec(model)
    place = out if out is not None else default_out(named)
    wanted = [form.strip().lower() for form in formats.split(",")] if formats else None
    measured = write(
        named,
        place,
        wanted,
        data=examples,
        tolerance=tolerance,
        seed=seed,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(measured, as_json=as_json, report_file=report)
    if not as_json:
        folder = place if place.is_dir() else place.parent
        for file in measured.sections["files"]:
            line = f"Wrote {clean(folder / file['file'])} ({bytes_text(file['bytes'])})"
            stdout_console().print(line, soft_wrap=True)
