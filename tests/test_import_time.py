"""Help is quick: neither `import bnnkit` nor any --help loads torch or numpy."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import bnnkit
from bnnkit.cli.app import COMMANDS

HEAVY = {"torch", "numpy", "torchvision", "onnx", "onnxruntime", "sklearn", "scipy", "matplotlib"}
LIMIT = 0.25  # seconds of CPU time on an idle core

SHOW_HELP = """
import sys
from bnnkit.__main__ import main
code = main(sys.argv[1:])
print(code, *sorted(sys.modules), file=sys.stderr)
"""


def python(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr.split()


def cpu_seconds(code, *args):
    """Return the least user and system time of a few runs of a program."""
    times = []
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    return min(times)


def test_import_is_light():
    code = "import sys, bnnkit; dir(bnnkit); bnnkit.__version__; print(*sys.modules)"
    assert not HEAVY & set(python(code)[0].split())


@pytest.mark.parametrize("args", [[], *([name] for name, *_ in COMMANDS)], ids=" ".join)
def test_help_is_light(args):
    shown, (code, *modules) = python(SHOW_HELP, *args, "--help")
    assert code == "0"
    assert " ".join(["Usage: bnnkit", *args]) in shown
    assert not HEAVY & set(modules)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not tell a child's CPU time")
def test_help_takes_a_quarter_of_a_second():
    ours = cpu_seconds(
        "import sys; from bnnkit.__main__ import main; sys.exit(main(['--help']))",
    )
    # a busy machine stretches CPU time too: then typer with rich alone is the yardstick
    empty = "import typer; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"
    assert ours <= max(LIMIT, 1.6 * cpu_seconds(empty))


def test_every_public_name_resolves():
    missing = []
    for name in bnnkit.__all__:
        try:
            assert getattr(bnnkit, name) is not None
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert not missing, "\n".join(missing)


def test_the_table_and_the_list_agree():
    assert set(bnnkit._HOMES) | {"__version__"} == set(bnnkit.__all__)
    assert set(bnnkit.__all__) <= set(dir(bnnkit))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'prun'"):
        bnnkit.prun  # noqa: B018
