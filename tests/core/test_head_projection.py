"""A model's current head projection: one file, replaced whole, found by any model id, refused where it is torn."""

import dataclasses
import io
import os
import re
import zipfile

import numpy as np
import pytest

from attn_core import head_projection
from attn_core.errors import ProjectionError
from attn_core.head_projection import (
    MAX_BYTES,
    NUM_COLUMNS,
    HeadProjection,
    current_projection,
    projection_file,
    put_projection,
    shipped_projection,
)

IDS = [
    "demo",
    "org/demo-1.5B",
    "/models/with spaces/\u00e9\u4e2d",
    "C:\\models\\demo",
    "..",
    "a/../..",
    "",
    "x" * 4000,
    "-",
    "\ud800",
]


def projection(model="demo", *, seed=0, layers=(0, 2), heads=3):
    rng = np.random.default_rng(seed)
    rows = len(layers) * heads * 5
    return HeadProjection(
        model=model,
        layers=layers,
        num_heads=heads,
        matrix=rng.normal(size=(rows, NUM_COLUMNS)).astype(np.float32),
        offset=rng.normal(size=NUM_COLUMNS).astype(np.float32),
        provenance={"seed": seed},
    )


@pytest.mark.parametrize("model_id", IDS)
def test_a_file_name_is_safe_for_any_id(model_id):
    name = projection_file(model_id)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,110}\.npz", name)
    assert not name.startswith("..npz")
    assert len({projection_file(one) for one in IDS}) == len(set(map(head_projection.model_name, IDS)))


def test_the_last_one_put_is_the_current_one(tmp_path):
    folder = tmp_path / "made" / "anew"
    assert current_projection(folder, "demo") is None
    for seed in range(3):
        put_projection(folder, projection(seed=seed))
    put_projection(folder, projection("other", seed=9))
    found = current_projection(folder, "/somewhere/demo")
    assert found.sha256 == projection(seed=2).sha256
    assert found.provenance == {"seed": 2}
    assert sorted(path.name for path in folder.iterdir()) == sorted(map(projection_file, ("demo", "other")))


def test_a_put_that_fails_leaves_the_former(tmp_path, monkeypatch):
    put_projection(tmp_path, projection(seed=1))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        put_projection(tmp_path, projection(seed=2))
    assert current_projection(tmp_path, "demo").sha256 == projection(seed=1).sha256
    assert len(list(tmp_path.iterdir())) == 1


def torn(data):
    return {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "text": b"no such thing",
        "a byte changed": data[:400] + bytes([data[400] ^ 1]) + data[401:],
        "a damaged stream": deflated(data).replace(b"matrix.npy", b"matrix.npz"),
    }


def deflated(data, **more):
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as of, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as into:
        for name in of.namelist():
            into.writestr(name, of.read(name))
        for name, contents in more.items():
            into.writestr(name, contents)
    return sink.getvalue()


@pytest.mark.parametrize("case", torn(projection().to_bytes()))
def test_a_torn_file_is_named(tmp_path, case):
    path = put_projection(tmp_path, projection())
    path.write_bytes(torn(projection().to_bytes())[case])
    with pytest.raises(ProjectionError, match=re.escape(path.name)):
        current_projection(tmp_path, "demo")


def test_another_model_under_its_name_is_refused(tmp_path):
    path = put_projection(tmp_path, projection("other"))
    path.rename(tmp_path / projection_file("demo"))
    with pytest.raises(ProjectionError, match="'other'"):
        current_projection(tmp_path, "demo")


def test_what_unpacks_to_more_than_any_matrix_is_refused_before_it_is_unpacked():
    small = projection().to_bytes()
    assert HeadProjection.from_bytes(deflated(small)).sha256 == projection().sha256
    bomb = deflated(small, **{"more.npy": bytes(MAX_BYTES)})
    assert len(bomb) < 100_000
    with pytest.raises(ProjectionError, match="unpacked"):
        HeadProjection.from_bytes(bomb)


def test_what_does_not_fit_is_said():
    one = projection()
    asked = {"model_id": "x/demo", "layers": (0, 0, 2, 2), "num_heads": 3}
    assert one.why_unfit(**asked) is None
    for change, words in (
        ({"model_id": "x/other"}, "'other'"),
        ({"layers": (0, 1)}, r"\[0, 1\]"),
        ({"num_heads": 4}, "of 4"),
    ):
        assert re.search(words, one.why_unfit(**{**asked, **change}))


def test_shipped_ones_are_found_by_model(tmp_path, monkeypatch):
    monkeypatch.setattr(head_projection.resources, "files", lambda package: tmp_path)
    find = shipped_projection.__wrapped__
    assert find("org/demo") is None
    (tmp_path / head_projection.FOLDER).mkdir()
    for name in ("other", "demo"):
        projection(name, seed=len(name)).save(tmp_path / head_projection.FOLDER / f"{name}.npz")
    assert find("org/demo").sha256 == projection(seed=4).sha256
    assert find("neither") is None
    (tmp_path / head_projection.FOLDER / "a.npz").write_bytes(b"torn")
    with pytest.raises(ProjectionError):
        find("org/demo")


def test_every_shipped_one_can_be_read_and_is_found():
    folder = head_projection.resources.files("attn_core") / head_projection.FOLDER
    if not folder.is_dir():
        pytest.skip("none is shipped")
    for file in folder.iterdir():
        one = HeadProjection.from_bytes(file.read_bytes())
        assert dataclasses.asdict(shipped_projection(one.model))["model"] == one.model
