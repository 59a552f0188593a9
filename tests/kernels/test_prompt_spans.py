"""Where each message lies in the prompt, by the demo model's own tokenizer and by templates that are awkward."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import MODEL

from attn_kernels.sglang_plugin.prompt_spans import prompt_spans
from attn_kernels.token_text import TokenTexts

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "It is 4. 🦊"},
    {"role": "user", "content": "user"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def spans(
    tokenizer: Any, messages: list[dict[str, str]], **options: Any
) -> tuple[list[int], list[dict[str, Any]] | None]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = prompt_spans(
        tokenizer,
        messages,
        prompt_ids=ids,
        template_options={"add_generation_prompt": True},
        encode_options={},
        **options,
    )
    return ids, found


def test_each_span_decodes_to_its_message(tokenizer: Any) -> None:
    ids, found = spans(tokenizer, CHAT)
    assert found is not None
    assert [(s["message"], s["role"]) for s in found] == [(i, m["role"]) for i, m in enumerate(CHAT)]
    assert [tokenizer.decode(ids[s["start"] : s["end"]]) for s in found] == [m["content"] for m in CHAT]


def test_a_system_prompt_that_the_template_adds_is_nobody_s(tokenizer: Any) -> None:
    ids, found = spans(tokenizer, CHAT[1:2])
    assert found is not None
    assert found[0]["start"] > 10
    assert tokenizer.decode(ids[found[0]["start"] : found[0]["end"]]) == "user"


def test_what_cannot_be_said_exactly_is_not_said(tokenizer: Any) -> None:
    options: dict[str, Any] = {"template_options": {"add_generation_prompt": True}, "encode_options": {}}
    assert prompt_spans(tokenizer, CHAT, prompt_ids=[1, 2, 3], **options) is None
    assert spans(tokenizer, [{"role": "user", "content": " "}])[1] is None
    shouting = {"chat_template": "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"}
    template = {**options, "template_options": shouting}
    ids = tokenizer("HI", add_special_tokens=False)["input_ids"]
    assert prompt_spans(tokenizer, [{"role": "user", "content": "hi"}], prompt_ids=ids, **template) is None


def test_token_texts_join_to_the_text(tokenizer: Any) -> None:
    text_of = TokenTexts(tokenizer)
    text = "  def f(x):\n\treturn x + 1  # naïve"
    assert "".join(text_of(t) for t in tokenizer(text)["input_ids"]) == text
    fox = tokenizer("🦊")["input_ids"]
    assert len(fox) > 1
    assert all("\ufffd" in text_of(t) for t in fox)
