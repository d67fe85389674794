"""`bnnkit doctor`: what it finds here, and that it works where things are missing."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

import bnnkit
from bnnkit.__main__ import main
from bnnkit.cli.doctor import EXAMPLE
from bnnkit.run import doctor as doctor_module
from bnnkit.run.doctor import doctor

# Runs the command with some packages out of reach, as if they had never been installed.
BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}")
blocked = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Block())
from bnnkit.__main__ import main
sys.exit(main(["doctor", *sys.argv[2:]]))
"""
OPTIONAL = "torchvision,onnx,onnxscript,onnxruntime,sklearn,scipy,matplotlib,jinja2,timm,PIL,numpy"


def blocked_run(packages, *args):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, packages, *args], capture_output=True, text=True
    )


def status(found):
    return {package["name"]: package["status"] for package in found["packages"]}


def test_the_library_call_tells_what_is_here():
    found = bnnkit.doctor()
    assert found["python"] == platform.python_version()
    assert found["usable"] is True
    packages = {package["name"]: package for package in found["packages"]}
    assert packages["torch"]["version"] == version("torch")
    assert packages["torch"]["status"] == "ok"
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert found["cpu"]["cores"] >= 1
    assert len(found["cuda"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert all(folder["free_bytes"] >= 0 for folder in found["folders"])


def test_json_is_the_same_and_nothing_else(capsys):
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert status(json.loads(out)) == status(doctor())
    assert err == ""


def test_the_tables_name_everything(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for package in doctor()["packages"]:
        assert package["name"] in out
    assert platform.python_version() in out


def test_the_example_in_the_help_has_the_rows_of_today(capsys):
    assert main(["doctor"]) == 0
    here = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    shown = [line.split("  ")[0] for line in EXAMPLE.splitlines()]
    assert set(filter(None, shown[3:-1])) - {"Everything is there."} <= set(here)


def test_works_with_nothing_optional():
    done = blocked_run(OPTIONAL)
    assert done.returncode == 0
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {row[0] for row in rows if row[1:3] == ["-", "missing"]} == {
        *("numpy", "torchvision", "onnx", "onnxscript", "onnxruntime", "scikit-learn", "scipy"),
        *("matplotlib", "jinja2", "timm"),
    }
    assert ["torch", version("torch"), "ok"] in [row[:3] for row in rows]


def test_without_torch_it_still_tells_and_exits_2():
    done = blocked_run("torch")
    assert done.returncode == 2
    assert "missing" in done.stdout
    assert "without torch" in done.stdout
    found = json.loads(blocked_run("torch", "--json").stdout)
    assert not found["usable"]
    assert status(found)["torch"] == "missing"
    assert found["cuda"] == []


def test_a_broken_torch_is_not_called_missing(monkeypatch, capsys):
    fault = "OSError: libtorch_cpu.so: cannot open shared object file"
    monkeypatch.setattr(doctor_module, "_import_torch", lambda: (None, fault))
    assert status(doctor())["torch"] == f"broken: {fault}"
    assert main(["doctor"]) == 2
    assert fault in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("text", "model", "flags"),
    [
        (
            "model name\t: Xeon\nflags\t\t: fpu avx2 avx512f amx_bf16\n",
            "Xeon",
            ["AVX2", "AVX-512", "AMX BF16"],
        ),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16\n", None, ["NEON", "SVE", "BF16"]),
    ],
)
def test_the_processor_is_read_from_the_kernel(tmp_path, text, model, flags):
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    found = doctor_module._cpu(file)
    assert found["flags"] == flags
    assert found["model"]
    assert model is None or found["model"] == model


def test_a_system_without_cpuinfo(tmp_path):
    found = doctor_module._cpu(tmp_path / "none")
    assert found["flags"] == []
    assert found["model"]


def test_a_folder_that_does_not_exist_yet(tmp_path):
    found = doctor_module._folder(tmp_path / "a" / "b")
    assert found["writable"]
    assert found["free_bytes"] > 0
    (tmp_path / "file").write_text("")
    assert not doctor_module._folder(tmp_path / "file" / "b")["writable"]
