"""The wire: how fingerprints travel from the model server to the sidecar, and what comes back.

ZMQ ``DEALER`` (model server) to ``ROUTER`` (sidecar). A batch is four frames, an acknowledgement three:

    batch   [b"AFP1", source_id (16 bytes), seq (uint64 little-endian), one Arrow IPC stream]
    ack     [b"AFP1", source_id,            seq]
    refusal [b"AFP1", source_id,            seq, reason (UTF-8)]
    matrix  [b"AFP1", source_id, b"head projection", `HeadProjection.to_bytes`]   (sidecar to model server)

`source_id` is new for each server process; `seq` counts up from 0 within it. The sidecar acknowledges **after** the
batch is committed. What is not acknowledged is sent again, in order, after a reconnect: delivered at least once; rows
are unique by (request_id, step), so stored exactly once. A refusal means that sending the same bytes again is useless.

The Arrow stream holds one record batch of one of two schemas, told apart by the ``kind`` in its metadata: a row a token
(`FINGERPRINTS`) or a row when a request starts and one when it ends (`REQUESTS`). Privacy mode leaves ids, text and
positions null. The same column names hold in SQL, Parquet and over HTTP.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attn_core.errors import WireError
from attn_core.fingerprint import DIM, FINGERPRINT_VERSION
from attn_core.head_projection import NUM_EVIDENCE, NUM_SKETCH

MAGIC = b"AFP1"
SOURCE_ID_BYTES = 16
MAX_BATCH_BYTES = 64 << 20
"""Larger payloads are refused unread."""
DEFAULT_ADDRESS = "tcp://127.0.0.1:9001"
"""Where the sidecar listens and the model server publishes, unless told otherwise."""

_SEQ = struct.Struct("<Q")
_PROJECTION = b"head projection"
"""In the place of a number of a batch, whose 8 bytes it cannot be."""
_HASH = re.compile(r"[0-9a-f]{64}")
_NOT_ARROW = (pa.ArrowException, OSError, StopIteration, UnicodeDecodeError, ValueError, struct.error)
_MESSAGE_HEADER, _BATCH_COMPRESSION = 2, 3
"""Field numbers of Arrow's Message and RecordBatch tables."""

FINGERPRINTS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("captured_at_us", pa.int64(), nullable=False),
        pa.field("token_id", pa.int32()),
        pa.field("token_text", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), DIM), nullable=False),
        pa.field("context_len", pa.int32(), nullable=False),
        pa.field("sink_mass", pa.float32(), nullable=False),
        pa.field("prompt_mass", pa.float32(), nullable=False),
        pa.field("periodicity", pa.float32(), nullable=False),
        pa.field("topk_positions", pa.list_(pa.int32())),
        pa.field("topk_probs", pa.list_(pa.float32())),
        pa.field("residual_mass", pa.float32()),
        pa.field("head_sketch", pa.list_(pa.float16(), NUM_SKETCH)),
        pa.field("zone_evidence", pa.list_(pa.float16(), NUM_EVIDENCE)),
        pa.field("head_figures", pa.list_(pa.float32())),
    ]
)
"""A row a token. The top-k columns are null where the request did not ask for its attention tokens; `head_sketch` and
`zone_evidence` where the model has no head projection (`attn_core.head_projection`); `head_figures`, float32 [layers *
heads * NUM_HEAD_FIGURES], but for the few tokens whose raw figures a projection is learned from."""

REQUESTS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),  # "started" or "ended"
        pa.field("at_us", pa.int64(), nullable=False),
        pa.field("prompt_len", pa.int32(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32())),
        pa.field("prompt_token_texts", pa.list_(pa.string())),
        pa.field("prompt_spans", pa.string()),  # JSON [{"message": 0, "role": "user", "start": 3, "end": 17}, ...]
        pa.field("sampling_params", pa.string()),  # JSON object
        pa.field("num_output_tokens", pa.int32()),
        pa.field("finish_reason", pa.string()),
    ]
)
"""A row a request event."""

