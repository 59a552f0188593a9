"""The door of the HTTP side, in this process: token, Host, Origin, CORS, limits, over the whole application."""

import asyncio
import hmac
import json
import re
import secrets
from urllib.parse import unquote

import pytest
from sidecar_tools import guide_vector
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from attn_core.errors import SettingsError
from attn_sidecar.app import Sidecar, create_app
from attn_sidecar.http_door import token as token_module
from attn_sidecar.http_door.door import MAX_HEAD_BYTES, MAX_HEADERS
from attn_sidecar.http_door.rate import RateLimit
from attn_sidecar.http_door.token import Tokens
from attn_sidecar.settings import Settings

TOKEN = secrets.token_urlsafe(32)
BEARER = {"authorization": f"Bearer {TOKEN}"}
PROBLEM = "urn:attention-explorer:problem:"
FRIEND = "https://dashboards.example"


@pytest.fixture
def opened(tmp_path):
    """A client of a whole sidecar in this process, with the settings asked for."""
    clients = []

    def open_with(*, client=("127.0.0.1", 50000), base_url="http://localhost:9009", **asked):
        settings = Settings(db=tmp_path / "f.db", discovery_dir=tmp_path / "out", zmq_bind=None, **asked)
        static = tmp_path / "static"
        (static / "assets").mkdir(parents=True)
        (static / "index.html").write_text("<!doctype html><title>explorer</title>")
        (static / "assets" / "app-1.js").write_text("export {}")
        app = create_app(Sidecar(settings), static_dir=static)
        clients.append(TestClient(app, client=client, base_url=base_url))
        return clients[-1].__enter__()

    yield open_with
    for each in clients:
        each.__exit__(None, None, None)


def refused(answer, status, kind):
    """Assert that this is that problem; returns its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["type"], body["status"]) == (PROBLEM + kind, status)
    assert body["title"]
    assert body["detail"]
    assert body["mend"]
    return body


def routes_of(client):
    """(method, path) of every route that the application has, those that OpenAPI does not list included."""
    found = []
    for route in client.app.routes:
        if isinstance(route, Route):
            path = re.sub(r"{[^}]*}", "1", route.path)
            found += [(method, path) for method in route.methods]
    return found


WRONG = {
    "none": {},
    "another": {"authorization": "Bearer " + secrets.token_urlsafe(32)},
    "cut short": {"authorization": f"Bearer {TOKEN[:-1]}"},
    "longer": {"authorization": f"Bearer {TOKEN}x"},
    "empty": {"authorization": "Bearer "},
    "another scheme": {"authorization": f"Basic {TOKEN}"},
    "a cookie": {"cookie": f"token={TOKEN}"},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_with_a_token_no_route_answers_without_it(opened, wrong):
    client = opened(token=TOKEN)
    routes = routes_of(client)
    assert {("GET", "/stats"), ("POST", "/classify"), ("GET", "/openapi.json"), ("GET", "/docs")} <= set(routes)
    for method, path in routes:
        if path == "/health":
            continue
        answer = client.request(method, path, headers=WRONG[wrong], json={"vector": guide_vector()})
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        if method != "HEAD":
            said = refused(answer, 401, "token-missing" if not WRONG[wrong] or wrong == "a cookie" else "token-wrong")
            assert "--token-file" in said["mend"]
            assert TOKEN not in answer.text


@pytest.mark.parametrize("path", ["/stats?token={}", "/stats?access_token={}", "/nobody", "/assets", "/events"])
def test_neither_the_query_nor_a_path_beside_the_routes_opens_it(opened, path):
    assert opened(token=TOKEN).get(path.format(TOKEN)).status_code == 401


def test_with_the_token_every_route_answers(opened):
    client = opened(token=TOKEN)
    for method, path in routes_of(client):
        answer = client.request(method, path, headers=BEARER, json={"vector": guide_vector()})
        assert answer.status_code not in (401, 403), (method, path)
    answer = client.post("/classify", headers=BEARER, json={"vector": guide_vector()})
    assert (answer.status_code, answer.json()["schema_version"]) == (200, 1)
    assert client.get("/stats", headers={"authorization": f"bEARER {TOKEN}"}).status_code == 200


def test_what_is_open_with_a_token_holds_no_data(opened):
    """The explorer's own files, and whether the sidecar lives; not where, what version, or why not."""
    client = opened(token=TOKEN)
    for path in ("/", "/live", "/map", "/views/runs", "/assets/app-1.js"):
        assert client.get(path, headers={"accept": "text/html"}).status_code == 200
    assert client.get("/health").json() == {"status": "ok", "version": "", "reasons": []}
    assert client.get("/health", headers=BEARER).json()["version"]
    assert client.post("/health").status_code == 401


