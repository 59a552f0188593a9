"""In the HTTP process: what the scheduler captured becomes ``attention_tokens`` in the answers.

The scheduler sends each output token's attention once, packed. Here it is unpacked and handed on exactly once: with the
delta of its own text, or, where a token has no text of its own (end of sequence, half a UTF-8 character), with the next
delta, or in a delta of its own at the end.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from fastapi.responses import ORJSONResponse
from sglang.srt.managers.tokenizer_manager import ServerStatus

from attn_kernels.sglang_plugin import request_fields
from attn_kernels.sglang_plugin.packed import KEY, PROMPT_KEY, PROMPT_MISSING_KEY, unpack, unpack_prompt
from attn_kernels.sglang_plugin.prompt_spans import place_messages
from attn_kernels.sglang_plugin.settings import PUBLISH_OFF, from_environment

logger = logging.getLogger(__name__)
Held = dict[str, list[Any]]
"""What an answer carries under each name, or waits to."""
_NAMES = (KEY, PROMPT_KEY, PROMPT_MISSING_KEY)
_HELD = "attention_held"
_rendering = threading.local()
"""SGLang converts a request on one thread from start to end: whether its messages' places are wanted, and these."""


def around_render_chat_template(original: Callable[..., Any], self: Any, messages: Any, **options: Any) -> Any:
    """Hook: note where each message lies in the prompt that SGLang renders from `messages`, where that is wanted."""
    rendered = original(self, messages, **options)
    if not getattr(_rendering, "wanted", False):
        return rendered
    try:
        placed = place_messages(
            self.tokenizer_manager.tokenizer,
            messages,
            template_options={
                **options["template_kwargs"],
                "tools": options["tools"],
                "add_generation_prompt": options.get("add_generation_prompt", True),
            },
            encode_options=options["encode_kwargs"],
        )
        _rendering.placed = None if placed is None else placed.to_json()
    except Exception:  # whatever a template does: the request itself was rendered
        logger.debug("Where the messages of a chat lie in its prompt is not known.", exc_info=True)
    return rendered


def around_convert_chat_request(
    original: Callable[..., Any], self: Any, request: Any, raw_request: Any = None
) -> tuple[Any, Any]:
    """Hook: give the scheduler the field and, where they will be published, the messages' places."""
    _rendering.placed, _rendering.wanted = None, _publishes_prompt(request)
    try:
        adapted, processed = original(self, request, raw_request)
        if _rendering.placed is not None:
            request_fields.mark(adapted, request_fields.PLACES, _rendering.placed)
    finally:
        _rendering.placed, _rendering.wanted = None, False
    request_fields.wish(request, adapted)
    return adapted, processed


def _publishes_prompt(request: Any) -> bool:
    """Whether this request's prompt goes to the sidecar."""
    settings = from_environment()
    if settings is None or settings.publish_address == PUBLISH_OFF or settings.privacy:
        return False
    return settings.capture == "all" or bool(request.return_attention_tokens)


def around_convert_completion_request(
    original: Callable[..., Any], self: Any, request: Any, raw_request: Any = None
) -> tuple[Any, Any]:
    """Hook: give the scheduler the field."""
    adapted, processed = original(self, request, raw_request)
    request_fields.wish(request, adapted)
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
    others = {key: values for key, values in customized_info.items() if key not in (KEY, PROMPT_KEY)}
    original(self, meta_info, state, others, index, finish_reason)
    held: Held = state.__dict__.setdefault(_HELD, {})
    for entry in customized_info.get(KEY, {index: ()})[index]:
        if entry is not None:
            held.setdefault(KEY, []).append(unpack(entry[0], sampled=entry[1]))
    for packed in customized_info.get(PROMPT_KEY, {index: ()})[index]:
        if packed is not None:
            held[PROMPT_KEY], held[PROMPT_MISSING_KEY] = unpack_prompt(packed)


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
            out["meta_info"].update({KEY: [], **state.__dict__.pop(_HELD, {})})
        yield out


async def around_generate_stream_content(
    original: Callable[..., Any], self: Any, **arguments: Any
) -> AsyncIterator[str]:
    """Hook: put the new tokens' attention into the first delta of this step, or hold it until there is one."""
    content, index, held_by = arguments["content"], arguments["index"], arguments["stream_offsets"]
    held = _joined(held_by.pop((KEY, index), {}), _taken(content["meta_info"]))
    async for chunk in original(self, **arguments):
        if held and (carrier := _with_attention(chunk, held, place="delta")) is not None:
            chunk, held = carrier, {}
        yield chunk
    if held and arguments["finish_reason_type"] is not None:
        delta = {"role": None, "content": None, **held}
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
            chunk, listener.heard = carrier, {}
        yield chunk


class _Listener:
    """SGLang's tokenizer manager, with the attention of the outputs that pass through it taken out and kept."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.heard: Held = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    async def generate_request(self, *arguments: Any) -> AsyncIterator[Any]:
        async for content in self._manager.generate_request(*arguments):
            self.heard = _joined(self.heard, _taken(content["meta_info"]))
            yield content


def around_build_chat_response(original: Callable[..., Any], self: Any, request: Any, ret: Any, created: int) -> Any:
    """Hook: ``choices[i].message.attention_tokens``."""
    attention = [_taken(item["meta_info"], empty=True) for item in ret]
    return _with_choices(original(self, request, ret, created), attention, place="message")


def around_build_completion_response(
    original: Callable[..., Any], self: Any, request: Any, ret: Any, created: int
) -> Any:
    """Hook: ``choices[i].attention_tokens``."""
    attention = [_taken(item["meta_info"], empty=True) for item in ret]
    return _with_choices(original(self, request, ret, created), attention, place=None)


def _taken(meta_info: dict[str, Any], *, empty: bool = False) -> Held:
    """Take what is ours out of an output's meta_info; names that hold nothing only where `empty`."""
    found = {name: meta_info.pop(name) for name in _NAMES if name in meta_info}
    return {name: values for name, values in found.items() if values or empty or name == PROMPT_MISSING_KEY}


def _joined(first: Held, second: Held) -> Held:
    return {name: first.get(name, []) + second.get(name, []) for name in _NAMES if name in first or name in second}


def _with_choices(response: Any, attention: list[Held], *, place: str | None) -> Any:
    if not any(attention) or not hasattr(response, "choices"):
        return response
    body = response.model_dump(by_alias=True)
    for choice, held in zip(body["choices"], attention, strict=True):
        (choice if place is None else choice[place]).update(held)
    return ORJSONResponse(content=body)


def _with_attention(chunk: str, held: Held, *, place: str | None) -> str | None:
    """The server-sent event with `held` in its first choice, or None where it has no choice to carry them."""
    if not chunk.startswith("data: {"):
        return None
    body = orjson.loads(chunk[len("data: ") :])
    if not body.get("choices"):
        return None
    choice = body["choices"][0]
    (choice if place is None else choice[place]).update(held)
    return _sse(body)


def _sse(body: dict[str, Any]) -> str:
    return f"data: {orjson.dumps(body).decode()}\n\n"
