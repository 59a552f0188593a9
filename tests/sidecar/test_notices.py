"""Runs and drift on `/events`: numbered, and told again to whoever comes back with a number."""

import os
from dataclasses import asdict, replace

import pytest
from sidecar_tools import publish_bundle, random_rows
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from attn_core import run_failure
from attn_core.run_failure import RunFailure
from attn_sidecar.app import Sidecar, create_app

FIRST, SECOND, THIRD = (f"2026-01-10T0{hour}-00-00" for hour in (4, 5, 6))


def publish(client, settings, run_id):
    publish_bundle(settings.discovery_dir, run_id=run_id)
    assert client.post("/discovery/reload").status_code == 200


@pytest.mark.parametrize("query", ["", "&after=0"])
def test_who_comes_back_is_told_what_came_meanwhile(client, settings, sidecar, query):
    with client.websocket_connect("/events") as socket:
        hello = socket.receive_json()
        publish(client, settings, FIRST)
        first = socket.receive_json()
    assert first["notice"] > hello["notice"]
    publish(client, settings, SECOND)
    sidecar.live.announce({"kind": "drift", "run_id": SECOND, "reason": "novelty", "evidence": "0.4"})
    with client.websocket_connect(f"/events?after_notice={first['notice']}{query}") as socket:
        assert socket.receive_json()["notice"] == first["notice"]
        second, drift = socket.receive_json(), socket.receive_json()
        publish(client, settings, THIRD)
        third = socket.receive_json()
    assert (second["kind"], second["run_id"]) == ("run", SECOND)
    assert (drift["kind"], drift["reason"]) == ("drift", "novelty")
    assert (third["kind"], third["run_id"]) == ("run", THIRD)
    assert first["notice"] < second["notice"] < drift["notice"] < third["notice"]


def test_tokens_and_notices_are_resumed_together(client, settings, sender):
    with client.websocket_connect("/events") as socket:
        hello = socket.receive_json()
        sender.send(random_rows(3))
        while socket.receive_json()["cursor"] < 3:
            pass
    publish(client, settings, FIRST)
    with client.websocket_connect(f"/events?after=1&after_notice={hello['notice']}") as socket:
        socket.receive_json()
        tokens, run = socket.receive_json(), socket.receive_json()
    assert [token["id"] for token in tokens["tokens"]] == [2, 3]
    assert run["run_id"] == FIRST


def test_a_run_published_while_no_sidecar_ran_is_told_after_the_restart(settings, tmp_path):
    seen = 1_700_000_000_000_000
    for number, run_id in enumerate((FIRST, SECOND)):
        manifest = publish_bundle(settings.discovery_dir, run_id=run_id) / "manifest.json"
        # The first was published before the client's notice, the second after it.
        at_s = seen / 1e6 + (number * 2 - 1)
        os.utime(manifest, (at_s, at_s))
    sidecar = Sidecar(settings)
    with (
        TestClient(create_app(sidecar, static_dir=tmp_path / "static")) as client,
        client.websocket_connect(f"/events?after_notice={seen}") as socket,
    ):
        socket.receive_json()
        run = socket.receive_json()
    assert (run["kind"], run["run_id"], run["notice"]) == ("run", SECOND, seen + 1_000_000)


@pytest.mark.parametrize("notice", ["-1", "x", "1e3", "9" * 19])
def test_a_notice_that_is_none_is_refused(client, notice):
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect(f"/events?after_notice={notice}"):
        pass
    assert refused.value.code == 1008


def test_a_discovery_run_that_failed_is_told_and_stands_in_the_status(client, settings):
    failure = RunFailure(run_id=SECOND, stage="umap_embedding", reason="check every_row failed", failed_at_us=7)
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        run_failure.tell(settings.discovery_dir, failure)
        told = socket.receive_json()
        assert {name: told[name] for name in asdict(failure)} == asdict(failure)
        assert told["kind"] == "failure"
        assert client.get("/discovery/status").json()["failure"] == asdict(failure)
        (settings.discovery_dir / run_failure.FILE_NAME).write_text("{")
        publish(client, settings, THIRD)
        assert socket.receive_json()["kind"] == "run"
        run_failure.forget(settings.discovery_dir)
        run_failure.tell(settings.discovery_dir, replace(failure, failed_at_us=8))
        assert socket.receive_json()["failed_at_us"] == 8
