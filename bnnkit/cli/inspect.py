"""`bnnkit inspect [FILE]`: what a file is, and what of its model can be removed."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.console import print_json, progress_reporter, stdout_console
from bnnkit.cli.groups import takes_groups
from bnnkit.cli.help import example

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["EXAMPLE", "inspect"]

EXAMPLE = example(
    "bnnkit inspect --arch bnnkit:lenet5-caffe",
    """
The weights are fresh, from seed 0.
3 classes, 570 units; at most 99.9 % of 431,080 parameters and 99.3 % of 2,293,000 MACs can go
├── conv1  20 units
│   ├── written by conv1
│   └── read by conv2
├── conv2  50 units
│   ├── written by conv2
│   └── read by fc1
└── fc1  500 units
    ├── written by fc1
    └── read by fc2

Locked
  parts  channels  reason
  fc2          10  the model's output

Layers
  layer  kind    out   in  parameters       MACs
  conv1  Conv2d   20    1         520    288,000
  conv2  Conv2d   50   20      25,050  1,600,000
  fc1    Linear  500  800     400,500    400,000
  fc2    Linear   10  500       5,010      5,000
""",
)

_MOST = 40


@takes_groups
def inspect(
    file: Annotated[
        Path | None,
        typer.Argument(help="A model file or a run directory; nothing of it is executed."),
    ] = None,
    *,
    source: opt.ModelOptions,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
) -> None:
    """Show what a file is; with --arch also which channels can be removed, and what is locked.

    A file alone is described from its bytes: form, tensors, entries that hold weights, names that
    its pickles refer to. With --arch the file is optional: fresh weights have the same structure.
    """
    from bnnkit.run.inspect import inspect as examine

    spec = source.spec(file)
    report = examine(spec, seed=seed, progress=progress_reporter(), argv=sys.argv)
    if as_json:
        print_json(report.to_dict())
        return
    _render(report.to_dict(), stdout_console())


def _render(body: Mapping[str, Any], console: Console) -> None:
    """Print the file, then the structure."""
    from bnnkit.cli.tables import draw
    from bnnkit.run.reporting.digest import layers_table, locked_table
    from bnnkit.run.reporting.wording import clean

    if "file" in body:
        _render_file(body["file"], console)
    for note in body["model"]["notes"]:
        console.print(clean(note), soft_wrap=True)
    if "classes" not in body:
        console.print("Name --arch to see its channel classes.")
        return
    console.print(_class_tree(body))
    console.line()
    for table in (locked_table(body), layers_table(body)):
        if table is not None:
            draw(table, console)


def _render_file(found: Mapping[str, Any], console: Console) -> None:
    """Print what is known of a file."""
    from rich.table import Table
    from rich.text import Text

    from bnnkit.run.reporting.wording import bytes_text, clean

    facts = [("form", f"{found['kind']}, {bytes_text(found['bytes'])}")]
    facts += [(k, v) for k, v in found["metadata"].items() if len(v) < 200]
    if found["plan"]:
        facts.append(("plan", _plan_text(found["plan"])))
        if found["plan"].get("noise"):
            facts.append(("noise", _noise_text(found["plan"]["noise"])))
    for weights in found["weights"]:
        facts += _weights_facts(weights)
    for title in ("dangerous", "classes", "globals"):
        if found[title]:
            facts.append((title, _listed(found[title], 12)))
    facts += [("note", note) for note in found["notes"]]
    grid = Table(box=None, show_header=False, pad_edge=False, title_justify="left")
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        red = "red" if name == "dangerous" else ""
        grid.add_row(Text(clean(name)), Text(clean(value), style=red))
    console.print(Text(clean(found["path"]), style="bold"))
    console.print(grid)
    console.line()


def _noise_text(noise: Mapping[str, Any]) -> str:
    """Say how a stochastic net samples its batch-norm statistics."""
    return (
        f"{noise['sampler']} statistics of {noise['sites']} batch norms with {noise['channels']:,} "
        f"channels, at batches of {noise['batch_size']}; K = {noise['samples']}, temperature "
        f"{noise['temperature']:.3g}"
    )


def _plan_text(plan: Mapping[str, Any]) -> str:
    return (
        f"{plan['arch']}, {plan['method']}: {plan['kept']} of {plan['units']} units kept in "
        f"{plan['classes']} classes, form {plan['form']}"
    )


def _weights_facts(weights: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines about one set of weights: its place, its size, its first tensors."""
    from bnnkit.run.reporting.wording import count_text

    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in weights["dtypes"].items())
    place = f"at {weights['place']!r}: " if weights["place"] else ""
    prefix = f", prefix {weights['prefix']!r}" if weights["prefix"] else ""
    head = f"{place}{dtypes} tensors, {count_text(weights['numbers'])} numbers{prefix}"
    shapes = [f"{t['name']} {t['shape']}" for t in weights["tensors"]]
    return [("weights", head), ("", _listed(shapes, 6))]


def _listed(names: Sequence[str], most: int) -> str:
    """Write the first names, and how many there are besides."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _class_tree(body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a rich tree
    """Return the channel classes with who writes and who reads them."""
    from rich.text import Text
    from rich.tree import Tree

    from bnnkit.run.reporting.wording import clean, count_text

    removable = body["removable"]
    tree = Tree(
        Text(
            f"{removable['classes']} classes, {count_text(removable['units'])} units; "
            f"at most {_saved(removable['parameters'], 'parameters')} and "
            f"{_saved(removable['macs'], 'MACs')} can go",
            style="bold",
        )
    )
    for row in body["classes"][:_MOST]:
        bulk = f" of {row['bulk']} channels" if row["bulk"] > 1 else ""
        branch = tree.add(Text(f"{clean(row['name'])}  {row['size']} units{bulk}"))
        branch.add(Text(f"written by {clean(_listed(row['writers'], 4))}"))
        branch.add(Text(f"read by {clean(_listed(row['readers'], 4))}"))
    if len(body["classes"]) > _MOST:
        tree.add(Text(f"{len(body['classes']) - _MOST} more classes: see --json"))
    return tree


def _saved(saving: Mapping[str, Any], what: str) -> str:
    """Write a share, rounded down: all of a model can never go."""
    from bnnkit.run.reporting.wording import count_text

    share = math.floor(1000 * saving["share"]) / 10
    return f"{share} % of {count_text(saving['before'])} {what}"
