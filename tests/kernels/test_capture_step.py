"""A step from its plan to its capture: what a layer that cannot be read does to it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from attn_kernels.sglang_plugin.settings import CaptureSettings


@pytest.fixture(scope="module")
def modules() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SGLang's and torch's own, at their import
        from attn_kernels.ops import buffers
        from attn_kernels.sglang_plugin import capture, plan, readers, triton_reader

    return SimpleNamespace(capture=capture, plan=plan, readers=readers, buffers=buffers, triton_reader=triton_reader)


class SeenLayers:
    """A reader that only counts."""

    def __init__(self, step: Any) -> None:
        self.seen: set[int] = set()
        self._step = step

    def begin(self, plan: Any) -> None:
        self.seen.clear()

    def attend(self, call: Any) -> Any:
        self.seen.add(call.layer.layer_id)
        return call.run()

    def finish(self, forward_batch: Any, *, replayed: bool) -> Any:
        return self._step if self.seen == {0, 1} else None


@pytest.mark.parametrize(("own_score_mod", "read"), [(None, True), ("relative bias", False)])
def test_a_step_with_a_layer_that_changes_its_own_scores_is_left_out_and_marked(
    modules: Any, own_score_mod: str | None, read: bool
) -> None:
    reader = SeenLayers(modules.readers.StepCapture(rows="rows", prompts=()))
    capture = modules.capture.Capture(
        settings=CaptureSettings(), layer_ids=(0, 1), runner=None, reader=reader, started=lambda req: None
    )
    plan = modules.plan.Plan(rows=(0,), context_lens=(5,), prompt_lens=(4,), asked=(True,), last_query=None)
    outputs: list[str] = []

    def forward() -> SimpleNamespace:
        for layer in (0, 1):
            options = {"score_mod": own_score_mod} if layer == 1 else {}
            call = modules.readers.LayerCall(
                original=lambda *args, **options: "attended", backend=None, query=None, key=None, value=None,
                layer=SimpleNamespace(layer_id=layer), args=(), options=options,
            )  # fmt: skip
            outputs.append(capture.attend(call))
        return SimpleNamespace(can_run_graph=False)

    _, finished = capture.run(forward, plan=plan, forward_batch=None)
    assert outputs == ["attended"] * 2
    assert finished.plan.rows == ((0,) if read else ())
    assert finished.plan.skipped == (() if read else (0,))
    assert finished.plan.skipped_asked == (() if read else (True,))


def test_a_step_of_more_requests_than_the_buffers_hold_runs_and_is_left_out(modules: Any) -> None:
    shape = modules.buffers.CaptureShape(
        layers=(0, 0, 0, 0, 1, 1, 1, 1), num_heads=2, max_rows=2, positions=64, max_splits=4
    )
    runner = SimpleNamespace(device="cpu")
    reader = modules.triton_reader.TritonReader(runner=runner, shape=shape, portable=None)
    num = shape.rows + 1
    batch = SimpleNamespace(batch_size=num)
    plan = modules.plan.Plan(
        rows=tuple(range(num)), context_lens=(5,) * num, prompt_lens=(4,) * num, asked=(True,) * num, last_query=None
    )

    def attend(layer: int) -> Any:
        call = modules.readers.LayerCall(
            original=lambda *args, **options: options, backend=None, query=None, key=None, value=None,
            layer=SimpleNamespace(layer_id=layer), args=(batch,), options={},
        )  # fmt: skip
        return reader.attend(call)

    reader.begin(plan)
    assert [attend(0), attend(1)] == [{}, {}], "SGLang's own attention, with nothing added to the call"
    assert reader.finish(batch, replayed=False) is None
    reader.record(batch)
    assert [attend(0), attend(1)] == [{}, {}]
    reader.recorded(None)
    reader.begin(plan)
    assert reader.finish(batch, replayed=True) is None
