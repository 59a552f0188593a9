"""Compile the kernels for GPUs that are not there, and read what they take: `python -m benchmarks.gpu.compiled`."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from sglang.kernels.ops.attention import decode_attention as stock
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attn_kernels.ops import beside, finish, scores

ARCHITECTURES = (80, 90, 100)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {"F": "*fp32", "I": "*i32", "L": "*i64", "B": "*bf16"}
ARITHMETIC = r"\b((?:mma|wgmma|tcgen05|fma|mul|add|sub|div|max|ex2|lg2)\.[\w.]*(?:f32|f16|bf16)[\w.]*)"


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one kernel takes on one architecture."""

    kernel: str
    variant: str
    """stock, capturing, or ours."""
    architecture: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    stores: int
    barriers: int
    arithmetic: dict[str, int]
    """Floating-point instructions of the PTX by name."""


def _arguments(spec: str, **more: str) -> dict[str, str]:
    """Types from words like ``Plan:I``; lower case names are int32."""
    types = dict(more)
    for word in spec.split():
        name, _, kind = word.partition(":")
        types[name] = POINTERS[kind] if kind else "i32"
    return types


_STRIDES = (
    "stride_qbs stride_qh stride_buf_kbs stride_buf_kh stride_buf_vbs stride_buf_vh stride_buf_kpage stride_buf_ktok"
)
_DECODE = (
    "Q:B K_Buffer:B V_Buffer:B kv_indptr:I kv_indices:L Att_Out:F Att_Lse:F num_kv_splits:I "
    f"{_STRIDES} stride_buf_kpage stride_buf_ktok stride_buf_vpage stride_buf_vtok "
    "stride_mid_ob stride_mid_oh stride_mid_os"
)
_COMMON = {"MIN_BLOCK_KV": 32, "logit_cap": 0.0, "xai_temperature_len": -1, "PAGE_SIZE": 1, "uneven_batch": None}
_GROUPED = {**_COMMON, "BLOCK_N": 32, "BLOCK_H": 16, "USE_PDL": False, "forced_kv_splits": 0}
_ODD = {"batch", "window_extra", "layer", "k", "out_stride", "all_heads", "first_head"}
"""Integers that need not be multiples of 16."""


def _decode_kernels() -> list[tuple[str, Any, dict[str, Any], int]]:
    """SGLang's stage 1: grouped (Qwen3-1.7B), latent (DeepSeek), and one key head a query head."""
    shape = {"BLOCK_DMODEL": 128, "BLOCK_DV": 128, "Lk": 128, "Lv": 128}
    latent = {"BLOCK_DMODEL": 512, "BLOCK_DPE": 64, "BLOCK_DV": 512, "Lk": 576, "Lv": 512, "HAS_MLA": True}
    one = {**_COMMON, **shape, "BLOCK_N": 64, "kv_group_num": 1}
    two = {**_GROUPED, **shape, "BLOCK_DPE": 0, "kv_group_num": 2, "q_head_num": 16}
    mla = {**_GROUPED, **latent, "kv_group_num": 16, "q_head_num": 16}
    return [
        ("decode, 16 heads over 8", stock._fwd_grouped_kernel_stage1, two, 4),
        ("decode, latent 576", stock._fwd_grouped_kernel_stage1, mla, 4),
        ("decode, 16 heads over 16", stock._fwd_kernel_stage1, one, 4),
    ]


