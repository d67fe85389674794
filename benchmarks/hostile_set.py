"""The set of hostile and broken model files that `hostile_files.py` and the tests read."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Call", "Case", "Net", "broken_cases", "hostile_cases", "mutations", "payloads"]


@dataclass(frozen=True)
class Case:
    """One file of the set.

    Args:
        kind: `hostile`, `broken` or the kind of mutation.
        name: What is wrong with it.
        path: The file.
        original: The file it is a mutation of.
    """

    kind: str
    name: str
    path: Path
    original: Path | None = None


class Call:
    """Pickles as a call of a function, by REDUCE."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def payloads(command: str) -> dict[str, bytes]:
    """Return pickles that run a shell command when an ordinary unpickler loads them.

    Args:
        command: The command; it must contain no newline and no quote.
    """
    import cProfile
    import timeit

    text = command.encode()
    code = f"import os; os.system('{command}')"
    system = b"cos\nsystem\n(V" + text + b"\ntR."
    unicode = b"X" + len(text).to_bytes(4, "little") + text
    return {
        "REDUCE os.system": system,
        "REDUCE posix.system": system.replace(b"cos\n", b"cposix\n"),
        "REDUCE os.popen": system.replace(b"system", b"popen"),
        "REDUCE subprocess.getoutput": pickle.dumps(Call(subprocess.getoutput, command), 2),
        "REDUCE subprocess.Popen": pickle.dumps(
            Call(subprocess.Popen, ["sh", "-c", command]), 2
        ),
        "REDUCE builtins.eval": b"cbuiltins\neval\n(V__import__('os').system('%s')\ntR." % text,
        "REDUCE builtins.exec": pickle.dumps(Call(exec, code), 2),
        "REDUCE __builtin__.eval (Python 2)": b"c__builtin__\neval\n"
        b"(V__import__('os').system('%s')\ntR." % text,
        "REDUCE timeit.timeit": pickle.dumps(
            Call(timeit.timeit, code, "pass", timeit.default_timer, 1), 2),
        "REDUCE cProfile.run": pickle.dumps(Call(cProfile.run, code), 2),
        "REDUCE runpy._run_code": b"crunpy\n_run_code\n(V%s\n}tR." % code.encode(),
        "REDUCE pickle.loads of a pickle": pickle.dumps(Call(pickle.loads, system), 3),
        "getattr on __import__, then a call": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\n"
        b"tRVsystem\ntR(V%s\ntR." % text,
        "operator.attrgetter": b"coperator\nattrgetter\n(Vsystem\ntR(cimportlib\nimport_module\n"
        b"(Vos\ntRtR(V%s\ntR." % text,
        "INST opcode": b"(V%s\nios\nsystem\n." % text,
        "OBJ opcode": b"(cos\nsystem\nV%s\no." % text,
        "STACK_GLOBAL from the memo": b"\x80\x04\x8c\x06system\x94\x8c\x02os\x9400h\x01h\x00\x93"
        + unicode + b"\x85R.",
        "STACK_GLOBAL torch, os.system": b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93"
        + unicode + b"\x85R.",
        "copyreg extension code": b"\x80\x02ccopyreg\nadd_extension\n(Vos\nVsystem\nK\xf0tR0"
        b"\x82\xf0" + unicode + b"\x85R.",
        "BUILD on functools.partial": b"\x80\x02cfunctools\npartial\ncbuiltins\nprint\n\x85R(cos\n"
        b"system\n" + unicode + b"\x85}}tb)R.",
        "__setstate__ planted on a class": b"\x80\x02cargparse\nNamespace\n(N}X\x0c\x00\x00\x00"
        b"__setstate__cos\nsystem\nstb0cargparse\nNamespace\n)\x81" + unicode + b"b.",
        "NEWOBJ_EX, then BUILD": b"\x80\x04cargparse\nNamespace\n)}\x92}X\x01\x00\x00\x00acos\n"
        b"system\n" + unicode + b"\x85Rsb.",
        "REDUCE of an unknown function": b"cbeside_the_file\nrun\n(V%s\ntR." % text,
    }  # fmt: skip


