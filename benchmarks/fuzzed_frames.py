"""Messages that no honest sender would send: a valid batch, damaged in one of many ways, each from a seeded draw."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from attn_core.fingerprint import DIM
from attn_core.head_projection import NUM_EVIDENCE, NUM_HEAD_FIGURES, NUM_SKETCH
from attn_core.wire import FINGERPRINTS, MAGIC, REQUESTS, SCHEMAS, SOURCE_ID_BYTES, SourceInfo, encode_rows
from benchmarks.kill_sender import CONTEXT_LEN, vectors

INFO = SourceInfo(model_id="fuzz", captured_layers=(0, 1), num_heads=2, head_projection="ab" * 32)
Frames = list[bytes]
_SEQ = struct.Struct("<Q")


def valid_rows(count: int, *, name: str, seed: int = 0) -> pa.RecordBatch:
    """`count` steps of the request `name`, top-k and sketch in every other row: a batch of `FINGERPRINTS`."""
    has = [k % 2 == 0 for k in range(count)]
    columns = {
        "request_id": [name] * count,
        "step": list(range(count)),
        "captured_at_us": [1_700_000_000_000_000 + k for k in range(count)],
        "token_id": list(range(count)),
        "token_text": [f" t{k}" for k in range(count)],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors(count, seed=seed).ravel()), DIM),
        "context_len": [CONTEXT_LEN] * count,
        "sink_mass": [0.1] * count,
        "prompt_mass": [0.1] * count,
        "periodicity": [0.1] * count,
        "topk_positions": [[3, 1] if one else None for one in has],
        "topk_probs": [[0.5, 0.25] if one else None for one in has],
        "residual_mass": [0.25 if one else None for one in has],
        "head_sketch": [[0.5] * NUM_SKETCH if one else None for one in has],
        "zone_evidence": [[0.25] * NUM_EVIDENCE if one else None for one in has],
        "head_figures": [[0.5] * 2 * 2 * NUM_HEAD_FIGURES if one else None for one in has],
    }
    return _batch(FINGERPRINTS, columns)


def valid_events(name: str) -> pa.RecordBatch:
    """A request's start: a batch of `REQUESTS`."""
    columns = {
        "request_id": [name],
        "event": ["started"],
        "at_us": [1_700_000_000_000_000],
        "prompt_len": [3],
        "prompt_token_ids": [[1, 2, 3]],
        "prompt_token_texts": [["What", " is", " it?"]],
        "prompt_spans": ['[{"message": 0, "role": "user", "start": 0, "end": 3}]'],
        "sampling_params": ['{"temperature": 0}'],
        "num_output_tokens": [None],
        "finish_reason": [None],
    }
    return _batch(REQUESTS, columns)


