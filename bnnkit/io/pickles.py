"""What a pickle would load and call, found from its opcodes; nothing is executed."""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass, field

from bnnkit.io.faults import FileFault

__all__ = ["DEPTH_LIMIT", "PICKLE_LIMIT", "PickleScan", "scan_pickle"]

PICKLE_LIMIT = 64 << 20  # bytes of one pickle stream; tensors lie outside it
DEPTH_LIMIT = 800  # containers in containers; hashing a deeper tuple can exhaust the C stack

REFUSE = "Do not load it; ask its author for safetensors"


@dataclass(frozen=True)
class _Item:
    """An abstract value: how deep it nests, and its text or the global that it is."""

    depth: int = 0
    text: str | None = None
    name: str | None = None


_MARK = _Item(name="\0mark")
_MUTATORS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_EXTENSIONS = frozenset({"EXT1", "EXT2", "EXT4"})


@dataclass(frozen=True)
class PickleScan:
    """What one pickle stream refers to.

    Args:
        globals: Every `module.name` that it would import, sorted.
        called: Those of them that it would call as a function (REDUCE, OBJ, INST).
        end: Offset just behind its STOP opcode.
    """

    globals: tuple[str, ...]
    called: tuple[str, ...]
    end: int


@dataclass
class _Machine:
    """A pickle machine over abstract values: it resolves every name and calls nothing."""

    stack: list[_Item] = field(default_factory=list)
    memo: dict[int, _Item] = field(default_factory=dict)
    globals: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    steps: int = 0

    def pop(self) -> _Item:
        item = self.stack.pop()
        if item is _MARK:
            raise ValueError("a mark where the pickle needs a value")
        return item

    def pop_to_mark(self) -> list[_Item]:
        items: list[_Item] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def push_built(self, parts: list[_Item]) -> None:
        depth = 1 + max((part.depth for part in parts), default=0)
        if depth > DEPTH_LIMIT:
            raise FileFault(f"objects nested more than {DEPTH_LIMIT} deep", "no model is", REFUSE)
        self.stack.append(_Item(depth))

    def call(self, target: _Item) -> None:
        if target.name is None:
            raise FileFault(
                "a pickle that calls an object which it has built itself",
                "weights have no use for it, and it could run a command",
                REFUSE,
            )
        self.called.add(target.name)

    def push_global(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        self.globals.add(full)
        self.stack.append(_Item(name=full))

    def step(self, op: pickletools.OpcodeInfo, arg: object) -> None:
        """Carry out one opcode."""
        self.steps += 1
        name = op.name
        if name in _EXTENSIONS:
            raise FileFault(
                f"the copyreg extension code {arg}",
                "it hides which class or function would be called",
                REFUSE,
            )
        if name == "MARK":
            self.stack.append(_MARK)
        elif name in _PUTS:
            self._remember(int(str(arg)))
        elif name == "MEMOIZE":
            self._remember(len(self.memo))
        elif name in _GETS:
            self.stack.append(self.memo[int(str(arg))])
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "POP":
            self.stack.pop()
        elif not self._refer(name, arg):
            self._generic(op, arg)

    def _remember(self, index: int) -> None:
        # The C unpickler's memo is an array: a huge index alone would take gigabytes.
        if not 0 <= index <= 2 * self.steps + 1000:
            raise FileFault(f"a pickle memo of {index} entries", "it would exhaust memory", REFUSE)
        if self.stack[-1] is _MARK:
            raise ValueError("a mark in the memo")
        self.memo[index] = self.stack[-1]

    def _refer(self, name: str, arg: object) -> bool:
        """Carry out an opcode that imports or calls; return whether it was one."""
        if name == "GLOBAL":
            self.push_global(*str(arg).split(" ", 1))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            if attribute.text is None or module.text is None:
                raise FileFault("a pickle that computes a name to import", "it hides it", REFUSE)
            self.push_global(module.text, attribute.text)
        elif name == "INST":
            parts = self.pop_to_mark()
            self.push_global(*str(arg).split(" ", 1))
            self.call(self.pop())
            self.push_built(parts)
        elif name == "OBJ":
            parts = self.pop_to_mark()
            self.call(parts[0])
            self.push_built(parts)
        elif name == "REDUCE":
            parts = [self.pop()]
            self.call(self.pop())
            self.push_built(parts)
        else:
            return False
        return True

    def _generic(self, op: pickletools.OpcodeInfo, arg: object) -> None:
        """Pop and push what the opcode table of the standard library says."""
        before = [kind for kind in op.stack_before if kind is not pickletools.markobject]
        parts: list[_Item] = []
        if pickletools.stackslice in before:
            parts = self.pop_to_mark()
            before.remove(pickletools.stackslice)
        elif len(before) != len(op.stack_before):
            self.pop_to_mark()
        popped = [self.pop() for _ in before]
        if op.name in _MUTATORS:
            self._mutate(op.name, popped, parts)
        elif isinstance(arg, str):
            self.stack.append(_Item(text=arg))
        elif popped or parts:
            for _ in op.stack_after:
                self.push_built(popped + parts)
        else:
            self.stack.extend(_Item() for _ in op.stack_after)

    def _mutate(self, name: str, popped: list[_Item], parts: list[_Item]) -> None:
        target, content = popped[-1], popped[:-1] + parts
        if name == "BUILD" and target.name is not None:
            raise FileFault(f"a pickle that alters {target.name}", "weights never do", REFUSE)
        # Extending a list in batches does not nest it deeper.
        depth = max([target.depth] + [1 + item.depth for item in content])
        if depth > DEPTH_LIMIT:
            raise FileFault(f"objects nested more than {DEPTH_LIMIT} deep", "no model is", REFUSE)
        self.stack.append(_Item(depth))


def scan_pickle(data: bytes, start: int = 0) -> PickleScan:
    """Follow one pickle stream abstractly, from `start` to its STOP.

    Args:
        data: Bytes that hold the stream.
        start: Offset of its first opcode.

    Returns:
        The names it refers to and where it ends.

    Raises:
        FileFault: The stream is broken, hides what it calls, or nests absurdly deep.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    machine = _Machine()
    try:
        for op, arg, position in pickletools.genops(stream):
            if (position or 0) - start > PICKLE_LIMIT:
                raise FileFault(f"a pickle of over {PICKLE_LIMIT >> 20} MiB", "no model needs it")
            if op.name != "STOP":
                machine.step(op, arg)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise FileFault(
            f"a broken pickle ({type(error).__name__})",
            "the description of the tensors was cut off or damaged",
        ) from error
    if len(machine.stack) != 1:
        raise FileFault("a pickle with leftovers on its stack", "it is damaged")
    return PickleScan(tuple(sorted(machine.globals)), tuple(sorted(machine.called)), stream.tell())