def test_either_of_two_tokens_opens(opened, tmp_path):
    """So that one can be changed without a gap."""
    other = secrets.token_hex(32)
    path = tmp_path / "tokens"
    path.write_text(f"# until May\n{TOKEN}\n\n  {other}\n")
    client = opened(token_file=path)
    for each in (TOKEN, other):
        assert client.get("/stats", headers={"authorization": f"Bearer {each}"}).status_code == 200
    assert client.get("/stats", headers={"authorization": "Bearer # until May"}).status_code == 401


def test_tokens_are_compared_in_constant_time(opened, monkeypatch):
    """Each expected token against the whole of what was given, by the function made for it, and no other way."""
    compared, real = [], hmac.compare_digest

    def compare(expected, given):
        compared.append((expected, given))
        return real(expected, given)

    monkeypatch.setattr(token_module.hmac, "compare_digest", compare)
    tokens = Tokens([TOKEN, secrets.token_hex(32)], origin="test")
    compared.clear()
    assert tokens.opens(TOKEN.encode())
    assert not tokens.opens(b"x")
    assert [given for _, given in compared] == [TOKEN.encode()] * 2 + [b"x"] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("# nothing but a comment\n", "holds no token"),
        ("short", "32 to 256 characters, not 5"),
        ("a" * 40, "different characters"),
        ("päss" * 10, "letters A-Z"),
        ("with space " * 5, "letters A-Z"),
        ("slash/es=" * 5, "letters A-Z"),
        (secrets.token_hex(32) + "\nswordfish\n", "not 9"),
    ],
)
def test_a_weak_token_is_refused_without_being_printed(tmp_path, text, said):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said) as error:
        Tokens.from_file(path)
    assert str(path) in str(error.value)
    assert "attn-sidecar keys" in str(error.value)
    assert "swordfish" not in str(error.value)


def test_a_token_file_that_is_none_is_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 40)
    for name in ("missing", "binary", "."):
        with pytest.raises(SettingsError, match="cannot be read"):
            Tokens.from_file(tmp_path / name)


def listen(client, **options):
    """Open `/events`; returns the subprotocol that was accepted."""
    with client.websocket_connect("/events", **options) as socket:
        assert socket.receive_json()["kind"] == "hello"
        return socket.accepted_subprotocol


def test_the_websocket_asks_for_the_token_too(opened):
    client = opened(token=TOKEN)
    assert listen(client, headers=BEARER) is None
    assert listen(client, subprotocols=["attention-explorer", f"bearer.{TOKEN}"]) == "attention-explorer"
    assert listen(client, subprotocols=[f"bearer.{TOKEN}"]) == f"bearer.{TOKEN}"
    for options in (
        {},
        {"headers": WRONG["another"]},
        {"subprotocols": ["attention-explorer", "bearer." + secrets.token_urlsafe(32)]},
        {"subprotocols": ["attention-explorer"]},
    ):
        with pytest.raises(WebSocketDisconnect) as closed:
            listen(client, **options)
        assert closed.value.status_code == 401, options


def test_bytes_that_are_no_text_open_nothing(opened):
    client = opened(token=TOKEN)
    headers = [(b"authorization", b"Bearer " + b"\xff" * len(TOKEN))]
    start, _ = client.portal.call(lambda: call(client.app, path="/stats", method="GET", headers=headers))
    assert start["status"] == 401


def test_a_browser_that_offers_a_token_to_a_sidecar_without_one_is_answered(opened):
    assert listen(opened(), subprotocols=["attention-explorer", f"bearer.{TOKEN}"]) == "attention-explorer"


