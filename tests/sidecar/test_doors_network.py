"""The doors as the network sees them: real processes, real addresses, real sockets.

"Another address" is this machine's own address on its network: a connection to it comes from it, as a stranger's would
come from his, and its peer is not a loopback address.
"""

import contextlib
import json
import re
import secrets
import socket
import subprocess
import sys

import httpx
import pytest
import zmq
from sidecar_tools import INFO, WAIT_S, Sender, guide_vector, random_rows
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from zmq.auth import load_certificate

from attn_kernels.curve import curve_keys
from attn_kernels.publisher import Publisher
from attn_kernels.rows import RequestEvent
from attn_sidecar.zmq_door.keys_command import make_keys

TOKEN = secrets.token_urlsafe(32)
EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 - what is tested here


def own_address():
    """This machine's IPv4 address on its network, or None where it has only loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: connecting a datagram socket only asks for the route.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return None if probe.getsockname()[0].startswith("127.") else probe.getsockname()[0]


@pytest.fixture
def address():
    found = own_address()
    assert found, "this machine has no address but loopback: run the tests where there is a network, even a closed one"
    return found


def port_of(url):
    return int(url.rpartition(":")[2])


def answers(address, port):
    """Whether anything accepts a connection there."""
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((address, port), timeout=WAIT_S):
        return True
    return False


def test_by_default_nothing_answers_from_another_address(start_process, address):
    sidecar = start_process()
    for url in (sidecar.http, sidecar.zmq):
        assert answers("127.0.0.1", port_of(url))
        assert not answers(address, port_of(url))


def run_to_its_end(*flags, **options):
    command = [sys.executable, "-m", "attn_sidecar.cli", "--port", "0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", EVERY_INTERFACE, "--zmq-bind", "off"], "--token-file"),
        (["--host", "::", "--zmq-bind", "off"], "--token-file"),
        (["--zmq-bind", "tcp://192.0.2.7:9001"], "--zmq-curve-secret-key"),
    ],
)
def test_wider_without_token_or_keys_does_not_start(tmp_path, flags, said):
    ended = run_to_its_end(*flags, "--db", str(tmp_path / "f.db"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert "--insecure" in ended.stderr
    assert "attn-sidecar keys" in ended.stderr
    assert not (tmp_path / "f.db").exists()


def test_a_weak_token_does_not_start_and_is_not_printed(tmp_path):
    path = tmp_path / "token"
    path.write_text("swordfish")
    ended = run_to_its_end("--token-file", str(path), "--db", str(tmp_path / "f.db"))
    assert ended.returncode == 2
    assert "swordfish" not in ended.stderr
    assert str(path) in ended.stderr


def test_the_token_is_no_flag():
    """`ps` shows flags to everyone on the machine."""
    assert "error: unrecognized arguments: --token" in run_to_its_end("--token", TOKEN).stderr


def test_from_another_address_only_the_tokens_holder_gets_in(start_process, tmp_path, address):
    path = tmp_path / "http.token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    sidecar = start_process(flags=["--host", EVERY_INTERFACE, "--token-file", str(path)])
    base = f"http://{address}:{port_of(sidecar.http)}"
    holder = {"Authorization": f"Bearer {TOKEN}"}
    body = {"vector": guide_vector()}
    assert httpx.get(f"{base}/stats").status_code == 401
    assert httpx.get(f"{base}/stats", headers=holder).status_code == 200
    assert httpx.post(f"{base}/classify", json=body).status_code == 401
    assert httpx.post(f"{base}/classify", json=body, headers=holder).status_code == 200
    for options in ({}, {"subprotocols": ["attention-explorer", "bearer.x"]}):
        with pytest.raises(InvalidStatus) as refused, connect(f"ws{base[4:]}/events", **options):
            pass
        assert refused.value.response.status_code == 401
    with connect(f"ws{base[4:]}/events", subprotocols=["attention-explorer", f"bearer.{TOKEN}"]) as events:
        assert events.subprotocol == "attention-explorer"
        assert json.loads(events.recv(WAIT_S))["kind"] == "hello"
    with connect(f"ws{base[4:]}/events", additional_headers=holder) as events:
        assert json.loads(events.recv(WAIT_S))["kind"] == "hello"
    assert not [line for line in sidecar.log if line["level"] == "warning"]
    sidecar.stop()
    assert TOKEN not in str(sidecar.log)


def test_insecure_serves_everyone_and_says_so(start_process, address):
    sidecar = start_process(zmq_bind="tcp://*:*", flags=["--host", EVERY_INTERFACE, "--insecure"])
    said = sidecar.logged("sidecar.open_to_network")
    assert said["bound"] == "--host 0.0.0.0 --zmq-bind tcp://*:*"
    assert httpx.get(f"http://{address}:{port_of(sidecar.http)}/stats").status_code == 200
    with contextlib.closing(Sender(f"tcp://{address}:{port_of(sidecar.zmq)}")) as sender:
        sender.send(random_rows(3))
        sender.hear_all()


def stored(sidecar, headers=None):
    return sidecar.client.get("/stats", headers=headers).json()["fingerprints"]


def test_the_guides_wide_ingest_takes_this_machines_senders_alone(start_process, address):
    """`--zmq-bind tcp://*:9001` works word for word; a sender elsewhere is turned away, and the log says so."""
    sidecar = start_process(zmq_bind="tcp://*:*")
    port = port_of(sidecar.zmq)
    with contextlib.closing(Sender(f"tcp://{address}:{port}")) as stranger:
        stranger.send(random_rows(5, request_id="stranger"))
        turned_away = sidecar.logged("ingest.sender_turned_away")
        assert turned_away["peer"] == address
        assert "attn-sidecar keys" in turned_away["reason"]
        with contextlib.closing(Sender(f"tcp://127.0.0.1:{port}")) as sender:
            sender.send(random_rows(3))
            sender.hear_all()
        assert stranger.hear(wait_s=0.2) is None
        assert stored(sidecar) == 3


def keys_in(folder, *, server="sidecar.key", client="model-server.key_secret"):
    """A sender's CURVE keys from the files that `attn-sidecar keys` makes."""
    public, secret = load_certificate(folder / client)
    return {
        "curve_serverkey": load_certificate(folder / server)[0],
        "curve_publickey": public,
        "curve_secretkey": secret,
    }


