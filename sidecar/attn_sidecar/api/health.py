"""`GET /health`: is the sidecar doing its work, and if not, why."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from attn_sidecar import __version__
from attn_sidecar.api.endpoint import Endpoint, json_response
from attn_sidecar.health import HealthBoard
from attn_sidecar.http_door.door import ADMITTED


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is ``ok`` or ``degraded``; each reason begins with the part that ails."""

    status: str
    version: str
    reasons: list[str]


def endpoints(health: HealthBoard) -> list[Endpoint]:
    """The endpoint, reading this board."""

    async def get_health(request: Request) -> Response:
        reasons = health.reasons
        if not request.scope.get(ADMITTED, True):
            # Without the token: whether it lives, for a load balancer, and nothing of what is behind.
            bare = HealthAnswer(status="degraded" if reasons else "ok", version="", reasons=[])
            return json_response(bare, status=503 if health.blocked else 200)
        answer = HealthAnswer(status="degraded" if reasons else "ok", version=__version__, reasons=reasons)
        return json_response(answer, status=503 if health.blocked else 200)

    return [
        Endpoint(
            method="GET",
            path="/health",
            handler=get_health,
            summary="Health: 503 while fingerprints cannot be stored",
            answer=HealthAnswer,
            statuses=(200, 503),
        )
    ]
