"""What `capture_soak` asks: the same mixture of requests for every server, and what came back of each."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np

from demo.prompts import prompt_mix

STREAMS = 8
_STOPS = ((), (".",), ("\n", " the"))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request; all are greedy."""

    text: str
    max_tokens: int
    asks: bool
    stop: tuple[str, ...] = ()
    abort_after: int | None = None
    """The client hangs up after this many chunks."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    request_id: str
    token_ids: tuple[int, ...]
    steps: tuple[int, ...] | None
    """Of its attention tokens; None where it did not ask."""


def mixture(count: int, *, seed: int = 0) -> list[Request]:
    """Requests of 1 to 40 tokens over the demo's prompts: half ask, two in three have stops, some hang up."""
    draw = np.random.default_rng(seed)
    texts = [prompt.text for prompt in prompt_mix()]
    made = []
    for _ in range(count):
        text = texts[draw.integers(len(texts))]
        # Cut at a random place, so that lengths and shared beginnings (cache hits) both vary.
        words = text.split()[: int(draw.integers(3, 1 + max(4, len(text.split()))))]
        max_tokens = int(draw.integers(1, 41))
        made.append(
            Request(
                text=" ".join(words),
                max_tokens=max_tokens,
                asks=bool(draw.random() < 0.5),
                stop=_STOPS[draw.integers(len(_STOPS))],
                abort_after=int(draw.integers(1, 8)) if max_tokens > 16 and draw.random() < 0.15 else None,
            )
        )
    return made


def ask_all(client: httpx.Client, requests: list[Request]) -> list[Answer]:
    """All of them, at most eight at once, answers in the order of the requests."""
    with ThreadPoolExecutor(STREAMS) as pool:
        return list(pool.map(lambda request: ask(client, request), requests))


def ask(client: httpx.Client, request: Request) -> Answer:
    """One request, streamed."""
    body = {
        "text": request.text,
        "stream": True,
        "return_attention_tokens": request.asks,
        "sampling_params": {"temperature": 0, "max_new_tokens": request.max_tokens, "stop": list(request.stop)},
    }
    token_ids: list[int] = []
    steps: list[int] = []
    request_id = ""
    with client.stream("POST", "/generate", json=body) as response:
        response.raise_for_status()
        for number, line in enumerate(line for line in response.iter_lines() if line.startswith("data: {")):
            answer = json.loads(line.removeprefix("data: "))
            request_id = answer["meta_info"]["id"]
            token_ids = answer["output_ids"]
            steps += [token["step"] for token in answer["meta_info"].get("attention_tokens") or ()]
            if number + 1 == request.abort_after:
                break
    return Answer(request_id=request_id, token_ids=tuple(token_ids), steps=tuple(steps) if request.asks else None)
