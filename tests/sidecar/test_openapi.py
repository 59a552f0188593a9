"""The OpenAPI document: its examples work, and nothing that a generator makes of it brings the sidecar down.

``ATTN_SCHEMATHESIS_EXAMPLES=500`` runs the generated part for longer.
"""

import os
import re
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from jsonschema_rs import validator_for
from schemathesis.specs.openapi.checks import positive_data_acceptance
from sidecar_tools import SidecarProcess, publish_bundle, random_rows

from attn_core import wire
from attn_sidecar.api.batch import MAX_BATCH_BYTES

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUN_ID = "2026-01-10T04-02-11"
NUM_EXAMPLES = int(os.environ.get("ATTN_SCHEMATHESIS_EXAMPLES", "25"))
NOT_CHECKED = [positive_data_acceptance]
"""A schema cannot say that masses sum to 1, nor that x0 lies below x1: 422 is right for some data that fits it."""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory):
    """A real process with a run and a request, as every example names them."""
    folder = tmp_path_factory.mktemp("openapi")
    publish_bundle(folder / "discovery_outputs", run_id=RUN_ID)
    process = SidecarProcess(folder, zmq_bind="off")
    vectors = wire.vectors_from_rows(random_rows(8, seed=1)).tolist()
    rows = [{"request_id": "chatcmpl-1", "step": 10 + k, "vector": vector} for k, vector in enumerate(vectors)]
    assert process.client.post("/fingerprint/batch", json={"fingerprints": rows}).status_code == 201
    yield process
    assert process.stop() == 0


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_example_works_and_fits_its_schema(sidecar):
    document = sidecar.client.get("/openapi.json").json()
    for method, path, operation in operations(document):
        query, url = {}, path
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                url = url.replace("{" + parameter["name"] + "}", str(parameter["example"]))
            elif "example" in parameter:
                query[parameter["name"]] = parameter["example"]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        assert "requestBody" not in operation or "example" in body, path
        answer = sidecar.client.request(method, url, params=query, json=body.get("example"))
        assert answer.status_code in (200, 201), (method, url, query, answer.text)
        said = operation["responses"][str(answer.status_code)]["content"]
        media_type = answer.headers["content-type"]
        assert media_type in said or media_type.split(";")[0] in said, (path, media_type)
        if media_type == "application/json":
            schema = {**said["application/json"]["schema"], "components": document["components"]}
            fits = validator_for(schema)
            fits.validate(answer.json())
            if "example" in said["application/json"]:
                fits.validate(said["application/json"]["example"])


def test_ids_of_operations_are_unique_and_every_answer_is_described(sidecar):
    document = sidecar.client.get("/openapi.json").json()
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    assert document["openapi"].startswith("3.1")
    assert MAX_BATCH_BYTES == 16 << 20


def test_the_docs_name_every_endpoint_and_no_other(sidecar):
    """Each operation stands in a page, and each curl of http.md asks for a path that exists."""
    paths = sidecar.client.get("/openapi.json").json()["paths"]
    pages = "".join(
        (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("http", "getting-started", "sidecar")
    )
    for path in paths:
        assert path.split("{")[0].rstrip("/") in pages, path
    asked = re.findall(r"curl -s '?localhost:9009(/[^ ?']*)", (DOCS / "http.md").read_text(encoding="utf-8"))
    known = [re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) for path in paths]
    assert len(asked) > 12
    for path in asked:
        assert any(re.fullmatch(pattern, path) for pattern in known), path


def test_what_a_generator_makes_of_it_brings_no_fault(sidecar):
    """Valid and invalid calls of every operation, from a fixed seed: no 5xx, and only answers that are described."""
    schema = schemathesis.openapi.from_dict(sidecar.client.get("/openapi.json").json())
    tried, session = 0, requests.Session()
    for result in schema.get_all_operations():
        operation = result.ok()
        strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
        # Nothing can be wrong with a call that takes nothing.
        takes = operation.definition.raw.keys() & {"parameters", "requestBody"}
        wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE) if takes else None

        def call(case):
            nonlocal tried
            tried += 1
            answer = case.call(base_url=sidecar.http, session=session)
            case.validate_response(answer, excluded_checks=NOT_CHECKED)

        for cases in (strategy, wrong):
            if cases is not None:
                run_with(cases, call)
    session.close()
    assert tried > NUM_EXAMPLES * 10


def run_with(cases, call):
    quiet = settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(20261123)(quiet(given(cases)(call)))()
