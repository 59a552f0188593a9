"""5,000 messages of `benchmarks.fuzz_frames`: damaged in many ways, over a real socket, to a real sidecar process."""

from benchmarks.fuzz_frames import fuzz


def test_damaged_messages_are_answered_and_do_no_harm(start_process):
    """Every sender is told; what is valid in between is stored; the process lives and does not grow."""
    sidecar = start_process()
    found = fuzz(
        zmq_address=sidecar.zmq,
        url=sidecar.http,
        pid=sidecar.process.pid,
        database=sidecar.db,
        messages=5_000,
        seed=7,
    )
    assert found.answered == found.sent == 5_000
    assert (found.valid_acknowledged, found.valid_lost) == (found.valid_sent, 0)
    assert found.valid_sent == 50
    assert found.unhealthy == []
    # An allocator's pages come and go; a leak of the payloads alone would be 25 MB.
    assert found.growth_bytes < 20 << 20
    # Whatever passes the checks at the door can be stored: the writer never has to find out.
    assert "store" not in found.reasons
    assert {"arrow", "schema", "frames", "magic", "kind"} <= set(found.reasons)
    ingest = sidecar.client.get("/stats").json()["ingest"]
    assert {"vector", "topk", "null"} <= set(ingest["refused_rows"])
    assert sum(ingest["refused"].values()) == 5_000 - found.reasons["acknowledged"]
