"""The command line as a whole: help, versions, and what becomes of each kind of error."""

from __future__ import annotations

import errno
import importlib
import json
import subprocess
import sys
import warnings
from typing import Annotated

import pytest
import typer

import bnnkit
from bnnkit.__main__ import main
from bnnkit.cli import app as app_module
from bnnkit.cli.app import COMMANDS
from bnnkit.cli.console import (
    PlainProgress,
    TerminalProgress,
    print_json,
    stderr_console,
    stdout_console,
)
from bnnkit.cli.help import example
from bnnkit.errors import ArtefactError, ExitCode, FileRefusedError

REFUSAL = FileRefusedError(
    "Reading 'a.pt'", "'<html>'", "this is a web page", "Download it again."
)


@pytest.fixture
def command(monkeypatch):
    """Return a function that makes a body the command `try` of the application."""

    def install(body):
        def run(as_json: Annotated[bool, typer.Option("--json")] = False):
            return body()

        module = type(sys)("bnnkit_try")
        module.body = run
        module.EXAMPLE = example("bnnkit try [conv]", "a [1]\n\n  b")
        monkeypatch.setitem(sys.modules, "bnnkit_try", module)
        table = [*COMMANDS, ("try", "bnnkit_try", "body", "Try.")]
        monkeypatch.setattr(app_module, "COMMANDS", table)

    return install


def raising(error):
    def body():
        raise error

    return body


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"bnnkit {bnnkit.__version__}"


def test_no_command_shows_help(capsys):
    assert main([]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert "Usage: bnnkit" in out + err
    assert "doctor" in out + err


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(capsys, flag):
    assert main([flag]) == 0
    out = capsys.readouterr().out
    assert all(f"│ {name} " in out for name, *_ in COMMANDS)


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row[0])
def test_a_summary_is_the_first_line_of_the_command(row):
    _, path, function, summary = row
    described = getattr(importlib.import_module(path), function).__doc__
    assert " ".join(described.split("\n\n")[0].split()) == summary


@pytest.mark.parametrize("name", [name for name, *_ in COMMANDS])
def test_help_of_a_command_ends_with_an_example(capsys, name):
    assert main([name, "--help"]) == 0
    _, marker, ending = capsys.readouterr().out.partition("Example")
    assert marker
    assert f"$ bnnkit {name}" in ending
    assert len(ending.strip().splitlines()) > 1  # the command line and what it printed


def test_the_example_keeps_lines_spaces_and_brackets(capsys, command):
    command(lambda: None)
    assert main(["try", "--help"]) == 0
    lines = [line.strip("\n")[1:].rstrip() for line in capsys.readouterr().out.splitlines()]
    start = lines.index("Example")
    assert lines[start + 2 : start + 6] == ["$ bnnkit try [conv]", "a [1]", "", "  b"]


def test_unknown_command_is_answered(capsys):
    assert main(["doctr"]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error: Running a command: 'doctr'; bnnkit has no such command.\n"
        "  Did you mean 'doctor'?\n"
    )


@pytest.mark.parametrize("args", [["doctor", "--jsn"], ["doctor", "what"], ["--no-such"]])
def test_a_line_that_cannot_be_parsed_is_one_message(capsys, args):
    assert main(args) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 2
    assert "--help'." in err


