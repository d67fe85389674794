"""How a command that measures ends: its report written, shown and judged, and the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bnnkit.cli.console import print_json, stdout_console
from bnnkit.cli.errors import print_error
from bnnkit.cli.gate import publish
from bnnkit.errors import UsageError
from bnnkit.spec.gates import GateOptions

if TYPE_CHECKING:
    from bnnkit.spec.report import Report

__all__ = ["conclude", "write_report"]


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON, or as a page where the name ends in `.html`.

    Raises:
        UsageError: The file cannot be written.
    """
    from bnnkit.run.reporting.html import render_html

    page = path.suffix.lower() in (".html", ".htm")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_html(report) if page else report.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "Writing the report",
            repr(str(path)),
            error.strerror or type(error).__name__,
            "Name a file in a folder that you can write.",
        ) from error


def conclude(
    report: Report,
    gates: GateOptions | None = None,
    *,
    as_json: bool = False,
    report_file: Path | None = None,
    junit: Path | None = None,
    closing: str | None = None,
) -> None:
    """Judge a report, write it, show it, and end the process where a gate asks for it.

    Args:
        report: What was measured.
        gates: Its limits; None and empty ones judge nothing.
        as_json: Whether JSON is printed instead of tables.
        report_file: Where the report goes, if anywhere.
        junit: Where the verdicts go as JUnit XML, if anywhere.
        closing: Line under the tables; none where JSON is printed.

    Raises:
        UsageError: A file cannot be written, or a gate lacks its figure.
        typer.Exit: A gate failed, or is inconclusive under `strict`.
    """
    from bnnkit.cli.tables import render
    from bnnkit.run.gates import judge, missing_error

    gates = gates or GateOptions()
    result = judge(report, gates)
    report.gates = result.rows
    if report_file is not None:
        write_report(report, report_file)
    if as_json:
        print_json(report.to_dict())
    else:
        console = stdout_console()
        render(report, console)
        if closing is not None:
            console.print(closing)
    if result.rows:
        publish(report, strict=gates.strict, junit=junit)
    if (error := missing_error(result.rows)) is not None:
        print_error(error)  # the report is already on stdout: no second document there
        raise typer.Exit(error.code)
    if result.exit_code:
        raise typer.Exit(int(result.exit_code))
