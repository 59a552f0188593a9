"""The publisher's flags: what they accept, what they refuse and say, and where the spool lies by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_flags import parse
from test_publisher_faults import keys

from attn_kernels.sglang_plugin.settings import CaptureSettings, default_head_projection_dir, default_spool_dir


def test_flags_arrive_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    public, _ = keys(tmp_path, "sidecar")
    _, secret = keys(tmp_path, "server")
    monkeypatch.chdir(tmp_path)
    argv = ["--attention-tokens-spool-dir", "spool", "--attention-tokens-spool-bytes", "1048576"]
    argv += ["--attention-tokens-curve-server-key", public.name, "--attention-tokens-curve-client-key", secret.name]
    found = parse("--return-attention-tokens", *argv)
    assert isinstance(found, CaptureSettings)
    assert (found.spool_dir, found.spool_bytes) == (str(tmp_path / "spool"), 1 << 20)
    assert (found.curve_server_key, found.curve_client_key) == (str(public), str(secret))


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--attention-tokens-publish", "127.0.0.1:9001", "it does not begin with tcp:// or ipc://"),
        ("--attention-tokens-publish", "localhost:9001", "such as tcp://127.0.0.1:9001"),
        ("--attention-tokens-publish", "tcp://127.0.0.1", "it is not tcp://HOST:PORT"),
        ("--attention-tokens-publish", "tcp://*:9001", "a sender needs one host"),
        ("--attention-tokens-publish", "tcp://:9001", "a sender needs one host"),
        ("--attention-tokens-publish", "tcp://127.0.0.1:0", "port 0 does not lie between 1 and 65535"),
        ("--attention-tokens-publish", "tcp://127.0.0.1:70000", "port 70000"),
        ("--attention-tokens-publish", "tcp://[::zz]:9001", "is no IPv6 address"),
        ("--attention-tokens-publish", "tcp://::1:9001", "it is not tcp://HOST:PORT"),
        ("--attention-tokens-publish", "http://127.0.0.1:9001", "it is not tcp://HOST:PORT"),
        ("--attention-tokens-publish", "tcp://a b:9001", "it is not tcp://HOST:PORT"),
        ("--attention-tokens-publish", "ipc://", "a path has 1 to 107 bytes"),
        ("--attention-tokens-spool-bytes", "-1", "not a number of bytes"),
        ("--attention-tokens-spool-bytes", "1G", "not a number of bytes"),
        ("--attention-tokens-spool-bytes", "1000", "give 1048576 or more, or 0 for no spool"),
        ("--attention-tokens-curve-server-key", "absent.key", "absent.key is not a ZMQ certificate"),
        ("--attention-tokens-curve-client-key", "sidecar.key", "sidecar.key holds no secret key"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(
    flag: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys(tmp_path, "sidecar")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        parse("--return-attention-tokens", f"{flag}={value}")
    complaint = capsys.readouterr().err.partition("error: ")[2]
    assert said in complaint
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a-file", "File exists): give a directory of this user's"),
        ("a-file/spool", "Not a directory): give a directory of this user's"),
        ("/proc/spool", "or --attention-tokens-spool-bytes 0 for no spool"),
        ("nul\0", "null byte"),
    ],
)
def test_a_spool_directory_that_cannot_be_written_in_is_refused(
    value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refusal:
        parse("--return-attention-tokens", "--attention-tokens-spool-dir", value)
    complaint = str(refusal.value)
    assert complaint.startswith("--attention-tokens-spool-dir: nothing can be written in")
    assert said in complaint
    assert "\n" not in complaint


def test_a_key_with_nothing_to_encrypt_is_refused(tmp_path: Path) -> None:
    public, _ = keys(tmp_path, "sidecar")
    argv = ["--attention-tokens-publish", "off", "--attention-tokens-curve-server-key", str(public)]
    with pytest.raises(SystemExit, match=r"there is nothing to encrypt\. Give an address, such as tcp://127"):
        parse("--return-attention-tokens", *argv)


def test_the_spool_s_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    parse("--return-attention-tokens", "--attention-tokens-spool-dir", str(tmp_path / "new" / "spool"))
    assert (tmp_path / "new" / "spool").stat().st_mode & 0o777 == 0o700
    assert not list((tmp_path / "new" / "spool").iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--return-attention-tokens", "--attention-tokens-spool-bytes", "0"],
        ["--return-attention-tokens", "--attention-tokens-publish", "off"],
    ],
    ids=["no capture", "no spool", "nothing published"],
)
def test_a_spool_directory_that_is_not_used_is_neither_made_nor_refused(argv: list[str], tmp_path: Path) -> None:
    parse(*argv, "--attention-tokens-spool-dir", str(tmp_path / "spool"))
    parse(*argv, "--attention-tokens-spool-dir", "/proc/spool")
    assert not (tmp_path / "spool").exists()


def test_the_head_projection_s_directory_is_made_or_refused_in_one_line(tmp_path: Path) -> None:
    parse("--return-attention-tokens", "--attention-head-projection-dir", str(tmp_path / "new"))
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="--attention-head-projection-dir: nothing can be written in"):
        parse("--return-attention-tokens", "--attention-head-projection-dir", str(tmp_path / "file"))


def test_a_key_of_its_own_needs_one_to_believe(tmp_path: Path) -> None:
    _, secret = keys(tmp_path, "server")
    with pytest.raises(SystemExit, match="needs --attention-tokens-curve-server-key"):
        parse("--return-attention-tokens", "--attention-tokens-curve-client-key", str(secret))


def test_the_spool_and_the_matrix_lie_in_the_users_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_spool_dir(port=30000) == Path("/state/attention-explorer/spool/30000")
    assert default_head_projection_dir(port=30000) == Path("/state/attention-explorer/head_projections/30000")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_spool_dir(port=1) == Path("/home/me/.local/state/attention-explorer/spool/1")
    monkeypatch.delenv("HOME")
    assert default_spool_dir(port=1).parts[-4].startswith("attention-explorer-")


@pytest.mark.parametrize(
    "address", ["off", "tcp://127.0.0.1:9001", "tcp://sidecar.internal:9001", "tcp://[::1]:9001", "ipc:///tmp/a.sock"]
)
def test_addresses_that_work_are_taken(address: str) -> None:
    found = parse("--return-attention-tokens", "--attention-tokens-publish", address)
    assert isinstance(found, CaptureSettings)
    assert found.publish_address == address
