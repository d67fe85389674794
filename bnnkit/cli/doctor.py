"""`bnnkit doctor`: what this machine has and what it lacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bnnkit.cli.console import print_json, stdout_console
from bnnkit.cli.help import example
from bnnkit.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

__all__ = ["EXAMPLE", "doctor"]

EXAMPLE = example(
    "bnnkit doctor",
    """
bnnkit        0.1.0
python        3.11.7
system        Linux x86_64
cpu           AMD EPYC
cores         2, torch uses 2
memory        25.28 GB
vector units  AVX2
cuda          no device

package        version     status   needed for
torch          2.13.0+cpu  ok       everything but help and this page
numpy          2.4.6       ok       data and figures
safetensors    0.8.0       ok       model files
torchvision    0.28.0      ok       --arch torchvision:..., named image data
onnx           1.23.2      ok       reading and checking .onnx
onnxscript     0.7.2       ok       writing .onnx
onnxruntime    1.31.1      ok       running .onnx
scikit-learn   1.9.1       ok       the embedded digits
scipy          1.17.1      ok       confidence intervals
matplotlib     3.11.2      ok       plots of the report
jinja2         3.1.6       ok       report.html
typer          0.29.2      ok       the command line
rich           15.0.0      ok       tables and progress bars
timm           1.0.31      ok       --arch timm:...

folder for             writable  free      path
run directories        yes       81.41 GB  ~/nets
temporary files        yes       81.41 GB  /tmp
torch cache            yes       81.41 GB  ~/.cache/torch/hub
data and model caches  yes       81.41 GB  ~/.cache

Everything is there.
""",
)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> ExitCode:
    """Show versions, devices, optional parts and writable folders.

    Exits with 0, whatever optional part is missing; with 2 where torch is missing or broken.
    """
    from bnnkit.run.doctor import doctor as examine

    found = examine()
    if as_json:
        print_json(found)
    else:
        _render(found)
    return ExitCode.OK if found["usable"] else ExitCode.USAGE


def _render(found: dict[str, Any]) -> None:
    """Print the findings as tables, and what to do about them."""
    from bnnkit.run.reporting.wording import bytes_text

    console = stdout_console()
    cpu = found["cpu"]
    memory = cpu["memory_bytes"]
    facts = [
        ("bnnkit", found["bnnkit"] or "not installed"),
        ("python", found["python"]),
        ("system", found["system"]),
        ("cpu", cpu["model"]),
        ("cores", f"{cpu['cores']}" + (f", torch uses {cpu['threads']}" * bool(cpu["threads"]))),
        ("memory", bytes_text(memory) if memory else "unknown"),
        ("vector units", ", ".join(cpu["flags"]) or "unknown"),
    ]
    facts += [
        ("cuda", f"{d['name']}, {bytes_text(d['memory_bytes'])}, capability {d['capability']}")
        for d in found["cuda"]
    ] or [("cuda", "no device")]
    console.print(_table((), facts))
    packages = [
        (p["name"], p["version"] or "-", p["status"], p["purpose"]) for p in found["packages"]
    ]
    console.print(_table(("package", "version", "status", "needed for"), packages))
    folders = [
        (
            f["use"],
            "yes" if f["writable"] else "no",
            bytes_text(f["free_bytes"]),
            _short(f["path"]),
        )
        for f in found["folders"]
    ]
    console.print(_table(("folder for", "writable", "free", "path"), folders))
    for sentence in _advice(found):
        console.print(sentence, soft_wrap=True)


def _short(path: str) -> str:
    """Write the home folder as `~`."""
    home = str(Path.home())
    return (
        f"~{path.removeprefix(home)}" if path == home or path.startswith(home + os.sep) else path
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return rows without a frame, which reads the same on a terminal and in a log."""
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "yes": "green", "missing": "yellow", "no": "red"}
    table = Table(box=None, show_header=bool(columns), header_style="bold", pad_edge=False)
    for column in columns or ("", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    table.add_row()
    return table


def _advice(found: dict[str, Any]) -> list[str]:
    """Return what to type where something is missing."""
    missing = [p for p in found["packages"] if p["status"] == "missing"]
    extras = {p["extra"]: p["name"] for p in missing if p["extra"]}
    advice = [f"For {name}: pip install 'bnnkit[{extra}]'" for extra, name in extras.items()]
    required = [p["name"] for p in missing if not p["extra"]]
    if required:
        advice.append(f"Missing: {', '.join(required)}. Install bnnkit again to get them.")
    advice += [f"{p['name']} is {p['status']}" for p in found["packages"] if ":" in p["status"]]
    if not found["usable"]:
        advice.append("No command that touches a model works without torch.")
    return advice or ["Everything is there."]
