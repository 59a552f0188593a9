"""Texts of tokens: joined they are what the tokenizer decodes, and a character is on the token that completes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import MODEL, Server, Sink, chat_body, free_port
from hypothesis import example, given
from hypothesis import strategies as st
from test_publisher import INFO, step

from attn_kernels import token_text
from attn_kernels.publisher import Publisher
from attn_kernels.rows import RequestEvent
from attn_kernels.token_text import MAX_OPEN_REQUESTS, MAX_OPEN_TOKENS, RequestTexts, Separate, TokenTexts

WEATHER = "今天天气不错"
NAUGHTY = [
    WEATHER,
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪🇫🇷",
    "e\u0301 Z\u0351\u036b\u0343",
    "مرحبا بالعالم",
    "\u202eright to left\u202c",
    "한국어 \u1112\u1161\u11ab",
    "a\x00b\r\n\t",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ￿\U0010ffff",
    "  leading, trailing  ",
    "▁ ▁▁",
    "<|im_start|>user\n<|im_end|>",
    "\ufffd\ufffd real ones \ufffd",
    "",
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from(NAUGHTY)).map("".join),
    st.text(st.sampled_from("今👩‍👧🇩🇪e\u0301ع한\x00 a\ufffd")),
)


def byte_level() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


def byte_fallback() -> Any:
    """As Llama 2's: spaces are U+2581, one is put before the text, and what the vocabulary lacks is spelt in bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abdeghinort天한", "▁a", "▁▁", "th", "▁th"]
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=[("▁", "a"), ("▁", "▁"), ("t", "h"), ("▁", "th")],
        unk_token="<unk>",  # noqa: S106
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")  # noqa: S106


@pytest.fixture(scope="module", params=[byte_level, byte_fallback], ids=lambda make: make.__name__)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(scope="module")
def texts(tokenizer: Any) -> TokenTexts:
    return TokenTexts(tokenizer)


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def answer(texts: TokenTexts, ids: list[int], *, known_last: bool = True) -> list[str]:
    """The texts of an answer's tokens, given one by one."""
    requests = RequestTexts(texts)
    last = len(ids) - 1
    return [requests.next("r", step=i, token_id=one, ends=known_last and i == last) for i, one in enumerate(ids)]


