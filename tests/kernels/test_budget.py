"""The budget with a simulated clock: it is kept, the first token and the asking come first, and thinning is told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def plugin() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SGLang's and torch's own, at their import
        from attn_kernels.sglang_plugin import budget, plan
    return type("Plugin", (), {"budget": budget, "plan": plan})


class Clock:
    """A stopwatch whose time passes where it is told to, and is read `lag` marks late, as a device's events are."""

    def __init__(self, lag: int = 0) -> None:
        self.now = 0.0
        self._lag = lag
        self._marks = 0

    def mark(self) -> tuple[int, float]:
        self._marks += 1
        return self._marks, self.now

    def seconds(self, start: tuple[int, float], end: tuple[int, float]) -> float | None:
        return None if end[0] > self._marks - self._lag else end[1] - start[1]


def make_plan(module: Any, *, asked: list[bool], step: int) -> Any:
    num = len(asked)
    return module.Plan(
        rows=tuple(range(num)),
        context_lens=(100 + step,) * num,
        prompt_lens=(100,) * num,
        asked=tuple(asked),
        last_query=None,
    )


def run_step(budget: Any, clock: Clock, plan: Any, *, work_s: float, cost_a_row_s: float) -> tuple[Any, float]:
    """One step whose capture costs so much a row: the plan as thinned, and the cost."""
    plan = budget.thinned(plan)
    budget.begin_step(plan)
    clock.now += work_s / 2
    cost_s = cost_a_row_s * len(plan.rows)
    if plan.rows:
        for _ in range(2):  # a layer, and the finish
            budget.begin_work()
            clock.now += cost_s / 2
            budget.end_work()
    clock.now += work_s / 2
    budget.end_step()
    return plan, cost_s


@settings(max_examples=60, deadline=None)
@given(
    percent=st.floats(0.2, 20),
    cost=st.floats(1e-4, 0.05),
    work=st.floats(0.002, 0.2),
    asked=st.lists(st.booleans(), min_size=1, max_size=6),
    lag=st.sampled_from([0, 7, 60]),
)
def test_over_time_the_capture_costs_no_more_than_its_budget(
    plugin: Any, percent: float, cost: float, work: float, asked: list[bool], lag: int
) -> None:
    clock = Clock(lag)
    budget = plugin.budget.Budget(fraction=percent / 100, stopwatch=clock)
    spent = worked = 0.0
    num_steps = max(400, int(40 / work))
    for step in range(1, num_steps + 1):
        plan, cost_s = run_step(
            budget, clock, make_plan(plugin.plan, asked=asked, step=step), work_s=work, cost_a_row_s=cost
        )
        assert sorted(plan.rows + plan.skipped) == list(range(len(asked)))
        assert not plan.skipped or plan.thinned
        spent += cost_s
        worked += work
    a_step = cost * len(asked)
    ahead = percent / 100 * plugin.budget.WINDOW_S + (2 + lag) * a_step  # the bucket, and what is not read yet
    assert spent <= percent / 100 * worked + ahead
    if a_step * 1.01 < percent / 100 * work:
        assert spent == pytest.approx(a_step * num_steps), "nothing is left out where all of it fits"
    elif lag == 0:
        assert spent >= 0.4 * percent / 100 * worked - a_step, "and what fits is captured"


def test_the_asking_are_thinned_last(plugin: Any) -> None:
    clock = Clock()
    budget = plugin.budget.Budget(fraction=0.02, stopwatch=clock)
    kept = {True: 0, False: 0}
    for step in range(1, 4001):  # each row costs 1.5% of the step: one of the two fits
        plan, _ = run_step(
            budget, clock, make_plan(plugin.plan, asked=[True, False], step=step), work_s=0.1, cost_a_row_s=0.0015
        )
        for asked in plan.asked:
            kept[asked] += 1
    assert kept[True] == 4000
    assert 0 < kept[False] < 2500


def test_the_first_token_is_captured_whatever_it_costs(plugin: Any) -> None:
    clock = Clock()
    budget = plugin.budget.Budget(fraction=0.001, stopwatch=clock)
    for _ in range(200):
        plan, _ = run_step(
            budget, clock, make_plan(plugin.plan, asked=[True, False], step=0), work_s=0.1, cost_a_row_s=0.05
        )
        assert plan.rows == (0, 1)
    later, _ = run_step(budget, clock, make_plan(plugin.plan, asked=[True], step=1), work_s=0.1, cost_a_row_s=0.05)
    assert (later.rows, later.skipped, later.thinned) == ((), (0,), True)


def test_thinning_is_told_when_it_begins_and_when_it_ends(plugin: Any, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    budget = plugin.budget.Budget(fraction=0.01, stopwatch=clock)
    with caplog.at_level("INFO"):
        for step in range(1, 500):
            run_step(budget, clock, make_plan(plugin.plan, asked=[False], step=step), work_s=0.1, cost_a_row_s=0.005)
        assert budget.is_thinning
        for step in range(1, 500):
            plan, _ = run_step(
                budget, clock, make_plan(plugin.plan, asked=[False], step=step), work_s=0.1, cost_a_row_s=0.0001
            )
    assert not budget.is_thinning
    assert not plan.thinned
    begun, ended = [record.getMessage() for record in caplog.records]
    assert "costs 5.0% of the step, the budget is 1.0%: about 20% of the steps are kept" in begun
    assert "thinning ended" in ended
