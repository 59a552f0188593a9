"""What to capture of one batch: which requests, at which query, and which positions of which prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX

from attn_kernels.sglang_plugin import prompt_tokens, request_fields


@dataclass(frozen=True, kw_only=True)
class PromptPart:
    """Consecutive positions of one prompt that this forward pass computes."""

    row: int
    """Index of the request in the batch."""
    first: int
    """Position of the first of them."""
    num: int
    first_query: int
    """Where that position's query lies among the batch's."""
    prompt_len: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to capture of one batch. The tuples of the rows run side by side."""

    rows: tuple[int, ...]
    """Indices of the captured requests in the batch."""
    context_lens: tuple[int, ...]
    prompt_lens: tuple[int, ...]
    asked: tuple[bool, ...]
    last_query: tuple[int, ...] | None
    """Of an extend pass, where each captured request's last query lies; None in decode, where it is the row itself."""
    prompts: tuple[PromptPart, ...] = ()
    skipped: tuple[int, ...] = ()
    """Indices of requests whose attention of this step is left out, because of the budget or of a layer unread."""
    skipped_asked: tuple[bool, ...] = ()
    thinned: bool = False
    """Whether the budget is thinning the steps, this one or those around it."""

    def without(self, left_out: Callable[[int], bool], *, thinned: bool) -> Plan:
        """The plan less the rows (numbers among `rows`) that are left out."""
        kept = [i for i in range(len(self.rows)) if not left_out(i)]
        gone = [i for i in range(len(self.rows)) if left_out(i)]

        def of(values: tuple[Any, ...], which: list[int]) -> tuple[Any, ...]:
            return tuple(values[i] for i in which)

        return replace(
            self,
            rows=of(self.rows, kept),
            context_lens=of(self.context_lens, kept),
            prompt_lens=of(self.prompt_lens, kept),
            asked=of(self.asked, kept),
            last_query=None if self.last_query is None else of(self.last_query, kept),
            skipped=self.skipped + of(self.rows, gone),
            skipped_asked=self.skipped_asked + of(self.asked, gone),
            thinned=thinned,
        )


def plan_of(
    batch: Any,
    forward_batch: Any,
    *,
    which: Literal["all", "requested"],
    started: Callable[[Any], None],
) -> Plan | None:
    """The plan of an SGLang batch, or None where there is nothing to capture.

    `started` is told each request of which an output token is captured.
    """
    mode = batch.forward_mode
    if not (mode.is_decode() or mode.is_extend()) or forward_batch.seq_lens_cpu is None:
        return None
    extending = mode.is_extend()
    lens = forward_batch.seq_lens_cpu.tolist()
    ends = torch.tensor(batch.extend_lens).cumsum(0).tolist() if extending else None
    rows, asked, prompts = [], [], []
    decoding = {id(req) for req in (batch.decoding_reqs or ())}
    for i, req in enumerate(batch.reqs):
        if not is_seen(req, which=which):
            continue
        if ends is not None and prompt_tokens.is_wanted(req):
            part = _prompt_part(req, row=i, num=batch.extend_lens[i], context_len=lens[i], end=ends[i])
            prompts += [part] if part is not None else []
        # A middle chunk of a chunked prefill yields no token: only its last chunk is step 0.
        if extending and id(req) not in decoding and req.extend_end < len(req.full_untruncated_fill_ids):
            continue
        rows.append(i)
        asked.append(request_fields.asks(req.sampling_params.custom_params))
        started(req)
    if not rows and not prompts:
        return None
    return Plan(
        rows=tuple(rows),
        context_lens=tuple(lens[i] for i in rows),
        prompt_lens=tuple(len(batch.reqs[i].origin_input_ids) for i in rows),
        asked=tuple(asked),
        last_query=None if ends is None else tuple(ends[i] - 1 for i in rows),
        prompts=tuple(prompts),
    )


def is_seen(req: Any, *, which: Literal["all", "requested"]) -> bool:
    """Whether this request is captured at all: a user's, and one that asks where only those are wanted."""
    custom = req.sampling_params.custom_params
    if isinstance(req.rid, str) and req.rid.startswith(HEALTH_CHECK_RID_PREFIX):
        return False
    if isinstance(custom, dict) and custom.get(request_fields.UNSEEN) is True:
        return False
    return which == "all" or request_fields.asks(custom)


def _prompt_part(req: Any, *, row: int, num: int, context_len: int, end: int) -> PromptPart | None:
    """The prompt's positions among the `num` queries of a request, the last of which is number ``end - 1``.

    A request that was taken back computes its outputs' positions again with its prompt's: those are no prompt.
    """
    first = context_len - num
    prompt_len = len(req.origin_input_ids)
    inside = min(context_len, prompt_len) - first
    if inside <= 0:
        return None
    return PromptPart(row=row, first=first, num=inside, first_query=end - num, prompt_len=prompt_len)