@pytest.mark.parametrize(
    "host", ["localhost:9009", "127.0.0.1:9009", "[::1]:9009", "LOCALHOST", "127.0.0.1", "127.8.8.8", "nas.lan:9009"]
)
def test_names_of_this_machine_and_those_allowed_are_ours(opened, host):
    assert opened(allowed_host=("nas.lan",)).get("/stats", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9009", "localhost.evil.example", "127.0.0.1.evil.example", "", "192.0.2.7", "[::2"],
)
def test_on_loopback_another_name_is_not_answered(opened, host):
    """DNS rebinding: the page's own name leads to this machine, and the browser says that name."""
    client = opened()
    for path in ("/stats", "/", "/health"):
        refused(client.get(path, headers={"host": host}), 421, "host-not-allowed")
    refused(client.post("/classify", headers={"host": host}, json={}), 421, "host-not-allowed")
    with pytest.raises(WebSocketDisconnect):
        listen(client, headers={"host": host})


def test_a_repeated_host_or_token_is_ambiguous(opened):
    client = opened(token=TOKEN)
    twice = [("host", "localhost"), ("host", "evil.example"), ("authorization", BEARER["authorization"])]
    refused(client.get("/stats", headers=twice), 400, "header-repeated")
    twice = [("authorization", BEARER["authorization"]), ("authorization", "Bearer x")]
    refused(client.get("/stats", headers=twice), 400, "header-repeated")


def test_pages_of_other_sites_can_change_nothing(opened):
    """`/discovery/reload` takes no body, so a browser would send it for any page without asking first."""
    client = opened()
    for origin in ("https://evil.example", "null", "http://localhost:8888", "http://localhost:9009.evil.example"):
        refused(client.post("/discovery/reload", headers={"origin": origin}), 403, "origin-not-allowed")
        refused(client.post("/classify", headers={"origin": origin}, json={}), 403, "origin-not-allowed")
    for origin in ("http://localhost:9009", "http://localhost:5173", "http://127.0.0.1:5173"):
        assert client.post("/discovery/reload", headers={"origin": origin}).status_code != 403


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:8888", "null"])
def test_pages_of_other_sites_can_not_listen(opened, origin):
    with pytest.raises(WebSocketDisconnect) as closed:
        listen(opened(), headers={"origin": origin})
    assert closed.value.status_code == 403


def preflight(origin, method="POST"):
    return {"origin": origin, "access-control-request-method": method, "access-control-request-headers": "content-type"}


def test_cors_is_closed_by_default(opened):
    client = opened()
    for origin in (FRIEND, "http://localhost:5173"):
        answer = client.options("/classify", headers=preflight(origin))
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert not [n for n in client.get("/stats", headers={"origin": origin}).headers if n.startswith("access-")]


def test_an_allowed_origin_may_ask_and_read(opened):
    client = opened(token=TOKEN, cors_origin=(FRIEND, "http://other.example"))
    asked = client.options("/classify", headers=preflight(FRIEND))
    assert (asked.status_code, asked.content) == (204, b"")
    assert asked.headers["access-control-allow-origin"] == FRIEND
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert {"authorization", "content-type"} <= set(asked.headers["access-control-allow-headers"].split(", "))
    assert asked.headers["vary"] == "Origin"
    body = {"vector": guide_vector()}
    answer = client.post("/classify", headers={"origin": FRIEND, **BEARER}, json=body)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, FRIEND)
    # The page must be able to read that it needs a token.
    answer = client.post("/classify", headers={"origin": FRIEND}, json=body)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, FRIEND)
    assert listen(client, headers={"origin": FRIEND, **BEARER}) is None


