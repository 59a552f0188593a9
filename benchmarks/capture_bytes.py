"""`capture_bytes`: what the capture moves beside what attention moves, counted load by load and store by store."""

from __future__ import annotations

from benchmarks.measure import Figure, figure_from_limit, report
from benchmarks.server_python import answer, start

LAYERS = 28
"""Of the Qwen3-1.7B shape; `benchmarks.gpu.counted` runs one plain layer and the 8 captured ones."""
CONTEXT = 1024


def run(*, rows: int | None, as_json: bool) -> bool:
    """Count and report; True where the share is at most 1%. `rows` is the number of positions."""
    counted = answer(start("benchmarks.gpu.counted", "--context", str(rows or CONTEXT), interpret=True))
    attention = LAYERS * counted["stock_layer_bytes"]
    finish = counted["begin_bytes"] + counted["finish_bytes"]
    capture = counted["capture_of_layers_bytes"] + finish + counted["single_heads_bytes"]
    share = capture / attention

    def figure(name: str, value: float, unit: str, target: str, met: bool) -> Figure:
        return figure_from_limit(name="capture_bytes", figure=name, value=value, unit=unit, target=target, met=met)

    figures = [
        figure("bytes_share", share, "of attention bytes", "<= 0.01", share <= 0.01),
        figure("attention_bytes", attention, "bytes a step", "any", True),
        figure("scores_stored_bytes", counted["capture_of_layers_bytes"], "bytes a step", "any", True),
        figure("finish_bytes", finish, "bytes a step", "any", True),
        figure("single_heads_bytes", counted["single_heads_bytes"], "bytes a step", "any", True),
    ]
    report(figures, as_json=as_json)
    return share <= 0.01
