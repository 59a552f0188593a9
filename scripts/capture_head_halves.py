"""Attention of random halves of a model's captured heads, token by token: what the zones' confidence is fitted to.

    .venv-server/bin/python scripts/capture_head_halves.py PROMPTS.jsonl OUT.npz [--model data/models/...]

Each line of PROMPTS.jsonl is an object with `text`, `max_tokens`, `temperature`, `part`, `family`, `zone` and
`surroundings`; it is asked through the model's chat template. The prompt is read with fused attention, every output
token (the prompt's last position included) with eager attention in float32, of which the captured layers' heads are
kept. For each token OUT.npz holds the fingerprint and its companions over all captured heads, and for each of `SPLITS`
fixed random splits of those heads the same figures over either half.

`scripts/fit_zone_defaults.py` writes the prompts and fits the file that the package ships.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attn_core.fingerprint import LOCAL_END, MID_END, SINK_POSITIONS, captured_layers
from attn_kernels import reference

SPLITS = 10
HALF_COLUMNS = ("sink_mass", "local_mass", "mid_mass", "long_mass", "entropy", "periodicity")
F64 = npt.NDArray[np.float64]


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", type=Path, help="JSON lines, a prompt a line")
    parser.add_argument("output", type=Path, help="the .npz file to write")
    parser.add_argument("--model", type=Path, default=Path("data/models/SmolLM2-135M-Instruct"))
    parser.add_argument("--seed", type=int, default=0, help="of the splits and of sampled answers (default: 0)")
    args = parser.parse_args()
    prompts = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines()]
    capture = Capture(args.model, seed=args.seed)
    columns: dict[str, list[Any]] = {}
    started = time.monotonic()
    for number, prompt in enumerate(prompts):
        for token in capture.answer(prompt, number=number):
            for name, value in token.items():
                columns.setdefault(name, []).append(value)
        if number % 10 == 9 or number + 1 == len(prompts):
            elapsed_s = time.monotonic() - started
            left_s = elapsed_s / (number + 1) * (len(prompts) - number - 1)
            print(f"{number + 1} of {len(prompts)} prompts, about {left_s:.0f} s left", file=sys.stderr, flush=True)
    arrays = {name: np.array(values) for name, values in columns.items()}
    for name in ("part", "family", "zone", "surroundings", "answer"):
        arrays[f"prompt_{name}"] = np.array([str(prompt.get(name, "")) for prompt in prompts])
    np.savez_compressed(args.output, half_columns=np.array(HALF_COLUMNS), **arrays)
    return 0


class Capture:
    """A model in eager attention, and the splits of its captured heads."""

    def __init__(self, path: Path, *, seed: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.seed = seed
        config = self.model.config
        self.layers = list(captured_layers(range(config.num_hidden_layers)))
        num_heads = len(self.layers) * config.num_attention_heads
        rng = np.random.default_rng(seed)
        self.half = np.zeros((SPLITS, num_heads), dtype=np.float64)
        for split in self.half:
            split[rng.permutation(num_heads)[: num_heads // 2]] = 1.0
        weights = np.concatenate([self.half, 1.0 - self.half])
        self.weights = weights / weights.sum(axis=1, keepdims=True)

    def answer(self, prompt: dict[str, Any], *, number: int) -> list[dict[str, Any]]:
        """Generate, and measure every output token."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt["text"]}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        prompt_len = ids.shape[1]
        random = torch.Generator().manual_seed(self.seed + number)
        found = []
        with torch.no_grad():
            self.model.set_attn_implementation("sdpa")
            past = self.model(ids[:, :-1], use_cache=True).past_key_values
            self.model.set_attn_implementation("eager")
            token = ids[:, -1:]
            said: list[int] = []
            for step in range(prompt["max_tokens"]):
                output = self.model(token, past_key_values=past, use_cache=True, output_attentions=True)
                past = output.past_key_values
                rows = torch.stack([output.attentions[layer][0, :, -1] for layer in self.layers]).double().numpy()
                found.append({"prompt": number, "step": step, **self.figures(rows, prompt_len=prompt_len)})
                logits = output.logits[0, -1]
                if prompt["temperature"] > 0:
                    chances = torch.softmax(logits / prompt["temperature"], dim=-1)
                    token = torch.multinomial(chances, 1, generator=random)[None]
                else:
                    token = logits.argmax()[None, None]
                if int(token) == self.tokenizer.eos_token_id:
                    break
                said.append(int(token))
        prompt["answer"] = self.tokenizer.decode(said)
        return found

    def figures(self, rows: F64, *, prompt_len: int) -> dict[str, Any]:
        """The token's fingerprint over all heads (`reference.fingerprint`) and `HALF_COLUMNS` of each half."""
        whole = reference.fingerprint(rows, prompt_len=prompt_len, k=1)
        heads = rows.reshape(-1, rows.shape[-1])
        halves = self.weights @ heads
        halves = halves / halves.sum(axis=1, keepdims=True)
        n = halves.shape[1]
        distance = np.arange(n)[::-1]
        logs = np.log(np.maximum(halves, 1e-300))
        columns = [
            halves[:, :SINK_POSITIONS].sum(axis=1),
            halves[:, distance < LOCAL_END].sum(axis=1),
            halves[:, (distance >= LOCAL_END) & (distance < MID_END)].sum(axis=1),
            halves[:, distance >= MID_END].sum(axis=1),
            -(halves * logs).sum(axis=1),
            periodicities(halves),
        ]
        table = np.column_stack(columns).astype(np.float32)  # [2 SPLITS, 6], first halves before second halves
        return {
            "vector": whole.vector.astype(np.float32),
            "context_len": n,
            "sink_mass": np.float32(whole.sink_mass),
            "prompt_mass": np.float32(whole.prompt_mass),
            "periodicity": np.float32(whole.periodicity),
            "halves": np.stack([table[:SPLITS], table[SPLITS:]], axis=1),  # [SPLITS, 2, 6]
        }


def periodicities(p: F64) -> F64:
    """`reference.periodicity` of each row of [r, n]."""
    logs = np.log(p[:, SINK_POSITIONS:][:, ::-1][:, : reference.PERIOD_DISTANCES] + reference.PERIOD_FLOOR)
    num = logs.shape[1]
    strength, crossed = np.zeros(len(p)), np.zeros(len(p), dtype=np.bool_)
    if num == 0:
        return strength
    place = np.arange(num)
    reach = np.minimum(np.minimum(reference.PERIOD_TREND // 2, place), num - 1 - place)
    sums = np.concatenate([np.zeros((len(p), 1)), np.cumsum(logs, axis=1)], axis=1)
    z = logs - (sums[:, place + reach + 1] - sums[:, place - reach]) / (2 * reach + 1)
    energy = (z**2 + reference.PERIOD_QUIET).sum(axis=1)
    for lag in range(1, min(reference.PERIOD_MAX, num // reference.PERIOD_REPEATS) + 1):
        r = (z[:, : num - lag] * z[:, lag:]).sum(axis=1) / energy
        crossed |= r <= 0
        if lag >= reference.PERIOD_MIN:
            strength = np.where(crossed, np.maximum(strength, r), strength)
    return np.minimum(strength, 1.0)


if __name__ == "__main__":
    sys.exit(main())