def _our_kernels() -> list[tuple[str, Any, dict[str, str], dict[str, Any], int]]:
    """Ours, for 256 requests, 8 layers of 16 heads and the 32 most attended positions."""
    rows = {"ROWS": 256, "BLOCK": 128}
    sums = "Scores:F Lse:F NumSplits:I Plan:I Windows:I Weights:F Sinks:F Edges:I Sums:F Records:F Maxima:F"

    def summed(*, has_sinks: bool, records: bool, single_heads: bool) -> dict[str, Any]:
        at_once = finish.heads_at_once(16, has_sinks=has_sinks, single_heads=single_heads)
        flags = {"HAS_SINKS": has_sinks, "RECORDS": records, "SINGLE_HEADS": single_heads}
        return {"LAYERS": 8, "HEADS": 16, "HB": at_once, "S": 8, "SP": 8, **flags, **rows}

    without = {"SINGLE_HEADS": False, "HeadMasses": None, "HeadEntropies": None}
    figures = "HeadMasses:F HeadEntropies:F"
    finish_rows = "Sums:F Plan:I Records:F Maxima:F SlotLayers:I Out:F capacity k out_stride all_heads first_head"
    projected = "Matrix:F SampledRow:I Products:F Sampled:F"
    of_rows = {"K": 32, "CHUNK": 256, "BEST_BLOCKS": True, "LAYERS": 8, "HEADS": 16, "HC": 32, **rows}
    nothing = dict.fromkeys(("Matrix", "Offset", "SampledRow", "Products", "Sampled"))
    from_q = (
        "Q:B K:B Slots:L SlotRows:I Plan:I Windows:I Scores:F Lse:F layer capacity lse_stride_layer window_extra "
        "stride_q_row stride_q_head stride_k_slot stride_k_head stride_slot_row"
    )
    flags = {"HAS_QUERY_ROWS": False, "SLOTS_FROM_WINDOW": False, "QUERY_AS_KEY": False, "QueryRows": None}
    beside_q = {"HB": 16, "BLOCK_N": 32, "S": 8, "ROWS": 256, "LOGIT_CAP": 0.0, **flags}
    grouped = {"HEADS": 16, "GROUP": 2, "DIM": 128, "DIM_MAIN": 128, "DIM_REST": 0, **beside_q}
    latent = {"HEADS": 16, "GROUP": 16, "DIM": 576, "DIM_MAIN": 512, "DIM_REST": 64, **beside_q}
    extra = "capacity lse_stride_layer window_extra"
    return [
        ("plan", scores.plan_kernel, _arguments("SeqLens:L PromptLens:I Asked:I Plan:I Table:I batch capacity"),
         {"Queries": None, "HAS_ASKED": True, "HAS_QUERIES": False, **rows}, 4),
        ("sums and records", finish.sums_kernel, _arguments(f"{sums} {extra}", head_share="fp32"),
         {**without, **summed(has_sinks=False, records=True, single_heads=False)}, 4),
        ("sums, sink logits, alone", finish.sums_kernel, _arguments(f"{sums} {extra}", head_share="fp32"),
         {**without, **summed(has_sinks=True, records=False, single_heads=False)}, 4),
        *(
            (f"sums{' and records' if records else ''}{', sink logits' if has_sinks else ''}, single heads",
             finish.sums_kernel, _arguments(f"{sums} {figures} {extra}", head_share="fp32"),
             summed(has_sinks=has_sinks, records=records, single_heads=True), 4)
            for has_sinks in (False, True)
            for records in (False, True)
        ),
        ("records", finish.records_kernel, _arguments("Sums:F Plan:I Edges:I Records:F Maxima:F"), rows, 4),
        ("rows", finish.rows_kernel, _arguments(finish_rows),
         {"FROM_PRODUCTS": False, **without, **nothing, **of_rows}, 8),
        ("rows, single heads", finish.rows_kernel, _arguments(f"{finish_rows} {figures} {projected} Offset:F"),
         {"SINGLE_HEADS": True, "FROM_PRODUCTS": False, **of_rows}, 8),
        ("rows, single heads of ranks", finish.rows_kernel,
         _arguments(f"{finish_rows} {figures} {projected} Offset:F"),
         {"SINGLE_HEADS": True, "FROM_PRODUCTS": True, **of_rows}, 8),
        ("heads", finish.heads_kernel, _arguments(f"Plan:I {figures} {projected} all_heads first_head"),
         {"LAYERS": 8, "HEADS": 16, "HC": 32, **rows}, 4),
        ("scores beside, 16 heads over 8", beside.scores_kernel, _arguments(from_q, scaling="fp32"), grouped, 4),
        ("scores beside, latent 576", beside.scores_kernel, _arguments(from_q, scaling="fp32"), latent, 4),
        ("normaliser", beside.normaliser_kernel, _arguments(f"Scores:F Lse:F Plan:I Windows:I {extra}"),
         {"HEADS": 16, "S": 8, "ROWS": 256, "BLOCK": 256}, 4),
        ("combine", beside.combine_kernel,
         _arguments("Lse:F NumSplits:I Plan:I Windows:I Normalisers:F "
                    "lse_stride_layer normaliser_stride_layer window_extra"),
         {"HEADS": 16, "HB": 16, "S": 64, "SP": 64, "ROWS": 256}, 4),
    ]  # fmt: skip


