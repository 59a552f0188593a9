"""Privacy on the sidecar's side: whatever senders send, what could be read as text is dropped before it is stored.

Kept: fingerprints, head sketches and figures, masses, lengths, counts, instants, the request's and the model's id.
Dropped: token ids and texts, prompts, spans, attended positions with their probabilities, sampling parameters (stop
strings and grammars quote text).
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from attn_core.wire import SCHEMAS, Batch

_DROPPED = {
    "fingerprints": frozenset({"token_id", "token_text", "topk_positions", "topk_probs", "residual_mass"}),
    "requests": frozenset({"prompt_token_ids", "prompt_token_texts", "prompt_spans", "sampling_params"}),
}
FINISH_REASONS = ("stop", "length", "abort", "tool_calls", "function_call", "content_filter")
"""The words that are kept of why a request ended; another may hold anything."""


def without_content(batch: Batch) -> Batch:
    """This batch with the columns that hold content null, and a finish reason only where it is one of the known words.

    Schema, number and order of rows stay; the kept columns are not copied.
    """
    rows = batch.rows
    dropped = _DROPPED[batch.kind]
    columns = [
        pa.nulls(rows.num_rows, field.type) if field.name in dropped else column
        for field, column in zip(SCHEMAS[batch.kind], rows.columns, strict=True)
    ]
    if batch.kind == "requests":
        at = SCHEMAS["requests"].get_field_index("finish_reason")
        reason = columns[at]
        known = pc.is_in(reason, value_set=pa.array(FINISH_REASONS))
        columns[at] = pc.if_else(known, reason, pa.scalar(None, reason.type))
    return replace(batch, rows=pa.RecordBatch.from_arrays(columns, schema=rows.schema))
