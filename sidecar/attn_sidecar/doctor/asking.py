"""Asking other programs over HTTP, with the standard library alone: the doctor must work where little else does."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 10.0
_MOST_BYTES = 4_000_000


class NoAnswer(Exception):
    """Nobody answered, or not in HTTP and JSON."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Status and JSON of an answer."""

    status: int
    body: Any
    at_s: float | None
    """The other side's clock by its Date header: Unix seconds, None where it does not say."""


def ask(
    url: str, *, method: str = "GET", body: object = None, token: str | None = None, timeout_s: float = TIMEOUT_S
) -> Answer:
    """One request; raises `NoAnswer`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NoAnswer(f"{url} is no HTTP address: give one such as http://127.0.0.1:30000")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = None
    try:
        connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        connection.request(method, parts.path or "/", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.headers.get("Date")
        return Answer(
            status=answer.status,
            body=json.loads(answer.read(_MOST_BYTES) or b"null"),
            at_s=parsedate_to_datetime(said).timestamp() if said else None,
        )
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(str(error) or type(error).__name__) from error
    finally:
        if connection is not None:
            connection.close()
