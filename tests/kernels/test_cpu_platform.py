"""The platform for machines without a GPU: when it stands back, and what it fills in."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from attn_kernels import cpu_platform

CASES: dict[str, dict[str, Any]] = {
    "nothing given": {"attention_backend": "triton"},
    "all given": {
        "dtype": "float16",
        "max_total_tokens": 99,
        "max_running_requests": 2,
        "attention_backend": "torch_native",
    },
    "interpreted": {"attention_backend": "triton"},
}

FILL_IN = """
import json, logging, os, sys
from types import SimpleNamespace
from sglang.srt.platforms import current_platform
filled = {}
for name, given in json.loads(sys.argv[1]).items():
    os.environ["TRITON_INTERPRET"] = "1" if name == "interpreted" else "0"
    left_open = dict.fromkeys(["max_total_tokens", "max_running_requests", "sampling_backend", "attention_backend",
        "prefill_attention_backend", "decode_attention_backend", "context_length"])
    args = SimpleNamespace(**{**left_open, "dtype": "auto", "disable_cuda_graph": False,
        "sleep_on_idle": False, **given})
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("attn_kernels").addHandler(handler)
    current_platform.apply_server_args_defaults(args)
    logging.getLogger("attn_kernels").removeHandler(handler)
    filled[name] = [vars(args), lines]
print(json.dumps(filled))
"""


@pytest.fixture(scope="module")
def filled_in() -> dict[str, Any]:
    """What the platform makes of each case's arguments and what it logs, in a process of its own."""
    command = [sys.executable, "-c", FILL_IN, json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_it_fills_in_what_was_left_open(filled_in: dict[str, Any]) -> None:
    args, log = filled_in["nothing given"]
    assert (args["dtype"], args["max_total_tokens"], args["max_running_requests"]) == ("float32", 16_384, 16)
    assert args["disable_cuda_graph"]
    assert args["sleep_on_idle"]
    assert args["context_length"] is None
    assert args["attention_backend"] == "torch_native"
    assert len(log) == 1
    assert "is served by 'torch_native'" in log[0]


def test_it_keeps_what_was_given(filled_in: dict[str, Any]) -> None:
    args, log = filled_in["all given"]
    assert {name: args[name] for name in CASES["all given"]} == CASES["all given"]
    assert not log


def test_the_triton_interpreter_is_honoured(filled_in: dict[str, Any]) -> None:
    args, log = filled_in["interpreted"]
    assert args["attention_backend"] == "triton"
    assert not log


def test_it_stands_back_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cpu_platform.activate() is None


def test_it_stands_back_where_sglang_s_own_cpu_engine_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    assert cpu_platform.activate() is None


def test_the_stand_in_for_torchvision_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cpu_platform.activate() == cpu_platform.PLATFORM_CLASS
    from torchvision.transforms import Compose, InterpolationMode

    assert InterpolationMode.BICUBIC.value == "bicubic"
    with pytest.raises(ImportError, match="needs the real torchvision"):
        Compose([])
