"""`/events`: tokens as they are committed, resumed from a cursor, and no client that can hold anyone up."""

import asyncio
import json
import time

import msgspec
import pytest
from sidecar_tools import publish_bundle, random_rows, request_row, with_column, without_notice
from starlette.websockets import WebSocketDisconnect

from attn_sidecar import live
from attn_sidecar.live import LiveHub
from attn_sidecar.store.records import Token

TOKEN_FIELDS = {
    *("id", "request_id", "step", "token_id", "token_text", "captured_at_us", "zone", "confidence", "cluster_id"),
    *("context_len", "sink_mass", "prompt_mass", "periodicity", "vector", "topk_positions", "topk_probs"),
    *("residual_mass", "head_sketch", "zone_evidence", "head_projection"),
}


def tokens_of(socket, count):
    """The next `count` tokens, whatever messages they come in, and the last cursor."""
    tokens, cursor = [], None
    while len(tokens) < count:
        message = socket.receive_json()
        if message["kind"] == "tokens":
            tokens += message["tokens"]
            cursor = message["cursor"]
            assert cursor == tokens[-1]["id"]
    return tokens, cursor


def test_tokens_arrive_as_they_are_committed(client, sender):
    rows = random_rows(9)
    with client.websocket_connect("/events") as socket:
        hello = {"kind": "hello", "cursor": 0, "run_id": None, "schema_version": 1}
        assert without_notice(socket.receive_json()) == hello
        sender.send(rows)
        tokens, cursor = tokens_of(socket, 9)
    assert cursor == 9
    for token, row in zip(tokens, rows.to_pylist(), strict=True):
        assert set(token) >= TOKEN_FIELDS
        assert {name: token[name] for name in row if name in token} == {n: v for n, v in row.items() if n in token}
        assert token["zone"] is not None
    assert tokens[2]["topk_positions"] is None
    assert tokens[0]["topk_probs"] == [0.5, 0.25]


def test_request_events_arrive(client, sender):
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        sender.send(request_row("started"), kind="requests")
        started = socket.receive_json()
        sender.send(request_row("ended"), kind="requests")
        ended = socket.receive_json()
    assert (started["kind"], started["event"], started["request_id"]) == ("request", "started", "r")
    assert started["prompt_token_texts"] == ["What", " is", " 2+2?"]
    assert started["prompt_spans"] == [{"message": 0, "role": "user", "start": 0, "end": 3}]
    assert (ended["event"], ended["finish_reason"], ended["num_output_tokens"]) == ("ended", "stop", 7)


@pytest.mark.parametrize("after", [0, 3, 599, 600])
def test_a_client_resumes_where_it_was(client, sender, after):
    """600 tokens are more than two messages; then new ones follow without a gap or a repeat."""
    sender.send(random_rows(600))
    sender.hear_all()
    with client.websocket_connect("/events") as first:
        first.receive_json()
        sender.send(random_rows(1, request_id="mark"))
        # Once this client has seen the mark, the hub stands past all of them.
        while tokens_of(first, 1)[0][-1]["request_id"] != "mark":
            pass
    with client.websocket_connect(f"/events?after={after}") as socket:
        assert socket.receive_json()["cursor"] == after
        tokens, _ = tokens_of(socket, 601 - after)
        sender.send(random_rows(5, request_id="new"))
        newer, cursor = tokens_of(socket, 5)
    assert [token["id"] for token in tokens + newer] == list(range(after + 1, 607))
    assert cursor == 606


def test_without_a_cursor_only_what_is_new(client, sender):
    sender.send(random_rows(20))
    sender.hear_all()
    with client.websocket_connect("/events") as socket:
        hello = socket.receive_json()
        sender.send(random_rows(2, request_id="new"))
        seen = []
        while not seen or seen[-1]["request_id"] != "new" or seen[-1]["step"] != 1:
            seen += tokens_of(socket, 1)[0]
    assert [token["id"] for token in seen] == list(range(hello["cursor"] + 1, 23))


def test_a_cursor_of_another_database_begins_at_the_present(client, sender):
    with client.websocket_connect("/events?after=999999") as socket:
        assert socket.receive_json()["cursor"] == 0
        sender.send(random_rows(1))
        assert tokens_of(socket, 1)[1] == 1


@pytest.mark.parametrize("after", ["-1", "x", "1e3", "9" * 30, "١"])
def test_a_cursor_that_is_none_is_refused(client, after):
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(f"/events?after={after}"):
        pass
    assert refused.value.code == 1008


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("http://testserver", True),
        ("http://localhost:5173", True),
        ("http://127.0.0.1:5173", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
    ],
)
def test_pages_of_other_sites_may_not_listen(client, origin, may):
    headers = {"origin": origin}
    if may:
        with client.websocket_connect("/events", headers=headers) as socket:
            assert socket.receive_json()["kind"] == "hello"
    else:
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/events", headers=headers):
            pass