def _zip(path: Path, members: dict[str, bytes], folder: str = "archive") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{folder}/{name}", data)
    return path


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def _saved(value: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _in_containers(folder: Path, number: int, payload: bytes) -> Iterator[tuple[str, Path]]:
    """Write one payload raw, in a zip checkpoint, and as the object of a legacy file."""
    raw = folder / f"raw{number}.pkl"
    raw.write_bytes(payload)
    yield "raw pickle", raw
    yield "zip", _zip(folder / f"zip{number}.pt", {"data.pkl": payload, "version": b"3\n"})
    system = pickle.dumps({"little_endian": True}, 2)
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    legacy = folder / f"legacy{number}.pth"
    legacy.write_bytes(head + system + payload + pickle.dumps([], 2))
    yield "legacy", legacy
    early = folder / f"early{number}.pth"
    early.write_bytes(head + payload + pickle.dumps({}, 2) + pickle.dumps([], 2))
    yield "legacy header", early


class Net(torch.nn.Module):
    """A module that carries an extra attribute into its pickle."""

    def __init__(self, extra: object = None) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)
        self.extra = extra


def hostile_cases(folder: Path, command: str) -> list[Case]:
    """Write files that run `command` when an ordinary loader opens them.

    Args:
        folder: Where to write.
        command: A shell command without quotes.
    """
    cases = []
    for number, (name, payload) in enumerate(payloads(command).items()):
        for where, path in _in_containers(folder, number, payload):
            cases.append(Case("hostile", f"{name}, {where}", path))
    call = Call(os.system, command)
    objects: dict[str, object] = {
        "beside the weights of a training checkpoint": {
            "state_dict": torch.nn.Linear(4, 3).state_dict(), "meta": call},
        "in the weights themselves": {"weight": torch.ones(2), "bias": call},
        "in an attribute of a pickled module": Net(call),
    }  # fmt: skip
    for legacy in (False, True):
        for name, value in objects.items():
            path = folder / f"object{len(cases)}.pt"
            path.write_bytes(_saved(value, legacy=legacy))
            cases.append(Case("hostile", f"os.system {name}, {legacy=}", path))
    return cases + _hostile_programs(folder, payloads(command)["REDUCE os.system"], call)


