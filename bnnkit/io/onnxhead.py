"""The outermost fields of an ONNX file, walked without loading the model."""

from __future__ import annotations

from typing import BinaryIO

from bnnkit.io.faults import FileFault

__all__ = ["read_onnx_head"]

# Fields of onnx.ModelProto.
IR_VERSION, PRODUCER, GRAPH, OPSET = 1, 2, 7, 8


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 10 bytes")


def read_onnx_head(file: BinaryIO, size: int) -> dict[str, str] | None:
    """Return the ONNX version and producer, or None where the file is not ONNX.

    Args:
        file: The open file.
        size: Its size in bytes.

    Raises:
        FileFault: It begins as an ONNX file, and ends in the middle of a field.
    """
    file.seek(0)
    out: dict[str, str] = {}
    graph = False
    try:
        while file.tell() < size:
            tag = _varint(file)
            number, wire = tag >> 3, tag & 7
            if not out and number != IR_VERSION:
                return None
            if wire == 0:
                value = _varint(file)
                if number == IR_VERSION:
                    out["ir_version"] = str(value)
            elif wire == 2:
                length = _varint(file)
                if file.tell() + length > size:
                    raise EOFError
                if number == PRODUCER and length < 200:
                    out["producer"] = file.read(length).decode("utf-8", "replace")
                else:
                    file.seek(length, 1)
                graph = graph or number == GRAPH
            else:
                return None
    except (EOFError, ValueError):
        if "producer" not in out:
            return None
        raise FileFault(
            "an ONNX file that ends in the middle", "it was cut off or damaged"
        ) from None
    return out if graph else None
