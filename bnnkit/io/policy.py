"""Which names a pickle of weights may refer to, and which mean that it could run a command."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from bnnkit.io.faults import FileFault, quote

__all__ = ["dangerous_names", "modern_name", "refuse_dangerous", "unknown_names"]

# Python 2 wrote these; unpicklers rename them, so the verdict must see the new name.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "commands": "subprocess"}

_STORAGES = (
    *("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"),
    *("ComplexFloat", "ComplexDouble", "QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4"),
)
_DTYPES = (
    *("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8"),
    *("uint16", "uint32", "uint64", "bool", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("half", "float", "double", "long", "int", "short", "strided"),
    *("per_tensor_affine", "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric"),
)
_TENSOR = frozenset(
    [f"torch.{kind}Storage" for kind in _STORAGES]
    + [f"torch.cuda.{kind}Storage" for kind in _STORAGES]
    + [f"torch.{dtype}" for dtype in _DTYPES]
    + [f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3")]
    + [f"torch._utils._rebuild_{kind}" for kind in ("parameter", "parameter_with_state")]
    + [f"torch._utils._rebuild_{kind}" for kind in ("qtensor", "sparse_tensor", "nested_tensor")]
    + [f"torch._utils._rebuild_device_tensor_from_{kind}" for kind in ("numpy", "cpu_tensor")]
    + ["torch._utils._rebuild_wrapper_subclass"]
    + ["torch._utils._rebuild_meta_tensor_no_storage", "torch._tensor._rebuild_from_type_v2"]
    + ["torch.storage.UntypedStorage", "torch.storage.TypedStorage", "torch.Tensor"]
    + ["torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Size"]
    + ["torch.device", "torch.serialization._get_layout", "torch.torch_version.TorchVersion"]
    + [f"torch.jit._pickle.build_{kind}list" for kind in ("int", "tensor", "double", "bool")]
    + ["torch.jit._pickle.restore_type_tag", "torch.jit._pickle.build_tensor_from_id"]
)
# Values that ride along in training checkpoints. Our reader puts an empty stand-in for each, and
# none of them executes anything in an ordinary unpickler either.
_PLAIN = frozenset(
    [f"collections.{kind}" for kind in ("OrderedDict", "defaultdict", "Counter", "deque")]
    + [f"builtins.{kind}" for kind in ("set", "frozenset", "list", "dict", "tuple", "int")]
    + [f"builtins.{kind}" for kind in ("float", "complex", "bool", "str", "bytes", "bytearray")]
    + [f"builtins.{kind}" for kind in ("object", "slice", "range")]
    + [f"pathlib{sub}.{kind}Path" for sub in ("", "._local") for kind in ("Posix", "Windows", "")]
    + [f"pathlib.Pure{kind}Path" for kind in ("Posix", "Windows", "")]
    + [f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")]
    + [f"numpy.{core}.multiarray.{kind}" for core in ("core", "_core")
       for kind in ("scalar", "_reconstruct")]
    + [f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")]
    + ["numpy.dtype", "numpy.ndarray", "argparse.Namespace", "types.SimpleNamespace"]
    + ["_codecs.encode", "copyreg._reconstructor", "functools.partial", "uuid.UUID"]
    + ["decimal.Decimal", "fractions.Fraction"]
)  # fmt: skip
_NUMPY_SCALARS = ("float", "int", "uint", "bool", "complex", "str_", "bytes_")

# Outside the standard library, which is refused whole (but for the names above).
_FOREIGN_MODULES = frozenset(
    (
        *("dill", "cloudpickle", "joblib", "pip", "setuptools", "pkg_resources", "requests"),
        *("IPython", "paramiko", "fabric", "pexpect", "sh", "plumbum", "invoke", "nt", "posix"),
        *("pwd", "commands", "popen2", "urllib2", "httplib", "_winreg", "cffi", "numba"),
    )
)
_FOREIGN_PREFIXES = (
    *("torch.hub", "torch.load", "torch.jit.load", "torch.package", "torch.ops", "torch.classes"),
    *("torch.utils.cpp_extension", "torch.utils.collect_env", "torch.multiprocessing"),
    *("torch._inductor", "torch.storage._load_from_bytes", "torch.serialization.load"),
    *("torch.distributed.elastic", "torch.distributed.run", "torch.distributed.launch"),
    *("torch.export.load", "numpy.load", "numpy.f2py", "numpy.testing", "numpy.distutils"),
    *("numpy.fromfile", "numpy.memmap"),
)
# A reference such as `torch.os.system` reaches these through another module.
_REACHED = frozenset({"os", "posix", "nt", "sys", "subprocess", "builtins", "importlib", "ctypes"})


def modern_name(module: str, name: str) -> str:
    """Return `module.name` with Python 2's names of a module replaced.

    >>> modern_name("__builtin__", "set")
    'builtins.set'
    """
    return f"{_RENAMED.get(module, module)}.{name}"


def _modern(name: str) -> str:
    head, dot, rest = name.partition(".")
    return modern_name(head, rest) if dot else name


def _is_known(name: str) -> bool:
    if name in _TENSOR or name in _PLAIN:
        return True
    head, _, last = name.rpartition(".")
    if head == "numpy":
        return last.startswith(_NUMPY_SCALARS) and last.rstrip("_0123456789").isalpha()
    return head == "numpy.dtypes" and last.endswith("DType")


def _is_dangerous(name: str) -> bool:
    parts = name.split(".")
    return (
        parts[0] in sys.stdlib_module_names
        or parts[0] in _FOREIGN_MODULES
        or any(name == p or name.startswith(f"{p}.") for p in _FOREIGN_PREFIXES)
        or not _REACHED.isdisjoint(parts)
        or any(part.startswith("__") for part in parts[1:] if parts[0] != "__torch__")
    )


def _is_class(name: str) -> bool:
    """Whether a name is written as Python's classes are: the only sign that bytes can give."""
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()


def dangerous_names(names: Iterable[str], called: Iterable[str] = ()) -> list[str]:
    """Return the names that could run a command, sorted.

    Args:
        names: Every global of a file's pickles.
        called: Those among them that are called; an unknown function there is dangerous too.
    """
    modern = {_modern(name) for name in names}
    bad = {name for name in modern if not _is_known(name) and _is_dangerous(name)}
    bad |= {n for n in map(_modern, called) if not _is_known(n) and not _is_class(n)}
    return sorted(bad)


def unknown_names(names: Iterable[str]) -> list[str]:
    """Return the classes and functions of the file that are no part of plain weights, sorted."""
    return sorted({n for n in map(_modern, names) if not _is_known(n)})


def refuse_dangerous(names: Iterable[str], called: Iterable[str] = ()) -> None:
    """Refuse a file whose pickles refer to anything that could run a command.

    Raises:
        FileFault: There is such a name; nothing was executed to find it.
    """
    if bad := dangerous_names(names, called):
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise FileFault(
            f"a pickle that refers to {quote(bad[0])}{more}",
            "loading it could run a command on this machine, and weights have no use for it; "
            "nothing was executed",
            "Do not load it; ask its author for safetensors, or pass --trust-pickle if you wrote "
            "it yourself",
        )
