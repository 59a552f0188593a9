"""Check the capture of other kinds of models and modes on a real server, against a Hugging Face eager pass.

    .venv-server/bin/python scripts/check_model_kinds.py [KIND ...]

Each kind is a tiny model with random weights, made here, served by SGLang on this machine's CPU with the flags below
(in Triton's interpreter where SGLang wants its Triton backend), and asked for a few tokens and for its whole prompt.
Prints a line a kind with the largest difference; exit status 1 where one is above 1e-4, or SGLang could not serve it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "data/models/SmolLM2-135M-Instruct"
COMMON = {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 2048}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
INTERPRETED = {"TRITON_INTERPRET": "1"}
TOLERANCE = 1e-4
START_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A model's configuration class and fields, and how it is served."""

    config: str
    fields: dict[str, Any]
    args: tuple[str, ...] = ()
    environment: dict[str, str] | None = None
    num_items: int = 25
    written: dict[str, Any] | None = None
    """What SGLang reads in the configuration file under another name than transformers writes."""


_QWEN3 = {**HEADS, "num_hidden_layers": 3}
_SINGLE_SPLIT = ("--triton-attention-num-kv-splits", "1")
_MLA = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": None,
    "kv_lora_rank": 256,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
}
_YARN = {"type": "yarn", "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 2048}
_MLA_WRITTEN = {"moe_layer_freq": 1, "scoring_func": "softmax", "rope_theta": 10000, "rope_scaling": _YARN}
KINDS = {
    "tensor-parallel": Kind(
        config="Qwen3Config",
        fields=_QWEN3,
        args=("--tp-size", "2"),
        environment={"SGLANG_CPU_OMP_THREADS_BIND": "0|1"},
    ),
    "data-parallel": Kind(
        config="Qwen3Config",
        fields=_QWEN3,
        args=("--dp-size", "2"),
        environment={"SGLANG_CPU_OMP_THREADS_BIND": "0|1"},
    ),
    "page-size-16": Kind(config="Qwen3Config", fields=_QWEN3, args=("--page-size", "16")),
    "sink-logits": Kind(
        config="GptOssConfig",
        fields={
            **HEADS,
            "num_hidden_layers": 4,
            "sliding_window": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        args=_SINGLE_SPLIT,
        environment=INTERPRETED,
        num_items=3,
    ),
    "latent-attention": Kind(
        config="DeepseekV2Config",
        fields=_MLA,
        args=_SINGLE_SPLIT,
        environment=INTERPRETED,
        num_items=3,
        written=_MLA_WRITTEN,
    ),
    "logit-cap": Kind(
        config="Gemma2Config",
        fields={
            **HEADS,
            "num_hidden_layers": 4,
            "sliding_window": 32,
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": None,
        },
        args=_SINGLE_SPLIT,
        environment=INTERPRETED,
        num_items=3,
        written={"hidden_act": "gelu_pytorch_tanh"},
    ),
}


def main() -> int:
    """Check the kinds asked for; 1 where one falls short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    failed = False
    for name in parser.parse_args().kinds:
        with tempfile.TemporaryDirectory() as folder:
            worst, said = check(KINDS[name], Path(folder))
        failed |= not worst <= TOLERANCE
        print(f"{name}: {said}", flush=True)
    return int(failed)


def check(kind: Kind, folder: Path) -> tuple[float, str]:
    """The largest difference of one kind (infinite where it could not be served), and a line about it."""
    model = make_model(kind, folder / "model")
    log = folder / "server.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "sglang.launch_server", "--model", str(folder / "model"), "--port", str(port)]
    command += ["--attention-backend", "triton", "--max-total-tokens", "4096", "--skip-server-warmup"]
    command += ["--return-attention-tokens", "--attention-tokens-publish", "off", *kind.args]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(kind.environment or {})},
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            if not is_ready(client, process):
                return float("inf"), f"not served: {log.read_text().strip().splitlines()[-4:]}"
            meta = client.post("/generate", json=ask(kind)).raise_for_status().json()["meta_info"]
    except httpx.HTTPError as error:
        return float("inf"), f"not answered ({error!r}): {log.read_text().strip().splitlines()[-4:]}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    line = next(line for line in log.read_text().splitlines() if "Attention capture: layers" in line)
    return compare(meta, model, layers=json.loads(re.search(r"layers (\[.*?\])", line).group(1)))  # type: ignore[union-attr]


def make_model(kind: Kind, folder: Path) -> Any:
    """A model with random weights in this folder, with the demo model's tokenizer; and as transformers runs it."""
    import transformers

    config = getattr(transformers, kind.config)(**COMMON, **kind.fields, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    if kind.written is not None:
        file = folder / "config.json"
        fields = {**json.loads(file.read_text()), **kind.written}
        if "rope_scaling" in kind.written:
            fields.pop("rope_parameters", None)
        file.write_text(json.dumps(fields))
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def ask(kind: Kind) -> dict[str, Any]:
    """A request for a few tokens' attention and the whole prompt's."""
    return {
        "text": "Here is a list: " + ", ".join(f"item {i}" for i in range(kind.num_items)) + ". Go on.",
        "sampling_params": {"max_new_tokens": 6, "temperature": 0, "ignore_eos": True},
        "return_attention_tokens": True,
        "attention_tokens_prefill": "all",
    }


def is_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    """Wait for /health; False where the server ended or took too long."""
    start = time.monotonic()
    while time.monotonic() - start < START_TIMEOUT_S:
        try:
            if client.get("/health").status_code == 200:
                return True
        except httpx.TransportError:
            pass
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            continue
        return False
    return False


def compare(meta: dict[str, Any], model: Any, *, layers: list[int]) -> tuple[float, str]:
    """The largest difference between what was answered and what transformers computes, and a line about it."""
    from attn_kernels import reference

    prompt, tokens = meta["prompt_attention_tokens"], meta["attention_tokens"]
    captured = [token for token in tokens if token.get("captured", True)]
    ids = [row["token_id"] for row in prompt]
    with torch.no_grad():
        output = model(torch.tensor([ids + [token["token_id"] for token in tokens]]), output_attentions=True)
    rows = np.stack([output.attentions[layer][0].double().numpy() for layer in layers])
    worst = 0.0
    for row in [*prompt, *captured]:
        i = row["position"] if "position" in row else len(ids) + row["step"] - 1
        want = reference.fingerprint(rows[:, :, i, : i + 1], prompt_len=len(ids), k=len(row["topk_positions"]))
        pairs = [(row["fingerprint"], want.vector), (row["topk_probs"], want.topk_probs)]
        worst = max([worst, *(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs)])
    complete = len(captured) == len(tokens) and not meta["prompt_attention_missing"]
    greedy = output.logits[0].argmax(-1).tolist()[len(ids) - 1 : -1] == [token["token_id"] for token in tokens]
    said = (
        f"layers {sorted(set(layers))}, {len(captured)} of {len(tokens)} steps and {len(prompt)} of "
        f"{meta['prompt_tokens']} prompt positions, max abs error {worst:.2g}, "
        f"{'the same' if greedy else 'another'} greedy text"
    )
    return (worst if complete else float("inf")), said


if __name__ == "__main__":
    sys.exit(main())
