"""`capture_cpu`: tokens/s of the CPU server with the capture on, against the same server without it.

Both servers run side by side and are asked in turn. The prompts are in both caches before anything is timed, so that
what is timed is decoding. The capturing server publishes to a running sidecar; every request asks for its attention.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import httpx
import numpy as np

from benchmarks.measure import figure_from_pairs, pairs, report
from benchmarks.model_servers import ServerKind, running_servers
from benchmarks.sidecar_process import running_sidecar

STREAMS = (1, 8)
CONTEXTS = (128, 1024)
NEW_TOKENS = 24
FLOOR = 0.95
TOKEN_IDS = (1_000, 40_000)


def run(*, rows: int | None, as_json: bool) -> bool:
    """Measure and report; True where every ratio meets its target. `rows` is the number of tokens a stream."""
    new_tokens = rows or NEW_TOKENS
    figures = []
    with running_sidecar() as sidecar:
        zmq_port = int(sidecar.zmq.rpartition(":")[2])
        kinds = (ServerKind(name="on", capture=True, zmq_port=zmq_port), ServerKind(name="off", capture=False))
        with running_servers(*kinds) as (on, off), on.client() as capturing, off.client() as plain:
            for context in CONTEXTS:
                prompts = _prompts(max(STREAMS), context)
                for streams in STREAMS:
                    ask = _Asking(prompts[:streams], new_tokens=new_tokens)
                    texts = [ask.answer(client) for client in (capturing, plain)]  # also fills the caches
                    if texts[0] != texts[1]:
                        raise SystemExit("capture_cpu: the two servers give different greedy tokens")
                    measured = pairs(partial(ask.rate, capturing), partial(ask.rate, plain))
                    figures.append(
                        figure_from_pairs(
                            measured,
                            name="capture_cpu",
                            figure=f"tokens_per_s, {streams} streams, context {context}",
                            unit="tokens/s",
                            peer="capture off",
                            target=f"ratio >= {FLOOR}",
                            floor=FLOOR,
                        )
                    )
                    print(f"  {streams} streams at {context} positions measured", file=sys.stderr, flush=True)
    report(figures, as_json=as_json)
    return all(figure.met for figure in figures)


class _Asking:
    """One batch of requests, asked again and again."""

    def __init__(self, prompts: list[list[int]], *, new_tokens: int) -> None:
        self._num_tokens = len(prompts) * new_tokens
        self._body = {
            "input_ids": prompts,
            "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True},
        }

    def answer(self, client: httpx.Client) -> list[list[int]]:
        """The tokens of every stream. The stock server does not know the field, and ignores it."""
        body = {**self._body, "return_attention_tokens": True}
        answers = client.post("/generate", json=body).raise_for_status().json()
        return [answer["output_ids"] for answer in answers]

    def rate(self, client: httpx.Client) -> float:
        """Tokens/s of all streams together."""
        start = time.perf_counter()
        count = sum(map(len, self.answer(client)))
        seconds = time.perf_counter() - start
        if count != self._num_tokens:
            raise SystemExit(f"capture_cpu: {count} tokens came of {self._num_tokens}")
        return count / seconds


def _prompts(count: int, length: int) -> list[list[int]]:
    """Different token ids for each stream, so that none finds another's in the cache."""
    drawn: list[list[int]] = np.random.default_rng(length).integers(*TOKEN_IDS, (count, length)).tolist()
    return drawn
