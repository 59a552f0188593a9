"""`/requests` by pages and filters, and one request with what its answer leaned on."""

import pytest
from sidecar_tools import START_US, random_rows, request_row, with_column

from attn_core.zones import ZONES


@pytest.fixture
def stored(client, sender):
    """Seven requests, two of them started in the same microsecond, one that only ended."""
    for number in range(7):
        event = "ended" if number == 6 else "started"
        row = request_row(event, request_id=f"r/{number}")
        sender.send(with_column(row, "at_us", [START_US + number // 2 * 1000]), kind="requests")
        sender.send(random_rows(3, seed=number, request_id=f"r/{number}"))
    sender.hear_all()
    return client


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 50])
def test_pages_hold_every_request_once_newest_first(stored, limit):
    seen, cursor = [], None
    while True:
        params = {"limit": limit, **({} if cursor is None else {"cursor": cursor})}
        page = stored.get("/requests", params=params).json()
        assert 1 <= len(page["requests"]) <= limit
        seen += [one["request_id"] for one in page["requests"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["r/5", "r/4", "r/3", "r/2", "r/1", "r/0", "r/6"]


def test_a_request_that_comes_in_between_moves_no_page(stored, sender):
    first = stored.get("/requests", params={"limit": 3}).json()
    sender.send(with_column(request_row("started", request_id="new"), "at_us", [START_US + 10**6]), kind="requests")
    sender.hear_all()
    second = stored.get("/requests", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [one["request_id"] for one in second["requests"]] == ["r/2", "r/1", "r/0"]


def test_filters(stored):
    def ids(**params):
        return [one["request_id"] for one in stored.get("/requests", params=params).json()["requests"]]

    assert ids(from_us=START_US + 1000, to_us=START_US + 2000) == ["r/3", "r/2"]
    assert ids(model="demo-model", from_us=START_US + 2000) == ["r/5", "r/4"]
    assert ids(model="another") == []
    by_zone = {zone: set(ids(zone=zone)) for zone in ZONES}
    zones = {number: {t["zone"] for t in stored.get(f"/requests/r/{number}").json()["tokens"]} for number in range(7)}
    assert by_zone == {zone: {f"r/{n}" for n, held in zones.items() if zone in held} for zone in ZONES}


@pytest.mark.parametrize(
    "cursor", ["x", "W10", "WzEsMl0", "WyJhIiwgImIiXQ", "W3RydWUsICJiIl0", "W251bGwsIDFd", "====", "%00"]
)
def test_a_cursor_that_is_none_is_refused(stored, cursor):
    answer = stored.get("/requests", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (422, "query-invalid")


def test_a_request_comes_with_its_grounding(stored):
    body = stored.get("/requests/r/0").json()
    parts = body["grounding"]["parts"]
    assert [part["kind"] for part in parts] == ["sink", "message", "template", "answer"]
    assert [one["step"] for one in body["grounding"]["tokens"]] == [0, 1, 2]
    for token, one in zip(body["tokens"], body["grounding"]["tokens"], strict=True):
        assert one["low"][0] == one["high"][0] == pytest.approx(token["sink_mass"], abs=1e-6)
        assert one["mass_not_shown"] == pytest.approx(0.25 if token["topk_probs"] else 1)
    assert [(s["first_step"], s["end_step"]) for s in body["grounding"]["sentences"]] == [(0, 3)]
    assert body["next_step"] is None


def test_a_long_answer_comes_in_parts(client, sender):
    sender.send(random_rows(10, request_id="long"))
    sender.hear_all()
    steps, step = [], 0
    while step is not None:
        body = client.get("/requests/long", params={"from_step": step, "max_tokens": 4}).json()
        steps += [token["step"] for token in body["tokens"]]
        step = body["next_step"]
    assert steps == list(range(10))
    # Fingerprints alone say nothing of a prompt.
    assert body["grounding"] is None


def test_a_question_that_takes_too_long_is_given_up(stored, monkeypatch):
    monkeypatch.setattr("attn_sidecar.store.reader.QUERY_S", -1.0)
    monkeypatch.setattr("attn_sidecar.store.reader._STEPS_A_LOOK", 1)
    answer = stored.get("/requests", params={"zone": ZONES[0]})
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (503, "query-too-long")
    monkeypatch.undo()
    assert stored.get("/requests").status_code == 200