def test_another_origin_than_the_allowed_one_is_not_shared_with(opened):
    client = opened(cors_origin=(FRIEND,))
    answer = client.options("/classify", headers=preflight("https://evil.example"))
    refused(answer, 403, "origin-not-allowed")
    assert "access-control-allow-origin" not in answer.headers
    answer = client.get("/stats", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_too_many_and_too_large_headers(opened):
    client = opened()
    many = {f"x-{k}": "1" for k in range(MAX_HEADERS)}
    refused(client.get("/stats", headers=many), 431, "headers-too-large")
    refused(client.post("/classify", headers=many, json={}), 431, "headers-too-large")
    refused(client.get("/stats", headers={"x": "y" * MAX_HEAD_BYTES}), 431, "headers-too-large")
    refused(client.get("/stats?" + "y" * MAX_HEAD_BYTES), 431, "headers-too-large")
    assert client.get("/stats", headers={"x": "y" * (MAX_HEAD_BYTES // 2)}).status_code == 200


def test_one_client_may_ask_so_often(opened):
    client = opened(rate_limit=1.0, client=("192.0.2.7", 5))
    assert [client.get("/stats").status_code for _ in range(2)] == [200, 200]
    answer = client.get("/stats")
    refused(answer, 429, "rate-limit")
    assert int(answer.headers["retry-after"]) >= 1
    refused(client.post("/classify", json={"vector": guide_vector()}), 429, "rate-limit")
    with pytest.raises(WebSocketDisconnect) as closed:
        listen(client)
    assert closed.value.status_code == 429


def test_by_default_this_machine_asks_as_often_as_it_likes_and_others_do_not():
    limit = RateLimit(200.0, spares_loopback=True)
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert not any(limit.wait_s(address, now_s=0.0) for _ in range(5000))
    assert len(limit) == 0
    admitted = [limit.wait_s("192.0.2.7", now_s=0.0) == 0 for _ in range(500)]
    assert (sum(admitted), admitted[:400]) == (400, [True] * 400)
    assert limit.wait_s("192.0.2.8", now_s=0.0) == 0
    assert limit.wait_s("192.0.2.7", now_s=0.01) == 0


def test_a_network_of_addresses_is_one_client_and_the_table_stays_small():
    limit = RateLimit(1.0, spares_loopback=True, max_clients=100)
    waits = [limit.wait_s(f"2001:db8::{k:x}", now_s=0.0) for k in range(1, 50)]
    assert (len(limit), waits.count(0)) == (1, 2)
    for k in range(5000):
        limit.wait_s(f"2001:db8:{k:x}::1", now_s=0.0)
    assert len(limit) == 100


async def call(app, *, path, method="POST", body=None, headers=()):
    """One ASGI request whose body never ends where `body` is None; the messages sent."""
    sent, given = [], asyncio.Queue()
    if body is not None:
        given.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers],
        "scheme": "http",
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 9009),
        "http_version": "1.1",
        "root_path": "",
    }
    await app(scope, given.get, send)
    return sent


def test_a_body_that_does_not_come_is_not_waited_for(opened):
    client = opened(body_time_limit_s=0.1, answer_time_limit_s=60.0)
    for path in ("/classify", "/fingerprint"):
        start, body = client.portal.call(lambda path=path: call(client.app, path=path))
        assert start["status"] == 408
        assert json.loads(body["body"])["type"] == PROBLEM + "body-too-slow"
        assert (b"connection", b"close") in start["headers"]
    assert client.get("/stats").status_code == 200


def test_an_answer_that_does_not_come_is_not_waited_for(opened):
    """And the request's task ends, not the sidecar."""
    client = opened(answer_time_limit_s=0.1)

    async def never(_):
        await asyncio.Event().wait()

    client.app.router.routes.insert(0, Route("/never", never))
    start, body = client.portal.call(lambda: call(client.app, path="/never", method="GET"))
    assert start["status"] == 503
    assert json.loads(body["body"])["type"] == PROBLEM + "too-slow"
    assert client.get("/stats").status_code == 200


TRAVERSALS = [
    *(
        "/../../etc/passwd",
        "/assets/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2fetc/passwd",
    ),
    *("/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/assets/..%252f..%252fetc/passwd", "/..%5c..%5cetc%5cpasswd"),
    *("/assets/....//....//etc/passwd", "/assets/%c0%ae%c0%ae/etc/passwd", "/assets//etc/passwd", "//etc/passwd"),
    *("/assets/app-1.js%00.png", "/assets/..;/..;/etc/passwd", "/assets/\\..\\..\\etc\\passwd", "/%2fetc%2fpasswd"),
    *("/assets/../../f.db", "/assets/..%2f..%2ff.db", "/../f.db", "/%2e%2e/f.db", "/assets/%2e%2e/%2e%2e/f.db"),
]


@pytest.mark.parametrize("path", TRAVERSALS)
@pytest.mark.parametrize("token", [None, TOKEN])
def test_nothing_outside_the_explorer_is_served(opened, path, token):
    """Decoded as the server decodes them, and sent as they stand: a client library would mend some of them."""
    client = opened(token=token)
    start, *bodies = client.portal.call(lambda: call(client.app, path=unquote(path), method="GET"))
    content = b"".join(message.get("body", b"") for message in bodies)
    assert start["status"] in (401, 404)
    assert b"root:" not in content
    assert b"SQLite format" not in content