@given(text=TEXTS)
@example(text=WEATHER)
@example(text="\ufffd\u0800")
def test_a_prompt_s_texts_join_to_its_decoding(tokenizer: Any, texts: TokenTexts, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = texts.prompt(ids)
    assert len(found) == len(ids)
    assert "".join(found) == decoded(tokenizer, ids)


@given(prompt=TEXTS, text=TEXTS)
@example(prompt="a", text="a th")
@example(prompt="天", text=WEATHER)
def test_an_answer_s_texts_go_on_from_the_prompt_s(tokenizer: Any, texts: TokenTexts, prompt: str, text: str) -> None:
    """With the space that SentencePiece's models put before a word, which decoding the answer alone strips."""
    before = tokenizer.encode(f"{prompt}a", add_special_tokens=False)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert decoded(tokenizer, before) + "".join(answer(texts, ids)) == decoded(tokenizer, before + ids)


@given(text=st.sampled_from(NAUGHTY[:-2]))
def test_no_token_but_the_last_shows_half_a_character(tokenizer: Any, texts: TokenTexts, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole = decoded(tokenizer, tokenizer.encode("a") + ids)[1:]
    for cut in range(len(ids) + 1):
        found = answer(texts, ids[:cut])
        assert "\ufffd" not in "".join(found[:-1])
        assert "\ufffd" not in "".join(answer(texts, ids[:cut], known_last=False))
        assert whole.startswith("".join(found).rstrip("\ufffd"))


def test_a_character_is_on_the_token_that_completes_it(tokenizer: Any, texts: TokenTexts) -> None:
    ids = tokenizer.encode("🦊", add_special_tokens=False)
    found = answer(texts, ids)
    assert len(ids) > 2
    assert found[-1] == "🦊"
    assert set("".join(found[:-1])) <= {" "}
    assert texts.prompt(ids)[-1] == "🦊"
    assert answer(texts, ids[:-1])[-1].strip("\ufffd") == ""
    assert answer(texts, ids[:-1])[-1] != ""


@given(ids=st.lists(st.integers(0, 270), max_size=60))
def test_any_ids_have_a_text_each_and_no_more_than_some_are_held(ids: list[int]) -> None:
    """Bytes that are no UTF-8, as a model without training gives: byte-level decoding loses nothing of them."""
    tokenizer = _BYTE_LEVEL
    texts = TokenTexts(tokenizer)
    found = answer(texts, ids)
    before = tokenizer.encode("a")
    assert "".join(found) == decoded(tokenizer, before + ids)[1:]


_BYTE_LEVEL = byte_level() if MODEL.exists() else None


def test_what_is_held_is_bounded() -> None:
    tokenizer = byte_fallback()
    texts = TokenTexts(tokenizer)
    no_character = tokenizer.convert_tokens_to_ids("<0xFF>")
    waiting, lengths = None, []
    for _ in range(200):
        text, waiting = texts.following(waiting, no_character)
        lengths.append(len(waiting.ids) if waiting else 0)
        assert set(text) <= {"\ufffd"}
    assert max(lengths) < MAX_OPEN_TOKENS


def test_state_is_kept_for_open_characters_alone_and_dropped_at_the_end() -> None:
    texts = TokenTexts(_BYTE_LEVEL)
    fox = _BYTE_LEVEL.encode("🦊")
    requests = RequestTexts(texts)
    requests.next("done", step=0, token_id=_BYTE_LEVEL.encode("a")[0], ends=False)
    assert requests.num_open == 0
    requests.next("open", step=0, token_id=fox[0], ends=False)
    assert requests.num_open == 1
    requests.forget("open")
    requests.forget("done")
    assert requests.num_open == 0
    for i in range(MAX_OPEN_REQUESTS + 5):
        requests.next(f"r{i}", step=0, token_id=fox[0], ends=False)
    assert requests.num_open == MAX_OPEN_REQUESTS


def test_over_a_gap_in_the_steps_nothing_is_put_together() -> None:
    texts = TokenTexts(_BYTE_LEVEL)
    fox = _BYTE_LEVEL.encode("🦊")
    requests = RequestTexts(texts)
    requests.next("r", step=0, token_id=fox[0], ends=False)
    letter = _BYTE_LEVEL.encode("a")[0]
    assert requests.next("r", step=5, token_id=letter, ends=False) == "a"


def test_the_work_is_linear_in_the_tokens() -> None:
    """Counted in tokens that the tokenizer decodes: each id once, however long the text."""

    class Counting(Separate):
        def __init__(self) -> None:
            super().__init__(chr)
            self.num_decoded = 0

        def decode(self, token_ids: Any) -> str:
            self.num_decoded += len(token_ids)
            return super().decode(token_ids)

    counting = Counting()
    ids = [ord(c) for c in "abc" * 2000]
    assert "".join(TokenTexts(counting).prompt(ids)) == "abc" * 2000
    assert counting.num_decoded <= 4


def test_a_negative_id_is_no_token(texts: TokenTexts) -> None:
    assert texts.prompt([-1, -1]) == ["", ""]
    assert token_text.UNKNOWN not in "".join(texts.prompt([-1, -1]))


@pytest.mark.parametrize("absent", [None, object()])
def test_without_a_tokenizer_texts_are_unknown_and_nothing_fails(absent: Any) -> None:
    assert TokenTexts(absent).prompt([1, 2]) == ["\ufffd", "\ufffd"]


def test_a_batch_that_is_written_again_without_a_bad_row_keeps_its_texts() -> None:
    """Each text is made once: made again, the open character would be completed by the wrong token."""
    fox = _BYTE_LEVEL.encode("🦊")
    sink = Sink(f"tcp://127.0.0.1:{free_port()}")
    publishing = Publisher(address=sink.address, info=INFO, text_of=TokenTexts(_BYTE_LEVEL))
    for number, token_id in enumerate(fox):
        rows = step(number)  # of r0 and r1
        publishing.put(replace(rows, token_ids=[token_id] * 2, request_ids=["r0", "r1" if number else 17]))
    publishing.put(RequestEvent(request_id="r0", event="ended", at_us=9, prompt_len=2))
    assert publishing.close(10)
    sink.close()
    found = {row["step"]: row["token_text"] for row in sink.rows("fingerprints") if row["request_id"] == "r0"}
    assert found == {i: "🦊" if i == len(fox) - 1 else "" for i in range(len(fox))}
    assert publishing.figures().items_refused == 1


def test_on_the_wire_an_answer_s_texts_join_to_its_text(server: Server, sink: Sink) -> None:
    body = chat_body(f"Say {WEATHER} 🦊", max_tokens=48, regex=f"{WEATHER}🦊👩‍👧")
    found = server.post("/v1/chat/completions", body)
    sink.ended(found["id"])
    rows = [row for row in sink.rows("fingerprints") if row["request_id"] == found["id"]]
    content = found["choices"][0]["message"]["content"]
    assert content == f"{WEATHER}🦊👩‍👧"
    assert len(rows) == found["usage"]["completion_tokens"]
    assert "".join(row["token_text"] for row in rows) == content + "<|im_end|>"
    started = next(r for r in sink.rows("requests") if r["request_id"] == found["id"] and r["event"] == "started")
    assert len(started["prompt_token_texts"]) == len(started["prompt_token_ids"])
    assert f"Say {WEATHER} 🦊" in "".join(started["prompt_token_texts"])


def test_on_the_wire_an_answer_that_is_cut_in_a_character_says_so(server: Server, sink: Sink) -> None:
    found = server.post("/v1/chat/completions", chat_body("Say it.", max_tokens=2, regex="🦊"))
    sink.ended(found["id"])
    rows = [row for row in sink.rows("fingerprints") if row["request_id"] == found["id"]]
    assert [row["token_text"] for row in rows] == ["", "\ufffd"]
