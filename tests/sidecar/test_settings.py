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
    settings = resolve(environ, port=None, db="b.db", online=None)
    assert (settings.port, settings.online, settings.db) == (9009, True, "b.db")
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


@pytest.mark.parametrize("address", ["tcp://*:9001", "tcp://0.0.0.0:9001", "tcp://[::]:9001", "tcp://eth0:9001"])
def test_wider_bindings_are_seen(address):
    assert resolve(zmq_bind=address).wide_bindings == [f"--zmq-bind {address}"]


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
