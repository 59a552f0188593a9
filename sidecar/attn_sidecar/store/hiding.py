"""What a reading connection does not see in privacy mode, whatever the database holds from before."""

from __future__ import annotations

import sqlite3

from attn_sidecar.privacy import FINISH_REASONS

_KNOWN_REASON = f"CASE WHEN finish_reason IN {FINISH_REASONS!r} THEN finish_reason END AS finish_reason"
_HIDDEN = {
    "tokens": frozenset({"token_id", "token_text", "topk_positions", "topk_probs", "residual_mass"}),
    "fingerprints": frozenset({"token_id", "token_text", "topk_positions", "topk_probs", "residual_mass"}),
    "requests": frozenset({"prompt_token_ids", "prompt_token_texts", "prompt_spans", "sampling_params"}),
}


def hide_content(connection: sqlite3.Connection) -> None:
    """Lay views of this connection alone over the tables that hold text, token ids or positions: there they are null.

    A name without its schema means the view from then on, so that no question, however it is put, can forget to.
    """
    for table, hidden in _HIDDEN.items():
        names = [str(row[1]) for row in connection.execute(f"PRAGMA main.table_info({table})")]
        shown = {**{name: f"NULL AS {name}" for name in hidden}, "finish_reason": _KNOWN_REASON}
        columns = ", ".join(shown.get(name, name) for name in names)
        connection.execute(f"CREATE TEMP VIEW {table} AS SELECT {columns} FROM main.{table}")  # noqa: S608
