"""The graph in operation, on a Dagster instance with its databases on disk: late rows, a week's backfill, failures,
freshness, plots."""

from __future__ import annotations

import base64
import json
import sqlite3
import struct
import threading
import zlib
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import numpy as np
import pytest
from conftest import QUIET, Graph
from synthetic_fingerprints import draw, hour_start_us, store_rows

from attn_assets.definitions import build_definitions
from attn_assets.defs.io_manager import read_tables
from attn_assets.plots import map_png, zones_png
from attn_assets.sidecar_door import SidecarDoor, SidecarUnreachable
from attn_core import run_failure
from attn_core.bundle import latest_run_id
from attn_core.store import HOUR_US

ASSETS = ("fingerprints", "umap_embedding", "hdbscan_clusters", "zone_labels", "classifier_bundle")


@pytest.fixture
def operated(tmp_path):
    """The graph over an instance as `dagster dev` has one; the sensor may ask for an hour again at once."""
    (tmp_path / "dagster").mkdir()
    graph = Graph(tmp_path, debounce_s=0)
    graph.instance.dispose()
    graph.instance = dg.DagsterInstance.local_temp(str(tmp_path / "dagster"))
    graph.definitions = build_definitions(graph.settings)
    yield graph
    graph.instance.dispose()


def made(graph) -> dict[str, dict[str, int]]:
    """How often each hour of each asset was materialised."""
    found = {}
    for name in ASSETS:
        events = graph.instance.fetch_materializations(dg.AssetKey(name), limit=1000).records
        keys = [event.asset_materialization.partition for event in events]
        found[name] = {key: keys.count(key) for key in set(keys)}
    return found


def tick(graph, cursor: str | None) -> dg.SensorResult:
    """One look of the sensor, and its requests run as the daemon would."""
    sensor = graph.definitions.resolve_sensor_def("new_fingerprints")
    needed = {key: graph.resources[key] for key in sensor.required_resource_keys}
    with dg.build_sensor_context(
        instance=graph.instance, cursor=cursor, resources=needed, definitions=graph.definitions
    ) as context:
        looked = sensor(context)
    job = graph.definitions.resolve_job_def("discover_hour")
    for request in looked.run_requests or []:
        done = job.execute_in_process(
            partition_key=request.partition_key, instance=graph.instance, run_config=QUIET,
            asset_selection=request.asset_selection, tags={"dagster/run_key": request.run_key},
        )  # fmt: skip
        assert done.success
    return looked


def late_rows(graph, count: int, *, hours_ago: int, seed: int) -> None:
    start = hour_start_us(hours_ago)
    store_rows(graph.settings.db, draw(count, seed=seed, start_us=start, end_us=start + HOUR_US))


def rows_of(graph, hours_ago: int) -> int:
    folder = graph.settings.assets_dir / "fingerprints" / graph.key(hours_ago).replace(":", "-")
    return read_tables(folder)["table"].num_rows


def test_a_late_batch_rematerialises_its_hours_and_no_others(operated):
    for hours_ago in (6, 5, 4, 1):
        operated.fill(60, hours_ago=hours_ago, seed=hours_ago)
    looked = tick(operated, tick(operated, None).cursor)
    before, served = made(operated), latest_run_id(operated.settings.discovery_dir)
    assert before["fingerprints"] == {operated.key(ago): 1 for ago in (6, 5, 4, 1)}
    late_rows(operated, 7, hours_ago=6, seed=91)
    late_rows(operated, 3, hours_ago=4, seed=92)
    looked = tick(operated, looked.cursor)
    after = made(operated)
    assert {key: n for key, n in after["fingerprints"].items() if n != before["fingerprints"].get(key)} == {
        operated.key(6): 2, operated.key(4): 2,
    }  # fmt: skip
    assert {name: after[name] for name in ASSETS[1:]} == {name: before[name] for name in ASSETS[1:]}
    assert [rows_of(operated, ago) for ago in (6, 5, 4, 1)] == [67, 60, 63, 60]
    assert latest_run_id(operated.settings.discovery_dir) == served
    assert tick(operated, looked.cursor).run_requests == []
    operated.make(hours_ago=1)
    assert latest_run_id(operated.settings.discovery_dir) != served
    manifest = json.loads((operated.settings.discovery_dir / "latest" / "manifest.json").read_text())
    assert manifest["num_fingerprints"] == 250, "the next window holds the late rows"


