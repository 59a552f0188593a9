"""Every way in gives the same answer for the same vector, and tokens are shown with what made their zone."""

import contextlib
import dataclasses
import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from attention_rows import draw, wire_rows
from sidecar_tools import INFO, guide_vector, publish_bundle, random_rows
from test_batch_endpoints import ARROW, COMPANIONS, arrow_of, opened, post, stream
from zone_vectors import draw_musts

from attn_core.bundle import open_bundle
from attn_core.classify import Classifier, cluster_label
from attn_core.fingerprint import MAX_CONTEXT_LEN
from attn_core.wire import FINGERPRINTS, vectors_from_rows
from attn_core.zones import CHARACTERISTICS, ZONES, ZoneFormulas, shipped_formula
from attn_sidecar.classification import answers_of, rows_from_values


@pytest.fixture(params=["shipped", "run"])
def classifier(client, settings, request):
    """The served classifier, read anew from what the sidecar serves."""
    if request.param == "shipped":
        return Classifier.without_run()
    publish_bundle(settings.discovery_dir)
    client.post("/discovery/reload")
    return Classifier.from_bundle(open_bundle(settings.discovery_dir / "latest"))


def tokens_drawn():
    """72 rows of the wire: attention drawn at random, and points of the clusters that the bundle holds."""
    seen = random_rows(40, seed=1, request_id="seen", first_step=100).slice(8, 24)
    table = pa.Table.from_batches([wire_rows(draw(48, seed=11)), seen], schema=FINGERPRINTS)
    return table.combine_chunks().to_batches()[0]


def bodies_of(rows, *, known):
    """Bodies of `/classify`; `known(row)` says which companions a row is sent with."""
    return [
        {
            "vector": row["vector"],
            "explain": True,
            **{name: row[name] for k, name in enumerate(COMPANIONS) if known(number) >> k & 1},
        }
        for number, row in enumerate(rows.to_pylist())
    ]


GUIDE_FIELDS = ("zone", "confidence", "cluster_id", "cluster_label")


def without_explain(body):
    """The same question as the guide asks it."""
    return {name: value for name, value in body.items() if name != "explain"}


def offline(classifier, bodies, **more):
    """What `Classifier.classify` says of them."""
    return classifier.classify(
        np.array([body["vector"] for body in bodies], dtype=np.float32),
        context_len=np.array([body.get("context_len", 0) for body in bodies]),
        sink_mass=np.array([body.get("sink_mass", np.nan) for body in bodies]),
        periodicity=np.array([body.get("periodicity", np.nan) for body in bodies]),
        with_evidence=True,
        **more,
    )


def manifolds_of(classifier, classified, *, model_id=None):
    """The answers as JSON has them."""
    formula = classifier.formula_of(model_id)
    found = []
    for i in range(len(classified.zone_index)):
        zone, cluster_id = int(classified.zone_index[i]), int(classified.cluster_id[i])
        reason = formula.reason(zone, classified.evidence[i])
        found.append(
            {
                "zone": ZONES[zone],
                "confidence": round(float(classified.confidence[i]), 6),
                "cluster_id": cluster_id,
                "cluster_label": cluster_label(cluster_id),
                "cluster_confidence": round(float(classified.cluster_confidence[i]), 6),
                "characteristic": {
                    "name": reason.characteristic,
                    "value": round(reason.value, 4),
                    "usual": round(reason.usual, 4),
                },
            }
        )
    return found


@pytest.mark.parametrize(
    "known", [lambda _: 0, lambda _: 7, lambda row: row % 8], ids=["alone", "with companions", "each its own"]
)
def test_every_way_in_over_http_gives_the_same_answer(client, classifier, settings, known):
    bodies = bodies_of(tokens_drawn(), known=known)
    classified = offline(classifier, bodies)
    expected = manifolds_of(classifier, classified)
    assert len({one["zone"] for one in expected}) >= 3
    if classifier.run_id is not None and known(0) == 7:
        assert {one["cluster_id"] for one in expected} == {-1, 3, 5}
    for i, body in enumerate(bodies):
        single = offline(classifier, [body])
        for name in ("zone_index", "confidence", "cluster_id", "cluster_confidence", "evidence"):
            assert getattr(single, name)[0].tobytes() == getattr(classified, name)[i].tobytes()

    assert [client.post("/classify", json=body).json()["manifold"] for body in bodies] == expected
    assert client.post("/classify/batch", json={"fingerprints": bodies}).json()["manifolds"] == expected
    columns = arrow_of([without_explain(body) for body in bodies])
    plain = [{name: one[name] for name in GUIDE_FIELDS} for one in expected]
    assert post(client, "/classify/batch", stream(columns)).json()["manifolds"] == plain
    assert client.post("/classify", json=without_explain(bodies[0])).json()["manifold"] == plain[0]
    asked = {"fingerprints": [without_explain(body) for body in bodies], "explain": True}
    assert client.post("/classify/batch", json=asked).json()["manifolds"] == expected
    posted = [{**body, "request_id": "single", "step": step} for step, body in enumerate(bodies)]
    assert [client.post("/fingerprint", json=body).json()["manifold"] for body in posted] == expected
    for request_id, as_arrow in (("json", False), ("arrow", True)):
        named = [{**body, "request_id": request_id} for body in posted]
        if as_arrow:
            answer = post(client, "/fingerprint/batch", stream(arrow_of([without_explain(body) for body in named])))
        else:
            answer = client.post("/fingerprint/batch", json={"fingerprints": named})
        assert answer.json()["manifolds"] == (plain if as_arrow else expected)

    table = opened(post(client, "/classify/batch", stream(columns), accept=ARROW))
    assert [row["zone"] for row in table] == classified.zones()
    for name in ("confidence", "cluster_id", "cluster_confidence"):
        assert [row[name] for row in table] == getattr(classified, name).tolist()
    stored = stored_answers(settings)
    for request_id in ("single", "json", "arrow"):
        assert stored[request_id] == list(
            zip(classified.zones(), classified.confidence.tolist(), classified.cluster_id.tolist(), strict=True)
        )


