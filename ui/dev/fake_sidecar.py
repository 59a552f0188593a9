"""A FAKE sidecar for work on the explorer alone: it answers as the real one does, with made-up attention.

    python ui/dev/fake_sidecar.py --port 9009 --scenario busy

Scenarios: ``busy`` (answers stream without end), ``empty`` (nothing stored), ``no-discovery``, ``no-clusters``. It also serves the
built explorer, if there is one. Nothing in the product, and no test of the product, may rest on it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import uvicorn
from fake_model import ZONES, embedding, token_row
from fake_text import CONVERSATIONS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

STATIC = Path(__file__).resolve().parents[2] / "sidecar" / "attn_sidecar" / "static"
MODEL = "made-up/SmolLM2-135M-Instruct"
RUN_ID = "2026-01-10T04-02-11"
Json = dict[str, object]


class FakeStore:
    """All that the fake holds, in memory."""

    def __init__(self, *, scenario: str, num_points: int, tokens_per_s: float, answer_repeats: int, seed: int) -> None:
        self.scenario, self.num_points, self.tokens_per_s = scenario, num_points, tokens_per_s
        self.answer_repeats = answer_repeats
        self.rng = np.random.default_rng(seed)
        self.tokens: list[Json] = []
        self.requests: dict[str, Json] = {}
        self.run_id = None if scenario in ("empty", "no-discovery") else RUN_ID
        self.sockets: set[WebSocket] = set()

    async def tell(self, message: Json) -> None:
        text = json.dumps(message)
        for socket in list(self.sockets):
            try:
                await socket.send_text(text)
            except (RuntimeError, WebSocketDisconnect):
                self.sockets.discard(socket)

    def request_message(self, request: Json, event: str) -> Json:
        return {"kind": "request", "event": event, **request}

    async def answer(self, number: int, *, at_once: bool = False) -> None:
        """One request from start to end; `at_once` is history from before the page was opened."""
        talk = CONVERSATIONS[number % len(CONVERSATIONS)]
        request_id = f"chatcmpl-fake{number:04d}{self.rng.integers(1 << 30):08x}"
        now_us = int(time.time() * 1e6) - (600 - 30 * number) * 1_000_000 * at_once
        request: Json = {
            "request_id": request_id,
            "model_id": MODEL,
            "started_at_us": now_us,
            "ended_at_us": None,
            "prompt_len": len(talk.prompt),
            "num_output_tokens": None,
            "finish_reason": None,
            "prompt_token_texts": talk.prompt,
            "prompt_spans": talk.spans,
        }
        self.requests[request_id] = request
        await self.tell(self.request_message(request, "started"))
        asks_top_k = number % 4 != 1
        stay = 0
        kind = 0
        batch = max(1, round(self.tokens_per_s / 50))
        answer = talk.answer * (1 if at_once else self.answer_repeats)
        for step, text in enumerate(answer):
            if stay == 0:
                kind, stay = int(self.rng.choice(5, p=[0.32, 0.27, 0.14, 0.15, 0.12])), int(self.rng.integers(1, 6))
            stay -= 1
            row = token_row(self.rng, prompt_len=len(talk.prompt), step=step, kind=kind, asks_top_k=asks_top_k)
            at_us = now_us + 90_000 * step if at_once else int(time.time() * 1e6)
            identity: Json = {"id": len(self.tokens) + 1, "request_id": request_id, "step": step}
            said: Json = {"token_id": hash(text) % 49152, "token_text": text, "captured_at_us": at_us}
            self.tokens.append({**identity, **said, **row})
            if not at_once and (step + 1) % batch == 0:
                await self.tell({"kind": "tokens", "cursor": len(self.tokens), "tokens": self.tokens[-batch:]})
                await asyncio.sleep(batch / self.tokens_per_s)
        rest = len(answer) % batch
        if rest and not at_once:
            await self.tell({"kind": "tokens", "cursor": len(self.tokens), "tokens": self.tokens[-rest:]})
        request.update(
            ended_at_us=self.tokens[-1]["captured_at_us"], finish_reason="stop", num_output_tokens=len(answer)
        )
        ended = {key: value for key, value in request.items() if not key.startswith("prompt_")}
        await self.tell(self.request_message(ended, "ended"))

    async def run(self) -> None:
        if self.scenario == "empty":
            return
        for number in range(9):
            await self.answer(number, at_once=True)
        number = 9
        while True:
            await self.answer(number)
            await asyncio.sleep(1.5)
            number += 1


def problem(status: int, title: str, detail: str) -> JSONResponse:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def store_of(request: Request | WebSocket) -> FakeStore:
    store: FakeStore = request.app.state.store
    return store


async def health(_: Request) -> Response:
    return JSONResponse({"status": "ok", "version": "0.0.0-fake", "reasons": []})


async def stats(request: Request) -> Response:
    store = store_of(request)
    counts = {zone: sum(token["zone"] == zone for token in store.tokens) for zone in ZONES}
    num_clusters = 10 if store.run_id and store.scenario != "no-clusters" else 0
    figures = {"fingerprints": len(store.tokens), "requests": len(store.requests), "zones": counts}
    return JSONResponse({**figures, "clusters": num_clusters, "run_id": store.run_id, "ingest": {}})


async def discovery_status(request: Request) -> Response:
    store = store_of(request)
    if store.run_id:
        return JSONResponse({"status": "ready", "run_id": store.run_id})
    mends = ["Run the discovery job first", "Check --discovery-dir"]
    return JSONResponse({"status": "unavailable", "detail": "discovery not available", "what_to_do": mends})


async def requests(request: Request) -> Response:
    newest = sorted(store_of(request).requests.values(), key=lambda row: -int(str(row["started_at_us"])))
    limit = int(request.query_params.get("limit", "50"))
    return JSONResponse({"requests": [dict(row) for row in newest[:limit]]})


async def one_request(request: Request) -> Response:
    store, request_id = store_of(request), request.path_params["request_id"]
    if request_id not in store.requests:
        return problem(404, "request not found", f"no request {request_id!r} is stored")
    tokens = [token for token in store.tokens if token["request_id"] == request_id]
    return JSONResponse({**store.requests[request_id], "tokens": tokens})


async def points(request: Request) -> Response:
    store = store_of(request)
    if store.run_id is None:
        return problem(404, "discovery not available", "no discovery run has been published yet")
    rng = np.random.default_rng(7)
    columns = embedding(rng, num_points=store.num_points, has_clusters=store.scenario != "no-clusters")
    which = rng.integers(0, max(1, len(store.tokens)), size=store.num_points)
    zone = pa.DictionaryArray.from_arrays(pa.array(columns["zone"]), pa.array(ZONES))
    table = pa.table(
        {
            **{name: columns[name] for name in ("x", "y", "cluster_id", "confidence")},
            "zone": zone,
            "request_id": [store.tokens[k]["request_id"] for k in which],
            "step": pa.array([store.tokens[k]["step"] for k in which], pa.int32()),
            "token_text": [store.tokens[k]["token_text"] for k in which],
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)
    return Response(sink.getvalue(), media_type="application/vnd.apache.arrow.stream")


async def clusters(request: Request) -> Response:
    store = store_of(request)
    if store.run_id is None or store.scenario == "no-clusters":
        return JSONResponse({"run_id": store.run_id, "clusters": []})
    columns = embedding(np.random.default_rng(7), num_points=store.num_points, has_clusters=True)
    rows = []
    for cluster_id in range(10):
        mine = columns["cluster_id"] == cluster_id
        centre = {"centroid_x": float(columns["x"][mine].mean()), "centroid_y": float(columns["y"][mine].mean())}
        identity = {"cluster_id": cluster_id, "cluster_label": f"Cluster {cluster_id}", "zone": ZONES[cluster_id // 2]}
        rows.append({**identity, "size": int(mine.sum()), **centre})
    return JSONResponse({"run_id": store.run_id, "clusters": rows})


async def publish_run(request: Request) -> Response:
    """As if discovery had published: what is unavailable becomes available."""
    store = store_of(request)
    store.run_id, store.scenario = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime()), "busy"
    await store.tell({"kind": "run", "run_id": store.run_id})
    return JSONResponse({"run_id": store.run_id})


async def drop_sockets(request: Request) -> Response:
    """Closes every live connection, to see the page come back."""
    store = store_of(request)
    dropped = list(store.sockets)
    store.sockets.clear()
    for socket in dropped:
        await socket.close()
    return JSONResponse({"dropped": len(dropped)})


async def events(socket: WebSocket) -> None:
    store = store_of(socket)
    await socket.accept()
    await socket.send_json({"kind": "hello", "cursor": len(store.tokens), "run_id": store.run_id, "schema_version": 1})
    after = socket.query_params.get("after")
    missed = store.tokens[int(after) :] if after is not None else []
    for start in range(0, len(missed), 256):
        part = missed[start : start + 256]
        await socket.send_json({"kind": "tokens", "cursor": part[-1]["id"], "tokens": part})
    store.sockets.add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        store.sockets.discard(socket)


async def explorer(request: Request) -> Response:
    path = (STATIC / request.path_params.get("path", "")).resolve()
    if path.is_relative_to(STATIC) and path.is_file():
        return FileResponse(path)
    return FileResponse(STATIC / "index.html")


def make_app(store: FakeStore) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(store.run())
        yield
        running.cancel()

    routes = [
        Route("/health", health),
        Route("/stats", stats),
        Route("/discovery/status", discovery_status),
        Route("/discovery/reload", publish_run, methods=["POST"]),
        Route("/requests", requests),
        Route("/requests/{request_id}", one_request),
        Route("/points", points),
        Route("/clusters", clusters),
        Route("/fake/drop", drop_sockets, methods=["POST"]),
        WebSocketRoute("/events", events),
        Route("/", explorer),
        Route("/{path:path}", explorer),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.store = store
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=9009)
    parser.add_argument("--scenario", choices=["busy", "empty", "no-discovery", "no-clusters"], default="busy")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--tokens-per-s", type=float, default=12.0)
    parser.add_argument("--answer-repeats", type=int, default=1, help="long answers, for load")
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    store = FakeStore(
        scenario=options.scenario,
        num_points=options.points,
        tokens_per_s=options.tokens_per_s,
        answer_repeats=options.answer_repeats,
        seed=options.seed,
    )
    uvicorn.run(make_app(store), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
