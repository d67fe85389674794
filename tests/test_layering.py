"""The arrows of docs/architecture.md, and what may appear where: every file is parsed."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bnnkit"

# Of ours. `spec` and `errors` may be imported by all; the first part of a module names its layer.
COMMON = {"spec", "errors"}
ARROWS = {
    "errors": set(),
    "spec": set(),
    "bayes": set(),
    "layers": {"bayes"},
    "zoo": set(),
    "graph": set(),
    "metrics": set(),
    "io": {"graph", "zoo"},
    "methods": {"bayes", "layers", "graph", "metrics"},
    "run": {"bayes", "layers", "zoo", "graph", "metrics", "io", "methods"},
    "cli": {"run"},
    "__init__": {"run", "methods"},
    "__main__": {"cli"},
}
# Of others, at any depth. Optional packages live in one file each; scikit-learn and scipy are
# dependencies, that any file of the layers below may use inside a function.
PURE = {"torch"}
OPTIONAL = {
    *("torchvision", "timm", "onnx", "onnxruntime", "onnxscript"),
    *("matplotlib", "jinja2", "sklearn", "scipy", "PIL", "zuko"),
}
THIRD_PARTY = {
    "errors": set(),
    "spec": set(),
    "bayes": PURE,
    "layers": PURE,
    "zoo": PURE,
    "graph": PURE,
    "metrics": {*PURE, "scipy"},
    "methods": {*PURE, "sklearn", "zuko"},
    "io": {"torch", "numpy", "safetensors", *OPTIONAL},
    "run": {"torch", "numpy", *OPTIONAL},
    "cli": {"typer", "rich"},
    "__init__": set(),
    "__main__": set(),
}
NUMPY_LOCAL = {"Generator", "default_rng", "SeedSequence", "PCG64", "BitGenerator"}
RANDOM_LOCAL = {"Random", "SystemRandom"}


def dotted(node):
    """Return `a.b.c` of an attribute chain, or an empty text."""
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return node.id if isinstance(node, ast.Name) else ""


class Reader(ast.NodeVisitor):
    """Collects what one file imports and does that the rules speak of.

    `modules` holds `(line, module, inside a function, for type checkers only)`, `faults` what is
    forbidden whatever the layer, `process` what only the command line may do.
    """

    def __init__(self, tree):
        self.modules, self.faults, self.process = [], [], []
        self.names = {}
        self.depth = self.typing = self.forked = 0
        self.visit(tree)

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_If(self, node):
        typing = dotted(node.test).endswith("TYPE_CHECKING")
        self.typing += typing
        for child in node.body:
            self.visit(child)
        self.typing -= typing
        for child in (node.test, *node.orelse):
            self.visit(child)

    def visit_With(self, node):
        forks = sum(
            isinstance(item.context_expr, ast.Call)
            and dotted(item.context_expr.func).endswith("fork_rng")
            for item in node.items
        )
        self.forked += forks
        self.generic_visit(node)
        self.forked -= forks

    def note(self, node, module):
        self.modules.append((node.lineno, module, self.depth > 0, self.typing > 0))

    def visit_Import(self, node):
        for alias in node.names:
            self.note(node, alias.name)
            bound = alias.asname or alias.name.partition(".")[0]
            self.names[bound] = alias.name if alias.asname else bound

    def visit_ImportFrom(self, node):
        if node.level:
            self.faults.append((node.lineno, "relative import"))
            return
        for alias in node.names:
            # `from bnnkit import run` names a layer, `from bnnkit.run import doctor` a module
            deeper = node.module == "bnnkit" and alias.name != "__version__"
            self.note(node, f"bnnkit.{alias.name}" if deeper else node.module)
            self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            self.use(node, f"{node.module}.{alias.name}")

    def visit_Attribute(self, node):
        head, _, rest = dotted(node).partition(".")
        if rest and head in self.names:
            self.use(node, f"{self.names[head]}.{rest}")
        self.generic_visit(node)

    def visit_Call(self, node):
        name = dotted(node.func)
        if name in ("print", "exit", "quit", "breakpoint", "input"):
            self.process.append((node.lineno, name))
        dynamic = name.endswith("import_module") or name == "__import__"
        if dynamic and node.args and isinstance(node.args[0], ast.Constant):
            self.note(node, str(node.args[0].value))
        self.generic_visit(node)

    def use(self, node, name):
        """Judge the use of a name that is not ours."""
        if name in ("sys.exit", "os.environ", "os.getenv", "os.putenv", "os.environb", "os._exit"):
            self.process.append((node.lineno, name))
        seeds = (
            "torch.manual_seed",
            "torch.seed",
            "torch.random.manual_seed",
            "torch.random.seed",
        )
        if (name in seeds or name.startswith("torch.default_generator")) and not self.forked:
            self.faults.append((node.lineno, f"global random state: {name}"))
        for state, local in (("numpy.random.", NUMPY_LOCAL), ("random.", RANDOM_LOCAL)):
            if name.startswith(state) and name.removeprefix(state).partition(".")[0] not in local:
                self.faults.append((node.lineno, f"global random state: {name}"))


def layer_of(relative):
    """Return the layer that a file belongs to, by its path under the package."""
    first = Path(relative).parts[0]
    return first.removesuffix(".py")


LAZY = {"sklearn", "scipy"}


def judge_import(layer, module, in_function, for_types):
    """Return why a layer may not import a module, or an empty text."""
    head, _, rest = module.partition(".")
    if head == "bnnkit":
        target = rest.partition(".")[0]
        if target in ("", layer):
            return ""
        if target in COMMON and layer not in ("errors", "spec"):
            return ""
        if layer == "spec" and target == "errors":
            return ""
        return "" if target in ARROWS[layer] else f"{layer} may not import {module}"
    if head in sys.stdlib_module_names:
        return ""
    if head not in THIRD_PARTY[layer]:
        return f"{layer} may not import {head}"
    if head in OPTIONAL and not in_function and not for_types:
        return f"{head} is optional: import it inside a function"
    return ""


def judge(sources):
    """Return every broken rule of `{path under the package: source}`, one line each."""
    broken, homes = [], defaultdict(set)
    for relative, source in sources.items():
        layer, reader = layer_of(relative), Reader(ast.parse(source))
        found = list(reader.faults)
        if layer not in ("cli", "__main__"):
            found += [(line, f"{name} outside the command line") for line, name in reader.process]
        for line, module, in_function, for_types in reader.modules:
            if why := judge_import(layer, module, in_function, for_types):
                found.append((line, why))
            head = module.partition(".")[0]
            if head in OPTIONAL - LAZY and not for_types:
                homes[head].add(relative)
        broken += [f"bnnkit/{relative}:{line}: {why}" for line, why in found]
    for head, files in homes.items():
        if len(files) > 1:
            broken.append(f"{head} is imported in more than one file: {', '.join(sorted(files))}")
    return broken


def test_every_file_keeps_to_its_layer():
    sources = {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    assert {layer_of(name) for name in sources} <= set(ARROWS)
    broken = judge(sources)
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bayes/kl.py", "from bnnkit.graph import trace"),
        ("bayes/kl.py", "from bnnkit import layers"),
        ("methods/sbp.py", "def fit():\n    import bnnkit.io.models"),
        ("methods/sbp.py", "def fit():\n    from importlib import import_module\n"
                           "    import_module('bnnkit.io')"),
        ("cli/prune.py", "from bnnkit.methods.sbp import fit"),
        ("cli/prune.py", "def prune():\n    import torch"),
        ("spec/data.py", "import numpy"),
        ("errors.py", "from bnnkit.spec import Plan"),
        ("run/report.py", "from rich.table import Table"),
        ("graph/trace.py", "from ..io import data"),
        ("io/onnx.py", "import onnx"),
        ("metrics/ece.py", "def ece():\n    from sklearn.metrics import brier_score_loss"),
        ("run/bench.py", "print('done')"),
        ("run/bench.py", "import sys\nsys.exit(1)"),
        ("run/bench.py", "from os import environ"),
        ("run/bench.py", "import os\nos.environ['A'] = 'b'"),
        ("layers/gate.py", "import torch\ntorch.manual_seed(0)"),
        ("layers/gate.py", "import torch as t\nt.manual_seed(0)"),
        ("io/data.py", "import numpy as np\nnp.random.rand(3)"),
        ("io/data.py", "from numpy.random import seed"),
        ("io/data.py", "import random\nrandom.shuffle([])"),
    ],
)  # fmt: skip
def test_a_breach_is_found(path, source):
    assert judge({path: source})


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("methods/sbp.py", "import torch\nfrom bnnkit.layers.gate import Gate"),
        (
            "methods/sbp.py",
            "from bnnkit.errors import TrainingError\nfrom bnnkit.spec import Plan",
        ),
        ("spec/plan.py", "from bnnkit.errors import StructureError"),
        ("io/onnx.py", "def write():\n    import onnx"),
        ("io/onnx.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx"),
        ("io/data.py", "import numpy as np\nnp.random.default_rng(0)"),
        ("io/data.py", "import torch\nwith torch.random.fork_rng():\n    torch.manual_seed(0)"),
        ("io/data.py", "import torch\ntorch.Generator().manual_seed(0)"),
        ("cli/gate.py", "import os\nos.environ.get('CI')"),
        ("__main__.py", "import sys\nfrom bnnkit.cli.errors import main\nsys.exit(main())"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert judge({path: source}) == []


def test_one_home_for_an_optional_package():
    use = "def f():\n    import timm"
    assert judge({"io/a.py": use}) == []
    assert judge({"io/a.py": use, "io/b.py": use}) == [
        "timm is imported in more than one file: io/a.py, io/b.py"
    ]