def stored_answers(settings):
    """(zone, confidence, cluster) of each stored token by request, in order of step."""
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        rows = connection.execute(
            "SELECT request_id, zone, zone_confidence, cluster_id FROM fingerprints ORDER BY request_id, step"
        ).fetchall()
    found = {}
    for request_id, *answer in rows:
        found.setdefault(request_id, []).append(tuple(answer))
    return found


def test_what_comes_over_the_wire_has_the_answer_of_what_is_asked_over_http(client, classifier, sender, settings):
    rows = tokens_drawn()
    sender.send(rows)
    sender.hear_all()
    assert not sender.refused
    bodies = bodies_of(rows, known=lambda _: 7)
    classified = offline(classifier, bodies)
    stored = stored_answers(settings)
    assert stored["r"] + stored["seen"] == list(
        zip(classified.zones(), classified.confidence.tolist(), classified.cluster_id.tolist(), strict=True)
    )
    # The columns of the wire as they are, without a list of numbers in between.
    columns = {name: rows.column(name).to_numpy() for name in COMPANIONS}
    again = classifier.classify(vectors_from_rows(rows), **columns)
    assert again.confidence.tobytes() == classified.confidence.tobytes()
    asked = client.post("/classify/batch", json={"fingerprints": bodies}).json()["manifolds"]
    tokens = client.get("/requests/r").json()["tokens"] + client.get("/requests/seen").json()["tokens"]
    for token, one in zip(tokens, asked, strict=True):
        assert (token["zone"], token["cluster_id"]) == (one["zone"], one["cluster_id"])
        assert round(token["confidence"], 6) == one["confidence"]
        assert token["characteristic"] == one["characteristic"]


def test_a_model_is_classified_and_explained_by_its_own_formula(client, settings, sender):
    """What comes over the wire says its model; what is asked over HTTP does not."""
    shipped = shipped_formula()
    shifted = dataclasses.replace(shipped, bias=shipped.bias + np.array([0, 0, 0, 0, 6.0]))
    usual = dataclasses.replace(shipped.usual, mean=shipped.usual.mean * 0.9)
    own = shifted.with_usual(usual)
    publish_bundle(
        settings.discovery_dir, formulas=ZoneFormulas(of_model={INFO.model_id: own}, default=shipped_formula())
    )
    client.post("/discovery/reload")
    classifier = Classifier.from_bundle(open_bundle(settings.discovery_dir / "latest"))
    rows = tokens_drawn()
    bodies = bodies_of(rows, known=lambda _: 7)
    by_model = offline(classifier, bodies, model_id=INFO.model_id)
    assert by_model.zones() != offline(classifier, bodies).zones()
    sender.send(rows)
    sender.hear_all()
    tokens = client.get("/requests/r").json()["tokens"] + client.get("/requests/seen").json()["tokens"]
    assert [token["zone"] for token in tokens] == by_model.zones()
    expected = manifolds_of(classifier, by_model, model_id=INFO.model_id)
    assert [token["characteristic"] for token in tokens] == [one["characteristic"] for one in expected]
    assert (
        client.post("/classify", json=bodies[0]).json()["manifold"]
        == manifolds_of(classifier, offline(classifier, bodies[:1]))[0]
    )


def test_tokens_are_shown_with_what_made_their_stored_zone(client, sender, settings):
    """Of the zone that is stored, whatever the classifier would say today; null where none is known."""
    with client.websocket_connect("/events") as socket:
        socket.receive_json()
        sender.send(random_rows(4))
        heard = []
        while len(heard) < 4:
            heard += socket.receive_json()["tokens"]
    assert [token["characteristic"] for token in heard] == [
        token["characteristic"] for token in client.get("/requests/r").json()["tokens"]
    ]
    sender.hear_all()
    with contextlib.closing(sqlite3.connect(settings.db)) as connection:
        connection.execute("UPDATE fingerprints SET zone = 'long_range' WHERE step = 0")
        connection.execute("UPDATE fingerprints SET zone = NULL WHERE step = 1")
        connection.execute("UPDATE fingerprints SET zone = 'another vocabulary' WHERE step = 2")
        connection.execute("UPDATE fingerprints SET vector = zeroblob(80) WHERE step = 3")
        connection.commit()
    shown = client.get("/requests/r").json()["tokens"]
    assert shown[0]["characteristic"]["name"] == "long_share"
    assert 0 <= shown[0]["characteristic"]["value"] <= 1
    assert [token["characteristic"] for token in shown[1:]] == [None] * 3
    with client.websocket_connect("/events?after=0") as socket:
        socket.receive_json()
        assert [token["characteristic"] for token in socket.receive_json()["tokens"]] == [
            token["characteristic"] for token in shown
        ]


