"""The clients that people have, as they are, against the real server: each gets through with its request that asks.

What a client keeps of an answer is its own affair: the OpenAI SDK and LlamaIndex keep the tokens, LangChain drops what
it does not know, and then the answer's id leads to them.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from conftest import Server, Sink
from openai import AsyncOpenAI, OpenAI

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

ASK = {"return_attention_tokens": True}
MESSAGES: Any = [{"role": "user", "content": "Name three colours."}]
PROMPT = "One, two, three,"
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "colour_of",
            "description": "The colour of a thing.",
            "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}},
        },
    }
]
CHAT_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two choices": {"n": 2, "temperature": 1.0},
    "stop": {"stop": [",", "."]},
    "tools": {"tools": TOOLS},
    "log-probabilities": {"logprobs": True, "top_logprobs": 2},
}
TEXT_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two choices": {"n": 2, "temperature": 1.0},
    "stop": {"stop": ["six"]},
    "log-probabilities": {"logprobs": 2},
}
chat_options = pytest.mark.parametrize("options", CHAT_OPTIONS.values(), ids=CHAT_OPTIONS.keys())
text_options = pytest.mark.parametrize("options", TEXT_OPTIONS.values(), ids=TEXT_OPTIONS.keys())


@pytest.fixture(scope="module")
def connection(server: Server) -> dict[str, str]:
    """What every client of OpenAI's interface is given."""
    return {"base_url": f"http://127.0.0.1:{server.port}/v1", "api_key": "none"}


def tokens_of(carriers: Iterable[Any]) -> list[dict[str, Any]]:
    """The attention tokens in the unknown fields of the SDK's objects."""
    return [token for carrier in carriers for token in (carrier.model_extra or {}).get("attention_tokens", [])]


def check(tokens: list[dict[str, Any]]) -> None:
    """Every step once, in order, each with its fingerprint."""
    assert tokens
    assert [token["step"] for token in tokens] == [token["index"] for token in tokens] == list(range(len(tokens)))
    assert all(len(token["fingerprint"]) == 20 for token in tokens)


def check_published(sink: Sink, request_id: str, *, asked: bool = True) -> None:
    """The request is in the store under the answer's id, with its positions where it asked for them."""
    sink.ended(request_id)
    rows = [row for row in sink.rows("fingerprints") if row["request_id"] == request_id]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert rows
    assert all((row["topk_positions"] is not None) == asked for row in rows)


@chat_options
def test_the_openai_sdk_chats(connection: dict[str, str], options: dict[str, Any]) -> None:
    client = OpenAI(**connection)
    body = {"model": "demo", "messages": MESSAGES, "max_tokens": 12, "extra_body": ASK, **options}
    whole = client.chat.completions.create(**body)
    assert len(whole.choices) == options.get("n", 1)
    for choice in whole.choices:
        check(tokens_of([choice.message]))
    chunks = list(client.chat.completions.create(stream=True, **body))
    for index in range(options.get("n", 1)):
        mine = [choice.delta for chunk in chunks for choice in chunk.choices if choice.index == index]
        check(tokens_of(mine))
        assert "".join(delta.content or "" for delta in mine)


@text_options
def test_the_openai_sdk_completes(connection: dict[str, str], options: dict[str, Any]) -> None:
    client = OpenAI(**connection)
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 12, "extra_body": ASK, **options}
    whole = client.completions.create(**body)
    assert len(whole.choices) == options.get("n", 1)
    for choice in whole.choices:
        check(tokens_of([choice]))
    chunks = list(client.completions.create(stream=True, **body))
    for index in range(options.get("n", 1)):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        check(tokens_of(mine))
        assert "".join(choice.text for choice in mine)


@pytest.mark.parametrize("name", ["plain", "stop", "tools", "log-probabilities"])
def test_the_openai_sdk_s_stream_helper_puts_them_together(connection: dict[str, str], name: str) -> None:
    """Stop strings, since it raises on an answer that its length cut off; one choice, see docs/capture.md."""
    options = {"stop": [",", ".", "\n"], **CHAT_OPTIONS[name]}
    body = {"model": "demo", "messages": MESSAGES, "max_tokens": 200, "extra_body": ASK, **options}
    with OpenAI(**connection).chat.completions.stream(**body) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    check(tokens_of([answer.choices[0].message]))


@chat_options
def test_the_asynchronous_openai_sdk_chats(connection: dict[str, str], options: dict[str, Any]) -> None:
    body = {"model": "demo", "messages": MESSAGES, "max_tokens": 8, "extra_body": ASK, **options}

    async def run() -> None:
        async with AsyncOpenAI(**connection) as client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**body), client.chat.completions.create(stream=True, **body)
            )
            for choice in whole.choices:
                check(tokens_of([choice.message]))
            choices = [choice async for chunk in stream for choice in chunk.choices]
            for index in range(options.get("n", 1)):
                check(tokens_of(choice.delta for choice in choices if choice.index == index))

    asyncio.run(run())


