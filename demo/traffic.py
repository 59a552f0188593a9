"""Sending the demo's prompts through the OpenAI client, and what came back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import openai

from demo.processes import DemoError, say
from demo.prompts import Prompt

CONCURRENCY = 8


@dataclass
class Answer:
    """One streamed answer: its text and the attention tokens that came with it."""

    kind: str
    request_id: str = ""
    text: str = ""
    finish_reason: str | None = None
    attention: list[dict[str, object]] = field(default_factory=list)


async def _ask(client: openai.AsyncOpenAI, prompt: Prompt, progress: list[int]) -> Answer:
    answer = Answer(kind=prompt.kind)
    stream = await client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": prompt.text}],
        max_tokens=prompt.max_tokens,
        temperature=prompt.temperature,
        extra_body={"return_attention_tokens": True},
        stream=True,
    )
    if not isinstance(stream, openai.AsyncStream):  # the overloads cannot see through extra_body
        raise TypeError(f"expected a stream, got {type(stream).__name__}")
    async for chunk in stream:
        answer.request_id = chunk.id
        for choice in chunk.choices:
            answer.text += choice.delta.content or ""
            answer.finish_reason = choice.finish_reason or answer.finish_reason
            tokens = getattr(choice.delta, "attention_tokens", None) or []
            answer.attention.extend(tokens)
            progress[0] += len(tokens)
    return answer


async def _ask_all(base_url: str, prompts: Sequence[Prompt]) -> list[Answer]:
    gate = asyncio.Semaphore(CONCURRENCY)
    progress = [0, 0]  # attention tokens, answers
    start = time.monotonic()

    async def one(client: openai.AsyncOpenAI, prompt: Prompt) -> Answer:
        async with gate:
            answer = await _ask(client, prompt, progress)
        progress[1] += 1
        return answer

    async def report() -> None:
        while True:
            await asyncio.sleep(5)
            rate = progress[0] / (time.monotonic() - start)
            say(f"  {progress[1]} of {len(prompts)} answers, {progress[0]} tokens with attention, {rate:.0f} tokens/s")

    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", timeout=600, max_retries=0) as client:
        reporter = asyncio.create_task(report())
        try:
            return await asyncio.gather(*(one(client, prompt) for prompt in prompts))
        finally:
            reporter.cancel()


def send(base_url: str, prompts: Sequence[Prompt]) -> list[Answer]:
    """The answers to these prompts, eight at a time. Raises `DemoError` where one fails or comes without attention."""
    try:
        answers = asyncio.run(_ask_all(base_url, prompts))
    except openai.OpenAIError as error:
        raise DemoError(f"the model server did not answer: {error}") from error
    for answer in answers:
        steps = [token["step"] for token in answer.attention]
        if not steps or steps != list(range(len(steps))):
            raise DemoError(
                f"answer {answer.request_id} ({answer.kind}) came with attention for steps {steps[:5]}..., "
                "expected every step from 0: see the model server's log"
            )
    return answers
