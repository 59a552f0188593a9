import json
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attn_core import bundle
from attn_core.classify import Classifier, no_clusters
from attn_core.errors import BundleError
from attn_core.space import FILE_NAME as SPACE
from attn_core.space import Space
from attn_core.zones import FILE_NAME, ZoneFormulas

FIRST, SECOND = "2026-01-10T04-02-11", "2026-01-10T05-00-00"


def write_files(directory):
    for name in ("embeddings", "clusters", "prototypes", "requests"):
        pq.write_table(pa.table({"x": [1.0, 2.0]}), directory / f"{name}.parquet")
    no_clusters().save(directory / "classifier.npz")
    ZoneFormulas.shipped().save(directory / FILE_NAME)
    Space.plain().save(directory / SPACE)


def publish(output, run_id=FIRST, write=write_files):
    return bundle.publish(output, run_id=run_id, manifest={"model_id": "demo"}, write=write)


def test_what_is_published_is_what_is_opened(tmp_path):
    directory = publish(tmp_path)
    opened = bundle.open_bundle(tmp_path / "latest")
    assert opened.path == directory
    assert opened.run_id == bundle.latest_run_id(tmp_path) == FIRST
    assert opened.manifest["schema_version"] == 1
    assert opened.manifest["model_id"] == "demo"
    assert set(opened.manifest["files"]) == {*bundle.REQUIRED, FILE_NAME, SPACE}
    assert opened.table("clusters")["x"].to_pylist() == [1.0, 2.0]
    assert Classifier.from_bundle(opened).run_id == FIRST
    assert sorted(p.name for p in tmp_path.iterdir()) == [FIRST, "latest"]
    assert str((tmp_path / "latest").readlink()) == FIRST  # relative: the folder may be moved


def test_latest_moves_on_and_the_old_bundle_stays(tmp_path):
    publish(tmp_path)
    publish(tmp_path, SECOND)
    assert bundle.open_bundle(tmp_path / "latest").run_id == SECOND
    assert bundle.open_bundle(tmp_path / FIRST).run_id == FIRST


def test_a_failed_write_leaves_nothing_and_the_old_one_served(tmp_path):
    publish(tmp_path)

    def broken(directory):
        write_files(directory)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path, SECOND, broken)
    with pytest.raises(BundleError, match=r"lacks classifier\.npz"):
        publish(tmp_path, SECOND, lambda d: (write_files(d), (d / "classifier.npz").unlink()))
    with pytest.raises(BundleError, match=r"evil\.pkl may not be in a bundle"):
        publish(tmp_path, SECOND, lambda d: (write_files(d), (d / "evil.pkl").write_bytes(b"x")))
    assert sorted(p.name for p in tmp_path.iterdir()) == [FIRST, "latest"]
    assert bundle.latest_run_id(tmp_path) == FIRST


def test_a_published_run_is_never_overwritten(tmp_path):
    publish(tmp_path)
    with pytest.raises(BundleError, match="already published"):
        publish(tmp_path)
    with pytest.raises(BundleError, match="expected a UTC instant"):
        publish(tmp_path, "../escape")


def change_manifest(directory, **changes):
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "clusters.parquet").write_bytes(b"torn"), "clusters.parquet is not what was published"),
        (lambda d: (d / "clusters.parquet").unlink(), "clusters.parquet is not a plain file"),
        (lambda d: (d / "manifest.json").write_text('{"files"'), "no readable bundle"),
        (lambda d: (d / "manifest.json").unlink(), "no readable bundle"),
        (lambda d: (d / "manifest.json").write_text("[]"), "not a bundle's manifest"),
        (lambda d: change_manifest(d, schema_version=2), "schema_version 2; this version reads 1"),
        (lambda d: change_manifest(d, fingerprint_version=None), "fingerprint_version None"),
        (lambda d: change_manifest(d, run_id=SECOND), "moved or mixed up"),
        (lambda d: change_manifest(d, files={}), "lacks embeddings.parquet"),
    ],
)
def test_a_damaged_bundle_is_refused(tmp_path, damage, says):
    damage(publish(tmp_path))
    with pytest.raises(BundleError, match=says):
        bundle.open_bundle(tmp_path / "latest")


def test_one_flipped_bit_is_seen(tmp_path):
    path = publish(tmp_path) / "classifier.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        bundle.open_bundle(tmp_path / FIRST)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    directory = publish(tmp_path)
    files = json.loads((directory / "manifest.json").read_text())["files"]
    change_manifest(directory, files=files | {"../../secret.json": {"bytes": 1, "sha256": "x"}})
    with pytest.raises(BundleError, match="may not hold"):
        bundle.open_bundle(directory)


def test_links_are_not_followed_out_of_a_bundle(tmp_path):
    directory = publish(tmp_path)
    (tmp_path / "outside.parquet").write_bytes((directory / "clusters.parquet").read_bytes())
    (directory / "clusters.parquet").unlink()
    (directory / "clusters.parquet").symlink_to(tmp_path / "outside.parquet")
    with pytest.raises(BundleError, match="not a plain file"):
        bundle.open_bundle(directory)


def test_no_run_yet(tmp_path):
    assert bundle.latest_run_id(tmp_path) is None
    assert bundle.latest_run_id(tmp_path / "missing") is None
    with pytest.raises(BundleError, match="no readable bundle"):
        bundle.open_bundle(tmp_path / "latest")


def test_run_ids_are_utc():
    local = datetime(2026, 1, 10, 6, 2, 11, tzinfo=timezone(timedelta(hours=2)))
    assert bundle.run_id_from_time(local) == bundle.run_id_from_time(local.astimezone(UTC)) == FIRST
