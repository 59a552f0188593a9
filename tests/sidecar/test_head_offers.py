"""Head projections offered to model servers: the current one of their model, to those that use another."""

import contextlib
import dataclasses
import sqlite3
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sidecar_tools import INFO, PROJECTION, WAIT_S, Sender, random_rows, request_row

from attn_core import wire
from attn_core.head_projection import FOLDER, NUM_COLUMNS, HeadProjection, projection_file, put_projection
from attn_kernels.outbox import Limits
from attn_kernels.publisher import Publisher
from attn_kernels.rows import StepRows
from attn_kernels.sglang_plugin.heads import Heads
from attn_sidecar.head_offers import LOOK_S, OFFER_S, HeadOffers

SOURCE, OTHER_SOURCE = b"a" * 16, b"b" * 16


def projection(seed, *, model=INFO.model_id, layers=INFO.captured_layers, heads=INFO.num_heads):
    matrix = np.random.default_rng(seed).normal(scale=0.1, size=(len(layers) * heads * 5, NUM_COLUMNS))
    return HeadProjection(
        model=model, layers=layers, num_heads=heads, matrix=matrix.astype(np.float32), offset=np.zeros(21, np.float32)
    )


def using(one):
    return dataclasses.replace(INFO, head_projection=None if one is None else one.sha256)


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def offers(tmp_path, clock):
    return HeadOffers(tmp_path, now_s=lambda: clock[0])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / FOLDER


def test_there_is_nothing_to_offer_before_discovery_has_learned_one(offers, folder, clock):
    assert offers.offer(source_id=SOURCE, info=using(None)) is None
    put_projection(folder, projection(1, model="another"))
    clock[0] += LOOK_S
    assert offers.offer(source_id=SOURCE, info=using(None)) is None
    put_projection(folder, projection(1))
    assert offers.offer(source_id=SOURCE, info=using(None)) is None, "looked at a moment ago"
    clock[0] += LOOK_S
    assert offers.offer(source_id=SOURCE, info=using(None)) == projection(1).to_bytes()


def test_a_source_that_uses_another_is_offered_the_current_one_every_half_minute(offers, folder, clock):
    put_projection(folder, projection(2))
    assert offers.offer(source_id=SOURCE, info=using(projection(2))) is None
    asked_at, answers = [], []
    for _ in range(121):
        asked_at.append(clock[0])
        answers.append(offers.offer(source_id=SOURCE, info=using(projection(1))))
        clock[0] += 0.5
    offered_at = [at for at, answer in zip(asked_at, answers, strict=True) if answer is not None]
    assert offered_at == [1000.0, 1000.0 + OFFER_S, 1000.0 + 2 * OFFER_S]
    assert offers.offer(source_id=OTHER_SOURCE, info=using(None)) == projection(2).to_bytes(), "each for itself"


@pytest.mark.parametrize("change", [{"layers": (0, 1)}, {"heads": 4}])
def test_one_that_the_source_could_not_use_is_not_offered(offers, folder, clock, change, caplog):
    put_projection(folder, projection(1, **change))
    for _ in range(3):
        assert offers.offer(source_id=SOURCE, info=using(None)) is None
        clock[0] += OFFER_S
    assert [record.message for record in caplog.records].count("ingest.head_projection_unfit") == 1


def test_a_torn_file_is_said_once_and_the_former_stays(offers, folder, clock, caplog):
    path = put_projection(folder, projection(1))
    assert offers.offer(source_id=SOURCE, info=using(None)) is not None
    path.write_bytes(projection(2).to_bytes()[:-50])
    for _ in range(3):
        clock[0] += OFFER_S
        assert offers.offer(source_id=SOURCE, info=using(None)) == projection(1).to_bytes()
    assert [record.message for record in caplog.records].count("ingest.head_projection_unreadable") == 1
    put_projection(folder, projection(2))
    clock[0] += OFFER_S
    assert offers.offer(source_id=SOURCE, info=using(None)) == projection(2).to_bytes()


def metric(client, name):
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in samples}


