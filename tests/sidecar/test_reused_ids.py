"""An id that a client uses again: each answer is a request of its own, whole, and found by that id."""

import contextlib
import sqlite3

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sidecar_tools import START_US, random_rows, request_row, with_column

from attn_core import wire
from attn_core.classify import Classifier
from attn_core.store import open_writer, schema_sql
from attn_sidecar.store.jobs import ArrivedBatch
from attn_sidecar.store.transaction import prepare, write

SECOND_US = START_US + 60_000_000


def answer(text, *, start_us, count=4, request_id="same"):
    """The start, the tokens and the end of an answer whose prompt is this text."""
    seed = sum(text.encode())
    started, ended = request_row("started", request_id=request_id), request_row("ended", request_id=request_id)
    started = with_column(with_column(started, "at_us", [start_us]), "prompt_token_texts", [[text]])
    ended = with_column(with_column(ended, "at_us", [start_us + 5_000_000]), "num_output_tokens", [count])
    rows = random_rows(count, seed=seed, request_id=request_id, start_us=start_us + 1)
    return [("requests", started), ("fingerprints", rows), ("requests", ended)]


def send_all(sender, *answers):
    for one in answers:
        for kind, rows in one:
            sender.send(rows, kind=kind)
    sender.hear_all()
    assert not sender.refused


def shown(client, request_id):
    body = client.get(f"/requests/{request_id}").json()
    return body["prompt_token_texts"], [one["vector"] for one in body["tokens"]], body["num_output_tokens"]


def vectors(one):
    return wire.vectors_from_rows(one[1][1]).tolist()


def test_two_answers_of_one_id_are_two_requests(client, sender):
    """The second answer's tokens were dropped, and the first was shown under the second prompt."""
    first, second = answer("first", start_us=START_US), answer("second", start_us=SECOND_US, count=6)
    send_all(sender, first, second)
    listed = client.get("/requests").json()["requests"]
    assert [(one["request_id"], one["response_id"]) for one in listed] == [("same~2", "same"), ("same", "same")]
    assert [one["num_fingerprints"] for one in listed] == [6, 4]
    assert shown(client, "same") == (["first"], vectors(first), 4)
    assert shown(client, "same~2") == (["second"], vectors(second), 6)
    for name in ("same", "same~2"):
        body = client.get(f"/requests/{name}").json()
        assert (body["response_id"], body["same_response_id"]) == ("same", ["same", "same~2"])
    found = client.get("/requests", params={"response_id": "same"}).json()["requests"]
    assert {one["request_id"] for one in found} == {"same", "same~2"}
    assert client.get("/requests", params={"response_id": "other"}).json()["requests"] == []


def test_what_is_sent_again_is_no_new_answer(client, sender, sidecar):
    """Every batch of both answers once more, as after a reconnect, to a sidecar that has forgotten the numbers."""
    both = answer("first", start_us=START_US), answer("second", start_us=SECOND_US)
    send_all(sender, *both)
    before = client.get("/requests").json()
    sidecar.ingest._committed.clear()
    send_all(sender, *both[::-1], *both)
    assert client.get("/requests").json() == before
    assert client.get("/stats").json()["fingerprints"] == 8


def test_the_first_answer_that_comes_late_keeps_its_own_tokens(client, sender):
    """The spool of a server that was killed is sent after the next server's rows."""
    first, second = answer("first", start_us=START_US), answer("second", start_us=SECOND_US)
    send_all(sender, second, first)
    assert shown(client, "same") == (["second"], vectors(second), 4)
    assert shown(client, "same~2") == (["first"], vectors(first), 4)
    assert client.get("/requests/same").json()["same_response_id"] == ["same~2", "same"]


def test_three_answers_whose_starts_were_lost(client, sender):
    """Only tokens: another instant and another vector at a step that is held."""
    answers = [answer(text, start_us=START_US + k * 60_000_000)[1:2] for k, text in enumerate(["a", "bb", "ccc"])]
    for one in answers:
        send_all(sender, one)
    for name, one in zip(["same", "same~2", "same~3"], answers, strict=True):
        assert [token["vector"] for token in client.get(f"/requests/{name}").json()["tokens"]] == (
            wire.vectors_from_rows(one[0][1]).tolist()
        )


