"""The data path under a crash: nothing lost, nothing twice, on the real model server."""

import sqlite3
import threading
from contextlib import closing

import httpx
import pytest
from openai import OpenAI

from demo.processes import wait_until
from demo.stack import start_sidecar


@pytest.fixture
def healed(demo):
    """Whatever a test does to the sidecar, the next test finds one that runs."""
    yield demo
    if demo.program("sidecar").process.poll() is not None:
        restart(demo)


def restart(demo):
    demo.stack.programs.remove(demo.program("sidecar"))
    program = start_sidecar(demo.stack, ports=demo.ports, places=demo.places)
    wait_until(lambda: healthy(demo), what="sidecar", timeout_s=60, programs=[program])


def healthy(demo):
    try:
        return httpx.get(f"{demo.sidecar}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def stored(demo, request_id):
    with closing(sqlite3.connect(f"{demo.places.database.as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT step FROM fingerprints WHERE request_id = ? ORDER BY step"
        return [row[0] for row in connection.execute(query, (request_id,))]


def test_kill_9_of_the_sidecar_in_the_middle_of_an_answer(healed):
    demo = healed
    half_way = threading.Event()
    answer = {"steps": [], "id": None}

    def ask():
        client = OpenAI(base_url=f"{demo.server}/v1", api_key="none", timeout=300)
        stream = client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "Count from 1 to 60, one number a line."}],
            extra_body={"return_attention_tokens": True, "ignore_eos": True},
            max_tokens=120,
            temperature=0,
            stream=True,
        )
        for chunk in stream:
            answer["id"] = chunk.id
            for choice in chunk.choices:
                answer["steps"] += [token["step"] for token in getattr(choice.delta, "attention_tokens", None) or []]
            if len(answer["steps"]) >= 40:
                half_way.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert half_way.wait(120)
    wait_until(lambda: len(stored(demo, answer["id"])) >= 5, what="the first rows", timeout_s=30)
    demo.program("sidecar").kill()
    before = stored(demo, answer["id"])
    restart(demo)
    asking.join(300)
    assert not asking.is_alive()
    assert answer["steps"] == list(range(120))
    wait_until(lambda: len(stored(demo, answer["id"])) >= 120, what="every row", timeout_s=60)
    assert stored(demo, answer["id"]) == list(range(120))
    assert 0 < len(before) < 120  # the crash was in the middle, else this shows nothing
