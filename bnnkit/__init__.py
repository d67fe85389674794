"""Post-hoc surgery on pretrained PyTorch models with Bayesian methods: slim, exact, measured.

Everything that a command does is one call here, with the same defaults. The names are resolved
when they are first used, so that `import bnnkit` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnnkit.errors import (
        ArchitectureError,
        ArtefactError,
        BnnkitError,
        DataError,
        ExitCode,
        FileRefusedError,
        StructureError,
        TrainingError,
        UsageError,
    )
    from bnnkit.methods import sbn
    from bnnkit.run.avo_toy import avo_toy
    from bnnkit.run.bench import bench
    from bnnkit.run.demo import demo
    from bnnkit.run.doctor import doctor
    from bnnkit.run.evaluation import evaluate
    from bnnkit.run.export import export
    from bnnkit.run.gates import judge as gate
    from bnnkit.run.inspect import inspect
    from bnnkit.run.load import load
    from bnnkit.run.mh_filter import mh_filter
    from bnnkit.run.mh_proposal import mh_proposal
    from bnnkit.run.prune import prune
    from bnnkit.run.sbn import sbn_fit
    from bnnkit.run.sweep import sweep
    from bnnkit.run.train import train
    from bnnkit.run.vae_eval import vae_eval
    from bnnkit.run.vae_fit import vae_fit
    from bnnkit.run.vae_refine import vae_refine
    from bnnkit.spec import DataSpec, ModelSpec, Plan, Quantity, Report
    from bnnkit.spec.vae import VaeSpec

    __version__: str

__all__ = [
    "ArchitectureError",
    "ArtefactError",
    "BnnkitError",
    "DataError",
    "DataSpec",
    "ExitCode",
    "FileRefusedError",
    "ModelSpec",
    "Plan",
    "Quantity",
    "Report",
    "StructureError",
    "TrainingError",
    "UsageError",
    "VaeSpec",
    "__version__",
    "avo_toy",
    "bench",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "gate",
    "inspect",
    "load",
    "mh_filter",
    "mh_proposal",
    "prune",
    "sbn",
    "sbn_fit",
    "sweep",
    "train",
    "vae_eval",
    "vae_fit",
    "vae_refine",
]

# Where each public name lives: `module` (under its own name), `module:name` or `module:` itself.
_HOMES = {
    "ArchitectureError": "bnnkit.errors",
    "ArtefactError": "bnnkit.errors",
    "BnnkitError": "bnnkit.errors",
    "DataError": "bnnkit.errors",
    "DataSpec": "bnnkit.spec",
    "ExitCode": "bnnkit.errors",
    "FileRefusedError": "bnnkit.errors",
    "ModelSpec": "bnnkit.spec",
    "Plan": "bnnkit.spec",
    "Quantity": "bnnkit.spec",
    "Report": "bnnkit.spec",
    "StructureError": "bnnkit.errors",
    "TrainingError": "bnnkit.errors",
    "UsageError": "bnnkit.errors",
    "VaeSpec": "bnnkit.spec.vae",
    "avo_toy": "bnnkit.run.avo_toy",
    "bench": "bnnkit.run.bench",
    "demo": "bnnkit.run.demo",
    "doctor": "bnnkit.run.doctor",
    "evaluate": "bnnkit.run.evaluation",
    "export": "bnnkit.run.export",
    "gate": "bnnkit.run.gates:judge",
    "inspect": "bnnkit.run.inspect",
    "load": "bnnkit.run.load",
    "mh_filter": "bnnkit.run.mh_filter",
    "mh_proposal": "bnnkit.run.mh_proposal",
    "prune": "bnnkit.run.prune",
    "sbn": "bnnkit.methods.sbn:",
    "sbn_fit": "bnnkit.run.sbn",
    "sweep": "bnnkit.run.sweep",
    "train": "bnnkit.run.train",
    "vae_eval": "bnnkit.run.vae_eval",
    "vae_refine": "bnnkit.run.vae_refine",
    "vae_fit": "bnnkit.run.vae_fit",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: object = version("bnnkit")
        except PackageNotFoundError:  # run from a checkout that was never installed
            value = "0+unknown"
    elif name in _HOMES:
        module, colon, inner = _HOMES[name].partition(":")
        home = import_module(module)
        value = home if colon and not inner else getattr(home, inner or name)
    else:
        raise AttributeError(f"module 'bnnkit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, those that were not used yet as well."""
    return sorted({*globals(), *__all__})
