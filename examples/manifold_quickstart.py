"""A first look at what a served model attends to.

    python examples/manifold_quickstart.py

asks a running model server one question, prints for every token of the answer which manifold zone its attention falls
into and what it looked back at, and shows what discovery has learned so far. It uses whatever is running and says how
to start whatever is not.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

START_SERVER = """\
  python -m sglang.launch_server \\
      --model Qwen/Qwen3-4B-Thinking-2507 \\
      --attention-backend triton \\
      --return-attention-tokens \\
      --attention-tokens-top-k 32 \\
      --port 30000"""
START_SIDECAR = """\
  cd examples/attention_explorer
  python rapids_sidecar.py --port 9009 --db fingerprints.db --discovery-dir ./discovery_outputs --online"""
RUN_DISCOVERY = """\
  cd examples/attention_explorer
  python discovery/discovery_job.py \\
      --db fingerprints.db --output ./discovery_outputs --hours 24 --min-cluster-size 20"""

WORDS = {
    "local_share": "local mass",
    "mid_share": "mid-range attention",
    "long_share": "long-range attention",
    "evenness": "entropy over its largest",
    "periodicity": "periodicity",
}
"""What a zone is made of, in the guide's words. All are values of the attention beyond the first four positions."""

# A token that copies from its neighbourhood, for when no model server runs to capture one: illustrative numbers.
EXAMPLE_VECTOR = [
    0.72, 0.18, 0.10, 1.31,
    0.30, 0.18, 0.14, 0.10, 0.12, 0.08, 0.05, 0.03,
    2.1, 1.9, 1.7, 1.5, 1.4, 1.2, 1.1, 1.0,
]  # fmt: skip


def fetch(url: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The JSON that a GET (or, with a body, a POST) answers; None where nothing listens there."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the user's own address
            return json.loads(answer.read() or b"{}")  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        return {"status": error.code, "detail": error.read().decode(errors="replace")[:300]}
    except (urllib.error.URLError, OSError, ValueError):
        return None


def ask(server: str, question: str, max_tokens: int) -> list[dict[str, Any]]:
    """Stream one answer, printing it; its attention tokens."""
    try:
        from openai import OpenAI
    except ModuleNotFoundError:
        sys.exit("manifold_quickstart: the OpenAI client is needed: pip install openai")
    client = OpenAI(base_url=f"{server}/v1", api_key="none")
    stream = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": question}],
        extra_body={"return_attention_tokens": True},
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
    )
    tokens: list[dict[str, Any]] = []
    print(f"  {question}\n  > ", end="")
    for chunk in stream:
        for choice in chunk.choices:
            print((choice.delta.content or "").replace("\n", "\n    "), end="", flush=True)
            tokens += getattr(choice.delta, "attention_tokens", None) or []
    print()
    return tokens


def classify(sidecar: str, token: dict[str, Any]) -> dict[str, Any] | None:
    """The sidecar's answer for one attention token."""
    body = {"vector": token["fingerprint"]}
    body |= {name: token[name] for name in ("context_len", "sink_mass", "periodicity") if name in token}
    return fetch(f"{sidecar}/classify", {**body, "explain": True})


def show_tokens(tokens: list[dict[str, Any]], sidecar: str | None) -> None:
    """A line a token: how its attention is spread, its zone and why, and the positions it attended to most."""
    zones: Counter[str] = Counter()
    print(
        "\n  step  local   mid  long  entropy   sink  zone (confidence)        because, beyond the sink"
        "                    looked back at (position: probability)"
    )
    for token in tokens:
        local, mid, far, entropy_nats = token["fingerprint"][:4]
        manifold = (classify(sidecar, token) or {}).get("manifold") if sidecar else None
        zone, because = "(no sidecar)", ""
        if manifold:
            zones[manifold["zone"]] += 1
            zone = f"{manifold['zone']} ({manifold['confidence']:.2f})"
            made = manifold["characteristic"]
            because = f"{WORDS[made['name']]} {made['value']:.2f}, usual {made['usual']:.2f}"
        top = list(zip(token["topk_positions"], token["topk_probs"], strict=True))[:4]
        seen = "  ".join(f"{position}: {probability:.2f}" for position, probability in top)
        print(
            f"  {token['step']:>4}  {local:5.2f} {mid:5.2f} {far:5.2f}  {entropy_nats:7.2f}  {token['sink_mass']:5.2f}"
            f"  {zone:<23}  {because:<42}  {seen}"
        )
    if zones:
        print("\n  zones of this answer: " + ", ".join(f"{zone} {count}" for zone, count in zones.most_common()))
        print(
            "  local, mid, long: attention on the last 10 positions, 10 to 100 back, and farther.\n"
            "  sink: attention on the first 4 positions, where a model rests when it looks for nothing; left out\n"
            "  of the zone. usual: what this model does at that context length.\n"
            "  confidence: how often other heads of the model would give the same zone."
        )


def main(argv: list[str] | None = None) -> int:
    """Run the quickstart; 0 where something was shown, 1 where nothing runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:30000", help="model server (default: %(default)s)")
    parser.add_argument("--sidecar", default="http://localhost:9009", help="sidecar (default: %(default)s)")
    parser.add_argument("--question", default="What is 2+2?", help="what to ask (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="length of the answer (default: %(default)s)")
    arguments = parser.parse_args(argv)

    print("1. The model server")
    model = fetch(f"{arguments.server}/v1/models")
    tokens: list[dict[str, Any]] = []
    sidecar = arguments.sidecar if fetch(f"{arguments.sidecar}/health") is not None else None
    if model is None:
        print(f"  nothing answers at {arguments.server}. Start it with\n{START_SERVER}")
    else:
        tokens = ask(arguments.server, arguments.question, arguments.max_tokens)
        if tokens:
            show_tokens(tokens, sidecar)
        else:
            print(
                f"  it answers without attention tokens: start it with --return-attention-tokens, as in\n{START_SERVER}"
            )

    print("\n2. The sidecar")
    if sidecar is None:
        print(f"  nothing answers at {arguments.sidecar}. Start it with\n{START_SIDECAR}")
    else:
        if not tokens:
            answer = fetch(f"{sidecar}/classify", {"vector": EXAMPLE_VECTOR}) or {}
            print(f"  an example fingerprint is classified as {json.dumps(answer.get('manifold', answer))}")
        stats = fetch(f"{sidecar}/stats") or {}
        print(f"  it holds {stats.get('fingerprints', 0)} fingerprints of {stats.get('requests', 0)} requests")

    print("\n3. Discovery")
    status = fetch(f"{sidecar}/discovery/status") if sidecar else None
    if status and status.get("run_id"):
        stats = fetch(f"{sidecar}/stats") or {}
        print(f"  run {status['run_id']} is served, with {stats.get('clusters', 0)} clusters")
        print(f"  see the map at {sidecar}/map")
    else:
        detail = (status or {}).get("detail", "discovery not available")
        print(f"  {detail}. Once there are fingerprints, run\n{RUN_DISCOVERY}")
    return 0 if tokens or sidecar else 1


if __name__ == "__main__":
    sys.exit(main())
