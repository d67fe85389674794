"""Where a report comes from: versions, command, seed and hardware, but no host or user name."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["collect_provenance", "cpu_model", "public_argv", "versions"]

_PACKAGES = (
    "bnnkit",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "safetensors",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, or its architecture where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def public_argv(argv: Sequence[str], home: Path | None = None) -> list[str]:
    """Return a command line without the home directory, whose path names its user.

    >>> public_argv(["/home/ada/.venv/bin/bnnkit", "prune", "/home/ada/m.pt"], Path("/home/ada"))
    ['bnnkit', 'prune', '~/m.pt']
    """
    root = str(home or Path.home()).rstrip("/\\")
    if not root:
        return ["bnnkit", *argv[1:]]
    prefix = re.compile(re.escape(root) + r"(?=[/\\]|$)")
    return ["bnnkit", *(prefix.sub("~", arg) for arg in argv[1:])]


def collect_provenance(
    argv: Sequence[str],
    *,
    seed: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    started: datetime | None = None,
) -> dict[str, Any]:
    """Return the provenance of a run that ends now.

    Args:
        argv: The command line, the program first; empty for a library call.
        seed: Seed of every generator.
        device: Where the model ran.
        threads: CPU threads of one operation; None asks torch.
        started: When the run began, with its time zone; None means now.

    Returns:
        `versions`, `argv`, `seed`, `device`, `threads`, `hardware`, `started` (UTC) and `seconds`.
    """
    import torch

    hardware: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name(torch.device(device))
        hardware["cuda"] = torch.version.cuda
    now = datetime.now(UTC)
    begun = (started or now).astimezone(UTC)
    return {
        "versions": versions(),
        "argv": public_argv(argv) if argv else [],
        "seed": seed,
        "device": device,
        "threads": torch.get_num_threads() if threads is None else threads,
        "hardware": hardware,
        "started": begun.isoformat(timespec="seconds"),
        "seconds": round((now - begun).total_seconds(), 3),
    }
