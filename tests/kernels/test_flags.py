"""The flags: what they accept, what they refuse before a model is loaded, and hooks that find another SGLang."""

from __future__ import annotations

import argparse
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from attn_core.wire import DEFAULT_ADDRESS
from attn_kernels.sglang_plugin import flags, settings


def parse(*argv: str) -> settings.CaptureSettings | None:
    parser = argparse.ArgumentParser()
    flags.add_flags(parser)
    return flags.settings_from_args(parser.parse_args(argv))


def sglang_args(**changes: Any) -> SimpleNamespace:
    """The arguments of SGLang that the capture looks at, as they are by default."""
    plain = {
        "speculative_algorithm": None,
        "pp_size": 1,
        "enable_dp_attention": False,
        "tp_size": 1,
        "dllm_algorithm": None,
        "disaggregation_mode": "null",
        "tokenizer_worker_num": 1,
        "skip_tokenizer_init": False,
        "attention_backend": None,
        "prefill_attention_backend": None,
        "decode_attention_backend": None,
        "disable_cuda_graph": False,
    }
    return SimpleNamespace(**{**plain, **changes})


def test_without_the_flag_there_are_no_settings() -> None:
    assert parse() is None
    assert parse("--attention-tokens-top-k", "5") is None


def test_the_defaults_are_those_of_the_guide() -> None:
    assert parse("--return-attention-tokens") == settings.CaptureSettings(
        top_k=32, publish_address=DEFAULT_ADDRESS, capture="all", privacy=False
    )


def test_every_flag_arrives() -> None:
    argv = ["--return-attention-tokens", "--attention-tokens-top-k", "7", "--attention-tokens-publish", "off"]
    argv += ["--attention-tokens-capture", "requested", "--attention-tokens-privacy"]
    argv += ["--attention-head-sample", "3", "--attention-head-projection-dir", "/not/made/where/nothing/is/published"]
    assert parse(*argv) == settings.CaptureSettings(
        top_k=7,
        publish_address="off",
        capture="requested",
        privacy=True,
        head_sample=3,
        head_projection_dir="/not/made/where/nothing/is/published",
    )


@pytest.mark.parametrize("value", ["-1", "x", "0.5", "9" * 12])
def test_a_sample_that_is_no_number_of_tokens_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--return-attention-tokens", f"--attention-head-sample={value}")
    assert "or 0 for no raw figures" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "x", "4097", "1.5"])
def test_a_top_k_that_is_no_number_of_positions_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--return-attention-tokens", f"--attention-tokens-top-k={value}")
    assert "give an integer from 1 to 4096" in capsys.readouterr().err


def test_settings_travel_to_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.VARIABLE, "left by a parent")
    settings.to_environment(None)
    assert settings.from_environment() is None
    chosen = settings.CaptureSettings(top_k=3, privacy=True)
    settings.to_environment(chosen)
    assert settings.from_environment() == chosen


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"speculative_algorithm": "EAGLE"}, "--speculative-algorithm"),
        ({"pp_size": 2}, "--pp-size"),
        ({"enable_dp_attention": True}, "--enable-dp-attention"),
        ({"dcp_size": 2}, "--dcp-size"),
        ({"disaggregation_mode": "decode"}, "--disaggregation-mode"),
    ],
)
def test_what_cannot_be_captured_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    reason = flags.why_refused(sglang_args(**changes), settings.CaptureSettings())
    assert reason is not None
    assert named in reason


def test_what_can_be_captured_is_not_refused() -> None:
    plain = settings.CaptureSettings()
    for args in (sglang_args(), sglang_args(tp_size=2), sglang_args(attention_backend="flashinfer")):
        assert flags.why_refused(args, plain) is None
    bounded = settings.CaptureSettings(budget_percent=2.0)
    assert flags.why_refused(sglang_args(), bounded) is None
    assert "--attention-capture-budget" in str(flags.why_refused(sglang_args(tp_size=2), bounded))


def test_on_a_gpu_the_capture_chooses_what_it_needs() -> None:
    args = sglang_args()
    flags.prepare(args, settings.CaptureSettings(), has_gpu=True)
    assert (args.attention_backend, args.disable_cuda_graph) == ("triton", True)
    untouched = sglang_args()
    flags.prepare(untouched, settings.CaptureSettings(), has_gpu=False)
    assert untouched == sglang_args()


def test_with_cuda_graphs_only_decoding_keeps_them() -> None:
    args = sglang_args()
    flags.prepare(args, settings.CaptureSettings(cuda_graphs=True), has_gpu=True)
    assert (args.disable_cuda_graph, args.disable_prefill_cuda_graph) == (False, True)
    refused = flags.why_refused(sglang_args(), settings.CaptureSettings(cuda_graphs=True, budget_percent=1.0))
    assert "--attention-tokens-cuda-graphs" in refused
    without = flags.why_refused(sglang_args(disable_cuda_graph=True), settings.CaptureSettings(cuda_graphs=True))
    assert "--attention-tokens-cuda-graphs does not work with --disable-cuda-graph" in without
    assert flags.why_refused(sglang_args(), settings.CaptureSettings(cuda_graphs=True)) is None


def run(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: SGLang's import and its hooks are for a whole process."""
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)


def test_another_sglang_is_refused_by_name() -> None:
    done = run(
        """
from attn_kernels.sglang_plugin import hooks, launch
from dataclasses import replace
def moved():
    return [replace(h, target=h.target + "_of_old") for h in hooks.command_line_hooks()[:1]]
def renamed():
    return [replace(h, relies_on=("no_such_parameter",)) for h in hooks.command_line_hooks()[:1]]
for table in (moved, renamed):
    try:
        launch.install_or_exit(table)
    except SystemExit as refusal:
        print(refusal)
"""
    )
    first, second = done.stdout.strip().splitlines()[-2:]
    assert "cannot hook sglang.srt.server_args.ServerArgs.add_cli_args_of_old" in first
    assert "it is not there" in first
    assert "it has no parameter no_such_parameter" in second


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--speculative-algorithm", "NGRAM"],
            "--return-attention-tokens does not work with --speculative-algorithm yet",
        ),
        (["--attention-tokens-spool-dir", "/proc/spool"], "give a directory of this user's"),
        (["--attention-tokens-top-k", "0"], "give an integer from 1 to 4096"),
    ],
)
def test_the_launcher_refuses_before_it_loads_a_model(argv: list[str], said: str) -> None:
    launch = ["--model", "no/such/model", "--return-attention-tokens", *argv]
    command = [sys.executable, "-m", "sglang.launch_server", *launch]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
