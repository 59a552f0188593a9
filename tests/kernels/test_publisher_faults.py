"""What the publisher does when the sidecar is away, its process is killed, the disk is full or keys do not fit."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import Sink, free_port
from prometheus_client import CollectorRegistry, generate_latest
from test_publisher import FAST, INFO, step, steps_of
from zmq.auth import create_certificates

from attn_core.errors import SettingsError
from attn_kernels.curve import CurveKeys, check_certificate, curve_keys
from attn_kernels.outbox import Limits
from attn_kernels.publisher import Publisher, SpoolSettings
from attn_kernels.publisher_metrics import Figures, PublisherMetrics

AT_ONCE = replace(FAST, batch_rows=2, spool_after_s=0.0)
"""Every batch that is not acknowledged in a turn goes to the spool."""


@pytest.fixture
def address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def sinks() -> Iterator[list[Sink]]:
    """Receivers that the test opened, closed at its end."""
    opened: list[Sink] = []
    yield opened
    for sink in opened:
        sink.close()


class Watch:
    """The publisher's figures as it reports them, waited for with `until`."""

    def __init__(self, publishing: Publisher) -> None:
        self._publishing = publishing

    def until(self, condition: Callable[[Figures], bool]) -> Figures:
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            if condition(found := self._publishing.figures()):
                return found
        raise AssertionError(f"never came to be; the last figures were {found}")


def publish(
    address: str, spool: Path, *, limits: Limits = AT_ONCE, byte_limit: int = 1 << 20, **more: Any
) -> Publisher:
    settings = SpoolSettings(root=spool, byte_limit=byte_limit)
    return Publisher(address=address, info=INFO, text_of=str, limits=limits, spool=settings, **more)


def test_an_absent_sidecar_costs_the_spool_and_gets_it_all_when_it_comes(
    address: str, sinks: list[Sink], tmp_path: Path
) -> None:
    publishing = publish(address, tmp_path)
    for number in range(60):
        publishing.put(step(number))
    full = Watch(publishing).until(lambda f: f.rows == 120 and not f.memory_bytes)
    assert full.spool_batches > 10
    assert full.spool_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.segment"))
    sinks.append(Sink(address))
    sinks[0].wait(lambda: len(sinks[0].steps("r0")) >= 60)
    for number in range(60, 80):
        publishing.put(step(number))
    assert publishing.close(10)
    assert sinks[0].steps("r0") == list(range(80))
    seqs = [batch.seq for batch in sinks[0].batches]
    assert seqs == list(range(len(seqs)))
    assert publishing.dropped == 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_on_its_way_while_it_goes_to_the_spool_is_not_sent_twice(
    address: str, sinks: list[Sink], tmp_path: Path
) -> None:
    """A sidecar that takes its time: each batch is sent, and goes to disk while its acknowledgement is awaited."""
    slow = Sink(address, acknowledge=False)
    publishing = publish(address, tmp_path, limits=replace(AT_ONCE, spool_after_s=0.05, ack_timeout_s=1000.0))
    for number in range(40):
        publishing.put(step(number))
        slow.wait(lambda number=number: number in slow.steps("r0"))
    Watch(publishing).until(lambda f: not f.memory_bytes)
    assert slow.steps("r0") == list(range(40))
    slow.close()
    sinks.append(Sink(address))
    assert publishing.close(10)
    assert sinks[0].steps("r0") == list(range(40))


