"""What this machine has: versions, devices, optional parts, and folders that can be written."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bnnkit.run.provenance import cpu_model

__all__ = ["doctor"]


@dataclass(frozen=True)
class _Part:
    """A package that bnnkit uses.

    Args:
        package: Name in a registry.
        module: Name in an import.
        purpose: What does not work without it.
        extra: The optional part of bnnkit that brings it; None where every install does.
    """

    package: str
    module: str
    purpose: str
    extra: str | None = None


_PARTS = (
    _Part("torch", "torch", "everything but help and this page"),
    _Part("numpy", "numpy", "data and figures"),
    _Part("safetensors", "safetensors", "model files"),
    _Part("torchvision", "torchvision", "--arch torchvision:..., named image data"),
    _Part("onnx", "onnx", "reading and checking .onnx"),
    _Part("onnxscript", "onnxscript", "writing .onnx"),
    _Part("onnxruntime", "onnxruntime", "running .onnx"),
    _Part("scikit-learn", "sklearn", "the embedded digits"),
    _Part("scipy", "scipy", "confidence intervals"),
    _Part("matplotlib", "matplotlib", "plots of the report"),
    _Part("jinja2", "jinja2", "report.html"),
    _Part("typer", "typer", "the command line"),
    _Part("rich", "rich", "tables and progress bars"),
    _Part("timm", "timm", "--arch timm:...", extra="timm"),
)

# What makes a CPU quick at these nets, as the kernel spells it on x86 and on Arm.
_FLAGS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-512 BF16": "avx512_bf16",
    "AVX-512 VNNI": "avx512_vnni",
    "AMX BF16": "amx_bf16",
    "AMX INT8": "amx_int8",
    "NEON": "asimd",
    "SVE": "sve",
    "BF16": "bf16",
}


def doctor() -> dict[str, Any]:
    """Return what this machine has and what it lacks; works where nothing optional is installed.

    Returns:
        `bnnkit` and `python` (versions), `system`, `packages` (list of `{name, version, status,
        purpose, extra}` with the status `ok`, `missing` or `broken: why`), `cpu` (`model`,
        `cores`, `memory_bytes`, `threads`, `flags`), `cuda` (list of `{name, memory_bytes,
        capability}`), `folders` (list of `{use, path, writable, free_bytes}`) and `usable`:
        whether torch works, without which no command does.
    """
    torch, fault = _import_torch()
    packages = [_package(part) for part in _PARTS]
    if fault and packages[0]["status"] == "ok":
        packages[0]["status"] = f"broken: {fault}"
    return {
        "bnnkit": _version("bnnkit"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "cpu": {**_cpu(), "threads": torch.get_num_threads() if torch else None},
        "cuda": _cuda(torch) if torch else [],
        "folders": _folders(torch),
        "usable": torch is not None,
    }


def _import_torch() -> tuple[Any, str]:
    """Return torch, or None and why it cannot be imported."""
    try:
        import torch
    except Exception as error:  # a broken shared library raises OSError, a stub anything
        return None, f"{type(error).__name__}: {error}"
    return torch, ""


def _version(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _package(part: _Part) -> dict[str, Any]:
    """Tell whether a package is there, without the seconds that importing it takes."""
    try:
        there = find_spec(part.module) is not None
    except (ImportError, ValueError):
        there = False
    return {
        "name": part.package,
        "version": _version(part.package) if there else None,
        "status": "ok" if there else "missing",
        "purpose": part.purpose,
        "extra": part.extra,
    }


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Return the processor, the cores and the memory that this process may use."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.partition(":") for line in text.splitlines()]
    flags = next(
        (v.split() for k, _, v in lines if k.strip().lower() in ("flags", "features")), []
    )
    affinity = getattr(os, "sched_getaffinity", None)
    memory = None
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "model": cpu_model(cpuinfo),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_bytes": memory,
        "flags": [name for name, spelled in _FLAGS.items() if spelled in flags],
    }


def _cuda(torch: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a module
    """Return the CUDA devices that this build of torch can use."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        {"name": p.name, "memory_bytes": p.total_memory, "capability": f"{p.major}.{p.minor}"}
        for p in found
    ]


def _folders(torch: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a module
    """Return the folders that commands write to, and whether they can."""
    uses = {"run directories": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    if torch:
        uses["torch cache"] = Path(torch.hub.get_dir())
    uses["data and model caches"] = Path.home() / ".cache"
    return [{"use": use, **_folder(path)} for use, path in uses.items()]


def _folder(path: Path) -> dict[str, Any]:
    """Tell whether a folder can be written, or made, and what is free on its disk."""
    nearest = next(p for p in (path, *path.parents) if p.exists())
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    free = shutil.disk_usage(nearest).free
    return {"path": str(path), "writable": writable, "free_bytes": free}
