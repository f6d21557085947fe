"""TensorBoard event files: just enough to read their scalars, without TensorBoard.

A file is a row of TFRecords: length (uint64), its checksum, that many bytes, their checksum, all little-endian; a
checksum is the CRC-32C, rotated and offset ("masked") so that a checksum of data that holds checksums stays good:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/lib/io/record_writer.h
Each record is one `Event` protobuf message (tensorflow/core/util/event.proto); field numbers are named below.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

# Records that hold no scalar (images, histograms, graphs) may be large, and a checksum takes about 40 ns a byte here.
# Such a record is checked only up to this size; past it, it is enough that its length is right.
CHECKED_BYTES = 1 << 14
# Nobody writes scalars in records as large as this; they are stepped over unread.
MAX_RECORD_BYTES = 1 << 26

_EVENT_STEP, _EVENT_SUMMARY = 2, 5
_SUMMARY_VALUE = 1
_VALUE_TAG, _VALUE_SIMPLE, _VALUE_TENSOR = 1, 2, 8
_TENSOR_DTYPE, _TENSOR_SHAPE, _TENSOR_CONTENT = 1, 2, 4
_SHAPE_DIM, _DIM_SIZE = 2, 1
_DTYPES = {1: ("<f", 5), 2: ("<d", 6)}  # DT_FLOAT, DT_DOUBLE: struct format, field of the typed values

Scalar = tuple[str, int, float]  # tag, step, value


def read_scalars(f: BinaryIO, start: int = 0) -> tuple[list[Scalar], int, bool]:
    """(the scalars of an event file from byte `start` on, in the order they were written; where reading goes on;
    whether a corrupt record is there).

    A record whose end is missing is still being written: reading ends there. So it does at a corrupt record, as what
    follows can't be trusted to start where it seems to. Raises OSError.
    """
    scalars: list[Scalar] = []
    size = os.fstat(f.fileno()).st_size
    f.seek(start)
    while True:
        header = f.read(12)
        if len(header) < 12:
            return scalars, start, False
        length, check = struct.unpack("<QI", header)
        if masked_crc32c(header[:8]) != check or length >= 1 << 63:  # not a length at all
            return scalars, start, True
        end = start + 12 + length + 4
        if end > size:
            return scalars, start, False
        if length > MAX_RECORD_BYTES:
            f.seek(end)
        else:
            data, footer = f.read(length), f.read(4)
            try:
                record_scalars = _event_scalars(memoryview(data))
            except ValueError:
                return scalars, start, True
            if (record_scalars or length <= CHECKED_BYTES) and masked_crc32c(data) != int.from_bytes(footer, "little"):
                return scalars, start, True
            scalars += record_scalars
        start = end


def masked_crc32c(data: bytes) -> int:
    """The checksum of a TFRecord, an unsigned 32-bit number."""
    crc, table = 0xFFFFFFFF, _CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]  # Castagnoli's polynomial, bits reversed
    return table


_CRC_TABLE = _crc_table()


def _event_scalars(event: memoryview) -> list[Scalar]:
    """The scalars of one serialized Event. Raises ValueError where it isn't one."""
    step = 0
    values: list[memoryview] = []
    for number, field in _fields(event):
        if number == _EVENT_STEP and isinstance(field, int):
            step = field - (1 << 64) if field >> 63 else field  # int64
        elif number == _EVENT_SUMMARY and isinstance(field, memoryview):
            values += (v for n, v in _fields(field) if n == _SUMMARY_VALUE and isinstance(v, memoryview))
    scalars = []
    for value in values:
        tag, number_found = _value(value)
        if tag and number_found is not None:
            scalars.append((tag, step, number_found))
    return scalars


def _value(value: memoryview) -> tuple[str, float | None]:
    """Tag and number of one Summary.Value; None where it is an image, a histogram, a text, …"""
    tag, number_value = "", None
    for number, field in _fields(value):
        if not isinstance(field, memoryview):
            continue
        if number == _VALUE_TAG:
            tag = str(field, "utf-8")
        elif number == _VALUE_SIMPLE and len(field) == 4:
            number_value = float(struct.unpack("<f", field)[0])
        elif number == _VALUE_TENSOR:
            number_value = _tensor_scalar(field)
    return tag, number_value


def _tensor_scalar(tensor: memoryview) -> float | None:
    """The one element of a float or double TensorProto; None for any other tensor."""
    dtype, elements = 0, 1
    data: dict[int, bytes] = {}
    for number, field in _fields(tensor):
        if isinstance(field, int):
            dtype = field if number == _TENSOR_DTYPE else dtype
        elif number == _TENSOR_SHAPE:
            elements = math.prod(_dims(field))
        else:
            data[number] = data.get(number, b"") + bytes(field)  # typed values may come packed or one by one
    if dtype not in _DTYPES or elements != 1:
        return None
    form, typed = _DTYPES[dtype]
    raw = data.get(_TENSOR_CONTENT) or data.get(typed) or bytes(struct.calcsize(form))  # protobuf leaves out zeros
    return float(struct.unpack(form, raw)[0]) if len(raw) == struct.calcsize(form) else None


def _dims(shape: memoryview) -> Iterator[int]:
    for number, dim in _fields(shape):
        if number == _SHAPE_DIM and isinstance(dim, memoryview):
            yield next((size for n, size in _fields(dim) if n == _DIM_SIZE and isinstance(size, int)), 0)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of each field of a protobuf message: an int where it is a varint, else its bytes.
    Raises ValueError where the message is malformed. https://protobuf.dev/programming-guides/encoding/"""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if size > end - at:
            raise ValueError("a field runs past its message")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte and the lowest first, and the index after it."""
    number = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise ValueError("a number runs past its message")
