"""What the sidecar's tests share: rows that hold the invariants, a bundle, a sender, and a real sidecar process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zmq

from attn_core import bundle, wire
from attn_core.classify import ClassifierArrays
from attn_core.features import features_from_vectors
from attn_core.fingerprint import DIM, valid_rows
from attn_core.head_projection import NUM_EVIDENCE, NUM_HEAD_FIGURES, NUM_SKETCH
from attn_core.landmarks import Landmarks
from attn_core.space import FILE_NAME as SPACE
from attn_core.space import Space
from attn_core.zones import FILE_NAME, ZONES, ZoneFormulas

START_US = 1_700_000_000_000_000
PROJECTION = "ab" * 32
"""The hash of the matrix that made the sketches of `random_rows`: of none that there is."""
INFO = wire.SourceInfo(model_id="demo-model", captured_layers=tuple(range(8)), num_heads=9, head_projection=PROJECTION)
WAIT_S = 30.0
"""Longest wait for anything that should come at once; only a failing test waits this long."""


def random_rows(count, *, seed=0, request_id="r", first_step=0, start_us=START_US):
    """`count` steps of one request: a batch of `wire.FINGERPRINTS`.

    Every third row has no top-k, every fourth no head sketch; every hundredth has the raw figures of `INFO`'s heads.
    """
    rng = np.random.default_rng(seed)
    context_len = rng.integers(20, 2000, count)
    most = np.log(context_len)
    vectors = np.concatenate(
        [
            rng.dirichlet([2, 1, 1], count),
            (rng.uniform(0.1, 0.9, count) * most)[:, None],
            rng.dirichlet([1] * 8, count),
            rng.uniform(0.1, 0.9, (count, 8)) * most[:, None],
        ],
        axis=1,
    ).astype(np.float32)
    assert valid_rows(vectors, context_len).all()
    steps = np.arange(first_step, first_step + count)
    topk = steps % 3 != 2
    without_sketch = pa.array(steps % 4 == 3)
    figures = NUM_HEAD_FIGURES * INFO.num_heads * len(INFO.captured_layers)
    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        **{
            name: pa.FixedSizeListArray.from_arrays(
                pa.array(rng.normal(size=count * width).astype(np.float16)), width, mask=without_sketch
            )
            for name, width in (("head_sketch", NUM_SKETCH), ("zone_evidence", NUM_EVIDENCE))
        },
        "head_figures": [rng.uniform(size=figures) if step % 100 == 1 else None for step in steps],
        "request_id": [request_id] * count,
        "step": steps,
        "captured_at_us": start_us + steps * 1000,
        "token_id": rng.integers(0, 49152, count),
        "token_text": [f" t{step}" for step in steps],
        "context_len": context_len,
        "sink_mass": rng.uniform(0, 0.1, count).astype(np.float32),
        "prompt_mass": rng.uniform(0, 0.5, count).astype(np.float32),
        "periodicity": rng.uniform(0, 1, count).astype(np.float32),
        "topk_positions": [[3, 1] if has else None for has in topk],
        "topk_probs": [[0.5, 0.25] if has else None for has in topk],
        "residual_mass": [0.25 if has else None for has in topk],
    }
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], type=field.type)
        for field in wire.FINGERPRINTS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=wire.FINGERPRINTS)


def with_column(rows, name, values):
    """`rows` with one column replaced."""
    at = rows.schema.get_field_index(name)
    arrays = list(rows.columns)
    arrays[at] = values if isinstance(values, pa.Array) else pa.array(values, type=rows.schema.field(at).type)
    return pa.RecordBatch.from_arrays(arrays, schema=rows.schema)


def request_row(event, *, request_id="r"):
    """One request event as the publisher sends it."""
    started = event == "started"
    row = {
        "request_id": request_id,
        "event": event,
        "at_us": START_US + (0 if started else 5_000_000),
        "prompt_len": 3,
        "prompt_token_ids": [1, 2, 3] if started else None,
        "prompt_token_texts": ["What", " is", " 2+2?"] if started else None,
        "prompt_spans": '[{"message": 0, "role": "user", "start": 0, "end": 3}]' if started else None,
        "sampling_params": '{"temperature": 0}' if started else None,
        "num_output_tokens": None if started else 7,
        "finish_reason": None if started else "stop",
    }
    return pa.RecordBatch.from_pylist([row], schema=wire.REQUESTS)


def guide_vector():
    """A fingerprint as a JSON list."""
    return random_rows(1, seed=7).column("vector")[0].as_py()


def publish_bundle(
    folder: Path,
    *,
    run_id="2026-01-10T04-02-11",
    num_points=40,
    seed=1,
    cluster_ids=(3, 5),
    manifest=None,
    formulas=None,
    more=lambda _: None,
):
    """A real bundle over random tokens: one cluster around each half of them. `more(directory)` adds files."""
    rows = random_rows(num_points, seed=seed, request_id="seen")
    vectors = wire.vectors_from_rows(rows)
    context_len = rows.column("context_len").to_numpy()
    features = features_from_vectors(vectors, context_len=context_len, sink_mass=rows.column("sink_mass").to_numpy())
    half = num_points // 2
    rng = np.random.default_rng(seed)
    positions = {name: rng.normal(size=num_points).astype(np.float32) for name in ("x", "y")}
    of_point = np.repeat(np.array(cluster_ids, dtype=np.int32), [half, num_points - half])

    def write(directory):
        ClassifierArrays(
            cluster_ids=np.array(cluster_ids, dtype=np.int32),
            averages=Landmarks(
                # Each token many times over: it and what equals it decide alone for it.
                rows=np.repeat(features, 8, axis=0),
                label=np.repeat(np.arange(2, dtype=np.int32), [8 * half, 8 * (num_points - half)]),
                position=np.repeat(np.column_stack([positions["x"], positions["y"]]), 8, axis=0),
                cell_start=np.zeros(1, dtype=np.int32),
                reach=np.array([0.3, 0.3], dtype=np.float32),
                claimed_curve=np.array([[0, 1], [0.5, 0.95]], dtype=np.float32),
                unclaimed_curve=np.array([[0, 1], [0.8, 0.5]], dtype=np.float32),
            ),
        ).save(directory / "classifier.npz")
        Space.plain().save(directory / SPACE)
        (formulas or ZoneFormulas.shipped()).save(directory / FILE_NAME)
        points = {
            "request_id": rows.column("request_id"),
            "step": rows.column("step"),
            "captured_at_us": rows.column("captured_at_us"),
            "token_text": rows.column("token_text"),
            **positions,
            "cluster_id": of_point,
            "zone": [ZONES[1]] * half + [ZONES[3]] * (num_points - half),
            "confidence": np.full(num_points, 0.8, dtype=np.float32),
            "context_len": rows.column("context_len"),
        }
        pq.write_table(pa.table(points), directory / "embeddings.parquet")
        clusters = [
            {
                "cluster_id": cluster_id,
                "cluster_label": f"Cluster {cluster_id}",
                "size": int((of_point == cluster_id).sum()),
                "zone": zone,
                "centroid": vectors[of_point == cluster_id].mean(axis=0).tolist(),
                "exemplars": [{"request_id": "seen", "step": 0}],
            }
            for cluster_id, zone in zip(cluster_ids, (ZONES[1], ZONES[3]), strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(clusters), directory / "clusters.parquet")
        for name in ("prototypes", "requests"):
            pq.write_table(pa.table({"x": [1.0]}), directory / f"{name}.parquet")
        more(directory)

    return bundle.publish(folder, run_id=run_id, manifest={"model_id": "demo-model", **(manifest or {})}, write=write)


def without_notice(message):
    """A message of `/events` without the number that it has among the notices."""
    assert message.pop("notice") > 0
    return message


class Sender:
    """A DEALER as the publisher is one: numbers batches, keeps what is not acknowledged."""

    def __init__(self, address, *, source_id=None, keys=None):
        """`keys`: CURVE's, as the socket's options name them."""
        self.source_id = source_id or os.urandom(wire.SOURCE_ID_BYTES)
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self.socket.setsockopt(zmq.IPV6, int(address.startswith("tcp://[")))
        for name, key in (keys or {}).items():
            setattr(self.socket, name, key)
        self.socket.connect(address)
        self.next_seq = 0
        self.unacknowledged = {}
        self.refused = {}

    def send(self, rows, *, kind="fingerprints", info=INFO):
        """Send the next batch; returns its number."""
        seq, self.next_seq = self.next_seq, self.next_seq + 1
        frames = wire.encode_batch(kind=kind, rows=rows, source_id=self.source_id, seq=seq, info=info)
        self.unacknowledged[seq] = frames
        self.socket.send_multipart(frames)
        return seq

    def send_again(self):
        """Re-send everything that nobody acknowledged."""
        for frames in self.unacknowledged.values():
            self.socket.send_multipart(frames)

    def hear(self, *, wait_s=WAIT_S):
        """Take one answer; returns (seq, reason) or None where none comes in time."""
        if not self.socket.poll(wait_s * 1000):
            return None
        source_id, seq, reason = wire.decode_answer(self.socket.recv_multipart())
        if source_id == self.source_id:
            self.unacknowledged.pop(seq, None)
            if reason is not None:
                self.refused[seq] = reason
        return seq, reason

    def hear_all(self):
        """Wait until nothing is unacknowledged."""
        while self.unacknowledged:
            assert self.hear() is not None, f"no answer to {sorted(self.unacknowledged)} within {WAIT_S} s"

    def close(self):
        self.socket.close()


class SidecarProcess:
    """A real `attn-sidecar` on free ports, over a real database."""

    def __init__(self, folder: Path, *, zmq_bind="tcp://127.0.0.1:*", flags=(), env=None):
        self.db = folder / "fingerprints.db"
        self.discovery_dir = folder / "discovery_outputs"
        self.command = [
            *(sys.executable, "-m", "attn_sidecar.cli", "--port", "0", "--zmq-bind", zmq_bind, "--db", str(self.db)),
            *("--discovery-dir", str(self.discovery_dir), "--log-format", "json", *flags),
        ]
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, env=env)
        self.log = []
        self._news = threading.Condition()
        self._reading = threading.Thread(target=self._read_log, daemon=True)
        self._reading.start()
        ready = self.logged("sidecar.ready")
        self.http, self.zmq = ready["http"], ready["zmq"]
        self.client = httpx.Client(base_url=self.http, timeout=WAIT_S)

    def _read_log(self):
        for line in self.process.stderr:
            with self._news:
                self.log.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.log.append({"event": "process.ended"})
            self._news.notify_all()

    def logged(self, event):
        """The first log line of this event, waiting for it."""

        def lines():
            return [line for line in self.log if line["event"] in (event, "process.ended")]

        with self._news:
            assert self._news.wait_for(lines, WAIT_S), f"no {event} in {self.log}"
            first = lines()[0]
        assert first["event"] == event, f"the sidecar ended: {self.log}"
        return first

    def stop(self, number=signal.SIGTERM):
        """Send a signal and wait for the end; returns the exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(WAIT_S)
        self._reading.join(WAIT_S)
        self.process.stderr.close()
        return status
