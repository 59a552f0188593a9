"""`capture_soak`: hundreds of mixed requests through three servers in turn, and then every promise checked.

One server is stock, one captures and publishes to a sidecar, one captures while its sidecar is absent until the end.
Each block of requests goes to all three. Checked: greedy tokens as the stock server's; every committed token has its
fingerprint once; the absent sidecar costs no speed and gets everything when it comes; resident memory stays flat.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, figure_from_limit, figure_from_pairs, report
from benchmarks.model_servers import ModelServer, ServerKind, running_servers
from benchmarks.sidecar_process import free_port, running_sidecar
from benchmarks.soak_requests import STREAMS, Answer, Request, ask, ask_all, mixture

NUM_REQUESTS = 500
BLOCK = 5 * STREAMS
ABSENT_FLOOR = 0.98
WARM_UP = 0.4
"""Share of the blocks after which memory must be flat."""
FLAT = 0.01
PATIENCE_S = 60


def run(*, rows: int | None, as_json: bool) -> bool:
    """Run and report; True where everything holds. `rows` is the number of requests."""
    requests = mixture(rows or NUM_REQUESTS)
    blocks = [requests[i : i + BLOCK] for i in range(0, len(requests), BLOCK)]
    late_port = free_port()
    with running_sidecar() as sidecar:
        kinds = (
            ServerKind(name="stock", capture=False),
            ServerKind(name="heard", capture=True, zmq_port=int(sidecar.zmq.rpartition(":")[2])),
            ServerKind(name="unheard", capture=True, zmq_port=late_port),
        )
        with running_servers(*kinds) as servers:
            soak = _Soak(servers)
            for number, block in enumerate(blocks, 1):
                soak.block(block)
                print(
                    f"  {min(number * BLOCK, len(requests))} of {len(requests)} requests", file=sys.stderr, flush=True
                )
            stock, heard, unheard = soak.answers
            soaked = [
                *_limits("requests_with_other_tokens", soak.different(requests, stock, heard)),
                *_limits("steps_wrong_in_answers", _wrong_answers(requests, heard)),
                *_limits("requests_wrong_in_store", _wrong_rows(requests, heard, sidecar.database)),
                soak.memory(),
                soak.speed(),
            ]
            with running_sidecar(zmq_port=late_port) as late:
                _wait_for_rows(late.database, at_least=sum(len(answer.token_ids) for answer in unheard))
                soaked += _limits("requests_wrong_after_absence", _wrong_rows(requests, unheard, late.database))
    report(soaked, as_json=as_json)
    return all(figure.met for figure in soaked)


class _Soak:
    """The three servers, what they answered, how fast, and how large the second one was."""

    def __init__(self, servers: list[ModelServer]) -> None:
        self.servers = servers
        self.answers: list[list[Answer]] = [[] for _ in servers]
        self._clients = [server.client() for server in servers]
        self._rates: list[tuple[float, float]] = []
        self._resident_bytes: list[int] = []

    def block(self, requests: list[Request]) -> None:
        """The same requests to each server in turn."""
        rates = []
        for answers, client in zip(self.answers, self._clients, strict=True):
            start = time.perf_counter()
            answered = ask_all(client, requests)
            rates.append(sum(len(answer.token_ids) for answer in answered) / (time.perf_counter() - start))
            answers += answered
        self._rates.append((rates[2], rates[1]))
        self._resident_bytes.append(self.servers[1].resident_bytes())

    def different(self, requests: list[Request], expected: list[Answer], got: list[Answer]) -> int:
        """Requests whose greedy tokens differ also when each is asked alone.

        Together they may meet in other batches, and a product over another batch rounds differently: where the two
        likeliest tokens are as good as equal that decides, in the stock server as well.
        """
        count = 0
        for request, ours, theirs in zip(requests, got, expected, strict=True):
            if _same(ours, theirs):
                continue
            alone = [ask(client, request) for client in self._clients[:2]]
            count += not _same(*alone)
        return count

    def memory(self) -> Figure:
        """Growth of the capturing server's memory after the warm-up, by the line through its sizes."""
        kept = np.array(self._resident_bytes[int(len(self._resident_bytes) * WARM_UP) :], dtype=float)
        slope = np.polyfit(np.arange(len(kept)), kept, 1)[0] if len(kept) > 1 else 0.0
        growth = float(slope * len(kept) / kept.mean())
        return figure_from_limit(
            name="capture_soak",
            figure="rss_growth",
            value=growth,
            unit="of its size",
            target=f"<= {FLAT}",
            met=growth <= FLAT,
        )

    def speed(self) -> Figure:
        """Tokens/s without its sidecar against with it."""
        return figure_from_pairs(
            self._rates, name="capture_soak", figure="tokens_per_s, sidecar absent", unit="tokens/s",
            peer="sidecar present", target=f"ratio >= {ABSENT_FLOOR}", floor=ABSENT_FLOOR,
        )  # fmt: skip


def _same(one: Answer, other: Answer) -> bool:
    length = min(len(one.token_ids), len(other.token_ids))
    return one.token_ids[:length] == other.token_ids[:length]


def _limits(figure: str, count: int) -> list[Figure]:
    return [figure_from_limit(name="capture_soak", figure=figure, value=count, unit="", target="0", met=count == 0)]


def _wrong_answers(requests: list[Request], answers: list[Answer]) -> int:
    """Asking requests, not hung up on, whose steps are not 0, 1, 2, ... one a token."""
    return sum(
        answer.steps != tuple(range(len(answer.token_ids)))
        for request, answer in zip(requests, answers, strict=True)
        if request.asks and request.abort_after is None
    )


def _wrong_rows(requests: list[Request], answers: list[Answer], database: Path) -> int:
    """Requests whose stored steps are not 0, 1, 2, ... one a committed token.

    A client sees fewer tokens than were committed where it hung up, or where a stop string was taken off the end.
    """
    steps = defaultdict(list)
    with closing(sqlite3.connect(database)) as connection:
        for request_id, step in connection.execute(
            "SELECT request_id, step FROM fingerprints ORDER BY request_id, step"
        ):
            steps[request_id].append(step)
    wrong = 0
    for request, answer in zip(requests, answers, strict=True):
        stored = steps[answer.request_id]
        whole = request.abort_after is None and not request.stop
        enough = len(stored) == len(answer.token_ids) if whole else len(stored) >= len(answer.token_ids)
        wrong += not (enough and stored == list(range(len(stored))))
    return wrong


def _wait_for_rows(database: Path, *, at_least: int) -> None:
    """Until that many rows are there and no more come."""
    deadline = time.monotonic() + PATIENCE_S
    before = -1
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(database)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM fingerprints").fetchone()
        if count == before and count >= at_least:
            return
        before = count
        time.sleep(1.0)
