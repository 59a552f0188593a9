"""Where each message lies in the prompt, by the demo model's own tokenizer and by templates that are awkward."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import MODEL, Server, Sink
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from attn_kernels.sglang_plugin.prompt_spans import PlacedMessages, place_messages, published_spans, token_spans
from attn_kernels.sglang_plugin.settings import VARIABLE, CaptureSettings, to_environment

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "It is 4. 🦊"},
    {"role": "user", "content": "user"},
]
PROMPT: dict[str, Any] = {"add_generation_prompt": True}
LOOP = "{% for m in messages %}"
TEMPLATES = {
    "the model's own": None,
    "strips": LOOP + "<|{{ m['role'] }}|>{{ m['content'] | trim }}\n{% endfor %}",
    "whitespace between": LOOP + "{{ m['content'] }}\n{% endfor %}",
    "nothing between": LOOP + "{{ m['content'] }}{% endfor %}",
    "the other way round": "{% for m in messages | reverse %}[{{ m['content'] }}]{% endfor %}",
    "depends on a content": LOOP + "{% if 'x' in m['content'] %}!{% endif %}[{{ m['content'] }}]{% endfor %}",
    "says one twice": LOOP + "[{{ m['content'] }}{{ m['content'] }}]{% endfor %}",
    "changes": LOOP + "{{ m['content'] | upper }}{% endfor %}",
    "leaves one out": LOOP + "{% if not loop.first %}[{{ m['content'] }}]{% endif %}{% endfor %}",
    "refuses marks": LOOP + "{% if m['content'] > '\U000e0000' or m['content'] in '\ue000\uf8ff' %}"
    "{{ raise_exception('no') }}{% endif %}{{ m['content'] }};{% endfor %}",
    "quotes": LOOP + "{{ m['content'] | tojson }}{% endfor %}",
}
CONTENTS = st.one_of(
    st.sampled_from(["", " ", "a", "user", "a\n", "\n a", "<|im_end|>", "今天天气不错", "🦊 ", "\u3000x", "x", "[x]"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.none(),
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=4)}), max_size=2),
)
PLAIN = st.text(st.sampled_from("ax今🦊 \n|[]é"), min_size=1, max_size=8)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])


@pytest.fixture(scope="module")
def answers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SGLang's and torch's own, at their import
        from attn_kernels.sglang_plugin import answers
    return answers


def chats(contents: st.SearchStrategy[Any], max_size: int = 6) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries({"role": ROLES, "content": contents}), min_size=1, max_size=max_size)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def reference_spans(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], *, prompt_ids: Sequence[int], **template_options: Any
) -> list[dict[str, Any]] | None:
    """The definition: each message by itself replaced by one sentinel and by another; quadratic in the chat."""
    if not all(isinstance(m.get("content"), str) and m["content"].strip() for m in messages):
        return None

    def render(with_messages: Sequence[Mapping[str, Any]]) -> str:
        return str(tokenizer.apply_chat_template(list(with_messages), tokenize=False, **template_options))

    text = render(messages)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    if list(encoded["input_ids"]) != list(prompt_ids):
        return None
    spans = []
    for i, message in enumerate(messages):
        changed = [[*messages[:i], {**message, "content": mark}, *messages[i + 1 :]] for mark in ("\ue000", "\uf8ff")]
        try:
            first, second = (render(one) for one in changed)
        except TemplateError:
            return None
        begin = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
        before, after = first[:begin], first[begin + 1 :]
        end = len(text) - len(after)
        if second[begin + 1 :] != after or not text.startswith(before) or not text.endswith(after) or end < begin:
            return None
        if text[begin:end].strip() != message["content"].strip():
            return None
        inside = [k for k, (start, _) in enumerate(encoded["offset_mapping"]) if begin <= start < end]
        if not inside:
            return None
        spans.append({"message": i, "role": message["role"], "start": inside[0], "end": inside[-1] + 1})
    return spans


def spans(
    tokenizer: Any, messages: list[dict[str, Any]], *, prompt_ids: list[int] | None = None, **options: Any
) -> list[dict[str, Any]] | None:
    placed = place_messages(tokenizer, messages, template_options={**PROMPT, **options}, encode_options={})
    if placed is None:
        return None
    if prompt_ids is None:
        prompt_ids = ids_of(tokenizer, messages, **options)
    return token_spans(tokenizer, PlacedMessages.from_json(placed.to_json()), prompt_ids=prompt_ids)


def ids_of(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, **PROMPT, **options)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_each_span_decodes_to_its_message(tokenizer: Any) -> None:
    ids = ids_of(tokenizer, CHAT)
    found = spans(tokenizer, CHAT)
    assert found is not None
    assert [(s["message"], s["role"]) for s in found] == [(i, m["role"]) for i, m in enumerate(CHAT)]
    assert [tokenizer.decode(ids[s["start"] : s["end"]]) for s in found] == [m["content"] for m in CHAT]


def test_a_system_prompt_that_the_template_adds_is_nobody_s(tokenizer: Any) -> None:
    ids = ids_of(tokenizer, CHAT[1:2])
    found = spans(tokenizer, CHAT[1:2])
    assert found is not None
    assert found[0]["start"] > 10
    assert tokenizer.decode(ids[found[0]["start"] : found[0]["end"]]) == "user"


def test_what_cannot_be_said_exactly_is_not_said(tokenizer: Any) -> None:
    assert spans(tokenizer, CHAT, prompt_ids=[1, 2, 3]) is None
    assert spans(tokenizer, [{"role": "user", "content": " "}]) is None
    assert spans(tokenizer, [{"role": "user", "content": "hi"}], chat_template=TEMPLATES["changes"]) is None


@pytest.mark.parametrize("name", TEMPLATES)
@given(data=st.data())
def test_the_spans_are_those_of_the_definition(tokenizer: Any, name: str, data: st.DataObject) -> None:
    messages = data.draw(chats(st.one_of(PLAIN, CONTENTS) if name == "the model's own" else PLAIN))
    if not all(isinstance(m["content"], str) for m in messages):
        assert spans(tokenizer, messages, prompt_ids=[]) is None
        return
    options = {} if TEMPLATES[name] is None else {"chat_template": TEMPLATES[name]}
    ids = ids_of(tokenizer, messages, **options)
    wanted = reference_spans(tokenizer, messages, prompt_ids=ids, **PROMPT, **options)
    assert spans(tokenizer, messages, **options) == wanted


@given(messages=chats(PLAIN))
@example(messages=CHAT)
def test_most_chats_have_spans(tokenizer: Any, messages: list[dict[str, Any]]) -> None:
    """So that the comparison above compares more than two times nothing."""
    blank = any(not m["content"].strip() for m in messages)
    assert (spans(tokenizer, messages) is None) == blank


class Counting:
    """The tokenizer, with the characters counted that it renders and tokenises."""

    is_fast = True

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.rendered = self.tokenised = 0

    def apply_chat_template(self, *arguments: Any, **options: Any) -> str:
        text: str = self._tokenizer.apply_chat_template(*arguments, **options)
        self.rendered += len(text)
        return text

    def __call__(self, text: str, **options: Any) -> Any:
        self.tokenised += len(text)
        return self._tokenizer(text, **options)


def test_the_work_is_linear_in_the_chat(tokenizer: Any) -> None:
    """Counted in characters: at most three times the prompt is rendered, and it is tokenised once."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"Message {i}: will it rain?"} for i in range(400)]
    counting = Counting(tokenizer)
    ids = ids_of(tokenizer, messages)
    found = spans(counting, messages, prompt_ids=ids)
    assert found is not None
    assert len(found) == 400
    num_characters = len(tokenizer.apply_chat_template(messages, tokenize=False, **PROMPT))
    assert counting.rendered <= 3 * num_characters
    assert counting.tokenised == num_characters


