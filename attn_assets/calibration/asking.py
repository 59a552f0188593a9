"""Sending labelled prompts to the served model through its OpenAI API, and keeping what it attended to."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from attn_assets.calibration.answers import LabelledAnswers, joined
from attn_assets.calibration.prompts import LabelledPrompt
from attn_core.errors import CalibrationError
from attn_core.fingerprint import DIM, why_invalid
from attn_core.zones import ZONES

CONCURRENCY = 8
TIMEOUT_S = 300.0
_NUMBERS = ("context_len", "sink_mass", "prompt_mass", "periodicity")
Report = Callable[[int, int], None]
"""(answers there are, answers there will be)."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A model server with the capture switched on."""

    url: str
    """Where it listens, without /v1."""
    concurrency: int = CONCURRENCY
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise CalibrationError(
                f"--model-url is {self.url!r}: expected http://HOST:PORT, such as the model server's"
            )

    def model_id(self) -> str:
        """The name under which the server serves its model."""
        models = self._call("/v1/models").get("data") or []
        if not models:
            raise CalibrationError(f"{self.url} serves no model: is it an OpenAI API?")
        return str(models[0]["id"])

    def ask(self, prompt: LabelledPrompt, *, max_tokens: int) -> LabelledAnswers | None:
        """What the model attended to in its answer; None where it answered with nothing."""
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": prompt.text}],
            "max_tokens": max_tokens,
            "temperature": prompt.temperature,
            "seed": 0,
            "return_attention_tokens": True,
        }
        answer = self._call("/v1/chat/completions", body)
        tokens = answer["choices"][0]["message"].get("attention_tokens")
        if tokens is None:
            raise CalibrationError(
                f"No attention tokens in response: start the model server at {self.url} with "
                "--return-attention-tokens, and with --attention-backend triton"
            )
        captured = [token for token in tokens if token.get("captured", True)]
        text = str(answer["choices"][0]["message"].get("content") or "")
        return _labelled(prompt, captured, text=text) if captured else None

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            self.url.rstrip("/") + path, data=data, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:  # noqa: S310
                read: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise CalibrationError(f"{self.url}{path} answered {error.code}: see the model server's log") from error
        except (OSError, ValueError) as error:
            raise CalibrationError(
                f"{self.url}{path} did not answer ({error}): is the model server up, and is --model-url its address?"
            ) from error
        return read


def ask_all(
    server: Server, prompts: Sequence[LabelledPrompt], *, max_tokens: int, report: Report = lambda done, total: None
) -> LabelledAnswers:
    """The answers to all prompts, in their order, several at a time. Raises `CalibrationError` where one fails."""
    done = 0

    def one(prompt: LabelledPrompt) -> LabelledAnswers | None:
        nonlocal done
        answer = server.ask(prompt, max_tokens=max_tokens)
        done += 1
        report(done, len(prompts))
        return answer

    with ThreadPoolExecutor(server.concurrency, thread_name_prefix="ask") as pool:
        asked = [pool.submit(one, prompt) for prompt in prompts]
        try:
            wait(asked, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    failed = [error for future in asked if not future.cancelled() and (error := future.exception()) is not None]
    if failed:
        raise failed[0]
    answers = [answer for future in asked if (answer := future.result()) is not None]
    if not answers:
        raise CalibrationError(f"{server.url} answered every prompt with nothing: there is nothing to learn from")
    return joined(answers)


def _labelled(prompt: LabelledPrompt, tokens: Sequence[dict[str, Any]], *, text: str) -> LabelledAnswers:
    vectors = np.array([token["fingerprint"] for token in tokens], dtype=np.float32).reshape(-1, DIM)
    lengths = np.array([token["context_len"] for token in tokens], dtype=np.int64)
    broken = next((reason for reason in why_invalid(vectors, lengths) if reason), None)
    if broken is not None:
        raise CalibrationError(f"the model server sent a vector that is no fingerprint: {broken}")
    numbers = {name: np.array([token[name] for token in tokens], dtype=np.float32) for name in _NUMBERS[1:]}
    return LabelledAnswers(
        start=np.array([0, len(tokens)]),
        zone_index=np.array([ZONES.index(prompt.zone)]),
        family=np.array([prompt.family]),
        surroundings=np.array([prompt.surroundings]),
        prompt=np.array([prompt.text]),
        text=np.array([text]),
        vectors=vectors,
        context_len=lengths,
        **numbers,
    )
