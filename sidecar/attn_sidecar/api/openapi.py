"""The OpenAPI document, made of the endpoints as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from attn_sidecar import __version__
from attn_sidecar.api.endpoint import Endpoint, Parameter
from attn_sidecar.api.examples import ANSWER_EXAMPLES, BODY_EXAMPLES, QUERY_EXAMPLES
from attn_sidecar.api.problems import MEDIA_TYPE, ProblemBody

_REF = "#/components/schemas/{name}"
_CONVERTER = re.compile(r":\w+}")


def openapi_document(endpoints: Sequence[Endpoint], *, root_path: str = "") -> dict[str, Any]:
    """OpenAPI 3.1 of these endpoints (the WebSocket `/events` is beyond it), below this path prefix."""
    types: list[type[msgspec.Struct]] = [ProblemBody]
    types += [t for endpoint in endpoints for t in (endpoint.body, endpoint.answer) if t is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = _CONVERTER.sub("}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Attention Explorer sidecar", "version": __version__},
        **({"servers": [{"url": root_path}]} if root_path else {}),
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(endpoint: Endpoint, by_type: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    answer = {"schema": by_type[endpoint.answer]} if endpoint.answer else {}
    content: dict[str, Any] = {endpoint.answer_media_type: answer}
    content |= {media_type: {} for media_type in endpoint.also_answers}
    if endpoint.answer_media_type == "application/json" and endpoint.path in ANSWER_EXAMPLES:
        content["application/json"] = {**answer, "example": ANSWER_EXAMPLES[endpoint.path]}
    responses: dict[str, Any] = {
        str(status): {"description": "Not modified"}
        if status == 304
        else {"description": endpoint.summary, "content": content}
        for status in endpoint.statuses
    }
    for status in endpoint.problems:
        responses[str(status)] = {
            "description": "What was wrong and how to mend it",
            "content": {MEDIA_TYPE: {"schema": by_type[ProblemBody]}},
        }
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "responses": responses,
    }
    if endpoint.parameters:
        operation["parameters"] = [_parameter(endpoint, parameter) for parameter in endpoint.parameters]
    if endpoint.body is not None:
        taken: dict[str, Any] = {"schema": by_type[endpoint.body]}
        if endpoint.path in BODY_EXAMPLES:
            taken["example"] = BODY_EXAMPLES[endpoint.path]
        operation["requestBody"] = {"required": True, "content": {"application/json": taken}}
        if endpoint.also_takes:
            operation["requestBody"]["description"] = f"Also as {', '.join(endpoint.also_takes)}: the same columns."
    return operation


def _parameter(endpoint: Endpoint, parameter: Parameter) -> dict[str, Any]:
    example = QUERY_EXAMPLES.get(endpoint.path, {}).get(parameter.name, parameter.example)
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema(),
        **({} if example is None else {"example": example}),
    }
