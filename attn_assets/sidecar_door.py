"""Telling a sidecar that a run was published, over HTTP."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from attn_core.errors import AttnError

TIMEOUT_S = 10.0


class SidecarUnreachable(AttnError):
    """The sidecar did not take the news; it looks at `latest` by itself all the same."""


@dataclass(frozen=True, kw_only=True)
class SidecarDoor:
    """A sidecar at `url`, such as http://127.0.0.1:9009; empty: nobody is told."""

    url: str
    token: str = field(default="", repr=False)

    def reload(self) -> str | None:
        """Ask it to look at `latest` now; returns the run that it serves from here on. Raises `SidecarUnreachable`."""
        where = urlsplit(self.url)
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection = kind(where.hostname or "", where.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", f"{where.path.rstrip('/')}/discovery/reload", headers=headers)
            answer = connection.getresponse()
            body = json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SidecarUnreachable(f"the sidecar at {self.url} was not reached: {error}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            said = body.get("detail", answer.reason) if isinstance(body, dict) else answer.reason
            raise SidecarUnreachable(f"the sidecar at {self.url} answered {answer.status}: {said}")
        run_id = body.get("run_id")
        return None if run_id is None else str(run_id)