def test_a_new_run_is_announced(client, settings):
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        publish_bundle(settings.discovery_dir)
        assert client.post("/discovery/reload").status_code == 200
        assert without_notice(socket.receive_json()) == {"kind": "run", "run_id": "2026-01-10T04-02-11"}


def test_a_slow_client_is_dropped_and_the_others_are_served(tmp_path):
    """A client that takes nothing loses its place; one that takes its messages gets them all."""

    async def scenario():
        hub = LiveHub(tmp_path / "unused.db")
        slow, quick = hub.subscribe(), hub.subscribe()
        got = []
        for k in range(live.MESSAGES_A_CLIENT + 5):
            hub.broadcast(msgspec.json.encode({"k": k}))
            got.append(json.loads(await quick.queue.get())["k"])
        assert got == list(range(live.MESSAGES_A_CLIENT + 5))
        assert slow.too_slow.is_set()
        assert not quick.too_slow.is_set()
        assert slow.queue.qsize() == live.MESSAGES_A_CLIENT
        assert (hub.num_dropped_clients, hub.num_clients) == (1, 1)

    asyncio.run(scenario())


def test_a_hub_that_fell_behind_says_what_it_skipped(client, sender, monkeypatch):
    monkeypatch.setattr("attn_sidecar.live.MAX_LAG_TOKENS", 100)
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        sender.send(random_rows(150))
        message = socket.receive_json()
        sender.send(random_rows(1, request_id="new"))
        tokens, cursor = tokens_of(socket, 1)
    assert message == {"kind": "gap", "cursor": 150, "skipped_after": 0, "num_skipped": 150}
    assert (tokens[0]["request_id"], cursor) == ("new", 151)


def test_listeners_are_paced_and_the_last_few_tokens_are_not(client, sender, monkeypatch):
    """A full message waits its share of a second, so that reading back cannot crowd out taking in; the rest goes on."""
    held_s = []
    monkeypatch.setattr(LiveHub, "_pause", lambda _, *, until_s: held_s.append(until_s - time.monotonic()))
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        sender.send(random_rows(2 * live.TOKENS_A_MESSAGE + 8, request_id="heard"))
        tokens_of(socket, 2 * live.TOKENS_A_MESSAGE + 8)
        sender.send(random_rows(1, request_id="last"))
        tokens_of(socket, 1)
    assert len(held_s) == 2
    assert all(held <= 1 / 64 for held in held_s)


def test_no_message_is_larger_than_clients_take(client, sender):
    """With a top-k of 128 a message of 256 tokens passed 1 MiB, where common clients hang up."""
    rows = random_rows(600, request_id="wide")
    longest = [[k % 20 for k in range(128)]] * 600
    rows = with_column(rows, "topk_positions", longest)
    rows = with_column(rows, "topk_probs", [[1 / 129] * 128] * 600)
    started = with_column(request_row("started", request_id="wide"), "prompt_token_texts", [["word"] * 100_000])
    with client.websocket_connect("/events") as socket:
        assert socket.receive_json()["kind"] == "hello"
        sender.send(started, kind="requests")
        sender.send(rows)
        sender.hear_all()
        steps, cursor = [], 0
        while len(steps) < 600:
            text = socket.receive_text()
            assert len(text.encode()) <= live.MAX_MESSAGE_BYTES
            message = json.loads(text)
            if message["kind"] == "request":
                assert (message["prompt_left_out"], message["prompt_token_texts"]) == (True, None)
                continue
            assert message["cursor"] > cursor
            cursor = message["cursor"]
            assert all(len(token["topk_probs"]) == 128 for token in message["tokens"])
            steps += [token["step"] for token in message["tokens"]]
    assert steps == list(range(600))
    assert len(client.get("/requests/wide").json()["prompt_token_texts"]) == 100_000
    # Who comes back is sent the same, in messages as small.
    with client.websocket_connect("/events?after=0") as socket:
        socket.receive_text()
        assert len(socket.receive_text().encode()) <= live.MAX_MESSAGE_BYTES


def test_a_token_too_large_for_a_message_goes_without_its_top_k():
    known = dict.fromkeys(Token.__struct_fields__) | {"id": 7, "request_id": "r", "step": 0, "captured_at_us": 1}
    token = Token(**known | {"vector": [0.0] * 20})
    wide = msgspec.structs.replace(token, topk_positions=[1] * 60_000, topk_probs=[0.123456789] * 60_000)
    [(cursor, message)] = live.tokens_messages([wide])
    assert cursor == wide.id
    assert len(message) <= live.MAX_MESSAGE_BYTES
    assert json.loads(message)["tokens"][0]["topk_positions"] is None
