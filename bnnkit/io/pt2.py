"""Reading `.pt2` without running anything that a stranger put into it.

`torch.export.load` trusts its file: it unpickles with code, looks operators up with `getattr` from
the root of torch (`torch.hub.os.system` is reachable), hands size expressions to `sympify` (an
`eval`) and executes guard strings and graph names as source. So each of these is checked first,
against what `torch.export.save` writes for a model of plain tensors, and only what was checked is
handed on.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from bnnkit.errors import FileRefusedError

__all__ = ["read_pt2"]

_MEMBER = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)"
)
_PLAIN = re.compile(r"[\w .,:<>+\-/*]*")  # no quote, bracket or newline: cannot become code
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed)\.(?!from_file)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|torch\.sym_(float|int|max|min|not|sum|sqrt|ite)|math\.(ceil|floor|trunc|sqrt)"
)
_CALLS = frozenset(
    [
        "Symbol",
        "Integer",
        "Float",
        "Rational",
        "Add",
        "Mul",
        "Pow",
        "Max",
        "Min",
        "Mod",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "PowByNatural",
        "FloatTrueDiv",
        "IntTrueDiv",
        "TruncToFloat",
        "TruncToInt",
        "RoundToInt",
        "ToFloat",
        "Identity",
    ]
)
_NODES = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp),
    *(ast.UnaryOp, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
)
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def read_pt2(path: str | Path) -> torch.export.ExportedProgram:
    """Load a `.pt2` file of plain tensors and operators.

    Args:
        path: The file.

    Returns:
        The program. Its guards were dropped: they are source text.

    Raises:
        FileRefusedError: The file is broken, or holds anything that could run code.
    """
    asked = f"Opening {str(path)!r}"
    try:
        members = _members(Path(path), asked)
        _check(members, asked)
        # loaded from what was checked: another reader could see another zip in the same bytes
        program = torch.export.load(_pack(members))
    except FileRefusedError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise FileRefusedError(
            asked,
            f"{type(error).__name__}: {first}",
            "it is not a .pt2 file that this version of torch reads",
            "Save it again with torch.export.save.",
        ) from error
    return program


def _members(path: Path, asked: str) -> dict[str, bytes]:
    """Read the members of the archive, without its root folder."""
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            if info.compress_type != zipfile.ZIP_STORED or not _MEMBER.fullmatch(name):
                raise _refused(asked, f"the member {info.filename[:200]!r}")
            members[name] = archive.read(info)
    return members


def _check(members: dict[str, bytes], asked: str) -> None:
    """Refuse anything that loading would run."""
    sample = members.get("data/sample_inputs/model.pt")
    if sample:
        try:
            torch.load(io.BytesIO(sample), weights_only=True, map_location="cpu")
        except Exception as error:
            raise _refused(
                asked, "a pickle in its sample inputs that is more than data"
            ) from error
    for kind in ("weights", "constants"):
        config = json.loads(members[f"data/{kind}/model_{kind}_config.json"])["config"]
        pickled = [name for name, entry in config.items() if entry["use_pickle"] is not False]
        if pickled:
            raise _refused(asked, f"the pickled tensor {pickled[0][:200]!r}")
    model = json.loads(members["models/model.json"])
    model["guards_code"] = []
    _walk(model, "", asked)
    members["models/model.json"] = json.dumps(model).encode()


def _walk(node: Any, key: str, asked: str) -> None:  # noqa: ANN401 - JSON is any tree
    """Check every string of the graph by the place where it stands."""
    if isinstance(node, dict):
        if "metadata" in node:  # stack traces and names of modules: not needed to run
            node["metadata"] = {}
        for name, value in node.items():
            _require(_PLAIN.fullmatch(name) or _is_size(name), name, asked)
            _walk(value, name, asked)
    elif isinstance(node, list):
        for value in node:
            _walk(value, key, asked)
    elif isinstance(node, str):
        if key in ("target", "as_operator"):
            _require(_OPERATOR.fullmatch(node), node, asked)
        elif key == "expr_str":
            _require(_is_size(node), node, asked)
        elif key in ("in_spec", "out_spec"):
            _require(not node or _is_tree(json.loads(node)[1]), node, asked)
        else:
            _require(_PLAIN.fullmatch(node), node, asked)


def _is_size(text: str) -> bool:
    """Tell whether a text is arithmetic on sizes: `Mul(Integer(2), Symbol('s0', ...))`."""
    if len(text) > 4000:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            return False
        if isinstance(node, ast.Name):
            known = (
                node.id in _CALLS if id(node) in called else re.fullmatch(r"[a-z]+\d+", node.id)
            )
            if not known and node.id not in ("oo", "int_oo"):
                return False
        if isinstance(node, ast.Constant) and not re.fullmatch(r"[\w.+-]+", str(node.value)):
            return False
    return True


def _is_tree(spec: Any) -> bool:  # noqa: ANN401 - JSON is any tree
    """Tell whether a structure of inputs or outputs is made of plain containers."""
    context = json.loads(spec["context"]) if spec["context"] else None
    plain = context is None or (
        isinstance(context, list) and all(isinstance(k, str | int) for k in context)
    )
    return spec["type"] in _TREES and plain and all(map(_is_tree, spec["children_spec"]))


def _pack(members: dict[str, bytes]) -> io.BytesIO:
    """Write the checked members as a fresh archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"model/{name}", data)
    buffer.seek(0)
    return buffer


def _require(holds: object, text: str, asked: str) -> None:
    """Refuse a string that stands where it could become code."""
    if not holds:
        raise _refused(asked, f"{text[:200]!r}")


def _refused(asked: str, found: str) -> FileRefusedError:
    """Word the refusal of a file that could run code."""
    return FileRefusedError(
        asked,
        found,
        "loading it could run code, or it is more than tensors and operators",
        "Export the model again from its source with torch.export.",
    )
