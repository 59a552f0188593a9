"""The request field ``return_attention_tokens``, and how it travels to the scheduler.

SGLang's pydantic models drop fields that they do not know, so the request classes are replaced by subclasses. From
there the wish rides in ``sampling_params["custom_params"]``, which only custom logit processors read: a request that
asks for its attention is sampled exactly like one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang.srt.entrypoints.openai import protocol
from sglang.srt.managers import io_struct

ASKED = "attention_tokens"
"""custom_params key: true where the answer shall carry attention tokens."""
SPANS = "attention_prompt_spans"
"""custom_params key: where each message lies in the prompt, as JSON."""
UNSEEN = "attention_unseen"
"""custom_params key: true for the server's own requests, which are not published."""


class ChatCompletionRequest(protocol.ChatCompletionRequest):
    """SGLang's request with the field; the name is kept, since OpenAPI documents show it."""

    return_attention_tokens: bool = False


class CompletionRequest(protocol.CompletionRequest):
    """SGLang's request with the field."""

    return_attention_tokens: bool = False


@dataclass
class GenerateReqInput(io_struct.GenerateReqInput):
    """SGLang's native request with the field, folded into the sampling parameters at once."""

    return_attention_tokens: bool = False

    def __post_init__(self) -> None:
        if self.return_attention_tokens:
            mark(self, ASKED, True)


def replacements() -> dict[str, type]:
    """The request classes of SGLang by name, and what stands in for each."""
    return {
        "entrypoints.openai.protocol.ChatCompletionRequest": ChatCompletionRequest,
        "entrypoints.openai.protocol.CompletionRequest": CompletionRequest,
        "managers.io_struct.GenerateReqInput": GenerateReqInput,
    }


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