def _hostile_programs(folder: Path, payload: bytes, call: Call) -> list[Case]:
    """Write TorchScript and `.pt2` archives with a hostile pickle in each place for one."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
    script, program = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.trace(net, torch.ones(1, 4)), script)
    torch.export.save(torch.export.export(net, (torch.ones(1, 4),)), program)
    cases = []
    for member in ("data.pkl", "constants.pkl"):
        path = _zip(
            folder / f"script-{member}.pt", {**_members(script.getvalue()), member: payload}
        )
        cases.append(Case("hostile", f"TorchScript, {member}", path))
    members = _members(program.getvalue())
    config = json.loads(members["data/weights/model_weights_config.json"])
    for entry in config["config"].values():
        entry["use_pickle"] = True
    pickled = {name: _saved(call) for name in members if name.startswith("data/weights/weight_")}
    changed = {
        "pickled weights": {
            **pickled, "data/weights/model_weights_config.json": json.dumps(config).encode()},
        "sample inputs": {"data/sample_inputs/model.pt": _saved(call)},
        "an opaque constant": {"data/constants/opaque_obj_0": payload},
        "compiled code": {"data/aotinductor/model/model.so": b"\x7fELF"},
    }  # fmt: skip
    for name, change in changed.items():
        path = _zip(folder / f"program{len(cases)}.pt2", {**members, **change})
        cases.append(Case("hostile", f".pt2, {name}", path))
    return cases


def broken_cases(folder: Path) -> list[Case]:
    """Write files that are no models, or that no loader should believe."""
    state = torch.nn.Linear(40, 30).state_dict()
    good, old = _saved(state), _saved(state, legacy=True)
    members = _members(good)
    huge = (10 << 40).to_bytes(8, "little")
    contents: dict[str, bytes] = {
        "empty.pt": b"",
        "zeros.pt": bytes(5000),
        "page.pt": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "denied.pt": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
        + b"0" * 64 + b"\nsize 44\n",
        "picture.pt": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "text.pt": b"weights follow\n",
        "json.pt": b'{"a": 1}',
        "random.pt": random.Random(0).randbytes(1000),
        "cut.pt": good[: len(good) // 2],
        "cut-legacy.pt": old[:-100],
        "longer-legacy.pt": old + b"x" * 100,
        "cut.safetensors": (100).to_bytes(8, "little") + b'{"a"',
        "huge.safetensors": huge + b'{"a": {}}',
        "far.safetensors": (lambda head: len(head).to_bytes(8, "little") + head)(
            b'{"a":{"dtype":"F32","shape":[2748779069440],"data_offsets":[0,10995116277760]}}'),
        "deep.pt": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
        "plain.pkl": pickle.dumps({"a": 1}),
    }  # fmt: skip
    cases = [Case("broken", name, folder / name) for name in contents]
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    deep = b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s."
    huge_tensor = members["data.pkl"].replace(b"K\x28", b"J\xff\xff\xff\x7f")
    nan = {"weight": torch.full((3,), float("nan"))}
    zips = {
        "traversal.pt": {**members, "../../evil": b""},
        "deep-key.pt": {**members, "data.pkl": deep},
        "huge-tensor.pt": {**members, "data.pkl": huge_tensor},
        "no-storage.pt": {k: v for k, v in members.items() if k != "data/0"},
        "memo.pt": {**members, "data.pkl": b"\x80\x02}r\xff\xff\xff\x7f."},
        "nan.pt": _members(_saved(nan)),
    }
    for name, content in zips.items():
        cases.append(Case("broken", name, _zip(folder / name, content)))
    bomb = folder / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300 << 20))
    cases.append(Case("broken", bomb.name, bomb))
    (folder / "a-folder").mkdir()
    cases.append(Case("broken", "a folder", folder / "a-folder"))
    return [*cases, Case("broken", "a missing file", folder / "missing.pt")]


def _mutate(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage bytes in one of five ways."""
    out = bytearray(data)
    kind = rng.choice(["flip", "cut", "insert", "zero", "swap"])
    at, length = rng.randrange(len(out)), rng.randint(1, min(512, len(out) // 4))
    if kind == "flip":
        for _ in range(rng.randint(1, 8)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del out[at : at + length]
    elif kind == "insert":
        out[at:at] = rng.randbytes(length)
    elif kind == "zero":
        out[at : at + length] = bytes(len(out[at : at + length]))
    else:
        other = rng.randrange(len(out) - length)
        at = min(at, len(out) - length)
        out[at : at + length], out[other : other + length] = (
            out[other : other + length],
            out[at : at + length],
        )
    return kind, bytes(out)


def mutations(
    folder: Path, original: Path, count: int, kind: str, *, seed: int = 0, span: int | None = None
) -> Iterator[Case]:
    """Write damaged copies of a file, one at a time, under its own name.

    Args:
        folder: Where to write.
        original: The sound file.
        count: How many.
        kind: What to call them.
        seed: Seed of the damage.
        span: Damage the first so many bytes only.
    """
    data = original.read_bytes()
    rng = random.Random(seed)
    path = folder / "mutated" / original.name
    path.parent.mkdir(exist_ok=True)
    made = 0
    while made < count:
        head, tail = (data, b"") if span is None else (data[:span], data[span:])
        how, head = _mutate(head, rng)
        if head + tail == data:
            continue  # zeros over zeros, a block swapped with itself
        path.write_bytes(head + tail)
        made += 1
        yield Case(kind, f"{how} {made}", path, original)