def _arithmetic(ptx: str) -> dict[str, int]:
    """Floating-point operations by name; an instruction for a pair (Blackwell's f32x2) is two of them."""
    found: Counter[str] = Counter()
    for name in re.findall(ARITHMETIC, ptx):
        found[name.replace("32x2", "32")] += 2 if name.endswith("32x2") else 1
    return dict(sorted(found.items()))


def compile_one(
    fn: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    name: str,
    variant: str,
    architecture: int,
    num_warps: int,
) -> Compiled:
    """Compile `fn` for sm_`architecture`; names in neither mapping keep their defaults."""
    names = list(fn.arg_names)
    defaults = {p.name: p.default for p in fn.params if p.has_default}
    values = {n: constants.get(n, defaults.get(n)) for n in names if n not in types}
    signature = {n: types.get(n, "constexpr") for n in names}
    aligned = {n for n, t in types.items() if t.startswith("*") or (t == "i32" and n not in _ODD)}
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(fn, signature, {(names.index(n),): v for n, v in values.items()}, attributes)
    options = {"num_warps": num_warps, "num_stages": 2}
    if fn is finish.sums_kernel:
        options["maxnreg"] = finish.SUMS_REGISTERS
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        dump = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", dump)}
    ptx = kernel.asm["ptx"]
    return Compiled(
        kernel=name,
        variant=variant,
        architecture=architecture,
        registers=usage["REG"],
        spilled_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=kernel.metadata.shared,
        stores=len(re.findall(r"\bst\.global", ptx)),
        barriers=len(re.findall(r"\bbar\.sync|\bbarrier\.sync", ptx)),
        arithmetic=_arithmetic(ptx),
    )


def compile_all(architectures: tuple[int, ...] = ARCHITECTURES) -> list[Compiled]:
    """SGLang's decode kernels without and with the capture, then ours."""
    done = []
    for architecture in architectures:
        for name, fn, constants, warps in _decode_kernels():
            types = _arguments(_DECODE, sm_scale_withk="fp32")
            with_capture = _arguments(f"{_DECODE} Aux0:F aux0_stride_t aux0_stride_h aux0_len", sm_scale_withk="fp32")
            for variant, arguments, score_mod in (
                ("stock", types, None),
                ("capturing", with_capture, scores.store_scores),
            ):
                done.append(
                    compile_one(
                        fn,
                        arguments,
                        {**constants, "SCORE_MOD": score_mod},
                        name=name,
                        variant=variant,
                        architecture=architecture,
                        num_warps=warps,
                    )
                )
        done += [
            compile_one(fn, types, constants, name=name, variant="ours", architecture=architecture, num_warps=warps)
            for name, fn, types, constants, warps in _our_kernels()
        ]
    return done


def main() -> None:
    """Print the table, or a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--architecture", type=int, action="append", help="80, 90, 100 (default: all three)")
    arguments = parser.parse_args()
    done = compile_all(tuple(arguments.architecture or ARCHITECTURES))
    if arguments.json:
        for one in done:
            print(json.dumps(asdict(one)))
        return
    print("| kernel | | sm | registers | spilled | shared, bytes | stores | barriers |")
    print("|---|---|---|---|---|---|---|---|")
    for one in done:
        print(
            f"| {one.kernel} | {one.variant} | {one.architecture} | {one.registers} | {one.spilled_bytes} | "
            f"{one.shared_bytes} | {one.stores} | {one.barriers} |"
        )


if __name__ == "__main__":
    main()