@pytest.fixture
def guarded(start_process, tmp_path):
    """A sidecar on every interface that asks senders for their key; its folder of keys."""
    folder = tmp_path / "keys"
    make_keys(folder)
    flags = [
        "--zmq-curve-secret-key",
        str(folder / "sidecar.key_secret"),
        "--zmq-curve-clients",
        str(folder / "clients"),
    ]
    return start_process(zmq_bind="tcp://*:*", flags=flags), folder


def test_with_keys_only_a_known_sender_gets_in(guarded, tmp_path, address):
    sidecar, folder = guarded
    at = f"tcp://{address}:{port_of(sidecar.zmq)}"
    make_keys(tmp_path / "others")
    senders = {
        "no key": Sender(at),
        "no key, from this machine": Sender(f"tcp://127.0.0.1:{port_of(sidecar.zmq)}"),
        "unknown key": Sender(at, keys=keys_in(folder, client="../others/model-server.key_secret")),
        "wrong server key": Sender(at, keys=keys_in(folder, server="../others/sidecar.key")),
    }
    for name, sender in senders.items():
        # One that was turned away already has no connection to send over until it tries again, and would wait for it.
        sender.socket.setsockopt(zmq.SNDTIMEO, 1000)
        with contextlib.suppress(zmq.Again):
            sender.send(random_rows(2, request_id=name))
    assert "is not among --zmq-curve-clients" in sidecar.logged("ingest.sender_turned_away")["reason"]
    with contextlib.closing(Sender(at, keys=keys_in(folder))) as known:
        known.send(random_rows(7))
        known.hear_all()
    for name, sender in senders.items():
        assert sender.hear(wait_s=0.1) is None, name
        sender.close()
    assert stored(sidecar) == 7
    assert "warning" not in [line["level"] for line in sidecar.log if line["event"] == "sidecar.open_to_network"]


def test_the_publisher_of_the_model_server_gets_in_with_its_key(guarded, tmp_path):
    sidecar, folder = guarded
    keys = curve_keys(server_key=folder / "sidecar.key", client_key=folder / "model-server.key_secret")
    publisher = Publisher(
        address=f"tcp://127.0.0.1:{port_of(sidecar.zmq)}", info=INFO, text_of=str, privacy=False, curve=keys
    )
    publisher.put(RequestEvent(request_id="r", event="started", at_us=1, prompt_len=2, prompt_token_ids=[1, 2]))
    assert publisher.close(timeout_s=WAIT_S)
    assert sidecar.client.get("/stats").json()["requests"] == 1


