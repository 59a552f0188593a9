from pathlib import Path

import pytest

from attn_core.errors import SettingsError
from attn_sidecar.settings import Settings


def resolve(environ=None, **flags):
    return Settings.resolve(flags=flags, environ=environ or {})


def test_defaults_are_the_guides():
    settings = resolve()
    assert (settings.port, settings.host, str(settings.db)) == (9000, "127.0.0.1", "fingerprints.db")
    assert (str(settings.discovery_dir), settings.online) == ("discovery_outputs", False)
    assert settings.zmq_bind == "tcp://127.0.0.1:9001"
    assert settings.wide_bindings == []


def test_a_flag_wins_over_the_environment_and_that_over_the_default():
    environ = {"ATTN_SIDECAR_PORT": "9009", "ATTN_SIDECAR_ONLINE": "yes", "ATTN_SIDECAR_DB": "a.db"}
    settings = resolve(environ, port=None, db=Path("b.db"), online=None)
    assert (settings.port, settings.online, settings.db) == (9009, True, Path("b.db"))
    assert resolve(environ, online=False).online is False


@pytest.mark.parametrize("off", ["off", "OFF", "none"])
def test_ingest_can_be_off(off):
    assert resolve(zmq_bind=off).zmq_bind is None


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"ATTN_SIDECAR_PORT": "nine"}, "ATTN_SIDECAR_PORT='nine'"),
        ({"ATTN_SIDECAR_ONLINE": "maybe"}, "ATTN_SIDECAR_ONLINE='maybe'"),
        ({"ATTN_SIDECAR_PORT": "-1"}, "ATTN_SIDECAR_PORT"),
        ({"ATTN_SIDECAR_LOG_FORMAT": "xml"}, "text, json"),
        ({"ATTN_SIDECAR_HOST": ""}, "--host is empty"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(environ, said):
    with pytest.raises(SettingsError) as error:
        resolve(environ)
    assert said in str(error.value)


WILDCARDS = ["tcp://*:9001", "tcp://0.0.0.0:9001", "tcp://[::]:9001"]
KEYS = {"zmq_curve_secret_key": Path("a.key_secret"), "zmq_curve_clients": Path("clients")}


@pytest.mark.parametrize("address", WILDCARDS)
def test_every_interface_without_keys_is_for_senders_of_this_machine(address):
    settings = resolve(zmq_bind=address)
    settings.check_doors()
    assert settings.zmq_reach == "loopback-peers"
    assert settings.wide_bindings == []


@pytest.mark.parametrize("address", ["tcp://eth0:9001", "tcp://192.0.2.7:9001"])
def test_one_address_of_the_network_needs_keys(address):
    with pytest.raises(SettingsError, match=r"zmq-curve-secret-key.*--insecure"):
        resolve(zmq_bind=address).check_doors()
    guarded = resolve(zmq_bind=address, **KEYS)
    guarded.check_doors()
    assert (guarded.zmq_reach, guarded.wide_bindings) == ("guarded", [])


@pytest.mark.parametrize("address", [*WILDCARDS, "tcp://192.0.2.7:9001"])
def test_insecure_is_said_aloud(address):
    settings = resolve(zmq_bind=address, insecure=True)
    settings.check_doors()
    assert (settings.zmq_reach, settings.wide_bindings) == ("everyone", [f"--zmq-bind {address}"])


@pytest.mark.parametrize("host", ["::", "192.0.2.7", "example.org"])
def test_a_wide_host_needs_a_token(host):
    with pytest.raises(SettingsError, match="--token-file FILE"):
        resolve(host=host, zmq_bind="off").check_doors()
    resolve(host=host, zmq_bind="off", token_file=Path("t")).check_doors()
    resolve({"ATTN_SIDECAR_TOKEN": "t"}, host=host, zmq_bind="off").check_doors()
    resolve(host=host, zmq_bind="off", insecure=True).check_doors()


def test_keys_of_one_side_alone_are_no_keys():
    for name, path in KEYS.items():
        with pytest.raises(SettingsError, match="go together"):
            resolve(**{name: path})


@pytest.mark.parametrize("origin", ["*", "example.org", "https://example.org/", "https://Example.org", "null"])
def test_what_no_browser_sends_as_origin_is_refused(origin):
    with pytest.raises(SettingsError, match="cors-origin"):
        resolve(cors_origin=[origin])


def test_lists_come_by_repeated_flag_or_parted_by_commas():
    environ = {"ATTN_SIDECAR_CORS_ORIGIN": "https://a.example, http://b.example:8080", "ATTN_SIDECAR_RATE_LIMIT": "5"}
    settings = resolve(environ)
    assert settings.cors_origin == ("https://a.example", "http://b.example:8080")
    assert settings.rate_limit == 5
    assert resolve(environ, cors_origin=["https://c.example"]).cors_origin == ("https://c.example",)


@pytest.mark.parametrize("name", ["rate_limit", "body_time_limit_s", "answer_time_limit_s"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(name, value):
    with pytest.raises(SettingsError, match="valid is a number"):
        resolve(**{name: value})


@pytest.mark.parametrize("path", ["attn", "/attn/", "/", "//", "/a b", "/../x", "https://a.example/attn", "/a?b"])
def test_a_path_prefix_that_cannot_work_is_refused_with_the_form_that_would(path):
    with pytest.raises(SettingsError, match=r"--root-path .* as /attn"):
        resolve(root_path=path)
    assert resolve(root_path="/tools/attn").root_path == "/tools/attn"


@pytest.mark.parametrize("host", ["https://a.example", "a.example:9009", "a.example/attn", "", "a b"])
def test_a_host_name_that_no_header_matches_is_refused_with_the_form_that_would(host):
    with pytest.raises(SettingsError, match=r"--allowed-host .* as explorer\.example"):
        resolve(allowed_host=[host])
    assert resolve(allowed_host=["a.example", "::1", "10.0.0.7"]).allowed_host == ("a.example", "::1", "10.0.0.7")


def test_files_where_folders_belong_are_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(SettingsError, match=r"--discovery-dir .* is a file"):
        resolve(discovery_dir=file)
    with pytest.raises(SettingsError, match=r"--db .* is a folder"):
        resolve(db=tmp_path)


def test_the_token_is_not_printed_with_the_settings():
    assert "swordfish" not in repr(resolve({"ATTN_SIDECAR_TOKEN": "swordfish" * 4}))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9001", "tcp://localhost:9001", "tcp://[::1]:1", "ipc:///tmp/a"])
def test_local_bindings_are_not(address):
    assert resolve(zmq_bind=address).wide_bindings == []


@pytest.mark.parametrize(
    "address", ["9001", "tcp://127.0.0.1", "udp://127.0.0.1:1", "tcp://a b:1", "tcp://x:0", "ipc://"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(SettingsError, match=r"tcp://HOST:PORT"):
        resolve(zmq_bind=address)


def test_a_wide_host_is_seen():
    assert resolve(host="192.168.0.7", zmq_bind="off").wide_bindings == ["--host 192.168.0.7"]
    assert resolve(host="::1", zmq_bind="off").wide_bindings == []
