import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from attention_rows import PROJECTION, draw, wire_rows
from hypothesis import given
from hypothesis import strategies as st

from attn_core import wire
from attn_core.errors import WireError

INFO = wire.SourceInfo(
    model_id="demo",
    captured_layers=(0, 4, 8, 12, 17, 21, 25, 29),
    num_heads=9,
    dropped=3,
    head_projection=PROJECTION,
)
HEAD_COLUMNS = ["head_sketch", "zone_evidence", "head_figures"]
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


def of_an_older_version(rows):
    """The frames of a version without head sketches: neither its columns nor its metadata know of them."""
    metadata = {"kind": "fingerprints", "fingerprint_version": "1", "model_id": "m", "captured_layers": "[]"}
    table = pa.Table.from_batches([rows]).drop_columns(HEAD_COLUMNS)
    table = table.replace_schema_metadata(metadata | {"num_heads": "1"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return wire.batch_frames(source_id=SOURCE, seq=7, payload=bytes(sink.getvalue()))


def test_a_batch_of_an_older_version_is_read_as_rows_without_a_sketch():
    rows = wire_rows(draw(5, seed=4))
    batch = wire.decode_batch(of_an_older_version(rows))
    assert batch.info.head_projection is None
    assert batch.rows.schema.equals(wire.FINGERPRINTS)
    for name in wire.FINGERPRINTS.names:
        column = batch.rows.column(name)
        assert column.null_count == 5 if name in HEAD_COLUMNS else column.equals(rows.column(name)), name


def test_what_an_older_version_left_in_its_spool_is_read():
    """Its own bytes: the first three drawn tokens, written by the last version without head sketches."""
    payload = (Path(__file__).parent / "batch_before_sketches.arrow").read_bytes()
    kind, info, rows = wire.decode_rows(payload)
    assert (kind, info.model_id, info.dropped, info.head_projection) == ("fingerprints", "demo", 3, None)
    drawn = wire_rows(draw(3, seed=0))
    assert rows.equals(wire.with_head_columns(drawn.select(wire.FINGERPRINTS.names[:-3])))
    assert wire.decode_rows(wire.encode_rows(kind=kind, rows=rows, info=info))[2].equals(rows)


def test_a_version_with_other_columns_missing_is_not_taken_for_the_older_one():
    rows = wire_rows(draw(2, seed=4))
    frames = of_an_older_version(rows)
    with pa.ipc.open_stream(frames[3]) as reader:
        table = reader.read_all().drop_columns(["residual_mass"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(WireError) as caught:
        wire.decode_batch([*frames[:3], bytes(sink.getvalue())])
    assert caught.value.reason == "schema"


def test_a_batch_without_sketches_names_no_matrix():
    info = wire.SourceInfo(model_id="m", captured_layers=(0,), num_heads=1)
    payload = wire.encode_rows(kind="fingerprints", rows=wire_rows(draw(1, seed=0)), info=info)
    assert wire.decode_rows(payload)[1].head_projection is None


def test_a_head_projection_comes_back_as_it_went_and_is_no_answer():
    """A sender of an older version takes what is no answer for noise, and goes on."""
    frames = wire.projection_frames(source_id=SOURCE, projection=b"matrix")
    assert wire.decode_projection(frames) == b"matrix"
    with pytest.raises(WireError):
        wire.decode_answer(frames)
    for answer in (wire.ack_frames(source_id=SOURCE, seq=1), wire.refusal_frames(source_id=SOURCE, seq=1, reason="x")):
        assert wire.decode_projection(answer) is None


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
        (with_metadata(head_projection="ab" * 31), "metadata"),
        (with_metadata(head_projection="AB" * 32), "metadata"),
        (with_metadata(head_projection="ab" * 32 + "\n"), "metadata"),
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
