"""`python -m benchmarks.corpus`: send the corpus through the demo's model server and keep its fingerprints.

They go through the sidecar, as all fingerprints do, into ``data/corpus.parquet``: the benchmarks' real rows. Stopped
early (Ctrl+C) it keeps what it has.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from attn_core.store import open_reader, read_fingerprints
from benchmarks.captured import CORPUS, CORPUS_REQUESTS
from benchmarks.corpus.prompts import KINDS, corpus
from benchmarks.sidecar_process import free_port
from demo.checks import count_stored
from demo.processes import Stack, say, wait_until
from demo.stack import Places, Ports, server_url, sidecar_url, start_model_server, start_sidecar, wait_for
from demo.traffic import send

PROMPTS_AT_A_TIME = 24


def main() -> None:
    """Capture `--per-kind` prompts of each kind, or as many as `--minutes` allow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--per-kind", type=int, default=40, help="prompts of each kind (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long (default: %(default)s)")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    prompts = corpus(per_kind=arguments.per_kind)
    with TemporaryDirectory(prefix="attn-bench-") as folder:
        places, stack = Places(data=Path(folder)), Stack(logs=Path(folder) / "logs")
        ports = replace(Ports(), server=free_port(), sidecar=free_port(), zmq=free_port())
        try:
            sidecar = start_sidecar(stack, ports=ports, places=places)
            server = start_model_server(stack, ports=ports, model=places.model)
            wait_for(sidecar, url=f"{sidecar_url(ports)}/health", timeout_s=120)
            wait_for(server, url=f"{server_url(ports)}/health", timeout_s=600)
            kind_by_request: dict[str, str] = {}
            for start in range(0, len(prompts), PROMPTS_AT_A_TIME):
                if time.monotonic() > end:
                    break
                answers = send(server_url(ports), prompts[start : start + PROMPTS_AT_A_TIME])
                tokens = sum(len(answer.attention) for answer in answers)
                wait_until(
                    lambda a=answers, t=tokens: count_stored(places.database, a) >= t,  # type: ignore[misc]
                    what="fingerprints in the database",
                    timeout_s=120,
                    programs=[sidecar, server],
                )
                kind_by_request.update((answer.request_id, answer.kind) for answer in answers)
                kept = _keep(places.database, kind_by_request)
                say(f"{start + len(answers)} of {len(prompts)} prompts of {len(KINDS)} kinds: {kept.num_rows} rows")
        finally:
            stack.stop()


def _keep(database: Path, kind_by_request: dict[str, str]) -> pa.Table:
    with closing(open_reader(database)) as connection:
        table = read_fingerprints(connection, start_us=0, end_us=1 << 62)
    requests = pa.table({"request_id": list(kind_by_request), "kind": list(kind_by_request.values())})
    for made, path in ((table, CORPUS), (requests, CORPUS_REQUESTS)):
        part = path.with_suffix(".part")
        pq.write_table(made, part, compression="zstd")
        part.replace(path)
    return table


if __name__ == "__main__":
    main()