BROKEN = [*guide_vector()[:3], 800.0, *guide_vector()[4:]]


@pytest.mark.parametrize("path", ["/classify", "/fingerprint"])
def test_an_entropy_beyond_any_context_is_refused_everywhere(client, path):
    place = {"request_id": "r", "step": 0} if path == "/fingerprint" else {}
    answer = client.post(path, json={"vector": BROKEN, **place})
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (422, "vector-invalid")
    assert "entropy (index 3) is 800 nats" in answer.json()["detail"]
    rows = [{"vector": guide_vector(), **place}, {"vector": BROKEN, **place, **({"step": 1} if place else {})}]
    for answer in (
        client.post(f"{path}/batch", json={"fingerprints": rows}),
        post(client, f"{path}/batch", stream(arrow_of(rows))),
    ):
        [invalid] = answer.json()["invalid"]
        assert invalid["row"] == 1
        assert "entropy (index 3) is 800 nats" in invalid["detail"]
    assert client.get("/stats").json()["fingerprints"] == (1 if place else 0)


@pytest.mark.parametrize("path", ["/classify", "/fingerprint"])
def test_a_context_longer_than_any_is_refused(client, path):
    place = {"request_id": "r", "step": 0} if path == "/fingerprint" else {}
    body = {"vector": guide_vector(), **place}
    assert client.post(path, json={**body, "context_len": MAX_CONTEXT_LEN}).status_code in (200, 201)
    answer = client.post(path, json={**body, "context_len": MAX_CONTEXT_LEN + 1})
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (422, "body-invalid")
    assert str(MAX_CONTEXT_LEN) in answer.json()["detail"]
    assert "context_len" in answer.json()["detail"]


def test_a_broken_row_changes_nothing_for_the_others():
    """Its numbers never reach the compiled loops, and the other rows' answers keep every bit."""
    vectors = [row["vector"] for row in random_rows(6, seed=3).to_pylist()]
    vectors[2], vectors[4] = [float("nan")] * 20, [1e300] * 20
    known = {"context_len": [None] * 6, "sink_mass": [None] * 6, "periodicity": [None] * 6}
    found = answers_of(Classifier.without_run(), rows_from_values(vectors, **known))
    assert [reason is None for reason in found.invalid] == [True, True, False, True, False, True]
    for i in (0, 1, 3, 5):
        single = {name: values[i : i + 1] for name, values in known.items()}
        one = answers_of(Classifier.without_run(), rows_from_values(vectors[i : i + 1], **single))
        assert one.manifold(0) == found.manifold(i)
        assert one.classified.evidence[0].tobytes() == found.classified.evidence[i].tobytes()
        assert found.manifold(i, explain=True).characteristic.name in CHARACTERISTICS


@pytest.mark.parametrize("zone", ZONES)
def test_a_vector_with_a_zone_s_characteristic_gets_the_zone_by_every_way_in(
    client, classifier, settings, sender, zone
):
    drawn = draw_musts(zone, 12, seed=21)
    bodies = [
        {
            "vector": drawn.vectors[i].tolist(),
            "context_len": int(drawn.context_len[i]),
            "sink_mass": float(drawn.sink_mass[i]),
            "periodicity": float(drawn.periodicity[i]),
        }
        for i in range(12)
    ]
    assert {client.post("/classify", json=body).json()["manifold"]["zone"] for body in bodies} == {zone}
    for answer in (
        client.post("/classify/batch", json={"fingerprints": bodies}),
        post(client, "/classify/batch", stream(arrow_of(bodies))),
    ):
        assert {one["zone"] for one in answer.json()["manifolds"]} == {zone}
    rows = random_rows(12).to_pydict()
    rows["vector"] = [body["vector"] for body in bodies]
    for name in ("context_len", "sink_mass", "periodicity"):
        rows[name] = [body[name] for body in bodies]
    sender.send(pa.RecordBatch.from_pydict(rows, schema=FINGERPRINTS))
    sender.hear_all()
    assert {token["zone"] for token in client.get("/requests/r").json()["tokens"]} == {zone}
    assert set(offline(classifier, bodies).zones()) == {zone}
    # Alone, what the vector decides: the same by every way, and as offline.
    alone = [{"vector": body["vector"]} for body in bodies]
    expected = offline(classifier, alone).zones()
    assert [client.post("/classify", json=body).json()["manifold"]["zone"] for body in alone] == expected
    many = client.post("/classify/batch", json={"fingerprints": alone}).json()["manifolds"]
    assert [one["zone"] for one in many] == expected
