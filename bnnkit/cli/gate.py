"""`bnnkit gate REPORT`: judge a report that was measured before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnnkit.cli.gate_options import GateFlags
from bnnkit.cli.groups import takes_groups
from bnnkit.cli.help import example
from bnnkit.errors import UsageError

if TYPE_CHECKING:
    from bnnkit.spec.report import Report

__all__ = ["EXAMPLE", "gate", "publish", "read_report"]

EXAMPLE = example(
    "bnnkit gate resnet20-prune --max-error-rise 1 --max-ece 2 --min-mac-ratio 2",
    """
Gates
  gate                 limit                  measured  verdict
  max-error-rise  ≤ 1 points  0.34 points [0.05, 0.63]  pass
  max-ece              ≤ 2 %       2.11 % [1.71, 2.51]  inconclusive
  min-mac-ratio         ≥ 2x                    2.548x  pass
""",
)


def read_report(path: Path) -> Report:
    """Read a report file, or the one in a run directory.

    Raises:
        UsageError: It cannot be read, or is no report.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        from bnnkit.spec.report import Report

        return Report.from_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            "Reading a report",
            repr(str(file)),
            error.strerror or type(error).__name__,
            "Name a report.json, or the run directory that holds it.",
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(
            "Reading a report",
            repr(str(file)),
            "this is not a bnnkit report",
            "Name the report.json of a run directory.",
        ) from error


def publish(report: Report, *, strict: bool, junit: Path | None) -> None:
    """Write the judged gates where a CI system looks for them.

    The Markdown summary goes to the file that `GITHUB_STEP_SUMMARY` names, where it is set.

    Args:
        report: A report with judged gates.
        strict: Whether an inconclusive gate is a failure.
        junit: Where the JUnit XML goes, if anywhere.

    Raises:
        UsageError: A file cannot be written.
    """
    from bnnkit.run.reporting.junit import to_junit
    from bnnkit.run.reporting.summary import to_markdown

    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    target = junit
    try:
        if junit is not None:
            junit.parent.mkdir(parents=True, exist_ok=True)
            name = f"bnnkit {report.command}"
            junit.write_text(to_junit(report.gates, strict=strict, name=name), encoding="utf-8")
        if summary:
            target = Path(summary)
            with target.open("a", encoding="utf-8") as stream:
                stream.write(to_markdown(report))
    except OSError as error:
        raise UsageError(
            "Writing the verdicts",
            repr(str(target)),
            error.strerror or type(error).__name__,
            "Name a file in a folder that you can write.",
        ) from error


@takes_groups
def gate(
    report: Annotated[
        Path, typer.Argument(help="A report.json, or the run directory that holds it.")
    ],
    *,
    gates: GateFlags,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Judge a report by its confidence bounds: exit 0, or 3 where a gate fails.

    It passes where the whole interval is on the good side of its limit.
    It fails where the whole interval is on the bad side (exit 3).
    In between it is inconclusive (exit 0, or 5 with --strict).
    A figure that the report lacks is bad usage (exit 2).
    """
    from bnnkit.cli.console import print_json, stdout_console
    from bnnkit.cli.errors import print_error
    from bnnkit.cli.tables import render_gates
    from bnnkit.run.gates import judge, missing_error

    options = gates.options()
    if not options.limits():
        raise UsageError(
            "Judging a report",
            "no gate",
            "without a limit there is nothing to judge",
            "Add one, such as --max-error-rise 0.5 or --min-speedup 1.5.",
        )
    measured = read_report(report)
    result = judge(measured, options)
    measured.gates = result.rows
    code = int(result.exit_code)
    if as_json:
        print_json({"command": "gate", "gates": result.rows, "exit_code": code})
    else:
        render_gates(measured, stdout_console())
    publish(measured, strict=gates.strict, junit=gates.junit)
    error = missing_error(result.rows)
    if error is not None and as_json:
        print_error(error)  # the verdicts are on stdout already: no second document there
        raise typer.Exit(error.code)
    if error is not None:
        raise error
    raise typer.Exit(code)
