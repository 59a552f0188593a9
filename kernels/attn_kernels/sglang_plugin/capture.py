"""In the scheduler process, inside a forward pass: the step that is running, its reader, and the finished step.

A step's way: `around_init_new` writes the plan onto the batch, `around_forward` makes it the current step, the
attention hooks hand each captured layer to the reader, `around_forward` finishes the step and leaves the result on the
batch's sampling info, where `Observer` picks it up and SGLang carries it to the host with the sampled tokens.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from attn_kernels.sglang_plugin.budget import Budget
from attn_kernels.sglang_plugin.plan import Plan, plan_of
from attn_kernels.sglang_plugin.readers import LayerCall, Reader, RecordingReader, StepCapture
from attn_kernels.sglang_plugin.settings import CaptureSettings

logger = logging.getLogger(__name__)

_PLAN = "_attention_plan"
_RESULT = "_attention_result"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A step's capture on the device, and whose it is."""

    plan: Plan
    captured: StepCapture


class Capture:
    """The capture of one model runner. SGLang runs one forward pass at a time on one thread."""

    current: Capture | None = None
    """Set when the scheduler is up; the hooks are functions without a place of their own."""

    def __init__(
        self,
        *,
        settings: CaptureSettings,
        layer_ids: tuple[int, ...],
        runner: Any,
        reader: Reader,
        started: Callable[[Any], None],
        budget: Budget | None = None,
    ) -> None:
        self.settings = settings
        self.runner = runner
        self.reading = False
        self._recording = False
        self._reader = reader
        self._budget = budget
        self._wanted = frozenset(layer_ids)
        self._started = started
        self._told = False

    def plan(self, batch: Any, forward_batch: Any) -> Plan | None:
        """What to capture of this batch, or None for nothing."""
        return plan_of(batch, forward_batch, which=self.settings.capture, started=self._started)

    def run(self, forward: Callable[[], Any], *, plan: Plan, forward_batch: Any) -> tuple[Any, Finished]:
        """Run the forward pass as the current step; its output and its capture."""
        budget = self._budget
        if budget is None:
            return self._run(forward, plan=plan, forward_batch=forward_batch)
        plan = budget.thinned(plan)
        budget.begin_step(plan)
        try:
            return self._run(forward, plan=plan, forward_batch=forward_batch)
        finally:
            budget.end_step()

    def _run(self, forward: Callable[[], Any], *, plan: Plan, forward_batch: Any) -> tuple[Any, Finished]:
        if not plan.rows and not plan.prompts:
            return forward(), Finished(plan=plan, captured=StepCapture(rows=None, prompts=()))
        self._reader.begin(plan)
        self.reading = True
        try:
            output = forward()
        finally:
            self.reading = False
        with self._counted():
            captured = self._reader.finish(forward_batch, replayed=getattr(output, "can_run_graph", False))
        if captured is None:
            if not self._told:
                logger.error("Attention capture: a layer could not be read; such steps are left out, and marked so.")
                self._told = True
            plan = plan.without(lambda row: True, thinned=plan.thinned)
            captured = StepCapture(rows=None, prompts=())
        return output, Finished(plan=plan, captured=captured)

    def attend(self, call: LayerCall) -> Any:
        """Run one layer's attention, read where the current step wants it."""
        if not self.reading or call.layer.layer_id not in self._wanted:
            return call.run()
        if call.options.get("score_mod") is not None:
            # A model that changes its scores itself: what is read here would not be what it used. The step is marked.
            return call.run()
        with self._counted():
            return self._reader.attend(replace(call, budget=self._budget))

    def before_recording(self, graph_runner: Any, forward_batch: Any) -> None:
        """SGLang's ``capture_head_hooks``: a decode step is about to be recorded in a CUDA graph."""
        if graph_runner.model_runner is self.runner and isinstance(self._reader, RecordingReader):
            self._reader.record(forward_batch)
            self.reading = self._recording = True

    def after_recording(self, graph_runner: Any, output: Any, forward_batch: Any, num_tokens: int) -> None:
        """SGLang's ``capture_tail_hooks``: its layers are recorded."""
        if self._recording and isinstance(self._reader, RecordingReader):
            self.reading = self._recording = False
            self._reader.recorded(self.runner.attn_backend.forward_metadata.num_kv_splits)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """The time inside is the capture's own."""
        if self._budget is None or self._recording:
            yield
            return
        self._budget.begin_work()
        try:
            yield
        finally:
            self._budget.end_work()


def around_init_new(original: Callable[..., Any], cls: type, batch: Any, model_runner: Any, **options: Any) -> Any:
    """Hook: the batch and its requests are both at hand here; leave the plan on the batch."""
    forward_batch = original(cls, batch, model_runner, **options)
    capture_here = Capture.current
    if capture_here is not None and model_runner is capture_here.runner:
        setattr(forward_batch, _PLAN, capture_here.plan(batch, forward_batch))
    return forward_batch


def around_forward(original: Callable[..., Any], self: Any, forward_batch: Any, *args: Any, **options: Any) -> Any:
    """Hook: the backend will get a copy of the batch without the plan, so the step is made current here."""
    capture_here = Capture.current
    plan = getattr(forward_batch, _PLAN, None)
    if capture_here is None or plan is None or self is not capture_here.runner:
        return original(self, forward_batch, *args, **options)
    output, finished = capture_here.run(
        lambda: original(self, forward_batch, *args, **options), plan=plan, forward_batch=forward_batch
    )
    setattr(forward_batch.sampling_info, _RESULT, finished)
    return output


def around_attention(
    original: Callable[..., Any], self: Any, q: Any, k: Any, v: Any, layer: Any, *args: Any, **options: Any
) -> Any:
    """Hook: a backend's attention of one layer."""
    if Capture.current is None:
        return original(self, q, k, v, layer, *args, **options)
    call = LayerCall(original=original, backend=self, query=q, key=k, value=v, layer=layer, args=args, options=options)
    return Capture.current.attend(call)


class Observer:
    """SGLang's `SamplingObserver`: hands a finished step over to be carried to the host with the sampled tokens."""

    def __init__(self, carry: Callable[[Finished], Any]) -> None:
        self._carry = carry

    def is_active(self, sampling_info: Any) -> bool:
        """Whether this batch was captured."""
        return getattr(sampling_info, _RESULT, None) is not None

    def before_grammar(self, logits: torch.Tensor, sampling_info: Any) -> Finished:
        """Take the step off the sampling info, which a later step may reuse. The logits are not looked at."""
        finished: Finished = getattr(sampling_info, _RESULT)
        setattr(sampling_info, _RESULT, None)
        return finished

    def after_sample(self, state: Finished, token_ids: torch.Tensor) -> Any:
        """The auxiliary output that SGLang copies to the host and hands back once the tokens are committed."""
        return self._carry(state)