SCHEMAS: Mapping[str, pa.Schema] = {"fingerprints": FINGERPRINTS, "requests": REQUESTS}
_HEAD_COLUMNS = ("head_sketch", "zone_evidence", "head_figures")
_BEFORE_SKETCHES = pa.schema([field for field in FINGERPRINTS if field.name not in _HEAD_COLUMNS])
"""What a sender or a spool of an older version gives: read as rows without a sketch."""


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What is true of every row of a batch; travels as schema metadata."""

    model_id: str
    captured_layers: tuple[int, ...]
    num_heads: int
    dropped: int = 0
    """Batches that this source has had to drop so far."""
    head_projection: str | None = None
    """Hash of the matrix that the batch's sketches were made with; None where it has no sketches."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One decoded message: its place in the source's sequence and its rows."""

    source_id: bytes
    seq: int
    kind: str
    info: SourceInfo
    rows: pa.RecordBatch


def encode_batch(*, kind: str, rows: pa.RecordBatch, source_id: bytes, seq: int, info: SourceInfo) -> list[bytes]:
    """The four frames of a batch. `rows` has the schema `SCHEMAS[kind]`."""
    return batch_frames(source_id=source_id, seq=seq, payload=encode_rows(kind=kind, rows=rows, info=info))


def batch_frames(*, source_id: bytes, seq: int, payload: bytes) -> list[bytes]:
    """The four frames of a batch whose rows `encode_rows` has written already."""
    return [MAGIC, source_id, _SEQ.pack(seq), payload]


def encode_rows(*, kind: str, rows: pa.RecordBatch, info: SourceInfo) -> bytes:
    """The Arrow IPC stream of a batch, its schema carrying kind, fingerprint version and `info`."""
    schema = _schema_with(kind, info)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(rows.columns, schema=schema))
    return bytes(sink.getvalue())


@lru_cache(maxsize=64)
def _schema_with(kind: str, info: SourceInfo) -> pa.Schema:
    """Kept, since a source says the same with almost every batch."""
    metadata = {
        "kind": kind,
        "fingerprint_version": str(FINGERPRINT_VERSION),
        "model_id": info.model_id,
        "captured_layers": json.dumps(list(info.captured_layers)),
        "num_heads": str(info.num_heads),
        "dropped": str(info.dropped),
        "head_projection": info.head_projection or "",
    }
    return SCHEMAS[kind].with_metadata(metadata)


def decode_batch(frames: Sequence[bytes]) -> Batch:
    """The batch in these frames (without the ROUTER's identity frame).

    Raises `WireError`, its `reason` one of ``frames``, ``magic``, ``source``, ``seq``, ``too_large``, ``arrow``,
    ``metadata``, ``version``, ``kind``, ``schema`` or ``compressed``. The rows' values are the receiver's to check.
    """
    if len(frames) != 4:
        raise WireError("frames", f"expected 4 frames, got {len(frames)}")
    magic, source_id, seq_bytes, payload = frames
    if magic != MAGIC:
        raise WireError("magic", f"expected magic {MAGIC!r}, got {bytes(magic[:8])!r}")
    if len(source_id) != SOURCE_ID_BYTES:
        raise WireError("source", f"a source id has {SOURCE_ID_BYTES} bytes, got {len(source_id)}")
    if len(seq_bytes) != _SEQ.size:
        raise WireError("seq", f"a sequence number has {_SEQ.size} bytes, got {len(seq_bytes)}")
    seq = _SEQ.unpack(seq_bytes)[0]
    if seq >= 1 << 63:
        raise WireError("seq", f"sequence number {seq} is past 2^63 - 1")
    if len(payload) > MAX_BATCH_BYTES:
        raise WireError("too_large", f"a batch has at most {MAX_BATCH_BYTES} bytes, got {len(payload)}")
    kind, info, rows = decode_rows(payload)
    return Batch(source_id=bytes(source_id), seq=seq, kind=kind, info=info, rows=rows)


def decode_rows(payload: bytes) -> tuple[str, SourceInfo, pa.RecordBatch]:
    """Kind, source and rows of one Arrow IPC stream; raises `WireError` as `decode_batch` does.

    What is decoded is no larger than the payload: columns are views of it. Compressed ones, which could grow without
    bound, are refused before anything is unpacked.
    """
    try:
        compressed = _is_compressed(payload)
        with pa.ipc.open_stream(payload) as reader:
            metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
            kind, info = _kind_and_info(metadata)
            schema = reader.schema.remove_metadata()
            older = kind == "fingerprints" and schema.equals(_BEFORE_SKETCHES)
            if not older and not schema.equals(SCHEMAS[kind]):
                raise WireError("schema", f"the columns of a {kind} batch are not those of this version")
            if not compressed:
                rows = reader.read_next_batch()
                rows.validate(full=True)
    except _NOT_ARROW as error:
        raise WireError("arrow", f"not an Arrow IPC stream with one record batch: {error}") from error
    if compressed:
        raise WireError("compressed", "compressed batches are not taken: send them plain")
    return kind, info, with_head_columns(rows) if older else rows


def _kind_and_info(metadata: Mapping[str, str]) -> tuple[str, SourceInfo]:
    """What the schema's metadata says; raises `WireError` ``metadata``, ``version`` or ``kind``."""
    try:
        kind = metadata["kind"]
        version = int(metadata["fingerprint_version"])
        info = SourceInfo(
            model_id=metadata["model_id"],
            captured_layers=tuple(int(layer) for layer in json.loads(metadata["captured_layers"])),
            num_heads=int(metadata["num_heads"]),
            dropped=int(metadata.get("dropped", "0")),
            head_projection=metadata.get("head_projection") or None,
        )
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise WireError("metadata", f"the schema's metadata lacks or spoils a field: {error!r}") from error
    if not 0 <= info.dropped < 1 << 63:
        raise WireError("metadata", f"dropped is {str(info.dropped)[:40]}; it counts batches, from 0")
    if info.head_projection is not None and not _HASH.fullmatch(info.head_projection):
        raise WireError("metadata", "head_projection is no SHA-256 in hexadecimal digits")
    if version != FINGERPRINT_VERSION:
        raise WireError("version", f"fingerprint version {version}; this side speaks {FINGERPRINT_VERSION}")
    if kind not in SCHEMAS:
        raise WireError("kind", f"kind {kind!r}; valid are {sorted(SCHEMAS)}")
    return kind, info


def _is_compressed(payload: bytes) -> bool:
    """Whether the first record batch's buffers are compressed; pyarrow only says so by unpacking them.

    Read from the message's flatbuffer as Arrow's Message.fbs and its format lay it down: a table begins with the way
    back to its vtable, which holds the place of each field or 0. Raises `ValueError` where the stream does not begin
    with a schema and a record batch.
    """
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(payload))
    schema, batch = messages.read_next_message(), messages.read_next_message()
    if (schema.type, batch.type) != ("schema", "record batch"):
        raise ValueError(f"it begins with a {schema.type} and a {batch.type}")
    return is_compressed_batch(batch)