def test_rows_that_retention_took_from_the_database_stay_when_a_late_row_comes(operated):
    operated.fill(60, hours_ago=3, seed=1)
    operated.make("fingerprints", hours_ago=3)
    late_rows(operated, 5, hours_ago=3, seed=2)
    with closing(sqlite3.connect(operated.settings.db)) as connection, connection:
        connection.execute("DELETE FROM tokens WHERE id <= 40")
    result = operated.make("fingerprints", hours_ago=3)
    assert rows_of(operated, 3) == 65
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "rows_match_database"]
    assert (check.metadata["num_in_database"].value, check.metadata["num_only_in_lake"].value) == (25, 40)
    with closing(sqlite3.connect(operated.settings.db)) as connection, connection:
        connection.execute("DELETE FROM tokens WHERE id = 50")
    operated.make("fingerprints", hours_ago=3)
    assert rows_of(operated, 3) == 64, "a row deleted by hand goes from the lake too"


def test_a_backfill_of_a_week_of_hours(operated):
    """168 hours, 8 of them with rows; each is a partition of its own, and the maps follow one another."""
    busy = (167, 166, 120, 73, 49, 26, 2, 1)
    for hours_ago in busy:
        operated.fill(30, hours_ago=hours_ago, seed=hours_ago)
    span = {
        "dagster/asset_partition_range_start": operated.key(168),
        "dagster/asset_partition_range_end": operated.key(1),
    }
    done = dg.materialize(
        operated.assets, selection=["fingerprints"], instance=operated.instance, resources=operated.resources,
        tags=span, run_config=QUIET,
    )  # fmt: skip
    assert done.success
    counted = made(operated)["fingerprints"]
    assert (len(counted), set(counted.values())) == (168, {1})
    assert [rows_of(operated, ago) for ago in (168, *busy)] == [0] + [30] * 8
    for hours_ago in (73, 26, 1):
        assert operated.make(*ASSETS[1:], hours_ago=hours_ago).success
    runs = sorted(path.name for path in operated.settings.discovery_dir.glob("2*"))
    assert len(runs) == 3
    assert latest_run_id(operated.settings.discovery_dir) == runs[-1]


def test_a_failed_run_goes_into_the_database_and_is_told_until_one_is_published(operated, monkeypatch):
    operated.fill(60, hours_ago=1)
    with closing(sqlite3.connect(operated.settings.db)) as connection, connection:
        connection.execute("UPDATE fingerprints SET vector = zeroblob(80) WHERE id = 5")
    job = operated.definitions.resolve_job_def("discover_hour")
    failed = job.execute_in_process(
        partition_key=operated.key(1), instance=operated.instance, run_config=QUIET, raise_on_error=False
    )
    assert not failed.success
    sensor = operated.definitions.resolve_sensor_def("failed_discovery")
    run = operated.instance.get_run_by_id(failed.run_id)
    (event,) = [one for one in failed.all_events if one.event_type == dg.DagsterEventType.RUN_FAILURE]
    with dg.build_run_status_sensor_context(
        sensor_name="failed_discovery", dagster_instance=operated.instance, dagster_run=run, dagster_event=event,
        resources={key: operated.resources[key] for key in ("store", "plan")},
    ) as context:  # fmt: skip
        sensor(context.for_run_failure())
    told = run_failure.told(operated.settings.discovery_dir)
    assert told.stage == "fingerprints"
    assert "check vectors_hold_invariants of fingerprints failed" in told.reason
    with closing(sqlite3.connect(operated.settings.db)) as connection, connection:
        ((run_id, status, error),) = connection.execute("SELECT run_id, status, error FROM discovery_runs").fetchall()
        connection.execute("DELETE FROM fingerprints WHERE id = 5")
    assert (run_id, status, error) == (told.run_id, "failed", told.reason)
    assert operated.make().success, "the row that was refused can be deleted"
    assert run_failure.told(operated.settings.discovery_dir) is None


