import json

import numpy as np
import pyarrow as pa
import pytest
from attention_rows import draw, wire_rows
from hypothesis import given
from hypothesis import strategies as st

from attn_core import wire
from attn_core.errors import WireError

INFO = wire.SourceInfo(model_id="demo", captured_layers=(0, 4, 8, 12, 17, 21, 25, 29), num_heads=9, dropped=3)
SOURCE = bytes(range(16))


def frames_of(rows, kind="fingerprints", seq=7):
    return wire.encode_batch(kind=kind, rows=rows, source_id=SOURCE, seq=seq, info=INFO)


def request_rows(event="started"):
    row = dict.fromkeys(wire.REQUESTS.names)
    row |= {"request_id": "r", "event": event, "at_us": 5, "prompt_len": 3, "prompt_token_ids": [1, 2, 3]}
    return pa.RecordBatch.from_pylist([row], schema=wire.REQUESTS)


@given(st.integers(1, 60), st.integers(0, 2**63 - 1))
def test_a_batch_comes_back_as_it_went(count, seq):
    drawn = draw(count, seed=count, longest=50)
    batch = wire.decode_batch(frames_of(wire_rows(drawn), seq=seq))
    assert (batch.source_id, batch.seq, batch.kind, batch.info) == (SOURCE, seq, "fingerprints", INFO)
    assert batch.rows.equals(wire_rows(drawn))
    np.testing.assert_array_equal(wire.vectors_from_rows(batch.rows), drawn.vectors)


def test_request_events_travel_too():
    batch = wire.decode_batch(frames_of(request_rows(), kind="requests"))
    assert batch.kind == "requests"
    assert batch.rows.to_pylist()[0]["prompt_token_ids"] == [1, 2, 3]


def test_answers_come_back_as_they_went():
    assert wire.decode_answer(wire.ack_frames(source_id=SOURCE, seq=9)) == (SOURCE, 9, None)
    refusal = wire.refusal_frames(source_id=SOURCE, seq=9, reason="schema")
    assert wire.decode_answer(refusal) == (SOURCE, 9, "schema")


def with_metadata(**changes):
    frames = frames_of(wire_rows(draw(2, seed=0)))
    with pa.ipc.open_stream(frames[3]) as reader:
        table = reader.read_all()
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()} | changes
    table = table.replace_schema_metadata({k: v for k, v in metadata.items() if v is not None})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return [*frames[:3], bytes(sink.getvalue())]


def without_column():
    rows = wire_rows(draw(2, seed=0))
    table = pa.Table.from_batches([rows]).drop_columns(["sink_mass"])
    metadata = {"kind": "fingerprints", "fingerprint_version": "1", "model_id": "m", "captured_layers": "[]"}
    table = table.replace_schema_metadata(metadata | {"num_heads": "1"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return [*frames_of(rows)[:3], bytes(sink.getvalue())]


GOOD = frames_of(wire_rows(draw(2, seed=0)))


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (GOOD[:3], "frames"),
        ([b"AFP0", *GOOD[1:]], "magic"),
        ([GOOD[0], b"short", *GOOD[2:]], "source"),
        ([*GOOD[:2], b"1", GOOD[3]], "seq"),
        ([*GOOD[:2], b"\xff" * 8, GOOD[3]], "seq"),
        ([*GOOD[:3], b""], "arrow"),
        ([*GOOD[:3], b"not arrow"], "arrow"),
        ([*GOOD[:3], GOOD[3][: len(GOOD[3]) // 2]], "arrow"),
        (with_metadata(kind=None), "metadata"),
        (with_metadata(captured_layers="{"), "metadata"),
        (with_metadata(fingerprint_version="2"), "version"),
        (with_metadata(kind="gossip"), "kind"),
        (with_metadata(kind="requests"), "schema"),
        (without_column(), "schema"),
    ],
)
def test_a_bad_frame_is_refused_with_its_reason(frames, reason):
    with pytest.raises(WireError) as caught:
        wire.decode_batch(frames)
    assert caught.value.reason == reason


@given(st.binary(max_size=400), st.integers(0, 4000))
def test_damage_never_escapes_as_another_error(noise, place):
    payload = bytearray(GOOD[3])
    place = min(place, len(payload))
    payload[place : place + len(noise)] = noise
    try:
        batch = wire.decode_batch([*GOOD[:3], bytes(payload)])
    except WireError:
        return
    assert batch.rows.schema.equals(wire.FINGERPRINTS)


def test_too_large_is_refused_unread(monkeypatch):
    monkeypatch.setattr(wire, "MAX_BATCH_BYTES", 10)
    with pytest.raises(WireError) as caught:
        wire.decode_batch(GOOD)
    assert caught.value.reason == "too_large"


def test_metadata_names_the_layers():
    with pa.ipc.open_stream(GOOD[3]) as reader:
        assert json.loads(reader.schema.metadata[b"captured_layers"]) == [0, 4, 8, 12, 17, 21, 25, 29]


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_compressed_bomb_is_refused_before_it_unpacks(codec):
    """Refused with next to nothing allocated, however much the same rows take unpacked."""
    count = 300_000
    one = wire_rows(draw(1, seed=0))
    columns = [one.column(name).take(pa.array(np.zeros(count, dtype=np.int64))) for name in wire.FINGERPRINTS.names]
    with pa.ipc.open_stream(frames_of(one)[3]) as reader:
        schema = reader.schema
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(unpacked := pa.RecordBatch.from_arrays(columns, schema=schema))
    payload = bytes(sink.getvalue())
    assert 5 * len(payload) < unpacked.nbytes > 30 << 20
    pool = pa.default_memory_pool()
    watched = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(watched)
    try:
        with pytest.raises(WireError) as refused:
            wire.decode_rows(payload)
    finally:
        pa.set_memory_pool(pool)
    assert refused.value.reason == "compressed"
    assert watched.max_memory() < 1 << 20


def test_a_plain_batch_is_read_in_place():
    """What the test above watches would be seen: nor does a plain batch take more than its payload."""
    rows = wire_rows(draw(40, seed=1, longest=50))
    payload = frames_of(rows)[3]
    pool = pa.default_memory_pool()
    watched = pa.proxy_memory_pool(pool)
    pa.set_memory_pool(watched)
    try:
        decoded = wire.decode_rows(payload)[2]
    finally:
        pa.set_memory_pool(pool)
    assert decoded.equals(rows)
    assert watched.max_memory() <= len(payload)