@text_options
def test_the_asynchronous_openai_sdk_completes(connection: dict[str, str], options: dict[str, Any]) -> None:
    body = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "extra_body": ASK, **options}

    async def run() -> None:
        async with AsyncOpenAI(**connection) as client:
            whole = await client.completions.create(**body)
            for choice in whole.choices:
                check(tokens_of([choice]))
            choices = [c async for chunk in await client.completions.create(stream=True, **body) for c in chunk.choices]
            for index in range(options.get("n", 1)):
                check(tokens_of(choice for choice in choices if choice.index == index))

    asyncio.run(run())


@pytest.fixture(scope="module")
def langchain() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import langchain_openai
    return langchain_openai


@chat_options
def test_langchain_chats(langchain: Any, connection: dict[str, str], sink: Sink, options: dict[str, Any]) -> None:
    """It drops the field: the message's id leads to the store."""
    bound = {name: value for name, value in options.items() if name != "tools"}
    chat = langchain.ChatOpenAI(model="demo", max_tokens=12, extra_body=ASK, **connection, **bound)
    if "tools" in options:
        chat = chat.bind_tools(options["tools"])
    whole = chat.invoke("Name three colours.")
    assert whole.content
    if "n" not in options:  # of several choices it keeps no id
        check_published(sink, whole.response_metadata["id"])
    if "logprobs" in options:
        assert whole.response_metadata["logprobs"]["content"]
    if "n" not in options:
        assert "".join(part.content for part in chat.stream("Name three colours."))
    else:
        from langchain_core.messages import HumanMessage

        (generations,) = chat.generate([[HumanMessage("Name three colours.")]]).generations
        assert [bool(one.text) for one in generations] == [True, True]


@pytest.mark.parametrize(
    "options", [{}, {"n": 2, "best_of": 2}, {"stop": ["six"]}], ids=["plain", "two choices", "stop"]
)
def test_langchain_completes(langchain: Any, connection: dict[str, str], options: dict[str, Any]) -> None:
    stop = options.get("stop")
    given = {name: value for name, value in options.items() if name != "stop"}
    model = langchain.OpenAI(model="demo", max_tokens=12, extra_body=ASK, **connection, **given)
    (generations,) = model.generate([PROMPT], stop=stop).generations
    assert [bool(one.text) for one in generations] == [True] * options.get("n", 1)
    if "n" not in options:  # its streaming is for one choice
        assert "".join(model.stream(PROMPT, stop=stop))


@pytest.fixture(scope="module")
def llama_index() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from llama_index.core.llms import ChatMessage
        from llama_index.llms.openai_like import OpenAILike

    class Made:
        message = ChatMessage(role="user", content="Name three colours.")

        @staticmethod
        def model(connection: dict[str, str], *, chat: bool, **options: Any) -> Any:
            return OpenAILike(
                model="demo",
                api_base=connection["base_url"],
                api_key=connection["api_key"],
                is_chat_model=chat,
                max_tokens=12,
                additional_kwargs={"extra_body": ASK, **options},
            )

    return Made


@chat_options
def test_llama_index_chats(llama_index: Any, connection: dict[str, str], options: dict[str, Any]) -> None:
    model = llama_index.model(connection, chat=True, **options)
    whole = model.chat([llama_index.message])
    assert whole.message.content
    for choice in whole.raw.choices:
        check(tokens_of([choice.message]))
    if "n" not in options:  # its streaming is for one choice
        parts = list(model.stream_chat([llama_index.message]))
        assert parts[-1].message.content
        check(tokens_of(choice.delta for part in parts for choice in part.raw.choices))


@text_options
def test_llama_index_completes(llama_index: Any, connection: dict[str, str], options: dict[str, Any]) -> None:
    model = llama_index.model(connection, chat=False, **options)
    whole = model.complete(PROMPT)
    assert whole.text
    for choice in whole.raw.choices:
        check(tokens_of([choice]))
    if "n" not in options:
        parts = list(model.stream_complete(PROMPT))
        assert parts[-1].text
        check(tokens_of(choice for part in parts for choice in part.raw.choices))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sent", [True, "perhaps"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_other_interfaces_drop_the_field_and_answer(server: Server, path: str, sent: Any, *, stream: bool) -> None:
    """Both know no such field: whatever it holds, the answer is the one without it."""
    name = server.client.get("/v1/models").json()["data"][0]["id"]
    own = {
        "/v1/responses": {"input": "Say hi.", "max_output_tokens": 8},
        "/v1/messages": {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 8},
    }[path]
    body = {"model": name, "stream": stream, **own, "return_attention_tokens": sent, "attention_tokens_prefill": "all"}
    answer = httpx.post(f"http://127.0.0.1:{server.port}{path}", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert "attention_tokens" not in answer.text
    assert "error" not in answer.text.lower().replace('"error":null', "")


def test_the_response_s_id_leads_to_the_store(server: Server, sink: Sink) -> None:
    name = server.client.get("/v1/models").json()["data"][0]["id"]
    answer = server.post("/v1/responses", {"model": name, "input": "Say hi.", "max_output_tokens": 8})
    check_published(sink, answer["id"], asked=False)
