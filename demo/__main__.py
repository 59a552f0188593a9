"""`python -m demo`: start the whole stack on this machine, send real traffic through it, and show what it learned."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from attn_core.bundle import Bundle
from attn_core.zones import ZONES
from demo import checks
from demo.discovery import Dagster
from demo.processes import DemoError, Stack, say, wait_until
from demo.prompts import KINDS, prompt_mix
from demo.stack import (
    Places,
    Ports,
    dagster_url,
    server_url,
    sidecar_url,
    start_dagster,
    start_model_server,
    start_sidecar,
    wait_for,
)
from demo.traffic import Answer, send

JOB = "discover_hour"
MIN_FINGERPRINTS = 1_000


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="Start the model server, the sidecar and Dagster, send a mix of prompts, discover, and stay up. "
        'With make, pass flags as make demo ARGS="--sidecar-port 9019".',
    )
    parser.add_argument("--once", action="store_true", help="do it once, check every step, stop all and exit")
    parser.add_argument("--server-port", type=int, default=Ports.server, help="model server (default: %(default)s)")
    parser.add_argument("--sidecar-port", type=int, default=Ports.sidecar, help="sidecar and explorer (%(default)s)")
    parser.add_argument("--zmq-port", type=int, default=Ports.zmq, help="fingerprints on their way (%(default)s)")
    parser.add_argument("--dagster-port", type=int, default=Ports.dagster, help="Dagster UI (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Places.data, help="folder of all state (default: data/)")
    return parser.parse_args(argv)


def run(stack: Stack, *, ports: Ports, places: Places) -> None:
    """Every step of the demo in turn; raises `DemoError` at the first that does not truly happen."""
    start = time.monotonic()
    ports.require_free()
    say("[1/6] starting the sidecar, the model server and Dagster (about 40 s)")
    sidecar = start_sidecar(stack, ports=ports, places=places)
    server = start_model_server(stack, ports=ports, model=places.model)
    wait_for(sidecar, url=f"{sidecar_url(ports)}/health", timeout_s=60)
    wait_for(server, url=f"{server_url(ports)}/health", timeout_s=300)
    checks.require_explorer(sidecar_url(ports))

    prompts = prompt_mix()
    say(f"[2/6] sending {len(prompts)} prompts of {len(KINDS)} kinds; watch them at {sidecar_url(ports)}/live")
    sent = time.monotonic()
    answers = send(server_url(ports), prompts)
    num_tokens = sum(len(answer.attention) for answer in answers)
    rate = num_tokens / (time.monotonic() - sent)
    say(f"  {num_tokens} tokens with attention, {rate:.0f} tokens/s")

    say("[3/6] waiting until every fingerprint is committed")
    wait_until(
        lambda: checks.count_stored(places.database, answers) >= num_tokens,
        what="fingerprints in the database",
        timeout_s=60,
        programs=[sidecar, server],
    )
    stored = checks.require_stored(places.database, answers, at_least=MIN_FINGERPRINTS)
    say(f"  {stored.num_fingerprints} fingerprints in {places.database}, every vector valid")

    say("[4/6] discovering: fingerprints -> UMAP -> HDBSCAN -> zones -> bundle, in Dagster")
    program = start_dagster(stack, ports=ports, places=places)
    dagster = Dagster(dagster_url(ports))
    wait_for(program, url=f"{dagster_url(ports)}/server_info", timeout_s=120)
    wait_until(dagster.location_is_loaded, what="Dagster's definitions", timeout_s=120, programs=[program])
    for hour_us in stored.hours_us[-2:]:
        took_s = dagster.wait(dagster.launch_hour(hour_us, job=JOB), program=program, timeout_s=420)
        say(f"  hour materialised in {took_s:.0f} s")

    say("[5/6] verifying the bundle and classifying with it")
    bundle = checks.require_bundle(places.discovery)
    wait_until(
        lambda: checks.served_run_id(sidecar_url(ports)) == checks.require_bundle(places.discovery).run_id,
        what="the sidecar to serve the new bundle",
        timeout_s=60,
        programs=[sidecar],
    )
    bundle = checks.require_bundle(places.discovery)
    for answer in answers[:: max(len(answers) // 8, 1)]:
        for token in answer.attention[::16]:
            checks.classify(sidecar_url(ports), token, run_id=bundle.run_id)

    say("[6/6] summary")
    _summarise(bundle, answers, num_fingerprints=stored.num_fingerprints, rate=rate, total_s=time.monotonic() - start)


def _summarise(bundle: Bundle, answers: list[Answer], *, num_fingerprints: int, rate: float, total_s: float) -> None:
    clusters = bundle.table("clusters").to_pylist()
    say(f"\n  run {bundle.run_id}: {num_fingerprints} fingerprints, {len(clusters)} clusters, {rate:.0f} tokens/s")
    for cluster in sorted(clusters, key=lambda row: -row["size"])[:12]:
        share = f"{cluster['zone_score']:.0%} of them {cluster['zone']}"
        say(f"    {cluster['cluster_label']:<12} {cluster['size']:>6} tokens, {share}")
    kinds = {answer.request_id: answer.kind for answer in answers}
    tokens = {kind: Counter[str]() for kind in KINDS}
    for row in bundle.table("embeddings").select(["request_id", "zone"]).to_pylist():
        if row["request_id"] in kinds:
            tokens[kinds[row["request_id"]]][row["zone"]] += 1
    requests = {kind: Counter[str]() for kind in KINDS}
    for row in bundle.table("requests").select(["request_id", "zone"]).to_pylist():
        if row["request_id"] in kinds:
            requests[kinds[row["request_id"]]][row["zone"]] += 1
    say("\n  zones by kind of prompt (share of its tokens), and the zones of its whole answers")
    say("    " + " " * 20 + "".join(f"{name:>18}" for name in ZONES))
    for kind, counts in tokens.items():
        total = max(sum(counts.values()), 1)
        shares = "".join(f"{counts[name] / total:>17.0%} " for name in ZONES)
        whole = ", ".join(f"{count} {name}" for name, count in requests[kind].most_common())
        say(f"    {kind:<20}{shares}  {whole}")
    say(f"\n  all of it took {total_s:.0f} s")


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    arguments = _arguments(argv)
    ports = Ports(
        server=arguments.server_port,
        sidecar=arguments.sidecar_port,
        zmq=arguments.zmq_port,
        dagster=arguments.dagster_port,
    )
    places = Places(data=arguments.data.resolve())
    places.data.mkdir(parents=True, exist_ok=True)
    # `kill`, a closing terminal, and Ctrl+C even where a script started this in the background: one clean stop.
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.default_int_handler)
    stack = Stack(logs=places.logs)
    code = 0
    try:
        run(stack, ports=ports, places=places)
        say(f"\n  explorer   {sidecar_url(ports)}/\n  Dagster    {dagster_url(ports)}/")
        say(f"  OpenAI API {server_url(ports)}/v1\n  sidecar    {sidecar_url(ports)}/openapi.json")
        say(f"  logs       {places.logs}")
        if not arguments.once:
            say("\nCtrl+C stops everything.")
            _stay_up(stack)
    except DemoError as error:
        print(f"\ndemo: {error}", file=sys.stderr, flush=True)
        code = 1
    except KeyboardInterrupt:
        # Asked to stop while it was up: that is how it ends. Asked before it was done: say so by the exit code.
        code = 130 if arguments.once else 0
        say("")
    except BrokenPipeError:
        code = 141  # whoever read the output has gone, as a shell says it
    finally:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, signal.SIG_IGN)
        stack.stop()
    with suppress(BrokenPipeError):
        say("demo: everything stopped" if code else "demo: done, everything stopped")
    return code


def _stay_up(stack: Stack) -> None:
    while True:
        for program in stack.programs:
            program.require_alive()
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