def test_a_key_can_be_added_while_it_runs(guarded, tmp_path):
    sidecar, folder = guarded
    make_keys(tmp_path / "second")
    (tmp_path / "second" / "clients" / "model-server.key").rename(folder / "clients" / "second.key")
    at = f"tcp://127.0.0.1:{port_of(sidecar.zmq)}"
    with contextlib.closing(Sender(at, keys=keys_in(folder, client="../second/model-server.key_secret"))) as second:
        second.send(random_rows(2))
        second.hear_all()


def test_keys_are_made_for_their_owner_alone_and_work_as_printed(tmp_path):
    folder = tmp_path / "new" / "keys"
    command = [sys.executable, "-m", "attn_sidecar.cli", "keys", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    for path in (folder, folder / "clients"):
        assert path.stat().st_mode & 0o777 == 0o700
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        *("clients/model-server.key", "http.token", "model-server.key_secret", "sidecar.key", "sidecar.key_secret"),
    ]
    for name in files:
        assert (folder / name).stat().st_mode & 0o777 == 0o600
        assert name in made.stdout
    secret = re.search('secret-key = "(.+)"', (folder / "sidecar.key_secret").read_text())[1]
    assert secret not in made.stdout
    assert (folder / "http.token").read_text().strip() not in made.stdout
    assert "secret-key" not in (folder / "clients" / "model-server.key").read_text()
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "nothing was changed" in again.stderr


@pytest.mark.parametrize("spoilt", ["sidecar.key_secret", "clients/model-server.key", "clients"])
def test_keys_that_cannot_be_used_are_named(tmp_path, spoilt):
    folder = tmp_path / "keys"
    make_keys(folder)
    if spoilt == "clients":
        (folder / "clients" / "model-server.key").unlink()
    else:
        (folder / spoilt).write_text('metadata\ncurve\n    public-key = "short"\n    secret-key = "swordfish"\n')
    flags = [
        "--zmq-curve-secret-key",
        str(folder / "sidecar.key_secret"),
        "--zmq-curve-clients",
        str(folder / "clients"),
    ]
    ended = run_to_its_end(*flags, "--zmq-bind", "tcp://127.0.0.1:*", "--db", str(tmp_path / "f.db"))
    assert ended.returncode in (1, 2)
    assert str(folder / spoilt) in ended.stderr
    assert "swordfish" not in ended.stderr
    assert "Traceback" not in ended.stderr


def send_raw(sidecar, *parts):
    """Send these bytes; returns what came back until the sidecar hung up, or until it answered."""
    with socket.create_connection(("127.0.0.1", port_of(sidecar.http)), timeout=WAIT_S) as raw:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                raw.sendall(part)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n\r\n" not in answer and (more := raw.recv(65536)):
                answer += more
        return answer


def test_bombs_are_answered_or_cut_off_and_the_sidecar_lives(start_process):
    sidecar = start_process()
    head = b"GET /stats HTTP/1.1\r\nHost: localhost\r\n"
    assert b" 431 " in send_raw(sidecar, head, b"".join(b"X-%d: y\r\n" % k for k in range(150)), b"\r\n")
    assert b" 431 " in send_raw(sidecar, head, b"X: " + b"y" * 40_000 + b"\r\n\r\n")
    # A header that never ends: cut off long before it has all been sent, and never kept.
    endless = send_raw(sidecar, head, b"X: ", *[b"y" * 65_536] * 64)
    assert endless == b"" or b" 431 " in endless
    endless = send_raw(sidecar, b"GET /", *[b"y" * 65_536] * 64)
    assert endless == b"" or b" 431 " in endless or b" 400 " in endless
    post = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert b" 413 " in send_raw(sidecar, post, b"Content-Length: 999999999999\r\n\r\n")
    assert b" 413 " in send_raw(
        sidecar, post, b"Transfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 20
    )
    # Two ways of saying how long the body is: request smuggling.
    assert b" 400 " in send_raw(sidecar, post, b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert sidecar.client.get("/health").status_code == 200


def test_a_slow_body_is_given_up(start_process):
    sidecar = start_process(flags=["--body-time-limit", "0.2"])
    post = (
        b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    answer = send_raw(sidecar, post)
    assert b" 408 " in answer
    assert b"connection: close" in answer.lower()
