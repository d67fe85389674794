"""What becomes of an error: one message in four parts, an exit code, and never a traceback."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import typer
from rich.text import Text

from bnnkit.cli.console import print_json, results_alone, stderr_console
from bnnkit.errors import BnnkitError, ExitCode, UsageError

__all__ = ["Interrupted", "main", "print_error"]

# What typer raises for a command line that it cannot parse. Its own name for this class moved
# between versions, the place above BadParameter did not.
_ParseError: type[Exception] = typer.BadParameter.__mro__[2]


_HELP = frozenset({"-h", "--help"})
# Packages that end the process where the reader of a pipe has gone.
_EXITING = frozenset({"bnnkit", "click", "rich", "typer"})

# What the owner of the disk can mend; any other OSError is a fault of ours.
_DISK = frozenset(
    getattr(errno, name)
    for name in ("ENOENT", "ENOTDIR", "EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG")
    if hasattr(errno, name)  # not every system has all of them
)


class Interrupted(Exception):
    """Ctrl-C, taken through typer, which would swallow a KeyboardInterrupt and its sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit code, one of `bnnkit.errors.ExitCode`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = "--debug" in args, "--json" in args
    args = [arg for arg in args if arg != "--debug"]  # so that it may stand after the command too
    if not sys.stdout.isatty():
        os.environ.setdefault("TERMINAL_WIDTH", "100")  # typer's width of help in a pipe
    try:
        helped = not _HELP.isdisjoint(args)  # which is a result, and no JSON
        with _quiet_libraries(debug), results_alone() if as_json and not helped else nullcontext():
            code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        return _leave_pipe()
    except (KeyboardInterrupt, Interrupted) as interrupt:
        _say_interrupted(str(interrupt))
        return ExitCode.INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error, as_json=as_json)
    return code


def _run(args: list[str]) -> int:
    """Build the application and run it; return what the command exits with."""
    from bnnkit.cli.app import build_app  # the commands import this module

    command = typer.main.get_command(build_app())
    try:
        result = command(args, prog_name="bnnkit", standalone_mode=False)
    except SystemExit as stop:
        result = _exit_code(stop)
    if result == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else ExitCode.OK


def _exit_code(stop: SystemExit) -> object:
    """Return what rich and typer exit with where the reader of a pipe has gone.

    Raises:
        UsageError: Other code, such as the owner's net, tried to end the process.
    """
    frames = list(traceback.walk_tb(stop.__traceback__))
    module = str(frames[-1][0].f_globals.get("__name__", ""))
    if module.partition(".")[0] in _EXITING:
        return ExitCode.INTERNAL if isinstance(stop.code, str) else stop.code
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    library = os.path.dirname(os.__file__)
    own = [(path, line) for path, line in places if not path.startswith((library, "<"))]
    path, line = (own or places)[-1]
    raise UsageError(
        "Running the code that was given",
        f"SystemExit({stop.code!r}) at {path}:{line}",
        "code that a command calls may not end the process",
        "Let it raise an error, or return.",
    ) from stop


@contextmanager
def _quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep the warnings of torch and the ONNX packages, which no user can act on, off stderr."""
    if debug:
        yield
        return
    import logging
    import warnings

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _report(error: Exception, *, as_json: bool) -> int:
    """Tell an error on stderr, with `--json` on stdout as well, and return its exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help was its message
        return ExitCode.USAGE
    refusal = _as_refusal(error)
    if as_json:
        parts = {key: getattr(refusal, key) for key in ("what", "found", "why", "hint")}
        print_json({"error": {**parts, "code": int(refusal.code)}})
    print_error(refusal)
    return refusal.code


def print_error(error: BnnkitError) -> None:
    """Tell an error on stderr.

    Commands raise their errors; this is for one that has printed its JSON document already, and
    then ends with `typer.Exit(error.code)`.
    """
    stderr_console().print(_error_text(error), soft_wrap=True)


class _InternalFault(BnnkitError):
    """An exception that bnnkit did not foresee."""

    code = ExitCode.INTERNAL


def _as_refusal(error: Exception) -> BnnkitError:
    """Bring whatever was raised into the four parts."""
    if isinstance(error, BnnkitError):
        return error
    if isinstance(error, _ParseError):
        return _parse_refusal(error)
    if isinstance(error, typer.Abort):
        return UsageError("A question was left without an answer")
    if isinstance(error, OSError) and error.errno in _DISK:
        place = repr(str(error.filename)) if error.filename else "a file"
        hint = "Name a place that this user can write and that has room."
        return UsageError("Using the disk", place, error.strerror or "", hint)
    found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = "Run with --debug for the traceback and report it."
    return _InternalFault("internal fault", found, hint=hint)


def _parse_refusal(error: Exception) -> UsageError:
    """Say what of a command line cannot be parsed, from what typer says of it."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bnnkit"
    what, hint = f"Reading the command line of {command!r}", f"See '{command} --help'."
    if type(error).__name__ == "NoSuchOption":
        near = sorted(getattr(error, "possibilities", None) or ())
        if near:
            hint = f"Did you mean {' or '.join(map(repr, near))}? {hint}"
        option = str(getattr(error, "option_name", ""))
        return UsageError(what, repr(option), "there is no such option", hint)
    message = error.format_message()  # type: ignore[attr-defined]
    return UsageError(what, _sentence(message), "the command cannot be run so", hint)


def _sentence(text: str) -> str:
    """Return the text on one line without its full stop, which the message adds."""
    return " ".join(text.split()).rstrip(".")


def _error_text(error: BnnkitError) -> Text:
    """Write `error: what: found; why.` and the hint below it; colours show on a terminal only."""
    text = Text("error: ", style="bold red")
    text.append(_safe(error.what), style="not bold default")
    if error.found:
        text.append(": ", style="not bold default")
        text.append(_safe(error.found), style="bold default")
    if error.why:
        text.append(f"; {_safe(error.why)}", style="not bold default")
    if not text.plain.endswith((".", "?")):
        text.append(".", style="not bold default")
    if error.hint:
        text.append(f"\n  {_safe(error.hint)}", style="not bold cyan")
    return text


def _safe(text: str) -> str:
    r"""Show control characters instead of sending them: file and layer names are foreign text.

    >>> _safe("conv\x1b[31m")
    'conv\\x1b[31m'
    """
    flat = text.strip().replace("\n", "\n  ")
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in flat)


def _say_interrupted(sentence: str) -> None:
    """Tell that the user stopped the run, and what was left if the run said so."""
    stderr_console().print(_safe(sentence) or "Interrupted: nothing more was written.")


def _leave_pipe() -> int:
    """End quietly when the reader of stdout has gone, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.INTERNAL