def test_a_refusal_has_four_parts_and_its_code(capsys, command):
    command(raising(REFUSAL))
    assert main(["try"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("error: Reading 'a.pt': '<html>'; this is a web page.\n  Download it again.\n")


def test_a_refusal_as_json(capsys, command):
    command(raising(ArtefactError("Checking", "a difference of 3", hint="Report it.")))
    assert main(["try", "--json"]) == ExitCode.ARTEFACT
    out, err = capsys.readouterr()
    parts = {"what": "Checking", "found": "a difference of 3", "why": "", "hint": "Report it."}
    assert json.loads(out) == {"error": {**parts, "code": 4}}
    assert err == "error: Checking: a difference of 3.\n  Report it.\n"


def test_a_line_that_cannot_be_parsed_as_json(capsys):
    assert main(["doctor", "--json", "--no-such"]) == ExitCode.USAGE
    found = json.loads(capsys.readouterr().out)["error"]
    assert found == {
        "what": "Reading the command line of 'bnnkit doctor'",
        "found": "'--no-such'",
        "why": "there is no such option",
        "hint": "See 'bnnkit doctor --help'.",
        "code": 2,
    }
    assert main(["doctor", "more", "--json"]) == ExitCode.USAGE
    found = json.loads(capsys.readouterr().out)["error"]
    assert "more" in found["found"]
    assert all(found.values())


def test_a_near_miss_of_an_option_is_answered(capsys):
    assert main(["doctor", "--jsn"]) == ExitCode.USAGE
    assert "Did you mean '--json'?" in capsys.readouterr().err


# --- code that is not ours, such as an owner's net ------------------------------------------


def foreign(source):
    """Return a function of a module that is no part of bnnkit."""
    space = {"__name__": "owners_net"}
    exec(compile(source, "owners_net.py", "exec"), space)
    return space["body"]


@pytest.mark.parametrize("code", ["0", "None", "3", "'words'"])
def test_foreign_code_cannot_end_the_process(capsys, command, code):
    command(foreign(f"import sys\n\n\ndef body():\n    sys.exit({code})\n"))
    assert main(["try"]) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert f"SystemExit({code}) at owners_net.py:5" in err
    assert main(["try", "--json"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 2


def test_what_foreign_code_prints_is_not_in_the_json(capsys, command):
    net = foreign("def body():\n    print('from the net')\n")

    def body():
        net()
        print_json({"figure": 1.5})
        net()

    command(body)
    assert main(["try", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"figure": 1.5}
    assert err == "from the net\nfrom the net\n"
    command(lambda: (net(), stdout_console().print("a table")))
    assert main(["try"]) == 0
    assert capsys.readouterr().out == "from the net\na table\n"


def test_an_error_after_foreign_prints_is_json_alone(capsys, command):
    command(foreign("def body():\n    print('from the net')\n    raise ValueError('odd')\n"))
    assert main(["try", "--json"]) == ExitCode.INTERNAL
    assert "odd" in json.loads(capsys.readouterr().out)["error"]["found"]


def test_help_beside_json_stays_on_stdout(capsys):
    assert main(["doctor", "--json", "--help"]) == 0
    assert "Usage: bnnkit doctor" in capsys.readouterr().out


def test_foreign_text_cannot_steer_the_terminal(capsys, command):
    command(raising(FileRefusedError("Reading", "layer \x1b[2Jconv\x07 [bold]x[/bold]")))
    assert main(["try"]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\x07" not in err
    assert "layer \\x1b[2Jconv\\x07 [bold]x[/bold]" in err


def test_an_unforeseen_error_is_one_line(capsys, command):
    command(raising(ValueError("odd\nvalue")))
    assert main(["try"]) == ExitCode.INTERNAL
    err = capsys.readouterr().err
    assert err.startswith("error: internal fault: ValueError: odd")
    assert "--debug" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("args", [["try", "--debug"], ["--debug", "try"]])
def test_debug_shows_the_traceback(capsys, command, args):
    command(raising(ValueError("odd")))
    assert main(args) == ExitCode.INTERNAL
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in body" in err


@pytest.mark.parametrize("sentence", ["", "Stopped after epoch 3; go on with --resume."])
def test_an_interruption_is_told(capsys, command, sentence):
    command(raising(KeyboardInterrupt(sentence) if sentence else KeyboardInterrupt()))
    assert main(["try"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.strip() == (
        sentence or "Interrupted: nothing more was written."
    )


def test_an_exit_code_goes_through(command):
    command(raising(typer.Exit(ExitCode.GATE_FAILED)))
    assert main(["try"]) == 3
    command(lambda: ExitCode.INCONCLUSIVE)
    assert main(["try"]) == 5


def test_warnings_of_libraries_stay_away(capsys, command):
    def body():
        import logging

        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        logging.getLogger("torch.onnx").warning("opset")

    command(body)
    assert main(["try"]) == 0
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_quiet():
    code = "import sys; from bnnkit.__main__ import main; sys.exit(main(['doctor', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_consoles_in_a_log_are_wide_and_literal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert stderr_console().width >= 100
    stdout_console().print("conv[bold]1[/bold] :smile: " + "x" * 60)
    assert capsys.readouterr().out == "conv[bold]1[/bold] :smile: " + "x" * 60 + "\n"


def test_plain_progress_tells_now_and_then(capsys):
    now = [0.0]
    progress = PlainProgress(stderr_console(), every=10, clock=lambda: now[0])
    progress.start("training", total=100)
    for _ in range(50):
        now[0] += 1
        progress.advance(loss=0.5, kept=20)
    progress.note("learning rate halved")
    progress.stop()
    progress.stop()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training"
    assert lines[1] == "training: 10/100 (10%)  10 s  ETA 90 s  loss 0.5  kept 20"
    assert len([line for line in lines if "ETA" in line]) == 5
    assert lines[-2:] == [
        "learning rate halved",
        "training: 50/100 (50%)  50 s  loss 0.5  kept 20",
    ]


def test_terminal_progress_draws_a_bar(capsys):
    from rich.console import Console

    progress = TerminalProgress(Console(stderr=True, force_terminal=True, width=120))
    progress.advance()  # before any phase: nothing to move
    progress.start("training", total=4)
    progress.advance(4, loss=0.25)
    progress.stop()
    err = capsys.readouterr().err
    assert "4/4" in err
    assert "loss 0.25" in err


def test_a_full_disk_is_no_internal_fault(capsys, command):
    command(raising(OSError(errno.ENOSPC, "No space left on device", "run/model.pt2")))
    assert main(["try"]) == ExitCode.USAGE
    assert "'run/model.pt2'; No space left on device" in capsys.readouterr().err