def is_compressed_batch(batch: pa.Message) -> bool:
    """Whether the buffers of this record batch's message are compressed."""
    data = batch.metadata.to_pybytes()
    root = struct.unpack_from("<I", data)[0]
    header = root + _field(data, root, _MESSAGE_HEADER)
    return _field(data, header + struct.unpack_from("<I", data, header)[0], _BATCH_COMPRESSION) != 0


def _field(data: bytes, table: int, number: int) -> int:
    """Where field `number` of a flatbuffer table lies, from the table's beginning; 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    place = 4 + 2 * number
    return int(struct.unpack_from("<H", data, vtable + place)[0]) if place < size else 0


def with_head_columns(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of a version without head sketches as rows of this one: their head columns are null."""
    missing = [pa.nulls(rows.num_rows, FINGERPRINTS.field(name).type) for name in _HEAD_COLUMNS]
    return pa.RecordBatch.from_arrays([*rows.columns, *missing], schema=FINGERPRINTS)


def vectors_from_rows(rows: pa.RecordBatch) -> npt.NDArray[np.float32]:
    """float32 [m, 20]: the `vector` column without a copy."""
    column = rows.column("vector")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(column), DIM)


def sketch_column(rows: pa.RecordBatch, name: str) -> npt.NDArray[np.float32]:
    """float32 [m, width] of `head_sketch` or `zone_evidence`, NaN in rows that have none."""
    column = rows.column(name)
    found = np.full((len(column), column.type.list_size), np.nan, dtype=np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.filter(column.is_valid()).flatten().to_numpy(zero_copy_only=False)
    found[there] = flat.astype(np.float32).reshape(-1, column.type.list_size)
    return found


def ack_frames(*, source_id: bytes, seq: int) -> list[bytes]:
    """What the sidecar answers once the batch is committed."""
    return [MAGIC, source_id, _SEQ.pack(seq)]


def refusal_frames(*, source_id: bytes, seq: int, reason: str) -> list[bytes]:
    """What the sidecar answers to a batch that it can never store."""
    return [MAGIC, source_id, _SEQ.pack(seq), reason.encode()]


def projection_frames(*, source_id: bytes, projection: bytes) -> list[bytes]:
    """What the sidecar sends to a source whose head projection is not the one it should have: the new one's bytes."""
    return [MAGIC, source_id, _PROJECTION, projection]


def decode_projection(frames: Sequence[bytes]) -> bytes | None:
    """The bytes of a head projection where these frames bring one (`HeadProjection.from_bytes`), else None."""
    return bytes(frames[3]) if len(frames) == 4 and frames[0] == MAGIC and frames[2] == _PROJECTION else None


def decode_answer(frames: Sequence[bytes]) -> tuple[bytes, int, str | None]:
    """(source_id, seq, refusal reason or None) of an acknowledgement or refusal."""
    if len(frames) not in (3, 4) or frames[0] != MAGIC or len(frames[2]) != _SEQ.size:
        raise WireError("frames", f"not an acknowledgement: {len(frames)} frames")
    reason = frames[3].decode(errors="replace") if len(frames) == 4 else None
    return bytes(frames[1]), _SEQ.unpack(frames[2])[0], reason
