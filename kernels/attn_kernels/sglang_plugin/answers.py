"""In the HTTP process: what the scheduler captured becomes ``attention_tokens`` in the answers.

The scheduler sends each output token's attention once, packed. Here it is unpacked and handed on exactly once: with the
delta of its own text, or, where a token has no text of its own (end of sequence, half a UTF-8 character), with the next
delta, or in a delta of its own at the end.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from fastapi.responses import ORJSONResponse
from sglang.srt.managers.tokenizer_manager import ServerStatus

from attn_kernels.sglang_plugin import request_fields
from attn_kernels.sglang_plugin.packed import KEY, unpack
from attn_kernels.sglang_plugin.prompt_spans import prompt_spans

_rendering = threading.local()
"""SGLang converts a request on one thread from start to end: the spans of the prompt rendered on it, if any."""


def around_render_chat_template(original: Callable[..., Any], self: Any, messages: Any, **options: Any) -> Any:
    """Hook: note where each message lies in the prompt that SGLang renders from `messages`."""
    rendered = original(self, messages, **options)
    _rendering.spans = prompt_spans(
        self.tokenizer_manager.tokenizer,
        messages,
        prompt_ids=rendered[0],
        template_options={
            **options["template_kwargs"],
            "tools": options["tools"],
            "add_generation_prompt": options.get("add_generation_prompt", True),
        },
        encode_options=options["encode_kwargs"],
    )
    return rendered


def around_convert_chat_request(
    original: Callable[..., Any], self: Any, request: Any, raw_request: Any = None
) -> tuple[Any, Any]:
    """Hook: give the scheduler the field and the spans."""
    _rendering.spans = None
    adapted, processed = original(self, request, raw_request)
    if _rendering.spans is not None:
        request_fields.mark(adapted, request_fields.SPANS, orjson.dumps(_rendering.spans).decode())
    if request.return_attention_tokens:
        request_fields.mark(adapted, request_fields.ASKED, True)
    return adapted, processed


def around_convert_completion_request(
    original: Callable[..., Any], self: Any, request: Any, raw_request: Any = None
) -> tuple[Any, Any]:
    """Hook: give the scheduler the field."""
    adapted, processed = original(self, request, raw_request)
    if request.return_attention_tokens:
        request_fields.mark(adapted, request_fields.ASKED, True)
    return adapted, processed


async def around_generate_request(
    original: Callable[..., Any], self: Any, obj: Any, request: Any = None
) -> AsyncIterator[Any]:
    """Hook: a request before the server is up is its own warm-up."""
    if self.server_status == ServerStatus.Starting and isinstance(obj, request_fields.GenerateReqInput):
        request_fields.mark(obj, request_fields.UNSEEN, True)
    async for out in original(self, obj, request):
        yield out


def around_update_request_meta_info(
    original: Callable[..., Any],
    self: Any,
    meta_info: dict[str, Any],
    state: Any,
    customized_info: dict[str, Any],
    index: int,
    finish_reason: Any,
) -> None:
    """Hook: keep this request's new attention with its state; the rest is SGLang's."""
    others = {key: values for key, values in customized_info.items() if key != KEY}
    original(self, meta_info, state, others, index, finish_reason)
    if KEY in customized_info:
        arrived = [unpack(entry) for entry in customized_info[KEY][index] if entry is not None]
        state.__dict__.setdefault(KEY, []).extend(arrived)


async def around_stream_one_response(
    original: Callable[..., Any], self: Any, obj: Any, state: Any, request: Any = None
) -> AsyncIterator[dict[str, Any]]:
    """Hook: each output leaves with the attention that no output before it carried.

    A stream's outputs hold only what is new (SGLang's other fields of /generate are cumulative: with some kilobytes a
    token that would be quadratic); a whole answer holds all of it.
    """
    asked = request_fields.asks((obj.sampling_params or {}).get("custom_params"))
    async for out in original(self, obj=obj, state=state, request=request):
        if asked:
            out["meta_info"][KEY] = state.__dict__.pop(KEY, [])
        yield out


async def around_generate_stream_content(
    original: Callable[..., Any], self: Any, **arguments: Any
) -> AsyncIterator[str]:
    """Hook: put the new tokens' attention into the first delta of this step, or hold it until there is one."""
    content, index, held_by = arguments["content"], arguments["index"], arguments["stream_offsets"]
    held = held_by.pop((KEY, index), []) + content["meta_info"].pop(KEY, [])
    async for chunk in original(self, **arguments):
        if held and (carrier := _with_attention(chunk, held, place="delta")) is not None:
            chunk, held = carrier, []
        yield chunk
    if held and arguments["finish_reason_type"] is not None:
        delta = {"role": None, "content": None, KEY: held}
        yield _sse(
            {
                "id": content["meta_info"]["id"],
                "object": "chat.completion.chunk",
                "created": arguments["created"],
                "model": arguments["request"].model,
                "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}],
            }
        )
    elif held:
        held_by[(KEY, index)] = held


async def around_generate_completion_stream(
    original: Callable[..., Any], self: Any, adapted_request: Any, request: Any, raw_request: Any
) -> AsyncIterator[str]:
    """Hook: each output becomes one chunk, so the attention of the last output belongs into the next chunk."""
    if not request.return_attention_tokens:
        async for chunk in original(self, adapted_request, request, raw_request):
            yield chunk
        return
    listening = copy.copy(self)
    listening.tokenizer_manager = listener = _Listener(self.tokenizer_manager)
    async for chunk in original(listening, adapted_request, request, raw_request):
        if listener.heard and (carrier := _with_attention(chunk, listener.heard, place=None)) is not None:
            chunk, listener.heard = carrier, []
        yield chunk


class _Listener:
    """SGLang's tokenizer manager, with the attention of the outputs that pass through it taken out and kept."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.heard: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    async def generate_request(self, *arguments: Any) -> AsyncIterator[Any]:
        async for content in self._manager.generate_request(*arguments):
            self.heard += content["meta_info"].pop(KEY, [])
            yield content


def around_build_chat_response(original: Callable[..., Any], self: Any, request: Any, ret: Any, created: int) -> Any:
    """Hook: ``choices[i].message.attention_tokens``."""
    attention = [item["meta_info"].pop(KEY, None) for item in ret]
    return _with_choices(original(self, request, ret, created), attention, place="message")


def around_build_completion_response(
    original: Callable[..., Any], self: Any, request: Any, ret: Any, created: int
) -> Any:
    """Hook: ``choices[i].attention_tokens``."""
    attention = [item["meta_info"].pop(KEY, None) for item in ret]
    return _with_choices(original(self, request, ret, created), attention, place=None)


def _with_choices(response: Any, attention: list[Any], *, place: str | None) -> Any:
    if all(tokens is None for tokens in attention) or not hasattr(response, "choices"):
        return response
    body = response.model_dump(by_alias=True)
    for choice, tokens in zip(body["choices"], attention, strict=True):
        (choice if place is None else choice[place])[KEY] = tokens
    return ORJSONResponse(content=body)


def _with_attention(chunk: str, tokens: list[dict[str, Any]], *, place: str | None) -> str | None:
    """The server-sent event with `tokens` in its first choice, or None where it has no choice to carry them."""
    if not chunk.startswith("data: {"):
        return None
    body = orjson.loads(chunk[len("data: ") :])
    if not body.get("choices"):
        return None
    choice = body["choices"][0]
    (choice if place is None else choice[place])[KEY] = tokens
    return _sse(body)


def _sse(body: dict[str, Any]) -> str:
    return f"data: {orjson.dumps(body).decode()}\n\n"