def _batch(schema: pa.Schema, columns: dict[str, object]) -> pa.RecordBatch:
    arrays = [
        columns[field.name] if isinstance(columns[field.name], pa.Array) else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class Fuzzer:
    """Damaged messages without end, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)
        self.source_id = secrets.token_bytes(SOURCE_ID_BYTES)
        self._payloads = [
            encode_rows(kind="fingerprints", rows=valid_rows(9, name="fuzzed"), info=INFO),
            encode_rows(kind="requests", rows=valid_events("fuzzed"), info=INFO),
            encode_rows(kind="fingerprints", rows=valid_rows(0, name="fuzzed"), info=INFO),
        ]
        self._ways: tuple[tuple[str, Callable[[Frames], Frames]], ...] = (
            ("flipped bits", self._flipped),
            ("flipped bits", self._flipped),
            ("hostile words", self._hostile_words),
            ("hostile words", self._hostile_words),
            ("truncated", self._truncated),
            ("header", self._header),
            ("frames", self._frames),
            ("schema", self._schema),
            ("values", self._values),
            ("spliced", self._spliced),
            ("oversized", self._oversized),
        )

    def messages(self) -> Iterator[tuple[str, Frames]]:
        """(way, frames) again and again; `seq` counts up where the message still has one."""
        seq = 0
        while True:
            way, damage = self._ways[int(self._draw.integers(len(self._ways)))]
            payload = self._payloads[int(self._draw.choice(3, p=(0.65, 0.3, 0.05)))]
            yield way, damage([MAGIC, self.source_id, _SEQ.pack(seq), payload])
            seq += 1

    def _int(self, most: int) -> int:
        """0 to `most`, inclusive."""
        return int(self._draw.integers(most + 1))

    def _flipped(self, frames: Frames) -> Frames:
        payload = bytearray(frames[3])
        for _ in range(1 + self._int(8)):
            payload[self._int(len(payload) - 1)] ^= 1 << self._int(7)
        return [*frames[:3], bytes(payload)]

    def _hostile_words(self, frames: Frames) -> Frames:
        """Lengths, offsets and counts anywhere in the stream become absurd ones."""
        payload = bytearray(frames[3])
        words = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF8, 1 << 30, len(payload))
        for _ in range(1 + self._int(3)):
            at = 4 * self._int(len(payload) // 4 - 2)
            word = words[self._int(len(words) - 1)]
            if self._int(1):
                payload[at : at + 4] = struct.pack("<I", word)
            else:
                payload[at : at + 8] = struct.pack("<q", -1 if word == 0xFFFFFFFF else word << self._int(24))
        return [*frames[:3], bytes(payload)]

    def _truncated(self, frames: Frames) -> Frames:
        which = self._int(3)
        return [*frames[:which], frames[which][: self._int(max(0, len(frames[which]) - 1))], *frames[which + 1 :]]

    def _header(self, frames: Frames) -> Frames:
        garbage = self._draw.bytes(self._int(40))
        which = self._int(2)
        return [*frames[:which], garbage, *frames[which + 1 :]]

    def _frames(self, frames: Frames) -> Frames:
        ways: tuple[Callable[[], Frames], ...] = (
            lambda: frames[: 1 + self._int(2)],
            lambda: [*frames, b""],
            lambda: [*frames, *[b"x"] * (1 + self._int(60))],
            lambda: [b""] * (1 + self._int(8)),
            lambda: [b"", *frames],
            lambda: frames[::-1],
            lambda: [self._draw.bytes(self._int(300)) for _ in range(1 + self._int(6))],
        )
        return ways[self._int(len(ways) - 1)]()

    def _schema(self, frames: Frames) -> Frames:
        """Well-formed Arrow of the wrong shape: other types, missing columns, dictionaries, nothing, very much."""
        rows = valid_rows(4, name="fuzzed")
        which = self._int(6)
        if which == 0:
            rows = rows.drop_columns([rows.schema.names[self._int(len(rows.schema) - 1)]])
        elif which == 1:
            at = self._int(len(rows.schema) - 1)
            rows = rows.set_column(at, rows.schema.names[at], pa.array(["a", "b", "c", "d"]))
        elif which == 2:
            values = pa.array([f"{k:08}" for k in range(20_000 if self._int(20) == 0 else 500)])
            dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), values)
            rows = rows.set_column(0, "request_id", dictionary)
        elif which == 3:
            rows = rows.append_column("more", pa.nulls(4, pa.list_(pa.struct([("deep", pa.list_(pa.int8()))]))))
        elif which == 4:
            at = self._int(len(rows.schema) - 1)
            rows = rows.set_column(at, rows.schema.field(at), pa.nulls(4, rows.schema.field(at).type))
        elif which == 5:
            rows = pa.RecordBatch.from_arrays([pa.nulls(1 << 16)], ["nothing"])
        else:
            rows = rows.select(list(range(len(rows.schema)))[::-1])
        metadata = {"kind": "fingerprints", "fingerprint_version": "1", "model_id": "fuzz", "captured_layers": "[0]",
                    "num_heads": "1", "dropped": "0"}  # fmt: skip
        return [*frames[:3], _stream(rows, metadata)]

    def _values(self, frames: Frames) -> Frames:
        """The right columns with values that break an invariant, or metadata that does."""
        rows = valid_rows(4, name="fuzzed")
        metadata = {"kind": "fingerprints", "fingerprint_version": "1", "model_id": "fuzz", "captured_layers": "[0]",
                    "num_heads": "1", "dropped": "0", "head_projection": "ab" * 32}  # fmt: skip
        bad = (
            ("step", [0, -1, 2, 3]), ("captured_at_us", [0, 1 << 62, -1, 0]), ("context_len", [1, 0, -5, 7]),
            ("sink_mass", [0.1, float("nan"), float("inf"), -1.0]), ("request_id", ["a", "", "b" * 600, "c"]),
            ("topk_positions", [[2**31 - 1], None, [-1, 0], None]),
            ("topk_probs", [[2.0, 0.1], None, [None, 1.0], None]),
            ("residual_mass", [float("nan"), 7.0, -1.0, None]),
            ("head_sketch", [[float("inf")] * NUM_SKETCH, None, [None] * NUM_SKETCH, None]),
            ("zone_evidence", [[float("nan")] * NUM_EVIDENCE, [1.0] * NUM_EVIDENCE, None, None]),
            ("head_figures", [[0.5] * 7, [2.0] * 5, [None] * 5, []]),
        )  # fmt: skip
        which = self._int(len(bad) + 2)
        if which < len(bad):
            name, values = bad[which]
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
        elif which == len(bad):
            wrong = self._draw.uniform(-1e30, 1e30, 4 * DIM).astype(np.float32)
            at = rows.schema.get_field_index("vector")
            column = pa.FixedSizeListArray.from_arrays(pa.array(wrong), DIM)
            rows = rows.set_column(at, rows.schema.field(at), column)
        elif which == len(bad) + 1:
            name = list(metadata)[self._int(len(metadata) - 1)]
            metadata[name] = ("[" * 5000, "9" * 5000, "", "-1", "requests", "\x00", "null")[self._int(6)]
        else:
            metadata["dropped"] = str(-(1 << 70))
        return [*frames[:3], _stream(rows, metadata)]

    def _spliced(self, frames: Frames) -> Frames:
        """Pieces of two streams in one, a stream twice, or a stream that goes on after its end."""
        other = self._payloads[self._int(2)]
        cut = self._int(len(frames[3]))
        made = (frames[3][:cut] + other[self._int(len(other)) :], frames[3] * 2, frames[3] + self._draw.bytes(200))
        return [*frames[:3], made[self._int(2)]]

    def _oversized(self, frames: Frames) -> Frames:
        """A frame that is larger than it says or than it should be; now and then by a megabyte."""
        size = 1 << 20 if self._int(200) == 0 else 1 + self._int(4096)
        which = self._int(3)
        return [*frames[:which], frames[which] + bytes(size), *frames[which + 1 :]]


def _stream(rows: pa.RecordBatch, metadata: dict[str, str]) -> bytes:
    sink = pa.BufferOutputStream()
    schema = rows.schema.with_metadata(metadata)
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(rows.columns, schema=schema))
    return bytes(sink.getvalue())


assert set(SCHEMAS) == {"fingerprints", "requests"}, "a new kind of batch wants its own damage here"