def test_the_same_answer_twice_is_stored_twice(client, sender):
    """A health probe: same id, same prompt, the same tokens to the bit, at another time."""
    send_all(sender, answer("probe", start_us=START_US), answer("probe", start_us=SECOND_US))
    assert shown(client, "same") == shown(client, "same~2")
    assert client.get("/stats").json()["fingerprints"] == 8


def test_a_name_that_a_client_sent_itself_is_not_taken(client, sender):
    send_all(
        sender,
        answer("its own", start_us=START_US, request_id="same~2"),
        answer("first", start_us=START_US),
        answer("second", start_us=SECOND_US),
    )
    assert shown(client, "same~2")[0] == ["its own"]
    assert shown(client, "same~3")[0] == ["second"]


def test_live_clients_hear_the_names(client, sender):
    send_all(sender, answer("first", start_us=START_US))
    # Acknowledged is not yet told: who comes now would still hear the first answer.
    while client.get("/stats").json()["live"]["cursor"] < 4:
        pass
    with client.websocket_connect("/events") as socket:
        assert socket.receive_json()["kind"] == "hello"
        send_all(sender, answer("second", start_us=SECOND_US))
        heard = [socket.receive_json() for _ in range(3)]
    names = [one["request_id"] for one in heard if one["kind"] == "request"]
    names += [token["request_id"] for one in heard if one["kind"] == "tokens" for token in one["tokens"]]
    assert set(names) == {"same~2"}


def test_names_go_with_their_requests(tmp_path):
    with contextlib.closing(open_writer(tmp_path / "a.db")) as connection:
        store_answers(connection, [answer("first", start_us=START_US), answer("second", start_us=SECOND_US)])
        assert connection.execute("SELECT request_id FROM reused_ids").fetchall() == [("same~2",)]
        connection.execute("DELETE FROM fingerprints WHERE request_id = 'same~2'")
        connection.execute("DELETE FROM request_numbers WHERE request_id = 'same~2'")
        connection.execute("DELETE FROM requests WHERE request_id = 'same~2'")
        assert connection.execute("SELECT count(*) FROM reused_ids").fetchone() == (0,)


def store_answers(connection, answers, *, groups=1):
    """Write the batches of these answers in transactions of so many batches."""
    batches = [
        wire.Batch(
            source_id=bytes(16), seq=seq, kind=kind, rows=rows,
            info=wire.SourceInfo(model_id="m", captured_layers=(), num_heads=1),
        )
        for seq, (kind, rows) in enumerate(part for one in answers for part in one)
    ]  # fmt: skip
    for start in range(0, len(batches), groups):
        jobs = [ArrivedBatch(batch=batch, answer=lambda _: None) for batch in batches[start : start + groups]]
        write(connection, prepare(jobs, classifier=Classifier.without_run(), now_us=SECOND_US))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    of_id=st.lists(st.sampled_from("abc"), min_size=1, max_size=8),
    groups=st.integers(1, 30),
    sizes=st.lists(st.integers(1, 5), min_size=8, max_size=8),
    again=st.booleans(),
)
def test_every_answer_is_whole_however_batches_are_grouped(of_id, groups, sizes, again):
    """Answers of three ids, one after another: as many requests as answers, each with its own tokens in order."""
    answers = [
        answer(f"{k}", start_us=START_US + k * 10_000_000, count=size, request_id=name)
        for k, (name, size) in enumerate(zip(of_id, sizes, strict=False))
    ]
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(schema_sql())
        store_answers(connection, answers, groups=groups)
        if again:
            store_answers(connection, answers, groups=groups)
        named = dict(connection.execute("SELECT started_at_us, request_id FROM requests"))
        assert len(named) == len(answers)
        for k, one in enumerate(answers):
            rows = connection.execute(
                "SELECT step, vector FROM fingerprints WHERE request_id = ? ORDER BY step",
                (named[START_US + k * 10_000_000],),
            ).fetchall()
            assert [step for step, _ in rows] == list(range(len(one[1][1])))
            assert [np.frombuffer(blob, "<f4").tolist() for _, blob in rows] == vectors(one)


@pytest.mark.parametrize("text", ["r", "a/b c", "é~2"])
def test_names_are_usable_in_a_path(client, sender, text):
    send_all(
        sender,
        answer("first", start_us=START_US, request_id=text),
        answer("second", start_us=SECOND_US, request_id=text),
    )
    assert client.get(f"/requests/{text}~2").json()["prompt_token_texts"] == ["second"]