def test_beyond_the_spools_bound_the_oldest_are_dropped_counted_and_reported(
    address: str, sinks: list[Sink], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publishing = publish(address, tmp_path, byte_limit=60_000)
    for number in range(200):
        publishing.put(step(number))
    with caplog.at_level(logging.ERROR):
        found = Watch(publishing).until(lambda f: f.rows == 400 and not f.memory_bytes)
    assert 0 < found.spool_bytes <= 60_000
    assert found.batches_dropped > 0
    sinks.append(Sink(address))
    sinks[0].wait(lambda: 199 in sinks[0].steps("r0"))
    publishing.put(step(200))
    assert publishing.close(10)
    seqs = [batch.seq for batch in sinks[0].batches]
    assert seqs == list(range(found.batches_dropped, seqs[-1] + 1))
    assert sinks[0].batches[-1].info.dropped == found.batches_dropped
    assert "bytes wait in the spool" in caplog.text


def test_a_stop_leaves_the_rest_to_the_next_server(
    address: str, sinks: list[Sink], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where nothing had gone to disk before, and under the former source, so that repeats are known."""
    first = publish(address, tmp_path, limits=replace(FAST, spool_after_s=1000))
    for number in range(10):
        first.put(step(number))
    with caplog.at_level(logging.WARNING):
        assert not first.close(1.0)
    assert "stay in the spool for the next server" in caplog.text
    second = publish(address, tmp_path)
    second.put(step(10))
    sinks.append(Sink(address))
    assert second.close(10)
    assert sinks[0].steps("r0") == list(range(11))
    sources = [batch.source_id for batch in sinks[0].batches]
    assert [source for source, _ in itertools.groupby(sources)] == list(dict.fromkeys(sources))
    assert len(set(sources)) == 2
    assert list(tmp_path.iterdir()) == []


VICTIM = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_publisher_faults import AT_ONCE, Watch, publish, step
publishing = publish(sys.argv[1], Path(sys.argv[2]), limits=replace(AT_ONCE, in_flight_bytes=20_000))
for number in range(300):
    publishing.put(step(number))
Watch(publishing).until(lambda f: f.rows == 600 and not f.memory_bytes)
print("spooled", flush=True)
for number in range(300, 10_000_000):
    publishing.put(step(number, requests=1))
    if not number % 50:
        Watch(publishing).until(lambda f: not f.queue_items)
"""


def test_a_process_killed_while_it_writes_and_sends_loses_nothing_that_was_spooled(
    address: str, sinks: list[Sink], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", VICTIM, address, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "spooled\n"
        before = Sink(address)
        before.wait(lambda: len(before.batches) > 20)
        victim.kill()
        victim.wait()
    before.close()
    heir = publish(address, tmp_path)
    sinks.append(Sink(address))
    heir.put(step(0, requests=3))
    sinks[0].wait(lambda: 0 in sinks[0].steps("r2"))
    assert heir.close(10)
    assert set(range(300)) <= steps_of([before, *sinks])
    by_key = {(batch.source_id, batch.seq): batch.rows for batch in before.batches}
    for batch in sinks[0].batches:
        assert by_key.setdefault((batch.source_id, batch.seq), batch.rows).equals(batch.rows)
    of_victim = [batch.seq for batch in sinks[0].batches if batch.source_id == before.batches[0].source_id]
    # What stays unanswered for five seconds comes again, so the order is that of first arrivals.
    first_arrivals = list(dict.fromkeys(of_victim))
    assert first_arrivals == sorted(first_arrivals)
    assert heir.dropped <= 1  # the record that was being written


def test_a_full_disk_is_said_once_and_the_memory_stays_bounded(
    address: str, sinks: list[Sink], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite_no_space_left(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full, caplog.at_level(logging.ERROR):
        full.setattr(os, "pwrite", pwrite_no_space_left)
        publishing = publish(address, tmp_path, limits=replace(AT_ONCE, memory_bytes=50_000))
        for number in range(200):
            publishing.put(step(number))
        found = Watch(publishing).until(lambda f: f.rows == 400)
        assert found.memory_bytes <= 50_000
        assert found.batches_dropped > 0
        assert caplog.text.count("cannot write to the spool") == 1
    sinks.append(Sink(address))
    sinks[0].wait(lambda: 199 in sinks[0].steps("r0"))  # who closes while the sidecar is away leaves the rest behind
    assert publishing.close(10)
    arrived = sinks[0].steps("r0")
    assert arrived == list(range(arrived[0], 200))


def test_what_a_full_disk_kept_in_memory_is_spooled_at_the_end_where_there_is_room_again(
    address: str, sinks: list[Sink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite_no_space_left(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", pwrite_no_space_left)
        publishing = publish(address, tmp_path, limits=replace(AT_ONCE, memory_bytes=50_000))
        for number in range(200):
            publishing.put(step(number))
        Watch(publishing).until(lambda f: f.batches_dropped > 0 and f.rows == 400)
    kept = publishing.figures().memory_batches
    assert kept > 0
    assert not publishing.close(2)  # at once after a write failed: the next would only be tried a second later
    assert publishing.figures().memory_batches == 0
    assert publishing.figures().spool_batches == kept


def test_without_a_usable_place_it_publishes_from_memory(
    address: str, sinks: list[Sink], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a directory")
    with caplog.at_level(logging.ERROR):
        publishing = publish(address, tmp_path / "file")
        publishing.put(step(1))
        sinks.append(Sink(address))
        assert publishing.close(10)
    assert sinks[0].steps("r0") == [1]
    assert "no spool in" in caplog.text
    assert "--attention-tokens-spool-dir" in caplog.text


def curve_sink(address: str, key_file: Path) -> Sink:
    def prepare(router: Any) -> None:
        router.curve_publickey, router.curve_secretkey = zmq.auth.load_certificate(key_file)
        router.curve_server = True

    return Sink(address, prepare=prepare)


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Files of a new pair: public, secret."""
    public, secret = create_certificates(folder, name)
    return Path(public), Path(secret)


def test_curve_carries_everything_with_and_without_a_key_of_its_own(
    address: str, sinks: list[Sink], tmp_path: Path
) -> None:
    server_public, server_secret = keys(tmp_path, "sidecar")
    _, client_secret = keys(tmp_path, "server")
    sinks.append(curve_sink(address, server_secret))
    for number, client in enumerate((None, client_secret)):
        curve = curve_keys(server_key=server_public, client_key=client)
        publishing = publish(address, tmp_path / "spool", curve=curve)
        publishing.put(step(number))
        assert publishing.close(10)
    assert sinks[0].steps("r0") == [0, 1]


@pytest.mark.parametrize("with_wrong_key", [True, False])
def test_keys_that_do_not_fit_are_said_and_nothing_is_lost(
    address: str, sinks: list[Sink], tmp_path: Path, caplog: pytest.LogCaptureFixture, *, with_wrong_key: bool
) -> None:
    server_public, server_secret = keys(tmp_path, "sidecar")
    other_public, _ = keys(tmp_path, "another")
    wrong: CurveKeys | None = curve_keys(server_key=other_public) if with_wrong_key else None
    sinks.append(curve_sink(address, server_secret))
    with caplog.at_level(logging.INFO):
        publishing = publish(address, tmp_path / "spool", curve=wrong)
        publishing.put(step(1))
        Watch(publishing).until(lambda f: "handshake fails" in caplog.text)
        assert not publishing.close(1.0)
    assert sinks[0].batches == []
    for key in (server_public, server_secret):
        for secret in zmq.auth.load_certificate(key):
            assert secret is None or secret.decode() not in caplog.text
    right = publish(address, tmp_path / "spool", curve=curve_keys(server_key=server_public))
    right.put(step(2))
    assert right.close(10)
    assert sinks[0].steps("r0") == [1, 2]


def test_a_file_that_holds_no_key_is_named_and_not_quoted(tmp_path: Path) -> None:
    odd = tmp_path / "odd.key"
    odd.write_text("hunter2\n")
    public, secret = keys(tmp_path, "sidecar")
    check_certificate(secret, secret=True)
    check_certificate(public, secret=False)
    for path, wanted in ((odd, False), (tmp_path / "absent.key", False), (public, True)):
        with pytest.raises(SettingsError, match=path.name) as refusal:
            check_certificate(path, secret=wanted)
        assert "hunter2" not in str(refusal.value)
    assert "secret=" not in repr(curve_keys(server_key=public, client_key=secret))


def test_metrics_follow_the_figures(address: str, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    metrics = PublisherMetrics(labels={"model_name": "demo", "tp_rank": 0}, registry=registry)
    publishing = publish(address, tmp_path, report=metrics)
    for number in range(3):
        publishing.put(step(number))
    publishing.close(1.0)
    metrics(publishing.figures())
    text = generate_latest(registry).decode()
    assert 'attention_capture_rows_total{model_name="demo",tp_rank="0"} 6.0' in text
    assert 'attention_capture_connected{model_name="demo",tp_rank="0"} 0.0' in text
    spooled = publishing.figures().spool_batches
    assert spooled > 0
    assert f'attention_capture_spool_batches{{model_name="demo",tp_rank="0"}} {float(spooled)}' in text


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 on this machine")
def test_a_sidecar_is_reached_over_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 loopback on this machine")
        port = probe.getsockname()[1]
    address = f"tcp://[::1]:{port}"
    sink = Sink(address, prepare=lambda router: router.setsockopt(zmq.IPV6, 1))
    publishing = Publisher(address=address, info=INFO, text_of=str, limits=FAST)
    publishing.put(step(1))
    assert publishing.close(5)
    assert sink.steps("r0") == [1]
    sink.close()