def test_an_offer_comes_back_beside_the_acknowledgement_and_is_counted(client, sidecar, settings):
    put_projection(settings.discovery_dir / FOLDER, projection(1))
    with contextlib.closing(Sender(sidecar.ingest.address)) as sender:
        sender.send(request_row("started"), kind="requests")
        sender.hear_all()
        assert metric(client, "attn_ingest_head_projection_offers_total") == {(): 0}, "requests have no sketch"
        sender.send(random_rows(4))
        frames = [hear(sender), hear(sender)]
        [offered] = [data for one in frames if (data := wire.decode_projection(one)) is not None]
        assert HeadProjection.from_bytes(offered).sha256 == projection(1).sha256
        [answer] = [one for one in frames if wire.decode_projection(one) is None]
        assert wire.decode_answer(answer) == (sender.source_id, 1, None)
        # Once: the next batch has its acknowledgement alone. Then it uses the matrix, and needs no more.
        for info in (INFO, using(projection(1))):
            sender.send(random_rows(2, request_id=info.head_projection), info=info)
            assert wire.decode_projection(hear(sender)) is None
        assert sender.socket.poll(0) == 0
        [stats] = client.get("/stats").json()["ingest"]["clocks"]
        assert (stats["head_projection"], stats["head_projection_offers"]) == (projection(1).sha256, 1)
        assert client.get("/stats").json()["ingest"]["head_projection_offers"] == 1
        assert metric(client, "attn_ingest_head_projection_offers_total") == {(): 1}
        assert metric(client, "attn_ingest_head_projection_sources") == {(projection(1).sha256,): 1}
        with contextlib.closing(Sender(sidecar.ingest.address)) as another:
            another.send(random_rows(1, request_id="none"), info=using(None))
            hear(another)
            hear(another)
            names = metric(client, "attn_ingest_head_projection_sources")
            assert names == {(projection(1).sha256,): 1, ("none",): 1}
    assert PROJECTION not in str(names)


def hear(sender):
    assert sender.socket.poll(int(WAIT_S * 1000)), "nothing came"
    return sender.socket.recv_multipart()


def sketched(number, heads):
    """A step of one token, its sketch by the matrix in use."""
    in_use = heads.step(1).projection
    vector = np.zeros((1, 20), np.float32)
    vector[:, [0, 4]] = 1
    return StepRows(
        request_ids=["r"],
        steps=[number],
        token_ids=[5],
        asked=[False],
        captured_at_us=time.time_ns() // 1000,
        context_lens=[number + 1],
        vectors=vector,
        companions=np.zeros((1, 4), np.float32),
        topk_positions=np.zeros((1, 1), np.int32),
        topk_probs=np.zeros((1, 1), np.float32),
        head_projection=None if in_use is None else in_use.sha256,
        sketches=None if in_use is None else np.full((1, 21), 0.5, np.float32),
    )


def test_a_matrix_changes_under_traffic_and_no_row_is_lost(client, sidecar, settings, tmp_path):
    """Discovery's folder to the model server's, and back as the name of every row's matrix in the database."""
    sidecar.ingest._head_offers._now_s = iter(range(0, 10**9, 31)).__next__  # half a minute from batch to batch
    heads = Heads(
        model_id=INFO.model_id,
        layers=INFO.captured_layers,
        num_heads=INFO.num_heads,
        folder=tmp_path / "state",
        sample=8,
    )
    publisher = Publisher(
        address=sidecar.ingest.address,
        info=dataclasses.replace(INFO, head_projection=None),
        text_of=str,
        limits=Limits(batch_interval_s=0.005),
        take_matrix=heads.take,
    )
    wanted, number = [None, projection(1), projection(2)], 0
    for one in wanted:
        if one is not None:
            put_projection(settings.discovery_dir / FOLDER, one)
        give_up_at = time.monotonic() + WAIT_S
        ours = 0
        while ours < 50:  # so many with it, and as many before as it takes to come
            assert time.monotonic() < give_up_at, publisher.figures()
            row = sketched(number, heads)
            publisher.put(row)
            number += 1
            ours += row.head_projection == (None if one is None else one.sha256)
            while publisher.figures().rows < number:  # as fast as it is made into batches, and no faster
                assert time.monotonic() < give_up_at, publisher.figures()
    assert publisher.close(WAIT_S)
    figures = publisher.figures()
    assert (figures.batches_dropped, figures.items_refused, figures.head_projections_refused) == (0, 0, 0)
    assert figures.head_projections_taken == 2
    assert not sidecar.ingest.counters.refused_rows
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        stored = connection.execute("SELECT step, head_projection FROM fingerprints ORDER BY step").fetchall()
    assert [step for step, _ in stored] == list(range(number))
    names = [name for _, name in stored]
    assert list(dict.fromkeys(names)) == [None, projection(1).sha256, projection(2).sha256]
    assert names == sorted(names, key=[None, projection(1).sha256, projection(2).sha256].index)
    assert [path.name for path in heads.folder.iterdir()] == [projection_file(INFO.model_id)]
