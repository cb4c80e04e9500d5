"""Constants of a TensorFlow GraphDef file (.pb), read without TensorFlow.

Field numbers are those of TensorFlow's graph.proto, node_def.proto, attr_value.proto and tensor.proto,
the encoding that of Protocol Buffers (protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from utils.errors import UserError

FLOAT = 1  # DataType.DT_FLOAT


class _Damaged(ValueError):
    pass


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Damaged("a number is cut off")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: a number, or the bytes of anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _Damaged(f"unknown wire type {kind}")
        if at + length > len(data):
            raise _Damaged("a field is cut off")
        yield number, data[at : at + length]
        at += length


def _tensor(data: memoryview) -> np.ndarray | None:
    """A TensorProto of floats; None for other types."""
    dtype, shape, content, values = 0, [], None, []
    for number, value in _fields(data):
        if number == 1:
            dtype = value
        elif number == 2:
            dims = (dim for field, dim in _fields(value) if field == 2)
            shape = [next((size for field, size in _fields(dim) if field == 1), 0) for dim in dims]
        elif number == 4:
            content = np.frombuffer(value, "<f4") if len(value) % 4 == 0 else None
        elif number == 5:  # packed, or one at a time
            values.append(np.frombuffer(value, "<f4"))
    if dtype != FLOAT:
        return None
    if content is None:
        content = np.concatenate(values) if values else np.zeros(0, np.float32)
        if len(content) == 1:  # one value stands for all
            content = np.full(int(np.prod(shape)), content[0], np.float32)
    if len(content) != np.prod(shape, dtype=int):
        raise _Damaged(f"{len(content)} values for the shape {shape}")
    return content.reshape(shape).copy()  # not a view of the file


def read_constants(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> float32 array of every float constant. Raises UserError for what is no GraphDef."""
    data, constants = memoryview(Path(path).read_bytes()), {}
    try:
        for number, node in _fields(data):
            if number != 1 or isinstance(node, int):
                continue
            name, op, tensor = "", "", None
            for field, value in _fields(node):
                if field == 1:
                    name = bytes(value).decode()
                elif field == 2:
                    op = bytes(value).decode()
                elif field == 5:  # an attribute: key and AttrValue
                    entry = dict(_fields(value))
                    if bytes(entry.get(1, b"")) == b"value":
                        tensor = dict(_fields(entry[2])).get(8)
            if op == "Const" and tensor is not None:
                array = _tensor(tensor)
                if array is not None:
                    constants[name] = array
    except (_Damaged, UnicodeDecodeError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged or no TensorFlow GraphDef ({error})") from error
    if not constants:
        raise UserError(f"{path} is no TensorFlow GraphDef with float constants")
    return constants