class Sidecar(BaseHTTPRequestHandler):
    """Answers a reload as the real one does; remembers what it was asked."""

    asked: list[tuple[str, str | None]] = []  # noqa: RUF012 - shared by design: a handler lives for one request
    status = 200

    def do_POST(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        body = json.dumps({"run_id": "2026-01-10T04-02-11", "detail": "refused"}).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_the_sidecar_is_told_and_one_that_does_not_answer_is_named():
    with HTTPServer(("127.0.0.1", 0), Sidecar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        door = SidecarDoor(url=f"http://127.0.0.1:{server.server_port}", token="secret-token")  # noqa: S106 - of this test alone
        assert door.reload() == "2026-01-10T04-02-11"
        assert Sidecar.asked == [("/discovery/reload", "Bearer secret-token")]
        assert "secret-token" not in repr(door)
        Sidecar.status = 409
        with pytest.raises(SidecarUnreachable, match="answered 409: refused"):
            door.reload()
        server.shutdown()
    with pytest.raises(SidecarUnreachable, match="was not reached"):
        door.reload()


def test_a_published_run_is_followed_by_a_reload_where_a_sidecar_is_named(operated):
    sensor = operated.definitions.resolve_sensor_def("published_discovery")
    operated.fill(30)
    done = operated.definitions.resolve_job_def("discover_hour").execute_in_process(
        partition_key=operated.key(1), instance=operated.instance, run_config=QUIET
    )
    (event,) = [one for one in done.all_events if one.event_type == dg.DagsterEventType.RUN_SUCCESS]

    def told(door: SidecarDoor) -> str:
        with dg.build_run_status_sensor_context(
            sensor_name="published_discovery", dagster_instance=operated.instance, dagster_event=event,
            dagster_run=operated.instance.get_run_by_id(done.run_id), resources={"sidecar": door},
        ) as context:  # fmt: skip
            return sensor(context).skip_message

    assert "ATTN_SIDECAR_URL is not set" in told(SidecarDoor(url=""))
    assert "was not reached" in told(SidecarDoor(url="http://127.0.0.1:1"))


def test_every_hourly_asset_says_when_it_is_no_longer_fresh(operated):
    specs = {spec.key.to_user_string(): spec for asset in operated.assets for spec in asset.specs}
    for name in ASSETS:
        policy = specs[name].freshness_policy
        assert policy.warn_window.to_timedelta() < policy.fail_window.to_timedelta(), name


def pixels(png: bytes) -> np.ndarray:
    """The picture of a PNG that has no filters, read anew."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, size = 8, b"", (0, 0)
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(size[1], 1 + 3 * size[0])
    return lines[:, 1:].reshape(size[1], size[0], 3)


def test_pictures_show_points_and_shares_in_the_zones_colours():
    x, y = np.array([0.0, 1.0, 0.5], np.float32), np.array([0.0, 1.0, 0.5], np.float32)
    drawn = pixels(map_png(x, y, np.array([0, 3, 3], np.int8)))
    inked = np.argwhere((drawn != 255).any(axis=2))
    assert len(inked) == 3
    assert inked[0, 0] == 0, "the highest point stands at the top"
    assert inked[0, 1] > inked[-1, 1]
    bars = pixels(zones_png(np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 4, 0, 0, 0]])))
    middle = [tuple(bars[row, column].tolist()) for row, column in ((-1, 10), (0, 10), (50, 240), (50, 400))]
    assert middle == [(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (255, 255, 255), (0x00, 0xA8, 0x78)]
    assert pixels(map_png(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0, np.int8))).min() == 255


def test_the_zones_metadata_carries_both_pictures(graph):
    graph.fill(60)
    (event,) = graph.make().asset_materializations_for_node("zone_labels")
    for name in ("map", "zones_per_hour"):
        text = event.metadata[name].value
        png = base64.b64decode(text.partition("base64,")[2].partition(")")[0])
        assert (pixels(png) != 255).any(), name