@pytest.mark.parametrize("name", ["depends on a content", "says one twice", "nothing between", "refuses marks"])
def test_the_work_is_bounded_where_the_template_depends_on_contents(tokenizer: Any, name: str) -> None:
    messages = [{"role": "user", "content": f" Message {i}: x "} for i in range(400)]
    counting = Counting(tokenizer)
    assert spans(counting, messages, prompt_ids=[], chat_template=TEMPLATES[name]) is None
    num_characters = len(tokenizer.apply_chat_template(messages, tokenize=False, chat_template=TEMPLATES[name]))
    assert counting.rendered <= 3 * num_characters + 1_000_000


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "[]",
        "{",
        '{"text": 1, "roles": [], "places": [], "add_special_tokens": false}',
        '{"text": "a", "roles": [7], "places": [[0, 1]], "add_special_tokens": false}',
        '{"text": "a", "roles": ["user"], "places": [], "add_special_tokens": false}',
        '{"text": "a", "roles": ["user"], "places": ["b"], "add_special_tokens": false}',
        '{"text": "a", "roles": ["user"], "places": [[0, 1]], "padding": "max_length"}',
    ],
)
def test_what_a_client_puts_in_their_place_is_not_published(tokenizer: Any, sent: str) -> None:
    assert published_spans(tokenizer, sent, tokenizer("a")["input_ids"]) is None


