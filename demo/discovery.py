"""Asking the running Dagster, through its GraphQL API, to materialise an hour; and waiting for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx

from demo.processes import DemoError, Program, wait_until

_REPOSITORY = (
    "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } jobs { name } } } } }"
)

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on InvalidSubsetError { message }
  }
}
"""

_STATUS = """
query Status($id: ID!) {
  runOrError(runId: $id) { ... on Run { status } ... on PythonError { message } }
}
"""

_FAILURES = """
query Failures($id: ID!) {
  logsForRun(runId: $id) {
    ... on EventConnection { events { ... on ErrorEvent { error { message } } ... on MessageEvent { level message } } }
  }
}
"""


class Dagster:
    """A running Dagster webserver at this address."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL query; raises `DemoError` where Dagster answers with an error."""
        try:
            answer = httpx.post(f"{self._url}/graphql", json={"query": text, "variables": variables}, timeout=60)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise DemoError(f"Dagster did not answer at {self._url}: {error}") from error
        if body.get("errors"):
            raise DemoError(f"Dagster refused a query: {body['errors'][0].get('message')}")
        data: dict[str, Any] = body["data"]
        return data

    def location_is_loaded(self) -> bool:
        """Whether the project's definitions can be asked for."""
        try:
            return bool(self.query(_REPOSITORY)["repositoriesOrError"].get("nodes"))
        except DemoError:
            return False

    def launch_hour(self, hour_us: int, *, job: str) -> str:
        """Launch `job` for the partition of this UTC hour; returns Dagster's run id."""
        partition = datetime.fromtimestamp(hour_us / 1e6, tz=UTC).strftime("%Y-%m-%d-%H:%M")
        node = self.query(_REPOSITORY)["repositoriesOrError"]["nodes"][0]
        params = {
            "selector": {
                "repositoryName": node["name"],
                "repositoryLocationName": node["location"]["name"],
                "jobName": job,
            },
            "runConfigData": {},
            "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        result = self.query(_LAUNCH, params=params)["launchRun"]
        if result["__typename"] != "LaunchRunSuccess":
            raise DemoError(f"Dagster did not launch {job} for {partition}: {result}")
        return str(result["run"]["runId"])

    def wait(self, run_id: str, *, program: Program, timeout_s: float) -> float:
        """Wait for a run to succeed; returns its seconds, raises `DemoError` with its errors where it fails."""
        status = ""

        def finished() -> bool:
            nonlocal status
            status = self.query(_STATUS, id=run_id)["runOrError"].get("status", "")
            return status in {"SUCCESS", "FAILURE", "CANCELED"}

        took_s = wait_until(
            finished, what="materialising the hour", timeout_s=timeout_s, programs=[program], every_s=0.5
        )
        if status != "SUCCESS":
            raise DemoError(f"the Dagster run {run_id} ended as {status}: {self._why(run_id)}")
        return took_s

    def _why(self, run_id: str) -> str:
        events = self.query(_FAILURES, id=run_id)["logsForRun"].get("events", [])
        errors = [event["error"]["message"].strip() for event in events if event.get("error")]
        spoken = [event["message"] for event in events if event.get("level") in {"ERROR", "CRITICAL"}]
        return " | ".join(errors[:3] or spoken[:3]) or f"see {self._url}/runs/{run_id}"
