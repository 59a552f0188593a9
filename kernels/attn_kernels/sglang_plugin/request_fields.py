"""The request fields ``return_attention_tokens`` and ``attention_tokens_prefill``, and their way to the scheduler.

SGLang's pydantic models drop fields that they do not know, so the request classes are replaced by subclasses. From
there the wish rides in ``sampling_params["custom_params"]``, which only custom logit processors read: a request that
asks for its attention is sampled exactly like one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator
from sglang.srt.entrypoints.openai import protocol
from sglang.srt.managers import io_struct

ASKED = "attention_tokens"
"""custom_params key: true where the answer shall carry attention tokens."""
PREFILL = "attention_tokens_prefill"
"""custom_params key: "all" where the answer shall carry the attention of the prompt's positions too."""
PLACES = "attention_message_places"
"""custom_params key: the rendered chat and where each message lies in it, as JSON."""
UNSEEN = "attention_unseen"
"""custom_params key: true for the server's own requests, which are not published."""


class ChatCompletionRequest(protocol.ChatCompletionRequest):
    """SGLang's request with the fields; the name is kept, since OpenAPI documents show it."""

    return_attention_tokens: bool = False
    attention_tokens_prefill: Literal["last", "all"] = "last"

    @model_validator(mode="after")
    def _prompt_asked_with_the_rest(self) -> ChatCompletionRequest:
        check(self)
        return self


class CompletionRequest(protocol.CompletionRequest):
    """SGLang's request with the fields."""

    return_attention_tokens: bool = False
    attention_tokens_prefill: Literal["last", "all"] = "last"

    @model_validator(mode="after")
    def _prompt_asked_with_the_rest(self) -> CompletionRequest:
        check(self)
        return self


@dataclass
class GenerateReqInput(io_struct.GenerateReqInput):
    """SGLang's native request with the fields, folded into the sampling parameters at once."""

    return_attention_tokens: bool = False
    attention_tokens_prefill: Literal["last", "all"] = "last"

    def __post_init__(self) -> None:
        check(self)
        wish(self, self)


def replacements() -> dict[str, type]:
    """The request classes of SGLang by name, and what stands in for each."""
    return {
        "entrypoints.openai.protocol.ChatCompletionRequest": ChatCompletionRequest,
        "entrypoints.openai.protocol.CompletionRequest": CompletionRequest,
        "managers.io_struct.GenerateReqInput": GenerateReqInput,
    }


def check(request: Any) -> None:
    """Raise ValueError, which becomes the client's error, where the prompt's attention is asked for by itself."""
    if request.attention_tokens_prefill == "all" and not request.return_attention_tokens:
        raise ValueError('attention_tokens_prefill "all" needs return_attention_tokens true')


def wish(request: Any, adapted: Any) -> None:
    """Write what `request` asks for into the custom parameters of the `GenerateReqInput` made from it."""
    if request.return_attention_tokens:
        mark(adapted, ASKED, True)
    if request.attention_tokens_prefill == "all":
        mark(adapted, PREFILL, "all")


def mark(request: Any, key: str, value: bool | str) -> None:
    """Set a custom parameter of a `GenerateReqInput`, for each of its prompts."""
    if request.sampling_params is None:
        request.sampling_params = {}
    many = isinstance(request.sampling_params, list)
    marked = []
    for params in request.sampling_params if many else [request.sampling_params]:
        custom = params.get("custom_params") or {}
        marked.append({**params, "custom_params": {**custom, key: value}})
    request.sampling_params = marked if many else marked[0]


def asks(custom_params: Any) -> bool:
    """Whether a request's custom parameters ask for attention tokens."""
    return isinstance(custom_params, dict) and custom_params.get(ASKED) is True