def test_a_long_text_that_a_client_puts_in_their_place_is_not_tokenised(tokenizer: Any) -> None:
    """It would keep the publisher's thread busy for a minute, and nothing else be published meanwhile."""
    counting = Counting(tokenizer)
    sent = PlacedMessages(text="a b " * 100_000, roles=[], places=[], add_special_tokens=False).to_json()
    assert published_spans(counting, sent, [1, 2, 3]) is None
    assert counting.tokenised == 0


def test_a_long_chat_has_spans_where_the_template_s_text_begins_with_whitespace(tokenizer: Any) -> None:
    """Too long for placing the messages one by one, which would give them too."""
    messages = [{"role": "user", "content": f" Message {i}: will it rain?\n"} for i in range(400)]
    options = {"chat_template": TEMPLATES["strips"]}
    found = spans(tokenizer, messages, **options)
    assert found is not None
    ids = ids_of(tokenizer, messages, **options)
    for message, span in zip(messages, found, strict=True):
        assert tokenizer.decode(ids[span["start"] : span["end"]]).strip() == message["content"].strip()


@pytest.mark.parametrize(
    ("settings", "asks", "wanted"),
    [
        (CaptureSettings(), False, True),
        (CaptureSettings(), True, True),
        (CaptureSettings(capture="requested"), True, True),
        (CaptureSettings(capture="requested"), False, False),
        (CaptureSettings(publish_address="off"), True, False),
        (CaptureSettings(privacy=True), True, False),
        (None, False, False),
    ],
)
def test_messages_are_placed_only_where_the_prompt_is_published(
    answers: Any,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: CaptureSettings | None,
    asks: bool,
    wanted: bool,
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    to_environment(settings)
    counting = Counting(tokenizer)
    serving = SimpleNamespace(tokenizer_manager=SimpleNamespace(tokenizer=counting))
    options = {"template_kwargs": {}, "tools": None, "encode_kwargs": {}}
    adapted = SimpleNamespace(sampling_params={})

    def convert(self: Any, request: Any, raw_request: Any) -> tuple[Any, Any]:
        answers.around_render_chat_template(lambda *_, **__: ([1], None), self, CHAT, **options)
        return adapted, request

    request = SimpleNamespace(return_attention_tokens=asks, attention_tokens_prefill="last")
    answers.around_convert_chat_request(convert, serving, request)
    assert (answers.request_fields.PLACES in adapted.sampling_params.get("custom_params", {})) == wanted
    assert (counting.rendered > 0) == wanted


def test_a_template_that_breaks_the_search_costs_the_spans_and_not_the_answer(
    answers: Any, monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({}))
    serving = SimpleNamespace(tokenizer_manager=SimpleNamespace(tokenizer=tokenizer))
    options = {"template_kwargs": {}, "tools": None, "encode_kwargs": {}}

    def convert(self: Any, request: Any, raw_request: Any) -> tuple[Any, Any]:
        messages = [{"role": "user", "content": "\ud800"}]  # half a surrogate pair, which no JSON can hold
        rendered = answers.around_render_chat_template(lambda *_, **__: ([1], None), self, messages, **options)
        return SimpleNamespace(sampling_params={}), rendered

    request = SimpleNamespace(return_attention_tokens=False, attention_tokens_prefill="last")
    assert answers.around_convert_chat_request(convert, serving, request)[1] == ([1], None)


def test_on_the_wire_each_span_decodes_to_its_message(server: Server, sink: Sink, tokenizer: Any) -> None:
    body = {"model": "demo", "messages": CHAT, "max_tokens": 2}
    for extra in ({}, {"n": 2}):
        answer = server.post("/v1/chat/completions", {**body, **extra})
        sink.ended(answer["id"])
        started = next(r for r in sink.rows("requests") if r["request_id"] == answer["id"] and r["event"] == "started")
        found = json.loads(started["prompt_spans"])
        ids = started["prompt_token_ids"]
        assert [tokenizer.decode(ids[s["start"] : s["end"]]) for s in found] == [m["content"] for m in CHAT]
        for i, span in enumerate(found):
            assert (span["message"], span["role"]) == (i, CHAT[i]["role"])
            assert all(type(span[name]) is int and span[name] >= 0 for name in ("message", "start", "end"))
