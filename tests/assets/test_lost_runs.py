"""A run whose process was killed together with everything that would have said so."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG

from attn_assets.definitions import build_definitions
from attn_assets.defs.attempts import State, attempt_in

KEY = "2026-11-20-12:00/60"
LAUNCHED_HERE = {GRPC_INFO_TAG: '{"host": "localhost", "socket": "/tmp/one"}'}
LAUNCHED_ELSEWHERE = {GRPC_INFO_TAG: '{"host": "other", "port": 4000}'}


@pytest.fixture
def definitions(graph) -> dg.Definitions:
    return build_definitions(graph.settings)


def started(graph, definitions: dg.Definitions, *, pid: int | None, tags=LAUNCHED_HERE, seconds_ago: float = 0) -> str:
    """A run that Dagster's own launcher has started in the process `pid`, as it lies in the records."""
    run = graph.instance.create_run_for_job(
        definitions.resolve_job_def("discover_hour"),
        status=dg.DagsterRunStatus.STARTING,
        tags={"dagster/run_key": KEY, **tags},
    )
    kinds: list[tuple[dg.DagsterEventType, object]] = [(dg.DagsterEventType.RUN_START, None)]
    if pid is not None:
        kinds.insert(0, (dg.DagsterEventType.ENGINE_EVENT, EngineEventData.in_process(pid)))
    for kind, data in kinds:
        event = dg.DagsterEvent(
            event_type_value=kind.value, job_name=run.job_name, message="as recorded", event_specific_data=data
        )
        graph.instance.handle_new_event(
            dg.EventLogEntry(
                error_info=None,
                level=logging.INFO,
                user_message="",
                run_id=run.run_id,
                timestamp=time.time() - seconds_ago,
                job_name=run.job_name,
                dagster_event=event,
            )
        )
    assert status(graph, run.run_id) == "STARTED"
    return run.run_id


def look(graph, definitions: dg.Definitions) -> str:
    sensor = definitions.resolve_sensor_def("lost_runs")
    with dg.build_sensor_context(instance=graph.instance) as context:
        return sensor(context).skip_message


def status(graph, run_id: str) -> str:
    return graph.instance.get_run_by_id(run_id).status.value


def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_a_run_whose_process_is_gone_has_failed_and_its_hour_can_be_requested_again(graph, definitions):
    run_id = started(graph, definitions, pid=dead_pid())
    assert attempt_in(graph.instance, KEY).state is State.PENDING
    assert run_id in look(graph, definitions)
    assert status(graph, run_id) == "FAILURE"
    assert attempt_in(graph.instance, KEY).state is State.FAILED
    (failure,) = graph.instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "its process has ended" in failure.message
    assert look(graph, definitions) == "every run under way has its process"


def test_a_run_whose_process_works_is_left_alone(graph, definitions):
    run_id = started(graph, definitions, pid=os.getpid())
    look(graph, definitions)
    assert status(graph, run_id) == "STARTED"


def test_a_process_that_began_after_the_run_is_another_one(graph, definitions):
    """Process ids begin again when the machine restarts."""
    run_id = started(graph, definitions, pid=os.getpid(), seconds_ago=30 * 24 * 3600)
    assert run_id in look(graph, definitions)
    assert status(graph, run_id) == "FAILURE"


@pytest.mark.parametrize(("has_pid", "tags"), [(False, LAUNCHED_HERE), (True, {}), (True, LAUNCHED_ELSEWHERE)])
def test_a_run_that_may_work_on_another_machine_is_left_alone(graph, definitions, has_pid, tags):
    run_id = started(graph, definitions, pid=dead_pid() if has_pid else None, tags=tags)
    look(graph, definitions)
    assert status(graph, run_id) == "STARTED"
