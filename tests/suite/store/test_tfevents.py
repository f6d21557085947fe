"""Our reader of event files against an encoder of our own, bytes that TensorBoard wrote, and TensorBoard itself."""

from __future__ import annotations

import math
import random
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from searchkit.suite.store import tfevents

# --- an encoder, by the documents alone: https://protobuf.dev/programming-guides/encoding/


def crc32c(data: bytes) -> int:
    """Bit by bit, as the definition has it; the reader's is by table."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8 & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def fixed(number: int, form: str, value: float) -> bytes:
    return varint(number << 3 | (5 if form == "<f" else 1)) + struct.pack(form, value)


def event(step: int, *values: bytes) -> bytes:
    return fixed(1, "<d", 1.7e9) + field(2, step) + field(5, b"".join(field(1, value) for value in values))


def simple(tag: str, value: float) -> bytes:
    return field(1, tag.encode()) + fixed(2, "<f", value)


def tensor(tag: str, content: bytes) -> bytes:
    return field(1, tag.encode()) + field(9, field(1, field(1, b"scalars"))) + field(8, content)


VERSION = fixed(1, "<d", 1.7e9) + field(3, b"brain.Event:2")


def write_events(path: Path, scalars: Sequence[tuple[str, int, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record(VERSION) + b"".join(record(event(step, simple(tag, v))) for tag, step, v in scalars))


def read(tmp_path: Path, raw: bytes) -> tuple[list[tuple[str, int, float]], int]:
    (tmp_path / "events").write_bytes(raw)
    return read_file(tmp_path / "events")


def read_file(path: Path) -> tuple[list[tuple[str, int, float]], int]:
    with open(path, "rb") as f:
        scalars, _, corrupt = tfevents.read_scalars(f)
    return scalars, int(corrupt)


# --- the format


def test_checksum_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C, as RFC 3720 has it
    rng = random.Random(0)
    for n in (0, 1, 8, 100, 1000):
        data = rng.randbytes(n)
        assert tfevents.masked_crc32c(data) == int.from_bytes(masked(data), "little")


# Written by tensorboard 2.21's EventFileWriter: a version record, then loss=0.5 at step 1 and val/acc=0.25 at step 300.
GOLDEN = bytes.fromhex(
    "4800000000000000fe92489d092efdcc9435c0da411a0d627261696e2e4576656e743a32522e0a2c74656e736f72626f6172"
    "642e73756d6d6172792e7772697465722e6576656e745f66696c655f777269746572258a49b61a00000000000000129bd82d"
    "0900000040fc54d94110012a0d0a0b0a046c6f7373150000003f8db02e391e00000000000000d9dc12320900000040fc54d9"
    "4110ac022a100a0e0a0776616c2f616363150000803ebe04c6e0"
)


def test_golden_file(tmp_path: Path) -> None:
    assert read(tmp_path, GOLDEN) == ([("loss", 1, 0.5), ("val/acc", 300, 0.25)], 0)


@pytest.mark.parametrize("step", [0, 1, 127, 128, 10**12, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("value", [0.0, 0.5, -1e30, math.inf])
def test_simple_values(tmp_path: Path, step: int, value: float) -> None:
    exact = struct.unpack("<f", struct.pack("<f", value))[0]
    assert read(tmp_path, record(event(step, simple("a/b", value)))) == ([("a/b", step, exact)], 0)


def test_nan_and_no_step_and_several_values(tmp_path: Path) -> None:
    raw = record(field(5, field(1, simple("a", math.nan)) + field(1, simple("准确率", 2.0))))
    ((a, step, value), other), skipped = read(tmp_path, raw)
    assert (a, step, skipped) == ("a", 0, 0)
    assert math.isnan(value)
    assert other == ("准确率", 0, 2.0)


SCALAR_SHAPE = field(2, b"")
ONE_BY_ONE = field(2, field(2, field(1, 1)) * 2)


@pytest.mark.parametrize(
    "content",
    [
        field(1, 1) + SCALAR_SHAPE + field(4, struct.pack("<f", 0.5)),
        field(1, 2) + SCALAR_SHAPE + field(4, struct.pack("<d", 0.5)),
        field(1, 1) + SCALAR_SHAPE + field(5, struct.pack("<f", 0.5)),  # packed
        field(1, 1) + fixed(5, "<f", 0.5),  # one by one, no shape
        field(1, 2) + ONE_BY_ONE + fixed(6, "<d", 0.5),
        field(1, 2) + SCALAR_SHAPE + field(6, struct.pack("<d", 0.5)),
    ],
)
def test_tensor_scalars(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, record(event(7, tensor("x", content)))) == ([("x", 7, 0.5)], 0)


@pytest.mark.parametrize(
    "value",
    [
        tensor("x", field(1, 1) + field(2, field(2, field(1, 2))) + field(4, struct.pack("<ff", 1, 2))),
        tensor("x", field(1, 1) + field(2, field(2, field(1, 3))) + fixed(5, "<f", 1)),  # three times the same
        tensor("x", field(1, 7) + SCALAR_SHAPE + field(8, b"text")),
        tensor("x", field(1, 3) + SCALAR_SHAPE + field(7, 5)),
        field(1, b"image") + field(4, field(1, 28) + field(4, b"\x89PNG")),
        field(1, b"histogram") + field(5, fixed(1, "<d", 0.0)),
        fixed(2, "<f", 1.0),  # no tag
    ],
)
def test_what_is_no_scalar_is_passed_over(tmp_path: Path, value: bytes) -> None:
    assert read(tmp_path, record(event(7, value, simple("y", 2)))) == ([("y", 7, 2.0)], 0)


def test_large_records_without_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfevents, "MAX_RECORD_BYTES", 50_000)
    image = event(1, field(1, b"image") + field(4, field(4, bytes(20_000))))
    unread = event(1, field(1, b"image") + field(4, field(4, bytes(60_000))))
    raw = record(image) + record(unread) + record(event(2, simple("x", 1.0)))
    assert read(tmp_path, raw) == ([("x", 2, 1.0)], 0)
    assert read(tmp_path, record(event(2, simple("x", 1.0))) + record(unread)[:70]) == ([("x", 2, 1.0)], 0)


# --- what goes wrong


def test_a_torn_tail_is_still_being_written(tmp_path: Path) -> None:
    whole = record(VERSION) + record(event(1, simple("x", 1.0)))
    last = record(event(2, simple("x", 2.0)))
    for cut in range(len(last)):
        assert read(tmp_path, whole + last[:cut]) == ([("x", 1, 1.0)], 0)
    assert read(tmp_path, whole + last) == ([("x", 1, 1.0), ("x", 2, 2.0)], 0)


def test_every_flipped_bit_stops_the_reading_and_is_counted(tmp_path: Path) -> None:
    first, second = record(event(1, simple("x", 1.0))), record(event(2, simple("x", 2.0)))
    third = record(event(3, simple("x", 3.0)))
    for bit in range(8 * len(second)):
        bad = bytearray(second)
        bad[bit // 8] ^= 1 << bit % 8
        assert read(tmp_path, first + bad + third) == ([("x", 1, 1.0)], 1), f"bit {bit}"


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0b\x0c", field(5, b"\x0a\xff\x01"), field(5, field(1, field(1, b"\xff")))]
)
def test_a_message_that_is_malformed_under_a_good_checksum(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, record(data) + record(event(2, simple("x", 2.0)))) == ([], 1)


@pytest.mark.parametrize("raw", [bytes(100), b"no event file at all", b"\xff" * 40])
def test_other_files(tmp_path: Path, raw: bytes) -> None:
    assert read(tmp_path, raw) == ([], 1)
    assert read(tmp_path, b"") == ([], 0)
    huge = struct.pack("<Q", 2**64 - 1)
    assert read(tmp_path, huge + masked(huge)) == ([], 1)


def test_random_messages_never_fail(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = event(3, simple("x", 2.0), tensor("y", field(1, 1) + SCALAR_SHAPE + field(5, struct.pack("<f", 0.5))))
    for _ in range(500):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        scalars, skipped = read(tmp_path, record(bytes(data)))
        assert skipped in (0, 1)
        assert all(isinstance(v, float) and isinstance(s, int) and t for t, s, v in scalars)


# --- TensorBoard as the oracle


@pytest.fixture(scope="module")
def tb() -> SimpleNamespace:
    reason = "tensorboard is not installed; our reader is checked by our own encoder alone (pip install tensorboard)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports use what newer Pythons deprecate
        pytest.importorskip("tensorboard", reason=reason)
        from tensorboard.backend.event_processing import event_accumulator
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from tensorboard.util import tensor_util
    return SimpleNamespace(
        accumulator=event_accumulator, event=event_pb2, summary=summary_pb2, Writer=EventFileWriter, util=tensor_util
    )


def oracle(tb: SimpleNamespace, path: Path) -> set[tuple[str, int, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        events = tb.accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
    found = {(tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    for tag in events.Tags()["tensors"]:
        for e in events.Tensors(tag):
            array = tb.util.make_ndarray(e.tensor_proto)
            if array.size == 1 and array.dtype.kind == "f":
                found.add((tag, e.step, float(array)))
    return found


def test_what_tensorboard_writes(tb: SimpleNamespace, tmp_path: Path) -> None:
    import numpy as np

    rng = random.Random(0)
    writer = tb.Writer(str(tmp_path))
    for step in range(200):
        loss, acc = rng.gauss(0, 1e3), rng.random()
        values = [
            tb.summary.Summary.Value(tag="loss", simple_value=loss),
            tb.summary.Summary.Value(tag="acc", tensor=tb.util.make_tensor_proto(np.float32(acc))),
            tb.summary.Summary.Value(tag="acc64", tensor=tb.util.make_tensor_proto(np.float64(acc))),
            tb.summary.Summary.Value(tag="vector", tensor=tb.util.make_tensor_proto(np.zeros(3, np.float32))),
            tb.summary.Summary.Value(tag="text", tensor=tb.util.make_tensor_proto("words")),
        ]
        writer.add_event(tb.event.Event(wall_time=step, step=step * 1000, summary=tb.summary.Summary(value=values)))
    writer.close()
    (path,) = tmp_path.iterdir()
    scalars, skipped = read_file(path)
    assert skipped == 0
    assert len(scalars) == 600
    assert set(scalars) == oracle(tb, path)


def test_what_torch_writes(tb: SimpleNamespace, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason="PyTorch is not installed; its SummaryWriter can't be tried")
        from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(50):
            writer.add_scalar("Loss/train", 1 / (step + 1), step)
            writer.add_scalar("Acc", step / 50, step, new_style=True)
            writer.add_scalar("Double", step / 50, step, new_style=True, double_precision=True)
        writer.add_histogram("weights", torch.zeros(10), 1)
        writer.add_text("notes", "hello", 1)
    (path,) = tmp_path.iterdir()
    scalars, skipped = read_file(path)
    assert skipped == 0
    assert len(scalars) == 150
    assert set(scalars) == oracle(tb, path)


def test_tensorboard_reads_our_encoder(tb: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1.host"
    write_events(path, [("a", step, step / 3) for step in range(20)])
    assert set(read_file(path)[0]) == oracle(tb, path)
